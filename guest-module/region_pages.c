// SPDX-License-Identifier: GPL-2.0-only
/*
 * The region in pages of the guest's own, for a machine whose RAM the host can map. The host asks for it, and is told where it lies.
 *
 * Once it was told, the host may read and write these pages until it says that it no longer does: they are not freed before. Where
 * nobody can say so any more, they are given up rather than freed: the host would write into what they are next.
 */
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "vesper.h"

struct pages_region {
	struct vesper_region_memory region;
	u32 count;
	struct {
		struct page *page;
		unsigned int order;
	} pieces[VESPER_PIECES_MAX];
};

static DEFINE_MUTEX(pages_lock);
static struct pages_region *pages;
static bool leaving;

static void pages_free(struct pages_region *p)
{
	if (p->count > 1 && p->region.memory)
		vunmap(p->region.memory);
	for (u32 i = 0; i < p->count; i++)
		__free_pages(p->pieces[i].page, p->pieces[i].order);
	kfree(p);
}

/* The largest piece that is to be had, a power of two; larger ones than needed are not asked for. */
static int pages_add_piece(struct pages_region *p, u64 left)
{
	unsigned int order = min_t(unsigned int, ilog2(left >> PAGE_SHIFT), get_order(SZ_4M));
	/* A guest that is short of memory keeps it, and the host takes another backend. */
	gfp_t flags = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_NORETRY;
	struct page *page;

	if (p->count == VESPER_PIECES_MAX)
		return -ENOMEM;
	for (;; order--) {
		page = alloc_pages(flags, order);
		if (page)
			break;
		if (!order)
			return -ENOMEM;
	}
	p->pieces[p->count].page = page;
	p->pieces[p->count].order = order;
	p->count++;
	return order;
}

static void *pages_map(const struct pages_region *p)
{
	u32 total = p->region.bytes >> PAGE_SHIFT, n = 0;
	struct page **list;
	void *memory;

	if (p->count == 1)
		return page_address(p->pieces[0].page);
	list = kvmalloc_array(total, sizeof(*list), GFP_KERNEL);
	if (!list)
		return NULL;
	for (u32 i = 0; i < p->count; i++) {
		for (u32 j = 0; j < 1u << p->pieces[i].order; j++)
			list[n++] = p->pieces[i].page + j;
	}
	memory = vmap(list, total, VM_MAP, PAGE_KERNEL);
	kvfree(list);
	return memory;
}

static struct pages_region *pages_allocate(u64 bytes)
{
	struct pages_region *p = kzalloc(sizeof(*p), GFP_KERNEL);
	int order;

	if (!p)
		return NULL;
	p->region.backend = VESPER_BACKEND_GUEST_PAGES;
	p->region.bytes = bytes;
	for (u64 left = bytes; left; left -= PAGE_SIZE << order) {
		order = pages_add_piece(p, left);
		if (order < 0)
			goto err_free;
	}
	p->region.memory = pages_map(p);
	if (!p->region.memory)
		goto err_free;
	return p;

err_free:
	pages_free(p);
	return NULL;
}

/* What tells the host that it looks at the right memory. Nobody but the guest writes here before the rings are laid out. */
static void pages_stamp(struct pages_region *p, const u8 *token)
{
	struct vesper_region header = {
		.magic = cpu_to_le64(VESPER_REGION_MAGIC),
		.layout_version = cpu_to_le32(VESPER_LAYOUT_VERSION),
		.region_bytes = cpu_to_le64(p->region.bytes),
	};
	u8 *at = p->region.memory;

	vesper_region_name(&p->region, token);
	memcpy(header.token, token, sizeof(header.token));
	memcpy(at, &header, sizeof(header));
	for (u32 i = 1; i < p->count; i++) {
		struct vesper_piece_check check = { .index = cpu_to_le64(i) };

		at += PAGE_SIZE << p->pieces[i - 1].order;
		memcpy(check.token, token, sizeof(check.token));
		memcpy(at, &check, sizeof(check));
	}
}

/* Gone for the frontend; `unmapped`: the host has let go of it already. pages_lock is held. */
static void pages_remove(bool unmapped)
{
	struct pages_region *p = pages;

	if (!p)
		return;
	pages = NULL;
	if (vesper_region_remove(&p->region, -ENODEV) || unmapped) {
		pages_free(p);
		return;
	}
	pr_warn("%llu KiB of guest memory are given up: the host may still use them\n", p->region.bytes >> 10);
	if (p->count > 1)
		vunmap(p->region.memory);
	kfree(p);
}

static int pages_provide(const struct vesper_pages_request *request)
{
	u64 bytes = le64_to_cpu(request->bytes);

	/* Rings that are in use stay where they are, whatever size is wished now. */
	if (pages && vesper_relay_uses(&pages->region))
		return 0;
	if (leaving)
		return -ESHUTDOWN;
	if (bytes % PAGE_SIZE || bytes > VESPER_PAGES_MAX)
		return -EINVAL;
	/* To ask anew, or to let go, is to say that the last one is no longer mapped. */
	if (pages && pages->region.bytes != bytes)
		pages_remove(true);
	if (!bytes)
		return 0;
	if (pages) {
		pages_stamp(pages, request->token);
		return 0;
	}
	pages = pages_allocate(bytes);
	if (!pages)
		return -ENOMEM;
	pages_stamp(pages, request->token);
	vesper_region_add(&pages->region);
	return 0;
}

/* Fills in the reply; `list` has room for VESPER_PIECES_MAX. */
void vesper_pages_request(const struct vesper_pages_request *request, struct vesper_pages *reply, struct vesper_piece *list)
{
	int err;

	mutex_lock(&pages_lock);
	err = pages_provide(request);
	reply->error = cpu_to_le32(err);
	if (!err && pages) {
		reply->pieces = cpu_to_le32(pages->count);
		reply->bytes = cpu_to_le64(pages->region.bytes);
		memcpy(reply->token, pages->region.token, sizeof(reply->token));
		for (u32 i = 0; i < pages->count; i++) {
			list[i].address = cpu_to_le64(page_to_phys(pages->pieces[i].page));
			list[i].bytes = cpu_to_le64(PAGE_SIZE << pages->pieces[i].order);
		}
	}
	mutex_unlock(&pages_lock);
}

/* The relay runs elsewhere now: the host that asked for that has let go of these pages. */
void vesper_pages_forget(void)
{
	mutex_lock(&pages_lock);
	if (pages && !vesper_relay_uses(&pages->region))
		pages_remove(true);
	mutex_unlock(&pages_lock);
}

/* From now on there is none. */
void vesper_pages_exit(void)
{
	mutex_lock(&pages_lock);
	leaving = true;
	pages_remove(false);
	mutex_unlock(&pages_lock);
}
