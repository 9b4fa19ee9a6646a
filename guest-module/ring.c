// SPDX-License-Identifier: GPL-2.0-only
/*
 * The rings' producers: what is not inline in the probes. <vesper/ring.h> tells how it works.
 */
#include <linux/atomic.h>
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/string.h>

#include "vesper.h"

#define UNIT VESPER_RING_UNIT

DEFINE_PER_CPU_ALIGNED(struct vesper_cpu_rings, vesper_cpu_rings);
EXPORT_PER_CPU_SYMBOL_GPL(vesper_cpu_rings);

static atomic64_t doorbells;

/*
 * The device's register, and what to write to it; 0: the channel thread sends a frame instead. A register stays mapped until the rings
 * in its device are closed, and no writer is in them.
 */
static void __iomem *doorbell_register;
static u32 doorbell_value;

static void doorbell_frame(struct irq_work *work)
{
	vesper_channel_wake(VESPER_CHANNEL_DOORBELL);
}

static DEFINE_IRQ_WORK(frame_work, doorbell_frame);

void vesper_ring_doorbell_set(void __iomem *doorbell, u32 value)
{
	if (!doorbell)
		value = 0;
	WRITE_ONCE(doorbell_value, 0);
	if (value) {
		doorbell_register = doorbell;
		smp_store_release(&doorbell_value, value);
	}
}

bool vesper_ring_doorbell_by_register(void)
{
	return READ_ONCE(doorbell_value);
}

u64 vesper_ring_doorbells(void)
{
	return atomic64_read(&doorbells);
}

/*
 * Any context, NMI and panic included. The register is written at once: a guest with one CPU that is busy printing, or that dies, runs
 * no thread to send a frame.
 */
void vesper_ring_wake(struct vesper_ring *ring)
{
	u32 value = smp_load_acquire(&doorbell_value);

	WRITE_ONCE(ring->block->need_wakeup, 0);
	atomic64_inc(&doorbells);
	if (value)
		writel(value, doorbell_register);
	else
		irq_work_queue(&frame_work);
}
EXPORT_SYMBOL_GPL(vesper_ring_wake);

/*
 * Where the calling task may sleep: lets the channel thread send the doorbell that was just rung. Only preempted, never asleep, for the
 * caller is in an ftrace trampoline, which outlives no task that slept.
 */
void vesper_ring_give_way(void)
{
	/* A real-time kernel preempts the caller by itself, and the wait below would be a sleep there. */
	if (IS_ENABLED(CONFIG_PREEMPT_RT) || vesper_ring_doorbell_by_register() || !preemptible())
		return;
	irq_work_sync(&frame_work);
	cond_resched();
}

/*
 * Looks up how far the host has read. It is taken over only where it is possible; a host that writes nonsense makes its
 * own guest lose records, and nothing else.
 */
static bool ring_has_room(struct vesper_ring *ring, u32 end)
{
	/* Pairs with the release of the reader: what it has read may be overwritten. */
	u64 tail = le64_to_cpu(smp_load_acquire(&ring->block->tail));

	if (tail % UNIT || tail > ring->head || ring->head - tail > (u64)ring->units * UNIT)
		return false;
	WRITE_ONCE(ring->tail, (u32)(tail / UNIT));
	return end - (u32)(tail / UNIT) <= ring->units;
}

/* One step of the state that a nested writer cannot get between. Returns the state before. */
static u64 state_add(struct vesper_ring *ring, u64 change)
{
	u64 before;

	do {
		before = READ_ONCE(ring->state);
	} while (cmpxchg_local(&ring->state, before, before + change) != before);
	return before;
}

/* Leaves the ring. The outermost writer publishes what it and all that nested in it wrote and lost. */
void vesper_ring_publish(struct vesper_ring *ring)
{
	struct vesper_ring_block *block = ring->block;
	u64 state;

	do {
		state = READ_ONCE(ring->state);
		if ((state & VESPER_RING_WRITERS) != VESPER_RING_WRITER) {
			state_add(ring, -VESPER_RING_WRITER);
			return;
		}
		ring->head = vesper_ring_head(ring->head, state);
		ring->attempts = vesper_ring_attempts(ring->attempts, state);
		/* A loss that comes after this changes the state, and makes another round. */
		WRITE_ONCE(block->lost, cpu_to_le64(READ_ONCE(ring->lost)));
		WRITE_ONCE(block->attempts, cpu_to_le64(ring->attempts));
		/* As in __vesper_commit(): paired with the reader's acquire, then a full barrier before need_wakeup. */
		smp_store_release(&block->head, cpu_to_le64(ring->head));
	} while (sync_cmpxchg(&ring->state, state, state - VESPER_RING_WRITER) != state);
	if (READ_ONCE(block->need_wakeup))
		vesper_ring_wake(ring);
}
EXPORT_SYMBOL_GPL(vesper_ring_publish);

static void ring_lose(struct vesper_ring *ring, u32 kind)
{
	this_cpu_inc(vesper_cpu_rings.ring[kind & 1].lost);
	/* So many writers on top of each other that they cannot be counted: the one below publishes. */
	if ((READ_ONCE(ring->state) & VESPER_RING_WRITERS) == VESPER_RING_WRITERS) {
		state_add(ring, VESPER_RING_ATTEMPT);
		return;
	}
	state_add(ring, VESPER_RING_ATTEMPT + VESPER_RING_WRITER);
	vesper_ring_publish(ring);
}

/*
 * The whole of a reserve. Preemption is off already, and on again where the record is lost.
 */
struct vesper_reserved vesper_ring_reserve(struct vesper_probe *probe, u16 event, u32 kind, u32 bytes)
{
	struct vesper_ring *ring = &raw_cpu_ptr(&vesper_cpu_rings)->ring[kind & 1];
	u8 *data = smp_load_acquire(&ring->data);
	struct vesper_reserved reserved = {};
	u32 needed, padding, at;
	u64 before, after;

	/* What a disarmed probe would still say is not wanted, so it is not lost. */
	if (!READ_ONCE(probe->armed))
		goto out;
	if (!data)
		goto drop;
	if (bytes > VESPER_RECORD_MAX - sizeof(struct vesper_record))
		goto lose;
	needed = DIV_ROUND_UP(sizeof(struct vesper_record) + bytes, UNIT);
	do {
		u32 left, end;

		before = READ_ONCE(ring->state);
		at = (u32)before;
		left = ring->units - (at & (ring->units - 1));
		/* A record is in one piece: what is left at the end and too small for it is padding. */
		padding = left < needed ? left : 0;
		end = at + padding + needed;
		if ((before & VESPER_RING_WRITERS) == VESPER_RING_WRITERS)
			goto lose;
		if (end - READ_ONCE(ring->tail) > ring->units && !ring_has_room(ring, end))
			goto lose;
		after = ((before + VESPER_RING_ATTEMPT + VESPER_RING_WRITER) & ~(u64)U32_MAX) | end;
	} while (cmpxchg_local(&ring->state, before, after) != before);

	if (padding) {
		reserved.record = (void *)(data + (u64)(at & (ring->units - 1)) * UNIT);
		reserved.record->length = cpu_to_le32(VESPER_RECORD_PAD | padding * UNIT);
		smp_store_release(&reserved.record->tag, cpu_to_le32(at ^ ring->epoch));
		at += padding;
	}
	reserved.record = (void *)(data + (u64)(at & (ring->units - 1)) * UNIT);
	reserved.tag = at ^ ring->epoch;
	this_cpu_inc(*probe->written);
	vesper_record_begin(reserved.record, probe, event, ring->cpu, bytes, vesper_ring_attempts(ring->attempts, before));
	return reserved;

lose:
	ring_lose(ring, kind);
drop:
	this_cpu_inc(*probe->lost);
out:
	preempt_enable_notrace();
	return reserved;
}
EXPORT_SYMBOL_GPL(vesper_ring_reserve);

/* The rings are closed when this is called. */
void vesper_ring_open(int cpu, u32 kind, struct vesper_ring_block *block, void *data, u32 bytes, u64 epoch)
{
	struct vesper_ring *ring = &per_cpu_ptr(&vesper_cpu_rings, cpu)->ring[kind];

	memset(ring, 0, sizeof(*ring));
	ring->units = bytes / UNIT;
	ring->epoch = lower_32_bits(epoch);
	ring->block = block;
	ring->cpu = cpu;
	smp_store_release(&ring->data, data);
}

/* No writer is in the shared memory when this returns. Their counts stay until the rings are opened again. */
void vesper_ring_close(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		for (u32 kind = 0; kind < 2; kind++)
			WRITE_ONCE(per_cpu_ptr(&vesper_cpu_rings, cpu)->ring[kind].data, NULL);
	}
	/* Writers have preemption off from the look at `data` to the end. */
	synchronize_rcu();
	irq_work_sync(&frame_work);
	WRITE_ONCE(doorbell_value, 0);
}

/* Of the epoch, all rings together. */
void vesper_ring_read(u64 *written, u64 *lost)
{
	int cpu;

	*written = 0;
	*lost = 0;
	for_each_possible_cpu(cpu) {
		for (u32 kind = 0; kind < 2; kind++) {
			struct vesper_ring *ring = &per_cpu_ptr(&vesper_cpu_rings, cpu)->ring[kind];
			u64 ring_lost = READ_ONCE(ring->lost);
			u64 published = READ_ONCE(ring->attempts);

			/* The base before the state: both only go forward. */
			smp_rmb();
			*written += vesper_ring_attempts(published, READ_ONCE(ring->state)) - ring_lost;
			*lost += ring_lost;
		}
	}
}
