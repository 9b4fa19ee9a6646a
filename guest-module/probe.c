// SPDX-License-Identifier: GPL-2.0-only
/* Registered probes: arming, disarming and testing them as a whole. */
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/string.h>

#include "vesper.h"

/* Arming, disarming and testing; a probe cannot unregister meanwhile. */
static DEFINE_MUTEX(arm_lock);

/* What became of the points of the module that was loaded last, kept for the reply even where the probe is gone again. */
static struct vesper_points last_result;

static void points_describe(const struct vesper_probe *probe, struct vesper_points *points)
{
	points->count = probe->point_count;
	points->marked = 0;
	for (unsigned int i = 0; i < probe->point_count; i++) {
		const struct vesper_point *point = probe->points[i];
		struct vesper_point_status *status = &points->status[i];

		memset(status, 0, sizeof(*status));
		strscpy(status->name, point->name, sizeof(status->name));
		status->kind = cpu_to_le32(point->kind);
		status->error = cpu_to_le32(point->error);
		status->hits = cpu_to_le64(vesper_hits(point));
		points->marked += point->error == 0;
	}
}

static void hits_reset(const struct vesper_point *point)
{
	int cpu;

	for_each_possible_cpu(cpu)
		*per_cpu_ptr(point->hits, cpu) = 0;
}

static void probe_disarm(struct vesper_probe *probe)
{
	WRITE_ONCE(probe->armed, false);
	vesper_points_disarm(probe->points, probe->point_count);
	vesper_slot_points(probe, 0);
}

/*
 * Tries every point that is not armed. One that cannot be armed is left out, unless it is required: then none is. `points` gets
 * what became of each.
 */
static int probe_arm(struct vesper_probe *probe, struct vesper_points *points)
{
	int err = 0;

	for (unsigned int i = 0; i < probe->point_count; i++) {
		struct vesper_point *point = probe->points[i];

		if (!point->error)
			continue;
		hits_reset(point);
		point->error = vesper_point_arm(point);
		if (point->error && point->required && !err)
			err = point->error;
	}
	points_describe(probe, points);
	if (err) {
		probe_disarm(probe);
		points->marked = 0;
		return err;
	}
	vesper_slot_points(probe, points->marked);
	WRITE_ONCE(probe->armed, true);
	return 0;
}

/* One allocation for all counters of a probe: written, lost, then the hits of each point. */
static int counters_create(struct vesper_probe *probe)
{
	u64 __percpu *counters = __alloc_percpu((2 + probe->point_count) * sizeof(u64), sizeof(u64));

	if (!counters)
		return -ENOMEM;
	probe->written = counters;
	probe->lost = counters + 1;
	for (unsigned int i = 0; i < probe->point_count; i++) {
		probe->points[i]->hits = counters + 2 + i;
		probe->points[i]->probe = probe;
		probe->points[i]->error = -ENODATA;
		probe->points[i]->address = 0;
	}
	return 0;
}

static void counters_destroy(struct vesper_probe *probe)
{
	for (unsigned int i = 0; i < probe->point_count; i++)
		probe->points[i]->hits = NULL;
	free_percpu(probe->written);
}

int vesper_probe_register(struct vesper_probe *probe)
{
	int err;

	if (!vesper_loader_is_current())
		return -EPERM;
	if (probe->point_count > VESPER_POINTS_MAX)
		return -E2BIG;
	err = counters_create(probe);
	if (err)
		return err;
	mutex_lock(&arm_lock);
	err = vesper_slot_attach(probe);
	if (err)
		goto err_counters;
	err = probe_arm(probe, &last_result);
	if (err)
		goto err_slot;
	mutex_unlock(&arm_lock);
	return 0;

err_slot:
	vesper_slot_detach(probe);
err_counters:
	mutex_unlock(&arm_lock);
	counters_destroy(probe);
	return err;
}
EXPORT_SYMBOL_GPL(vesper_probe_register);

void vesper_probe_unregister(struct vesper_probe *probe)
{
	mutex_lock(&arm_lock);
	probe_disarm(probe);
	vesper_slot_detach(probe);
	mutex_unlock(&arm_lock);
	counters_destroy(probe);
}
EXPORT_SYMBOL_GPL(vesper_probe_unregister);

/* Loader thread: forgets the last result, or hands it out. */
void vesper_probe_result_reset(void)
{
	memset(&last_result, 0, sizeof(last_result));
}

const struct vesper_points *vesper_probe_result(void)
{
	return &last_result;
}

int vesper_probe_arm(u32 slot, bool on, struct vesper_points *points)
{
	struct vesper_probe *probe;
	int err = 0;

	points->count = 0;
	points->marked = 0;
	mutex_lock(&arm_lock);
	probe = vesper_slot_probe(slot);
	if (!probe) {
		err = -ENOENT;
	} else if (on) {
		err = probe_arm(probe, points);
	} else {
		probe_disarm(probe);
		points_describe(probe, points);
	}
	mutex_unlock(&arm_lock);
	return err;
}

/* The hits in `points` are those of the test. */
int vesper_probe_self_test(u32 slot, struct vesper_points *points)
{
	struct vesper_probe *probe;
	int err;

	points->count = 0;
	points->marked = 0;
	mutex_lock(&arm_lock);
	probe = vesper_slot_probe(slot);
	if (!probe) {
		err = -ENOENT;
	} else if (!probe->self_test) {
		err = -EOPNOTSUPP;
		points_describe(probe, points);
		points->marked = 0;
	} else if (!READ_ONCE(probe->armed)) {
		err = -ENOLINK;
		points_describe(probe, points);
		points->marked = 0;
	} else {
		struct vesper_point_status *status = points->status;

		points_describe(probe, points);
		err = probe->self_test(probe);
		points->marked = 0;
		for (unsigned int i = 0; i < points->count; i++) {
			u64 hits = vesper_hits(probe->points[i]) - le64_to_cpu(status[i].hits);

			status[i].hits = cpu_to_le64(hits);
			points->marked += hits > 0;
		}
		/* Points that register and never fire: kernel.ftrace_enabled=0 does that. */
		if (!err && !points->marked)
			err = -EIO;
	}
	mutex_unlock(&arm_lock);
	return err;
}

void vesper_probe_disarm_all(void)
{
	mutex_lock(&arm_lock);
	for (u32 slot = 0; slot < VESPER_SLOTS; slot++) {
		struct vesper_probe *probe = vesper_slot_probe(slot);

		if (probe)
			probe_disarm(probe);
	}
	mutex_unlock(&arm_lock);
}
