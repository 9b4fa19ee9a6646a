/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a record gets into the ring of its CPU. The usual way is inline in the probe, for it is all that a hit costs; whatever is
 * not usual (a nested writer, a full ring, its end, no relay) is done in the frontend. Only for <vesper/probe.h>.
 *
 * A ring belongs to one CPU, so its writers are never concurrent, but they nest: an interrupt or NMI writes while the code under
 * it is half through. The inner one always finishes first.
 *
 *   reserve   one cmpxchg of `state` takes the room and the sequence number, and enters the ring
 *   commit    writes the record's tag; the outermost writer then publishes all that is reserved, for all of it is committed,
 *             and leaves by a second cmpxchg, which fails if a nested writer was quicker: then it publishes again
 *
 * All this lies in the guest's own memory: shared memory may be uncached, and the host could write to it.
 */
#ifndef _VESPER_RING_H
#define _VESPER_RING_H

#include <linux/atomic.h>
#include <linux/cache.h>
#include <linux/compiler.h>
#include <linux/ktime.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/types.h>
#include <vesper/wire.h>

/*
 * state:  63 … 36 records tried   35 … 32 writers under way   31 … 0 units of 8 bytes reserved
 *
 * The upper and lower part are the low bits of counts whose full values are those of the last publication plus the difference.
 */
#define VESPER_RING_UNIT VESPER_RECORD_ALIGN
#define VESPER_RING_WRITER (1ull << 32)
#define VESPER_RING_WRITERS (15ull << 32)
#define VESPER_RING_ATTEMPT (1ull << 36)
/* In place of the state a writer left, for those that commit in the frontend: never found. */
#define VESPER_RING_UNUSUAL 0ull

struct vesper_ring {
	u64 state;
	u8 *data;		/* NULL: no relay */
	struct vesper_ring_block *block;
	u64 head;		/* bytes published */
	u64 attempts;		/* records tried, as published */
	u32 units;		/* size of the data area, a power of two */
	u32 tail;		/* units read by the host, as last looked up */
	u32 epoch;		/* low half */
	u32 cpu;
	/* Rarely used. */
	u64 lost ____cacheline_aligned;
} ____cacheline_aligned;

struct vesper_cpu_rings {
	struct vesper_ring ring[2];	/* by enum vesper_ring_kind */
};
DECLARE_PER_CPU_ALIGNED(struct vesper_cpu_rings, vesper_cpu_rings);

/* Small enough for two registers. */
struct vesper_reserved {
	struct vesper_record *record;	/* NULL: lost */
	u64 tag;
};
struct vesper_reserved vesper_ring_reserve(struct vesper_probe *probe, u16 event, u32 kind, u32 bytes);
void vesper_ring_publish(struct vesper_ring *ring);
void vesper_ring_wake(struct vesper_ring *ring);

/* The full count behind `state`, given an earlier one. */
static __always_inline u64 vesper_ring_attempts(u64 published, u64 state)
{
	return published + (((state / VESPER_RING_ATTEMPT) - published) & (U64_MAX / VESPER_RING_ATTEMPT));
}

static __always_inline u64 vesper_ring_head(u64 published, u64 state)
{
	return published + (u64)((u32)state - (u32)(published / VESPER_RING_UNIT)) * VESPER_RING_UNIT;
}

/* Fills in the header of a record, all but the tag. */
static __always_inline void vesper_record_begin(struct vesper_record *record, const struct vesper_probe *probe, u16 event, u32 cpu,
						u32 bytes, u64 sequence)
{
	record->length = cpu_to_le32(sizeof(*record) + bytes);
	/* slot, event, cpu and flags in one store */
	*(__le64 *)&record->slot = cpu_to_le64(probe->slot | (u32)event << 16 | (u64)cpu << 32);
	record->sequence = cpu_to_le64(sequence);
	record->time_ns = cpu_to_le64(ktime_get_boot_fast_ns());
}

static __always_inline void *__vesper_reserve(struct vesper_probe *probe, u16 event, u32 kind, u32 bytes, struct vesper_write *write)
{
	const u32 needed = DIV_ROUND_UP(sizeof(struct vesper_record) + bytes, VESPER_RING_UNIT);
	struct vesper_reserved reserved;
	struct vesper_ring *ring;
	u32 at, units, tag;
	u64 before, after;
	u8 *data;

	preempt_disable_notrace();
	ring = &raw_cpu_ptr(&vesper_cpu_rings)->ring[kind & 1];
	write->ring = ring;
	/* Pairs with the release in vesper_ring_open(). */
	data = smp_load_acquire(&ring->data);
	if (unlikely(!data || !READ_ONCE(probe->armed) || bytes > VESPER_RECORD_MAX - sizeof(struct vesper_record)))
		goto unusual;
	before = READ_ONCE(ring->state);
	at = (u32)before;
	units = ring->units;
	tag = at ^ ring->epoch;
	if (unlikely((before & VESPER_RING_WRITERS) || (at & (units - 1)) + needed > units ||
		     at + needed - READ_ONCE(ring->tail) > units))
		goto unusual;
	after = ((before + VESPER_RING_ATTEMPT + VESPER_RING_WRITER) & ~(u64)U32_MAX) | (u32)(at + needed);
	if (unlikely(cmpxchg_local(&ring->state, before, after) != before))
		goto unusual;
	write->record = (void *)(data + (u64)(at & (units - 1)) * VESPER_RING_UNIT);
	write->tag = tag;
	write->state = after;
	/* There is no writer below this one: what is published is all there is. */
	write->sequence = ring->attempts;
	this_cpu_inc(*probe->written);
	vesper_record_begin(write->record, probe, event, ring->cpu, bytes, write->sequence);
	return write->record + 1;

unusual:
	reserved = vesper_ring_reserve(probe, event, kind, bytes);
	if (!reserved.record)
		return NULL;
	write->record = reserved.record;
	write->tag = reserved.tag;
	write->state = VESPER_RING_UNUSUAL;
	write->sequence = 0;
	return write->record + 1;
}

static __always_inline void __vesper_commit(struct vesper_write *write)
{
	struct vesper_ring *ring = write->ring;
	struct vesper_ring_block *block;
	u64 state = write->state;
	u64 head;

	/* The tag last: a reader that finds it, head published or not, finds a whole record. */
	smp_store_release(&write->record->tag, cpu_to_le32(write->tag));
	/* As the reserve left it: no one was nested meanwhile, and this is the outermost writer. */
	if (unlikely(READ_ONCE(ring->state) != state))
		goto unusual;
	block = ring->block;
	head = vesper_ring_head(ring->head, state);
	ring->head = head;
	ring->attempts = write->sequence + 1;
	WRITE_ONCE(block->attempts, cpu_to_le64(write->sequence + 1));
	/* Pairs with the acquire of the reader: all records below are whole. */
	smp_store_release(&block->head, cpu_to_le64(head));
	/*
	 * A full barrier: either the reader, which sets need_wakeup and then looks at head once more, sees this head, or
	 * need_wakeup is seen here. The reader is on another machine, so to speak: with one CPU the kernel patches the
	 * barrier out of a plain cmpxchg().
	 */
	if (unlikely(sync_cmpxchg(&ring->state, state, state - VESPER_RING_WRITER) != state))
		goto unusual;
	if (unlikely(READ_ONCE(block->need_wakeup)))
		vesper_ring_wake(ring);
	preempt_enable_notrace();
	return;

unusual:
	vesper_ring_publish(ring);
	preempt_enable_notrace();
}

#endif
