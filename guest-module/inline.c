// SPDX-License-Identifier: GPL-2.0-only
/*
 * The relay without shared memory: the rings lie in memory of the guest's own, and the channel thread carries what is in them to the
 * host, in frames. To the probes it is a ring as any other; the channel thread stands for the host as its reader:
 *
 *   tail … sent     on the way; the room is free when the host says that it has consumed it, so that the next host gets what this
 *                   one could not take
 *   sent … head     to be sent, in pieces of whole records
 *
 * A port that takes nothing keeps the thread from sending and nobody from writing: a full ring counts its losses.
 */
#include <linux/jiffies.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

#include "vesper.h"

/* Of records in one frame: what comes behind it (a heartbeat's answer, a critical event) waits no longer than for a few of them. */
#define PIECE_MAX 8192
#define TURN_MAX (2 * PIECE_MAX)

struct inline_ring {
	struct vesper_ring_block *block;
	const u8 *data;
	u32 bytes;
	u64 sent;
	/* As the host was told. */
	u64 attempts;
	u64 lost;
};

struct inline_region {
	struct vesper_region_memory region;
	u64 epoch;
	u32 session;		/* that takes the records, 0: none yet */
	u32 count;
	struct inline_ring rings[];
};

static DEFINE_MUTEX(inline_lock);
static struct inline_region *inlined;
static bool leaving;
static DECLARE_WAIT_QUEUE_HEAD(sent_queue);

/* Not seen by anyone before vesper_inline_open(). */
struct vesper_region_memory *vesper_inline_create(const u8 *token, const struct vesper_layout *layout)
{
	struct inline_region *r;

	if (READ_ONCE(leaving))
		return ERR_PTR(-ESHUTDOWN);
	if (layout->total_bytes > VESPER_PAGES_MAX)
		return ERR_PTR(-E2BIG);
	r = kzalloc(struct_size(r, rings, layout->rings), GFP_KERNEL);
	if (!r)
		return ERR_PTR(-ENOMEM);
	r->region.memory = vzalloc(layout->total_bytes);
	if (!r->region.memory) {
		kfree(r);
		return ERR_PTR(-ENOMEM);
	}
	INIT_LIST_HEAD(&r->region.node);
	r->region.backend = VESPER_BACKEND_INLINE;
	r->region.bytes = layout->total_bytes;
	memcpy(r->region.token, token, sizeof(r->region.token));
	r->count = layout->rings;
	for (u32 i = 0; i < r->count; i++) {
		r->rings[i].block = r->region.memory + vesper_layout_block(layout, i);
		r->rings[i].data = r->region.memory + vesper_layout_data(layout, i);
		r->rings[i].bytes = layout->ring_bytes[i % 2];
	}
	return &r->region;
}

static void inline_free(struct inline_region *r)
{
	if (!r)
		return;
	vfree(r->region.memory);
	kfree(r);
}

/* From now on this one's records are carried, and those of the one before no more: its rings are closed. NULL: none. */
void vesper_inline_open(struct vesper_region_memory *region, u64 epoch)
{
	struct inline_region *before;

	mutex_lock(&inline_lock);
	before = inlined;
	inlined = region ? container_of(region, struct inline_region, region) : NULL;
	if (inlined)
		inlined->epoch = epoch;
	mutex_unlock(&inline_lock);
	inline_free(before);
}

/* A session was told that the rings are there: it gets what no session has consumed. */
void vesper_inline_attach(u32 session)
{
	mutex_lock(&inline_lock);
	if (inlined) {
		inlined->session = session;
		for (u32 i = 0; i < inlined->count; i++) {
			struct inline_ring *ring = &inlined->rings[i];

			ring->sent = le64_to_cpu(READ_ONCE(ring->block->tail));
			ring->attempts = 0;
			ring->lost = 0;
		}
	}
	mutex_unlock(&inline_lock);
	vesper_channel_wake(VESPER_CHANNEL_OUTPUT);
}

bool vesper_inline_is_open(void)
{
	return READ_ONCE(inlined);
}

static u64 ring_head(const struct inline_ring *ring)
{
	/* Pairs with the release in vesper_ring_publish(): what lies below is written. */
	return le64_to_cpu(smp_load_acquire(&ring->block->head));
}

/* Bytes of whole records from `from` on, at most `bytes` of them: the host reads up to their end. */
static u32 whole_records(const struct inline_ring *ring, u64 from, u32 bytes)
{
	u32 at = from & (ring->bytes - 1), taken = 0;

	while (taken < bytes) {
		const struct vesper_record *record = (const void *)(ring->data + at + taken);
		u32 length = ALIGN(le32_to_cpu(record->length) & ~VESPER_RECORD_PAD, VESPER_RING_UNIT);

		if (length > bytes - taken || !length)
			break;
		taken += length;
	}
	return taken;
}

/* Queues a piece of a ring. Returns how many bytes were queued, 0 where the host knows all of it. */
static u32 ring_send(struct inline_region *r, u32 index)
{
	struct inline_ring *ring = &r->rings[index];
	u64 head = ring_head(ring);
	u64 attempts = le64_to_cpu(READ_ONCE(ring->block->attempts));
	u64 lost = le64_to_cpu(READ_ONCE(ring->block->lost));
	u32 at = ring->sent & (ring->bytes - 1);
	u32 bytes = min3(head - ring->sent, (u64)ring->bytes - at, (u64)PIECE_MAX);
	struct vesper_records records = {
		.epoch = cpu_to_le64(r->epoch),
		.position = cpu_to_le64(ring->sent),
		.attempts = cpu_to_le64(attempts),
		.lost = cpu_to_le64(lost),
		.ring = cpu_to_le32(index),
	};

	bytes = whole_records(ring, ring->sent, bytes);
	if (!bytes && attempts == ring->attempts && lost == ring->lost)
		return 0;
	vesper_transmit(r->session, VESPER_MSG_RECORDS, 0, &records, sizeof(records), ring->data + at, bytes);
	ring->sent += bytes;
	ring->attempts = attempts;
	ring->lost = lost;
	return sizeof(struct vesper_frame) + sizeof(records) + bytes;
}

/* The rings of a kind in turn, as long as little is queued. */
static u32 kind_send(struct inline_region *r, enum vesper_ring_kind kind, u32 room)
{
	u32 queued = 0, before;

	do {
		before = queued;
		for (u32 i = kind; i < r->count && queued < room; i += 2)
			queued += ring_send(r, i);
	} while (queued != before && queued < room);
	return queued;
}

static void wakeups_set(struct inline_region *r, u32 on)
{
	for (u32 i = 0; i < r->count; i++)
		WRITE_ONCE(r->rings[i].block->need_wakeup, cpu_to_le32(on));
}

/* Queues some of what is to be sent, critical records first. False: there is nothing, and a writer wakes the channel thread. */
bool vesper_inline_send(void)
{
	u32 queued = 0;

	mutex_lock(&inline_lock);
	if (inlined && inlined->session && inlined->session == vesper_session_current()) {
		for (int round = 0; round < 2 && !queued; round++) {
			wakeups_set(inlined, round);
			/* Pairs with the barrier in __vesper_commit(): either the writer sees the flag, or its record is seen here. */
			smp_mb();
			queued = kind_send(inlined, VESPER_RING_CRITICAL, TURN_MAX);
			if (queued < TURN_MAX)
				queued += kind_send(inlined, VESPER_RING_OTHER, TURN_MAX - queued);
		}
	}
	mutex_unlock(&inline_lock);
	wake_up_all(&sent_queue);
	return queued;
}

/* Up to here the host delivered; also of what an earlier session was sent. */
void vesper_inline_consumed(const struct vesper_consumed *consumed)
{
	u64 tail = le64_to_cpu(consumed->tail);
	u32 index = le32_to_cpu(consumed->ring);

	mutex_lock(&inline_lock);
	if (inlined && inlined->epoch == le64_to_cpu(consumed->epoch) && index < inlined->count) {
		struct inline_ring *ring = &inlined->rings[index];

		if (!(tail % VESPER_RING_UNIT) && tail > le64_to_cpu(ring->block->tail) && tail <= ring_head(ring)) {
			ring->sent = max(ring->sent, tail);
			/* Pairs with the acquire in ring_has_room(): nothing below is read here any more. */
			smp_store_release(&ring->block->tail, cpu_to_le64(tail));
		}
	}
	mutex_unlock(&inline_lock);
}

static bool sent_up_to(const u64 *heads, u64 epoch)
{
	bool sent = true;

	mutex_lock(&inline_lock);
	if (inlined && inlined->epoch == epoch && inlined->session && inlined->session == vesper_session_current()) {
		for (u32 i = 0; i < inlined->count; i++)
			sent = sent && inlined->rings[i].sent >= heads[i];
	}
	mutex_unlock(&inline_lock);
	return sent;
}

/* What was written until now is queued when this returns, ahead of what the caller queues; or its session has ended. */
void vesper_inline_flush(void)
{
	u64 *heads = NULL, epoch = 0;

	mutex_lock(&inline_lock);
	if (inlined && inlined->session) {
		epoch = inlined->epoch;
		heads = kvmalloc_array(inlined->count, sizeof(*heads), GFP_KERNEL);
	}
	for (u32 i = 0; heads && i < inlined->count; i++)
		heads[i] = ring_head(&inlined->rings[i]);
	mutex_unlock(&inline_lock);
	if (!heads)
		return;
	vesper_channel_wake(VESPER_CHANNEL_OUTPUT);
	wait_event_timeout(sent_queue, sent_up_to(heads, epoch), msecs_to_jiffies(vesper_write_timeout_ms));
	kvfree(heads);
}

/* From now on there is none. */
void vesper_inline_exit(void)
{
	struct vesper_region_memory *region;

	WRITE_ONCE(leaving, true);
	mutex_lock(&inline_lock);
	region = inlined ? &inlined->region : NULL;
	mutex_unlock(&inline_lock);
	if (region)
		vesper_relay_release(region, -ENODEV);
}
