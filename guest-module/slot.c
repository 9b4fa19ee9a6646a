// SPDX-License-Identifier: GPL-2.0-only
/*
 * The probe slots: which module sits where. A module is recognised while it loads, by the thread that loads it, whether or not
 * it ever calls the frontend; and it may leave on its own (rmmod in the guest).
 */
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/percpu.h>
#include <linux/string.h>

#include "vesper.h"

/* Held for moments only: the channel thread takes it for a status. */
static DEFINE_MUTEX(slots_lock);
static struct vesper_slot slots[VESPER_SLOTS];
static struct vesper_slot *loading;

static u64 counter_sum(const u64 __percpu *counter)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter, cpu));
	return sum;
}

static void slot_module_coming(const struct module *module)
{
	mutex_lock(&slots_lock);
	if (loading && vesper_loader_is_current()) {
		loading->module = module;
		strscpy(loading->name, module->name, sizeof(loading->name));
	}
	mutex_unlock(&slots_lock);
}

static void slot_module_going(const struct module *module)
{
	struct vesper_probe *forgotten = NULL;

	mutex_lock(&slots_lock);
	for (u32 i = 0; i < VESPER_SLOTS; i++) {
		if (slots[i].state == VESPER_SLOT_EMPTY || slots[i].module != module)
			continue;
		forgotten = slots[i].probe;
		/* What fails to load goes as well; vesper_slot_loaded() sees to that. */
		if (slots[i].state == VESPER_SLOT_LOADED)
			slots[i].state = VESPER_SLOT_EMPTY;
	}
	mutex_unlock(&slots_lock);
	/* Its memory goes right after this: better late than armed for ever. */
	if (forgotten) {
		pr_warn("probe %s did not unregister\n", module->name);
		vesper_probe_unregister(forgotten);
	}
}

static int slot_module_event(struct notifier_block *block, unsigned long event, void *module)
{
	if (event == MODULE_STATE_COMING)
		slot_module_coming(module);
	else if (event == MODULE_STATE_GOING)
		slot_module_going(module);
	return NOTIFY_DONE;
}

static struct notifier_block module_notifier = { .notifier_call = slot_module_event };

int vesper_slot_init(void)
{
	return register_module_notifier(&module_notifier);
}

void vesper_slot_exit(void)
{
	unregister_module_notifier(&module_notifier);
}

bool vesper_slot_taken(u32 slot)
{
	return READ_ONCE(slots[slot].state) != VESPER_SLOT_EMPTY;
}

/* Loader thread: `image` is about to be loaded into its slot. */
int vesper_slot_claim(const struct vesper_image *image)
{
	struct vesper_slot *slot = &slots[image->slot];
	int err = -EBUSY;

	mutex_lock(&slots_lock);
	if (slot->state == VESPER_SLOT_EMPTY) {
		memset(slot, 0, sizeof(*slot));
		slot->state = VESPER_SLOT_LOADING;
		strscpy(slot->name, image->name, sizeof(slot->name));
		memcpy(slot->sha256, image->sha256, sizeof(slot->sha256));
		loading = slot;
		err = 0;
	}
	mutex_unlock(&slots_lock);
	return err;
}

void vesper_slot_loaded(u32 slot, bool loaded)
{
	mutex_lock(&slots_lock);
	slots[slot].state = loaded ? VESPER_SLOT_LOADED : VESPER_SLOT_EMPTY;
	loading = NULL;
	mutex_unlock(&slots_lock);
}

/* The name of the module in the slot. */
int vesper_slot_name(u32 slot, char *name, size_t bytes)
{
	int err = -ENOENT;

	mutex_lock(&slots_lock);
	if (slots[slot].state == VESPER_SLOT_LOADED) {
		strscpy(name, slots[slot].name, bytes);
		err = 0;
	}
	mutex_unlock(&slots_lock);
	return err;
}

/* Nothing more is written from now on, whatever the loader thread is busy with. */
void vesper_slot_disarm_at_once(u32 slot)
{
	mutex_lock(&slots_lock);
	if (slots[slot].probe)
		WRITE_ONCE(slots[slot].probe->armed, false);
	mutex_unlock(&slots_lock);
}

/* A registering probe gets the slot that is being loaded, its module the only one to load on this thread. */
int vesper_slot_attach(struct vesper_probe *probe)
{
	int err = -EPERM;

	mutex_lock(&slots_lock);
	if (loading && vesper_loader_is_current() && loading->module == probe->owner) {
		err = loading->probe ? -EBUSY : 0;
		if (!err) {
			loading->probe = probe;
			loading->points = probe->point_count;
			probe->slot = loading - slots;
		}
	}
	mutex_unlock(&slots_lock);
	return err;
}

/* No handler of the probe runs any more; its last counts stay with the slot. */
void vesper_slot_detach(struct vesper_probe *probe)
{
	struct vesper_slot *slot = &slots[probe->slot];

	mutex_lock(&slots_lock);
	slot->written += counter_sum(probe->written);
	slot->lost += counter_sum(probe->lost);
	slot->probe = NULL;
	slot->armed_points = 0;
	mutex_unlock(&slots_lock);
}

/* The caller holds what keeps the probe from unregistering. */
struct vesper_probe *vesper_slot_probe(u32 slot)
{
	return READ_ONCE(slots[slot].probe);
}

void vesper_slot_points(struct vesper_probe *probe, u32 armed_points)
{
	mutex_lock(&slots_lock);
	slots[probe->slot].armed_points = armed_points;
	mutex_unlock(&slots_lock);
}

/* A copy with the counts up to now. */
void vesper_slot_read(u32 slot, struct vesper_slot *copy)
{
	mutex_lock(&slots_lock);
	*copy = slots[slot];
	if (copy->probe) {
		copy->written += counter_sum(copy->probe->written);
		copy->lost += counter_sum(copy->probe->lost);
	}
	mutex_unlock(&slots_lock);
}

u32 vesper_slot_report(struct vesper_probe_status *status, u32 max)
{
	u32 count = 0;

	mutex_lock(&slots_lock);
	for (u32 i = 0; i < VESPER_SLOTS && count < max; i++) {
		const struct vesper_slot *slot = &slots[i];
		const struct vesper_probe *probe = slot->probe;
		struct vesper_probe_status *to = &status[count];

		if (slot->state != VESPER_SLOT_LOADED)
			continue;
		memset(to, 0, sizeof(*to));
		to->slot = cpu_to_le32(i);
		to->kind = cpu_to_le32(VESPER_IMAGE_NATIVE);
		strscpy(to->name, slot->name, sizeof(to->name));
		memcpy(to->sha256, slot->sha256, sizeof(to->sha256));
		to->registered = cpu_to_le32(probe != NULL);
		to->armed = cpu_to_le32(probe && READ_ONCE(probe->armed));
		to->armed_points = cpu_to_le32(slot->armed_points);
		to->points = cpu_to_le32(slot->points);
		to->written = cpu_to_le64(slot->written + (probe ? counter_sum(probe->written) : 0));
		to->lost = cpu_to_le64(slot->lost + (probe ? counter_sum(probe->lost) : 0));
		count++;
	}
	mutex_unlock(&slots_lock);
	return count;
}
