// SPDX-License-Identifier: GPL-2.0-only
/* Arms and disarms probe points, by their kind. */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/tracepoint.h>

#include "vesper.h"

/* register_kprobe() fills in what must be empty when it is called again. */
static int kprobe_arm(struct vesper_point *point)
{
	struct kprobe *kprobe = &point->kprobe;

	if (vesper_entry_arm(point))
		return 0;
	kprobe->addr = NULL;
	kprobe->flags = 0;
	return register_kprobe(kprobe);
}

static int kretprobe_arm(struct kretprobe *kretprobe)
{
	kretprobe->kp.addr = NULL;
	kretprobe->kp.flags = 0;
	kretprobe->nmissed = 0;
	return register_kretprobe(kretprobe);
}

struct tracepoint_search {
	const char *name;
	struct tracepoint *found;
	struct module *module;	/* of a tracepoint in a module, held */
};

static void tracepoint_compare(struct tracepoint *tracepoint, void *data)
{
	struct tracepoint_search *search = data;

	if (!search->found && !strcmp(tracepoint->name, search->name))
		search->found = tracepoint;
}

#ifdef CONFIG_MODULES
/* Registering this notifier calls it for every module with tracepoints, under the lock that keeps them. */
struct tracepoint_module_search {
	struct notifier_block block;
	struct tracepoint_search *search;
};

static int tracepoint_module_compare(struct notifier_block *block, unsigned long event, void *data)
{
	struct tracepoint_search *search = container_of(block, struct tracepoint_module_search, block)->search;
	struct module *module = ((struct tp_module *)data)->mod;

	if (event != MODULE_STATE_COMING || search->found)
		return NOTIFY_DONE;
	for (unsigned int i = 0; i < module->num_tracepoints && !search->found; i++)
		tracepoint_compare(tracepoint_ptr_deref(&module->tracepoints_ptrs[i]), search);
	/* Held while armed: a tracepoint must not vanish under its handler. */
	if (search->found && !try_module_get(module))
		search->found = NULL;
	else if (search->found)
		search->module = module;
	return NOTIFY_DONE;
}

static void tracepoint_search_modules(struct tracepoint_search *search)
{
	struct tracepoint_module_search modules = { .block.notifier_call = tracepoint_module_compare, .search = search };

	if (register_tracepoint_module_notifier(&modules.block) == 0)
		unregister_tracepoint_module_notifier(&modules.block);
}
#else
static void tracepoint_search_modules(struct tracepoint_search *search)
{
}
#endif

static int tracepoint_arm(struct vesper_point *point)
{
	struct tracepoint_search search = { .name = point->name };
	int err;

	for_each_kernel_tracepoint(tracepoint_compare, &search);
	if (!search.found)
		tracepoint_search_modules(&search);
	if (!search.found)
		return -ENOENT;
	err = tracepoint_probe_register(search.found, point->trace.handler, point);
	if (err) {
		module_put(search.module);
		return err;
	}
	point->trace.tracepoint = search.found;
	point->trace.module = search.module;
	return 0;
}

/*
 * With kernel.ftrace_enabled=0 a kprobe on a function entry registers with success and never fires; unregistered in that state it
 * leaves flags behind that make ftrace give up later (seen on 6.1 and 6.12). So it is not armed at all.
 */
static bool ftrace_is_off(void)
{
#ifdef CONFIG_KPROBES_ON_FTRACE
	const int *enabled = vesper_symbol("ftrace_enabled");

	return enabled && !READ_ONCE(*enabled);
#else
	return false;
#endif
}

int vesper_point_arm(struct vesper_point *point)
{
	if ((point->kind == VESPER_POINT_KPROBE || point->kind == VESPER_POINT_KRETPROBE) && ftrace_is_off())
		return -EOPNOTSUPP;
	switch (point->kind) {
	case VESPER_POINT_KPROBE:
		return kprobe_arm(point);
	case VESPER_POINT_KRETPROBE:
		return kretprobe_arm(&point->kretprobe);
	case VESPER_POINT_TRACEPOINT:
		return tracepoint_arm(point);
	case VESPER_POINT_NOTIFIER:
		return point->notifier.arm(point);
	}
	return -EINVAL;
}

/*
 * Disarms the points that are armed (error 0) and waits until none of their handlers runs. All kprobes in one call, for each
 * call waits for every CPU.
 */
void vesper_points_disarm(struct vesper_point **points, unsigned int count)
{
	struct kprobe *kprobes[VESPER_POINTS_MAX];
	struct kretprobe *kretprobes[VESPER_POINTS_MAX];
	int kprobe_count = 0, kretprobe_count = 0;
	bool tracepoints = false, entries = false;

	for (unsigned int i = 0; i < count; i++) {
		struct vesper_point *point = points[i];

		if (point->error)
			continue;
		switch (point->kind) {
		case VESPER_POINT_KPROBE:
			if (point->address) {
				vesper_entry_disarm(point);
				entries = true;
			} else {
				kprobes[kprobe_count++] = &point->kprobe;
			}
			break;
		case VESPER_POINT_KRETPROBE:
			kretprobes[kretprobe_count++] = &point->kretprobe;
			break;
		case VESPER_POINT_TRACEPOINT:
			tracepoint_probe_unregister(point->trace.tracepoint, point->trace.handler, point);
			tracepoints = true;
			break;
		case VESPER_POINT_NOTIFIER:
			point->notifier.disarm(point);
			break;
		}
	}
	if (kprobe_count)
		unregister_kprobes(kprobes, kprobe_count);
	if (kretprobe_count)
		unregister_kretprobes(kretprobes, kretprobe_count);
	/* Waits for what the entries have to wait for, too. */
	if (tracepoints)
		tracepoint_synchronize_unregister();
	else if (entries)
		vesper_entries_synchronize();
	for (unsigned int i = 0; i < count; i++) {
		if (points[i]->error)
			continue;
		if (points[i]->kind == VESPER_POINT_TRACEPOINT)
			module_put(points[i]->trace.module);
		points[i]->error = -ENODATA;
	}
}
