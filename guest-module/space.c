// SPDX-License-Identifier: GPL-2.0-only
/*
 * The private address space. init_module, delete_module and the port's read and write take user pointers, and no process may be
 * needed: so one buffer, which the kernel reaches by its vmalloc address, is mapped at a fixed place of an mm that no process
 * has, and a kernel thread borrows that mm around the calls. All of it is allocated when the frontend is loaded: a guest that is
 * out of memory can still be probed.
 *
 * The mm belongs (mm->owner, with memory cgroups) to the thread that makes it: the channel thread makes it first and frees it
 * last.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/static_call.h>
#include <linux/vmalloc.h>

#include "vesper.h"

/* Above any mmap_min_addr, far below the end of user space. */
#define SPACE_BASE 0x10000000ul

DEFINE_STATIC_CALL_NULL(vesper_mm_alloc, mm_alloc);

static const size_t fixed_bytes[] = {
	[VESPER_SPACE_RX] = 32 * 1024,
	[VESPER_SPACE_TX] = 64 * 1024,
	[VESPER_SPACE_ARGS] = ALIGN(VESPER_ARGS_MAX + 1, PAGE_SIZE),
	[VESPER_SPACE_NAME] = PAGE_SIZE,
};

static struct mm_struct *space_mm;
static u8 *space_memory;
static size_t space_bytes;

size_t vesper_space_bytes(enum vesper_space_part part)
{
	return part == VESPER_SPACE_IMAGE ? PAGE_ALIGN((size_t)vesper_image_kib * 1024) : fixed_bytes[part];
}

void *vesper_space_memory(enum vesper_space_part part)
{
	size_t offset = 0;

	while (part > 0)
		offset += vesper_space_bytes(--part);
	return space_memory + offset;
}

void __user *vesper_space_user(const void *memory)
{
	return (void __user *)(SPACE_BASE + ((const u8 *)memory - space_memory));
}

static int space_mmap(struct file *file, struct vm_area_struct *vma)
{
	return remap_vmalloc_range(vma, space_memory, 0);
}

/* A fresh mm has no get_unmapped_area of its own. */
static unsigned long space_get_unmapped_area(struct file *file, unsigned long address, unsigned long bytes, unsigned long offset,
					     unsigned long flags)
{
	return SPACE_BASE;
}

/* No .owner: it would pin this module for as long as the mapping exists. The mm goes before the module does. */
static const struct file_operations space_file_operations = {
	.mmap = space_mmap,
	.get_unmapped_area = space_get_unmapped_area,
};

static int space_map(void)
{
	struct file *file = anon_inode_getfile("[vesper]", &space_file_operations, NULL, O_RDWR);
	unsigned long address;

	if (IS_ERR(file))
		return PTR_ERR(file);
	kthread_use_mm(space_mm);
	address = vm_mmap(file, SPACE_BASE, space_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	kthread_unuse_mm(space_mm);
	fput(file);
	if (IS_ERR_VALUE(address))
		return (int)address;
	return address == SPACE_BASE ? 0 : -EADDRNOTAVAIL;
}

/* Called by the channel thread. */
int vesper_space_create(void)
{
	void *function = vesper_symbol("mm_alloc");
	int err;

	if (!function)
		return -ENOENT;
	static_call_update(vesper_mm_alloc, (typeof(&mm_alloc))function);
	space_bytes = (u8 *)vesper_space_memory(VESPER_SPACE_IMAGE) - space_memory + vesper_space_bytes(VESPER_SPACE_IMAGE);
	space_memory = vmalloc_user(space_bytes);
	if (!space_memory)
		return -ENOMEM;
	space_mm = static_call(vesper_mm_alloc)();
	if (!space_mm) {
		err = -ENOMEM;
		goto err_memory;
	}
	err = space_map();
	if (err)
		goto err_mm;
	return 0;

err_mm:
	mmput(space_mm);
	flush_delayed_fput();
err_memory:
	vfree(space_memory);
	space_memory = NULL;
	return err;
}

/* Called by the channel thread, when no thread uses the space any more. */
void vesper_space_destroy(void)
{
	mmput(space_mm);
	/* A kernel thread's fput() is done later by a worker, and the file's operations are in this module. */
	flush_delayed_fput();
	vfree(space_memory);
	space_memory = NULL;
}

void vesper_space_enter(void)
{
	kthread_use_mm(space_mm);
}

void vesper_space_leave(void)
{
	kthread_unuse_mm(space_mm);
}
