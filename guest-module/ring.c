// SPDX-License-Identifier: GPL-2.0-only
/*
 * The rings' producers. A ring belongs to one CPU, so its writers are never concurrent, but they nest: an interrupt or NMI writes
 * while the code under it is half through. The inner one always finishes first.
 *
 *   reserve   one cmpxchg_local of `state` takes the room and the sequence number together, so that both run in step
 *   commit    writes the record's tag; the outermost writer then publishes everything reserved so far, all of which is
 *             committed. What a nested writer adds while it does so it notices and publishes too.
 *
 * `state` holds the low halves of two counts: records tried (upper 32 bits) and units of 8 bytes reserved (lower). The full
 * counts are those at the last publication, plus what the halves went on since.
 *
 * All this lies in the guest's own memory: shared memory may be uncached, and the host could write to it.
 */
#include <asm/local64.h>
#include <linux/irq_work.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/string.h>
#include <linux/ktime.h>

#include "vesper.h"

#define UNIT VESPER_RECORD_ALIGN
#define ONE_ATTEMPT (1ll << 32)

struct vesper_ring {
	local64_t state;
	u8 *data;		/* NULL: no relay */
	u32 units;		/* size of the data area, a power of two */
	u32 tail;		/* units read by the host, as last looked up */
	u32 epoch;		/* low half */
	u32 nest;		/* writers under way */
	u64 head;		/* bytes published */
	u64 attempts;		/* records tried, as published */
	struct vesper_ring_block *block;
	/* Rarely used. */
	local64_t lost ____cacheline_aligned;
	u64 lost_published;
} ____cacheline_aligned;

struct cpu_rings {
	struct vesper_ring ring[2];	/* by enum vesper_ring_kind */
};

static DEFINE_PER_CPU_ALIGNED(struct cpu_rings, cpu_rings);

static atomic64_t doorbells;

static void doorbell_ring(struct irq_work *work)
{
	atomic64_inc(&doorbells);
	vesper_channel_wake(VESPER_CHANNEL_DOORBELL);
}

static DEFINE_IRQ_WORK(doorbell, doorbell_ring);

u64 vesper_ring_doorbells(void)
{
	return atomic64_read(&doorbells);
}

static u64 ring_attempts(u64 published, u64 state)
{
	return published + (u32)(upper_32_bits(state) - (u32)published);
}

/*
 * Looks up how far the host has read. It is taken over only where it is possible; a host that writes nonsense makes its
 * own guest lose records, and nothing else.
 */
static noinline bool ring_has_room(struct vesper_ring *ring, u32 next)
{
	/* Pairs with the release of the reader: what it has read may be overwritten. */
	u64 tail = le64_to_cpu(smp_load_acquire(&ring->block->tail));

	if (tail % UNIT || tail > ring->head || ring->head - tail > (u64)ring->units * UNIT)
		return false;
	WRITE_ONCE(ring->tail, (u32)(tail / UNIT));
	return next - (u32)(tail / UNIT) <= ring->units;
}

/* A record that is tried and not written. */
static noinline void ring_lose(struct vesper_ring *ring)
{
	s64 attempt = ONE_ATTEMPT;

	/* x86's local_add() would take it for a 32-bit constant. */
	OPTIMIZER_HIDE_VAR(attempt);
	local64_inc(&ring->lost);
	local64_add(attempt, &ring->state);
}

static __always_inline void ring_leave(struct vesper_ring *ring)
{
	struct vesper_ring_block *block = ring->block;
	u64 state;

	barrier();
	if (unlikely(ring->nest > 1)) {
		ring->nest--;
		return;
	}
	do {
		s64 lost;

		WRITE_ONCE(ring->nest, 1);
		barrier();
		state = local64_read(&ring->state);
		barrier();
		/* After the state: a loss that is not in here changes the state, and is published in another round. */
		lost = local64_read(&ring->lost);
		ring->head += (u64)(lower_32_bits(state) - (u32)(ring->head / UNIT)) * UNIT;
		ring->attempts = ring_attempts(ring->attempts, state);
		WRITE_ONCE(block->attempts, cpu_to_le64(ring->attempts));
		if (unlikely(lost != ring->lost_published)) {
			ring->lost_published = lost;
			WRITE_ONCE(block->lost, cpu_to_le64(lost));
		}
		/* Pairs with the acquire of the reader: all records below are whole. */
		smp_store_release(&block->head, cpu_to_le64(ring->head));
		/*
		 * A full barrier: either the reader, which sets need_wakeup and then looks at head once more, sees this
		 * head, or need_wakeup is seen below.
		 */
		smp_store_mb(ring->nest, 0);
	} while (unlikely(local64_read(&ring->state) != state));

	if (unlikely(READ_ONCE(block->need_wakeup))) {
		WRITE_ONCE(block->need_wakeup, 0);
		irq_work_queue(&doorbell);
	}
}

void *__vesper_reserve(struct vesper_probe *probe, u16 event, u32 kind, u32 bytes, struct vesper_write *write)
{
	u32 length = sizeof(struct vesper_record) + bytes;
	u32 needed = (length + UNIT - 1) / UNIT;
	struct vesper_record *record;
	u32 at, offset, padding;
	struct vesper_ring *ring;
	u64 state, next;
	u8 *data;

	preempt_disable_notrace();
	ring = &raw_cpu_ptr(&cpu_rings)->ring[kind & 1];
	/* Pairs with the release in vesper_ring_open(). */
	data = smp_load_acquire(&ring->data);
	if (unlikely(!data || !READ_ONCE(probe->armed)))
		goto drop;
	WRITE_ONCE(ring->nest, ring->nest + 1);
	barrier();
	if (unlikely(bytes > VESPER_RECORD_MAX - sizeof(struct vesper_record)))
		goto lose;
	do {
		u32 left, end;

		state = local64_read(&ring->state);
		at = lower_32_bits(state);
		offset = at & (ring->units - 1);
		left = ring->units - offset;
		/* A record is in one piece: what is left at the end and too small for it is padding. */
		padding = left < needed ? left : 0;
		end = at + padding + needed;
		if (unlikely(end - READ_ONCE(ring->tail) > ring->units) && !ring_has_room(ring, end))
			goto lose;
		next = ((state & ~(u64)U32_MAX) + ONE_ATTEMPT) | end;
	} while (unlikely(local64_cmpxchg(&ring->state, state, next) != (s64)state));

	if (unlikely(padding)) {
		record = (struct vesper_record *)(data + offset * UNIT);
		record->length = cpu_to_le32(VESPER_RECORD_PAD | padding * UNIT);
		smp_store_release(&record->tag, cpu_to_le32(at ^ ring->epoch));
		at += padding;
		offset = 0;
	}
	record = (struct vesper_record *)(data + offset * UNIT);
	record->length = cpu_to_le32(length);
	record->slot = cpu_to_le16(probe->slot);
	record->event = cpu_to_le16(event);
	record->cpu = cpu_to_le16(raw_smp_processor_id());
	record->flags = 0;
	record->time_ns = cpu_to_le64(ktime_get_boot_fast_ns());
	record->sequence = cpu_to_le64(ring_attempts(ring->attempts, state));
	write->record = record;
	write->ring = ring;
	write->tag = at ^ ring->epoch;
	write->probe = probe;
	return record + 1;

lose:
	ring_lose(ring);
	ring_leave(ring);
drop:
	this_cpu_inc(*probe->lost);
	preempt_enable_notrace();
	return NULL;
}
EXPORT_SYMBOL_GPL(__vesper_reserve);

void vesper_commit(struct vesper_write *write)
{
	/* The tag last: a reader that finds it, head published or not, finds a whole record. */
	smp_store_release(&write->record->tag, cpu_to_le32(write->tag));
	this_cpu_inc(*write->probe->written);
	ring_leave(write->ring);
	preempt_enable_notrace();
}
EXPORT_SYMBOL_GPL(vesper_commit);

/* The rings are closed when this is called. */
void vesper_ring_open(int cpu, u32 kind, struct vesper_ring_block *block, void *data, u32 bytes, u64 epoch)
{
	struct vesper_ring *ring = &per_cpu_ptr(&cpu_rings, cpu)->ring[kind];

	memset(ring, 0, sizeof(*ring));
	ring->units = bytes / UNIT;
	ring->epoch = lower_32_bits(epoch);
	ring->block = block;
	smp_store_release(&ring->data, data);
}

/* No writer is in the shared memory when this returns. Their counts stay until the rings are opened again. */
void vesper_ring_close(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		for (u32 kind = 0; kind < 2; kind++)
			WRITE_ONCE(per_cpu_ptr(&cpu_rings, cpu)->ring[kind].data, NULL);
	}
	/* Writers have preemption off from the look at `data` to the end. */
	synchronize_rcu();
	irq_work_sync(&doorbell);
}

/* Of the epoch, all rings together. */
void vesper_ring_read(u64 *written, u64 *lost)
{
	int cpu;

	*written = 0;
	*lost = 0;
	for_each_possible_cpu(cpu) {
		for (u32 kind = 0; kind < 2; kind++) {
			struct vesper_ring *ring = &per_cpu_ptr(&cpu_rings, cpu)->ring[kind];
			u64 ring_lost = local64_read(&ring->lost);
			u64 published = READ_ONCE(ring->attempts);

			/* The base before the halves: they only go forward. */
			smp_rmb();
			*written += ring_attempts(published, local64_read(&ring->state)) - ring_lost;
			*lost += ring_lost;
		}
	}
}
