// SPDX-License-Identifier: GPL-2.0-only
/* The last thing a guest says: a record of the frontend's own, written in the panic notifier and found by the host in the region. */
#include <linux/notifier.h>
#include <linux/panic_notifier.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include "vesper.h"

static DEFINE_PER_CPU(u64, panic_written);
static DEFINE_PER_CPU(u64, panic_lost);

/* Not a probe of the registry: what the ring wants of one. */
static struct vesper_probe frontend = {
	.name = "vesper",
	.armed = true,
	.slot = VESPER_FRONTEND_SLOT,
	.written = &panic_written,
	.lost = &panic_lost,
};

static int on_panic(struct notifier_block *block, unsigned long event, void *message)
{
	struct vesper_write write;
	struct vesper_panic *panic = vesper_reserve(&frontend, VESPER_EVENT_PANIC, VESPER_RING_CRITICAL, sizeof(*panic), &write);

	if (panic) {
		strscpy(panic->message, message, sizeof(panic->message));
		vesper_commit(&write);
	}
	return NOTIFY_DONE;
}

static struct notifier_block panic_block = { .notifier_call = on_panic, .priority = INT_MAX };

/*
 * Before every other: pvpanic has the highest priority, too, and while it tells the hypervisor that stops the machine. The chain's own
 * function puts us behind those of our priority that came before, so this does what it does, at the head.
 */
void vesper_panic_init(void)
{
	spin_lock_irq(&panic_notifier_list.lock);
	RCU_INIT_POINTER(panic_block.next,
			 rcu_dereference_protected(panic_notifier_list.head, lockdep_is_held(&panic_notifier_list.lock)));
	rcu_assign_pointer(panic_notifier_list.head, &panic_block);
	spin_unlock_irq(&panic_notifier_list.lock);
}

void vesper_panic_exit(void)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, &panic_block);
}
