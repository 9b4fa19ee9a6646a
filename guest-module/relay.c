// SPDX-License-Identifier: GPL-2.0-only
/*
 * Starts and stops the rings in a region. An epoch lasts from an activate to the next one, or to the end of the region; hosts
 * come and go meanwhile.
 */
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mutex.h>
#include <linux/string.h>

#include "vesper.h"

/* One change of the relay at a time; held while the writers of an old epoch finish. */
static DEFINE_MUTEX(change_lock);

/* The state that the channel thread reads; held for moments, inside change_lock. */
static DEFINE_MUTEX(state_lock);
static struct vesper_region_memory *active;
static struct vesper_layout layout;
static u64 epoch;		/* 0: not active */

/* The host's word that it has let go of an epoch. */
static DEFINE_MUTEX(revoke_lock);
static DECLARE_COMPLETION(revoked);
static u64 revoking_epoch;

static void state_set(struct vesper_region_memory *region, u64 new_epoch, const struct vesper_layout *new_layout)
{
	mutex_lock(&state_lock);
	active = region;
	WRITE_ONCE(epoch, new_epoch);
	if (new_layout)
		layout = *new_layout;
	mutex_unlock(&state_lock);
}

static void region_state_set(struct vesper_region_memory *region, enum vesper_region_state state)
{
	struct vesper_region *header = region->memory;

	smp_store_release(&header->state, cpu_to_le32(state));
}

void vesper_relay_read(struct vesper_relay_state *state)
{
	memset(state, 0, sizeof(*state));
	state->epoch = READ_ONCE(epoch);
	if (state->epoch)
		vesper_ring_read(&state->written, &state->lost);
}

void vesper_relay_describe(struct vesper_hello *hello)
{
	const struct vesper_region_memory *region;

	mutex_lock(&state_lock);
	hello->epoch = cpu_to_le64(epoch);
	region = active;
	if (region) {
		memcpy(hello->relay_token, region->token, sizeof(hello->relay_token));
		hello->relay_size = cpu_to_le64(region->bytes);
	}
	mutex_unlock(&state_lock);
	if (!region)
		vesper_region_describe(hello);
}

/* Whoever wrote until now has finished when this returns. */
static void relay_stop(struct vesper_relay_state *last)
{
	struct vesper_region_memory *region = active;

	memset(last, 0, sizeof(*last));
	if (!region)
		return;
	last->epoch = epoch;
	vesper_ring_close();
	vesper_ring_read(&last->written, &last->lost);
	region_state_set(region, VESPER_REGION_SEALED);
	state_set(NULL, 0, NULL);
}

static void relay_start(struct vesper_region_memory *region, const struct vesper_layout *plan, u64 new_epoch)
{
	u32 index = 0;
	int cpu;

	vesper_layout_write(plan, region->memory, new_epoch);
	for_each_possible_cpu(cpu) {
		for (u32 kind = 0; kind < 2; kind++, index++)
			vesper_ring_open(cpu, kind, region->memory + vesper_layout_block(plan, index),
					 region->memory + vesper_layout_data(plan, index), plan->ring_bytes[kind], new_epoch);
	}
	region_state_set(region, VESPER_REGION_ACTIVE);
	state_set(region, new_epoch, plan);
}

static int relay_check(const struct vesper_activate *activate)
{
	u32 backend = le32_to_cpu(activate->backend);

	if (!activate->epoch || le32_to_cpu(activate->flags) & ~VESPER_ACTIVATE_RESUME)
		return -EINVAL;
	return backend >= VESPER_BACKEND_IVSHMEM && backend <= VESPER_BACKEND_INLINE ? 0 : -EOPNOTSUPP;
}

static int relay_answer(struct vesper_activated *reply, int err, bool resumed)
{
	mutex_lock(&state_lock);
	reply->error = cpu_to_le32(err);
	reply->resumed = cpu_to_le32(resumed);
	reply->ring_count = cpu_to_le32(active ? layout.rings : 0);
	reply->cpu_count = cpu_to_le32(num_possible_cpus());
	reply->epoch = cpu_to_le64(epoch);
	reply->doorbell = cpu_to_le32(vesper_ring_doorbell_by_register());
	mutex_unlock(&state_lock);
	return err;
}

/* The rings stay as they are: only checks that the host means the same ones. -ESTALE where it does not. */
int vesper_relay_resume(const struct vesper_activate *activate, struct vesper_activated *reply)
{
	int err = relay_check(activate);

	mutex_lock(&state_lock);
	if (!err && (!active || epoch != le64_to_cpu(activate->epoch) || memcmp(active->token, activate->token, sizeof(active->token))))
		err = -ESTALE;
	if (!err)
		vesper_ring_doorbell_set(active->doorbell, le32_to_cpu(activate->doorbell));
	mutex_unlock(&state_lock);
	return relay_answer(reply, err, !err);
}

/*
 * The region that is meant, with its layout. It stays: whoever takes it away needs change_lock for that, and one for the inline
 * backend is made here.
 */
static struct vesper_region_memory *relay_region(const struct vesper_activate *activate, struct vesper_layout *plan)
{
	u32 backend = le32_to_cpu(activate->backend);
	struct vesper_region_memory *region;
	int err;

	if (backend == VESPER_BACKEND_INLINE) {
		err = vesper_layout_plan(plan, activate, U64_MAX);
		return err ? ERR_PTR(err) : vesper_inline_create(activate->token, plan);
	}
	region = vesper_region_find(activate->token);
	err = region && region->backend == backend ? region->error : -ENODEV;
	err = err ?: vesper_layout_plan(plan, activate, region->bytes);
	return err ? ERR_PTR(err) : region;
}

int vesper_relay_activate(const struct vesper_activate *activate, struct vesper_activated *reply)
{
	u64 new_epoch = le64_to_cpu(activate->epoch);
	struct vesper_region_memory *region;
	struct vesper_relay_state last;
	struct vesper_layout plan;
	int err;

	mutex_lock(&change_lock);
	err = relay_check(activate);
	if (err)
		goto out;
	err = new_epoch == epoch ? -EEXIST : 0;
	if (err)
		goto out;
	region = relay_region(activate, &plan);
	err = PTR_ERR_OR_ZERO(region);
	if (err)
		goto out;
	relay_stop(&last);
	vesper_inline_open(region->backend == VESPER_BACKEND_INLINE ? region : NULL, new_epoch);
	vesper_ring_doorbell_set(region->doorbell, le32_to_cpu(activate->doorbell));
	relay_start(region, &plan, new_epoch);
	pr_info("relay active: %u rings in %llu KiB\n", plan.rings, region->bytes >> 10);
out:
	mutex_unlock(&change_lock);
	return relay_answer(reply, err, false);
}

void vesper_relay_deactivate(struct vesper_relay_state *last)
{
	mutex_lock(&change_lock);
	relay_stop(last);
	mutex_unlock(&change_lock);
	if (last->epoch)
		pr_info("relay stopped: %llu records written, %llu lost\n", last->written, last->lost);
}

bool vesper_relay_uses(const struct vesper_region_memory *region)
{
	bool uses;

	mutex_lock(&state_lock);
	uses = active == region;
	mutex_unlock(&state_lock);
	return uses;
}

/*
 * Asks the host to let go of an epoch, and waits for that for a while. True: it did, or it has gone, and what it had mapped with it. A
 * channel that was unplugged tells nothing of the host.
 */
static bool relay_revoke(u64 old_epoch, int reason)
{
	struct vesper_revoke revoke = { .epoch = cpu_to_le64(old_epoch), .reason = cpu_to_le32(reason) };
	u32 session = vesper_session_current();
	bool acknowledged;

	if (!session || !vesper_channel_has_host())
		return vesper_channel_host_left();
	mutex_lock(&revoke_lock);
	reinit_completion(&revoked);
	WRITE_ONCE(revoking_epoch, old_epoch);
	vesper_transmit(session, VESPER_MSG_REVOKE, 0, &revoke, sizeof(revoke), NULL, 0);
	acknowledged = wait_for_completion_timeout(&revoked, msecs_to_jiffies(vesper_revoke_timeout_ms));
	if (!acknowledged)
		pr_notice("the host did not say within %u ms that it let go of the region\n", vesper_revoke_timeout_ms);
	WRITE_ONCE(revoking_epoch, 0);
	mutex_unlock(&revoke_lock);
	return acknowledged;
}

void vesper_relay_revoked(u64 old_epoch)
{
	if (old_epoch && READ_ONCE(revoking_epoch) == old_epoch)
		complete(&revoked);
}

/*
 * Writes the heartbeat where it is due. Returns how long until the next one, in jiffies. Channel thread only: a beat says that it
 * runs.
 */
long vesper_relay_beat(void)
{
	const unsigned long period = msecs_to_jiffies(VESPER_HEARTBEAT_MS);
	static unsigned long due;
	unsigned long now = jiffies;

	if (!READ_ONCE(epoch))
		return MAX_SCHEDULE_TIMEOUT;
	/* One that is further away than a period was set by a relay of long ago. */
	if (time_before(now, due) && due - now <= period)
		return due - now;
	/* In step with the first one, so that a late beat does not delay all that follow; those that were missed are not made up. */
	due = time_before_eq(now, due + period) ? due + period : now + period;
	mutex_lock(&state_lock);
	if (active) {
		struct vesper_region *header = active->memory;

		WRITE_ONCE(header->heartbeat_ns, cpu_to_le64(ktime_get_boottime_ns()));
	}
	mutex_unlock(&state_lock);
	return due - now;
}

/*
 * Answers what the host asks in the first control block until it asks no more, or the time is over. Nothing sleeps between
 * question and answer, on either side: that is what makes the comparison exact. Channel thread only; the region stays for as long.
 */
int vesper_relay_compare_clocks(const struct vesper_compare_clocks *request, u32 *answered)
{
	u32 watch_us = min_t(u32, le32_to_cpu(request->watch_us), VESPER_CLOCK_WATCH_MAX);
	u64 end_ns = ktime_get_boottime_ns() + (u64)watch_us * NSEC_PER_USEC;
	struct vesper_ring_block *block;
	__le64 last = 0;
	u64 now_ns;
	int err = 0;

	mutex_lock(&state_lock);
	if (!active || epoch != le64_to_cpu(request->epoch))
		err = -ESTALE;
	else if (active->backend == VESPER_BACKEND_INLINE)
		err = -EOPNOTSUPP;
	if (err)
		goto out;
	block = active->memory + vesper_layout_block(&layout, 0);
	do {
		__le64 question = READ_ONCE(block->clock_question);

		now_ns = ktime_get_boottime_ns();
		if (question != last) {
			if (!question)
				break;
			last = question;
			WRITE_ONCE(block->clock_ns, cpu_to_le64(now_ns));
			/* Pairs with the acquire of the host: the time is there when the answer is. */
			smp_store_release(&block->clock_answer, question);
			++*answered;
		}
		cpu_relax();
		cond_resched();
	} while (now_ns < end_ns);
out:
	mutex_unlock(&state_lock);
	return err;
}

/* A region goes away. No writer is in it when this returns. True: the host does not use it either. */
bool vesper_relay_release(const struct vesper_region_memory *region, int reason)
{
	struct vesper_relay_state last = {};

	mutex_lock(&change_lock);
	if (active == region)
		relay_stop(&last);
	vesper_region_forget(region);
	mutex_unlock(&change_lock);
	if (last.epoch && vesper_channel_has_host())
		vesper_inline_flush();
	/* One that is not active may be mapped all the same, by a host that is about to activate it. */
	return last.epoch ? relay_revoke(last.epoch, reason) : !vesper_session_current();
}
