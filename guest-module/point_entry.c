// SPDX-License-Identifier: GPL-2.0-only
/*
 * Entries of kernel functions, by one ftrace_ops of our own. A kprobe in the same place is a user of ftrace as well, and costs
 * twice as much: it saves all registers, where we want the arguments, and keeps books that single-stepping would need.
 *
 * The ops stays registered while the frontend is loaded; arming a point changes its filter only. (To unregister it is to wait
 * until every task has slept once, for it might be in the trampoline; one that was preempted there has not.) An empty filter would
 * mean "all functions", so there is an anchor in it that nobody calls.
 *
 * Points change under arm_lock (probe.c).
 */
#include <linux/ftrace.h>
#include <linux/hash.h>
#include <linux/rculist.h>
#include <linux/trace_recursion.h>

#include "vesper.h"

/* The one architecture where struct ftrace_regs is known to begin with a struct pt_regs. */
#if defined(CONFIG_X86_64) && defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS)

#define ENTRY_BITS 7
/* A function's ftrace site is its first instruction, or with IBT the one behind ENDBR. */
#define ENTRY_SKEW 4
/* Both lie in one block, or the function is left to a kprobe: so that one look at the table is enough. */
#define ENTRY_BLOCK 16

static struct hlist_head entries[1 << ENTRY_BITS];
static bool entry_usable;

static __always_inline struct hlist_head *entry_bucket(unsigned long address)
{
	return &entries[hash_long(address / ENTRY_BLOCK, ENTRY_BITS)];
}

static void notrace entry_called(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	/* Preemption is off from here: vesper_entries_synchronize() waits for us. */
	int bit = ftrace_test_recursion_trylock(ip, parent_ip);
	struct vesper_point *point;
	bool sleepable = false;

	if (bit < 0)
		return;
	hlist_for_each_entry_rcu_notrace(point, entry_bucket(ip), node) {
		if (ip - point->address <= ENTRY_SKEW) {
			point->kprobe.pre_handler(&point->kprobe, (struct pt_regs *)fregs);
			sleepable |= point->sleepable;
		}
	}
	ftrace_test_recursion_unlock(bit);
	if (unlikely(sleepable))
		vesper_ring_give_way();
}

static struct ftrace_ops entry_ops = { .func = entry_called };

static noinline void entry_anchor(void)
{
	barrier();
}

/* Without it kprobes do. */
void vesper_entry_init(void)
{
	int err = ftrace_set_filter_ip(&entry_ops, (unsigned long)entry_anchor, 0, 1);

	err = err ?: register_ftrace_function(&entry_ops);
	if (err)
		pr_notice("no ftrace (%d): probe points at function entries cost more\n", err);
	entry_usable = !err;
}

void vesper_entry_exit(void)
{
	if (entry_usable)
		unregister_ftrace_function(&entry_ops);
	ftrace_free_filter(&entry_ops);
}

/* False: not by this means. */
bool vesper_entry_arm(struct vesper_point *point)
{
	unsigned long address;

	if (!entry_usable || !point->kprobe.symbol_name || point->kprobe.offset || point->kprobe.post_handler)
		return false;
	address = (unsigned long)vesper_symbol(point->kprobe.symbol_name);
	if (!address || address % ENTRY_BLOCK > ENTRY_BLOCK - 1 - ENTRY_SKEW)
		return false;
	point->address = address;
	hlist_add_head_rcu(&point->node, entry_bucket(address));
	if (!ftrace_set_filter_ip(&entry_ops, address, 0, 0))
		return true;
	/* Not a place that ftrace knows. The handler cannot have been called. */
	hlist_del_rcu(&point->node);
	synchronize_rcu();
	point->address = 0;
	return false;
}

static bool entry_is_shared(const struct vesper_point *point)
{
	const struct vesper_point *other;

	hlist_for_each_entry(other, entry_bucket(point->address), node) {
		if (other != point && other->address == point->address)
			return true;
	}
	return false;
}

/* Handlers may still run when this returns, until vesper_entries_synchronize(). */
void vesper_entry_disarm(struct vesper_point *point)
{
	if (!entry_is_shared(point))
		ftrace_set_filter_ip(&entry_ops, point->address, 1, 0);
	hlist_del_rcu(&point->node);
	point->address = 0;
}

void vesper_entries_synchronize(void)
{
	synchronize_rcu();
}

#else

void vesper_entry_init(void)
{
}

void vesper_entry_exit(void)
{
}

bool vesper_entry_arm(struct vesper_point *point)
{
	return false;
}

void vesper_entry_disarm(struct vesper_point *point)
{
}

void vesper_entries_synchronize(void)
{
}

#endif
