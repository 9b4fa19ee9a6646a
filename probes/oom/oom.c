// SPDX-License-Identifier: GPL-2.0-only
/*
 * The OOM killer: whom it kills, why, and when the victim is gone.
 *
 * out_of_memory() is entered with what was asked for, oom_kill_process() when a victim is chosen, mark_victim for every
 * process that is then killed (several where a memory cgroup dies as a whole). All three run under oom_lock, in the task
 * whose allocation failed: what the first two saw is kept in one static place. Event "kill" is written as soon as the victim
 * is chosen, for the kernel first prints its report, which takes its time on a serial console; at mark_victim it is written for
 * those that nobody chose. The victim's last thread to leave its memory behind writes event "gone".
 *
 * Nothing here allocates: when these handlers run there is nothing left.
 */
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/gfp.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/oom.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/timekeeping.h>
#include <linux/vmstat.h>
#include <vesper/probe.h>

#define PATH_BYTES 192

#define KILL_FIELDS(F, E)                                                                                                \
	F(E, u32, pid, , PID, NONE, "", "process that is killed")                                                        \
	F(E, u32, uid, , UID, NONE, "", "its real user id")                                                              \
	F(E, char, comm, [TASK_COMM_LEN], COMM, NONE, "", "name of its main thread")                                     \
	F(E, u32, dying, , LABEL, NONE, "answer", "yes: it was ending already and only got memory to finish")             \
	F(E, s32, oom_score_adj, , DETAIL, NONE, "", "-1000 (never) to 1000 (first)")                                    \
	F(E, u64, anon_pages, , VALUE, PAGES, "", "anonymous memory resident, as the kernel's log counts it")                  \
	F(E, u64, file_pages, , VALUE, PAGES, "", "file pages resident")                                                       \
	F(E, u64, shmem_pages, , VALUE, PAGES, "", "shared memory resident")                                                   \
	F(E, u64, swap_pages, , VALUE, PAGES, "", "swapped out")                                                               \
	F(E, u64, page_table_bytes, , VALUE, BYTES, "", "its page tables")                                                    \
	F(E, u32, trigger_pid, , PID, NONE, "", "process whose allocation failed; of SysRq-f a kernel worker")            \
	F(E, u32, trigger_thread, , PID, NONE, "", "thread whose allocation failed")                                     \
	F(E, char, trigger_comm, [TASK_COMM_LEN], COMM, NONE, "", "name of that thread")                                 \
	F(E, s32, order, , DETAIL, NONE, "", "2^order pages were asked for; -1: SysRq-f, -2: not seen")                   \
	F(E, u32, gfp, , DETAIL, NONE, "gfp", "what kind of memory was asked for, 0: not seen")                          \
	F(E, u32, constraint, , LABEL, NONE, "constraint", "which limit was hit")                                        \
	F(E, u64, limit_pages, , DETAIL, PAGES, "", "that limit, swap included, 0: not seen")                                  \
	F(E, u64, total_pages, , DETAIL, PAGES, "", "memory of the guest")                                                     \
	F(E, u64, free_pages, , DETAIL, PAGES, "", "free memory of the guest")                                                 \
	F(E, char, memcg, [PATH_BYTES], DETAIL, NONE, "", "memory cgroup that hit its limit; empty if none; a long path keeps its end") \
	F(E, char, victim_memcg, [PATH_BYTES], DETAIL, NONE, "", "memory cgroup of the victim; a long path keeps its end")
VESPER_EVENT(kill, 1, CRITICAL, KILL_FIELDS, "The OOM killer has chosen a process and kills it.");

#define GONE_FIELDS(F, E)                                                                                                \
	F(E, u32, pid, , PID, NONE, "", "process that was killed")                                                       \
	F(E, u32, uid, , UID, NONE, "", "its real user id")                                                              \
	F(E, char, comm, [TASK_COMM_LEN], COMM, NONE, "", "name of its main thread")                                     \
	F(E, u32, reaped, , LABEL, NONE, "answer", "whether the OOM reaper took its memory while it was stuck")           \
	F(E, u64, took_ns, , VALUE, NANOSECONDS, "", "from the choice until it was gone")
VESPER_EVENT(gone, 2, CRITICAL, GONE_FIELDS, "A victim of the OOM killer has ended and let go of its memory.");

enum { NO, YES, NOT_SEEN };
VESPER_VALUE(answer, ENUM, NO, "no");
VESPER_VALUE(answer, ENUM, YES, "yes");
VESPER_VALUE(answer, ENUM, NOT_SEEN, "not seen");

#define CONSTRAINT_NOT_SEEN U32_MAX
VESPER_VALUE(constraint, ENUM, CONSTRAINT_NONE, "none");
VESPER_VALUE(constraint, ENUM, CONSTRAINT_CPUSET, "cpuset");
VESPER_VALUE(constraint, ENUM, CONSTRAINT_MEMORY_POLICY, "mempolicy");
VESPER_VALUE(constraint, ENUM, CONSTRAINT_MEMCG, "memcg");
VESPER_VALUE(constraint, ENUM, CONSTRAINT_NOT_SEEN, "not seen");

/* The usual combinations first, as the kernel prints them; then single bits, with the values of this kernel. */
#define GFP_NAME(_flag) VESPER_VALUE(gfp, FLAG, (__force u32)(_flag), #_flag);
GFP_NAME(GFP_TRANSHUGE)
GFP_NAME(GFP_TRANSHUGE_LIGHT)
GFP_NAME(GFP_HIGHUSER_MOVABLE)
GFP_NAME(GFP_HIGHUSER)
GFP_NAME(GFP_USER)
GFP_NAME(GFP_KERNEL_ACCOUNT)
GFP_NAME(GFP_KERNEL)
GFP_NAME(GFP_NOFS)
GFP_NAME(GFP_ATOMIC)
GFP_NAME(GFP_NOIO)
#define GFP_BIT(_name) VESPER_VALUE(gfp, FLAG, _##_name, #_name);
GFP_BIT(__GFP_DMA)
GFP_BIT(__GFP_HIGHMEM)
GFP_BIT(__GFP_DMA32)
GFP_BIT(__GFP_MOVABLE)
GFP_BIT(__GFP_RECLAIMABLE)
GFP_BIT(__GFP_HIGH)
GFP_BIT(__GFP_IO)
GFP_BIT(__GFP_FS)
GFP_BIT(__GFP_ZERO)
#ifdef ___GFP_ATOMIC /* gone in 6.3 */
GFP_BIT(__GFP_ATOMIC)
#endif
GFP_BIT(__GFP_DIRECT_RECLAIM)
GFP_BIT(__GFP_KSWAPD_RECLAIM)
GFP_BIT(__GFP_WRITE)
GFP_BIT(__GFP_NOWARN)
GFP_BIT(__GFP_RETRY_MAYFAIL)
GFP_BIT(__GFP_NOFAIL)
GFP_BIT(__GFP_NORETRY)
GFP_BIT(__GFP_MEMALLOC)
GFP_BIT(__GFP_COMP)
GFP_BIT(__GFP_NOMEMALLOC)
GFP_BIT(__GFP_HARDWALL)
GFP_BIT(__GFP_THISNODE)
GFP_BIT(__GFP_ACCOUNT)
GFP_BIT(__GFP_ZEROTAGS)

/* ---- memory cgroups ---- */

#ifdef CONFIG_MEMCG
/*
 * Writes the path into `path`, or its end after "..." where it is longer: the end names the container. Called under
 * oom_lock, which is what guards the buffer. kernfs takes a spinlock with interrupts off for the length of a strcpy, in a
 * place where dump_header() does the same a moment later; where that lock can sleep the path is left out.
 */
static void memcg_path(struct mem_cgroup *memcg, char path[PATH_BYTES])
{
	static char whole[1024];
	size_t length;

	if (IS_ENABLED(CONFIG_PREEMPT_RT) || cgroup_path(memcg->css.cgroup, whole, sizeof(whole)) < 0)
		return;
	length = strnlen(whole, sizeof(whole));
	if (length < PATH_BYTES) {
		memcpy(path, whole, length);
	} else {
		memcpy(path, "...", 3);
		memcpy(path + 3, whole + length - (PATH_BYTES - 4), PATH_BYTES - 4);
	}
}

static void task_memcg_path(struct task_struct *task, char path[PATH_BYTES])
{
	struct mem_cgroup *memcg;

	rcu_read_lock();
	memcg = mem_cgroup_from_task(task);
	if (memcg)
		memcg_path(memcg, path);
	rcu_read_unlock();
}
#else
static void memcg_path(struct mem_cgroup *memcg, char path[PATH_BYTES])
{
}

static void task_memcg_path(struct task_struct *task, char path[PATH_BYTES])
{
}
#endif

/* ---- what the killer was called for ---- */

/* Guarded by oom_lock. */
static struct {
	const struct task_struct *trigger;
	int order;
	u32 gfp;
	u32 constraint;
	u64 limit_pages;
	bool choice_dying;
	const struct signal_struct *choice;
	char memcg[PATH_BYTES];
} call;

static void call_fill(const struct oom_control *control)
{
	memset(&call, 0, sizeof(call));
	call.trigger = current;
	call.order = control->order;
	call.gfp = (__force u32)control->gfp_mask;
	call.constraint = control->memcg ? CONSTRAINT_MEMCG : CONSTRAINT_NOT_SEEN;
	if (control->memcg)
		memcg_path(control->memcg, call.memcg);
}

VESPER_KPROBE(called, "out_of_memory", on_out_of_memory, false, "the OOM killer is called: order, gfp flags, memory cgroup");

static int on_out_of_memory(struct kprobe *kprobe, struct pt_regs *regs)
{
	if (vesper_enter(&called))
		call_fill((const struct oom_control *)regs_get_kernel_argument(regs, 0));
	return 0;
}

/* What comes next is the kernel's report, in one go: some 12 ms where each instruction is emulated, and more on a serial console. */
VESPER_KPROBE_SLEEPABLE(chosen, "oom_kill_process", on_choice, false, "a victim has been chosen: who, its memory, constraint and limit");

/* ---- victims ---- */

/*
 * Processes killed and not gone yet. Written under oom_lock; an exiting process takes its entry by cmpxchg. Should there
 * ever be more, the oldest is given up: its "gone" is not reported.
 */
static struct victim {
	const struct signal_struct *process;	/* NULL: free */
	u32 pid;
	u32 thread;
	u64 killed_ns;	/* CLOCK_MONOTONIC */
	bool reaped;
} victims[64];

static bool victim_known(const struct signal_struct *process, u32 pid)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(victims); i++)
		if (READ_ONCE(victims[i].process) == process && victims[i].pid == pid)
			return true;
	return false;
}

static void victim_add(const struct task_struct *task)
{
	struct victim *place = victims;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(victims) && READ_ONCE(place->process); i++)
		if (!READ_ONCE(victims[i].process) || victims[i].killed_ns < place->killed_ns)
			place = &victims[i];
	WRITE_ONCE(place->process, NULL);
	smp_wmb(); /* pairs with the cmpxchg in victim_take(): no entry half old, half new */
	place->pid = task->tgid;
	place->thread = task->pid;
	place->killed_ns = ktime_get_mono_fast_ns();
	place->reaped = false;
	smp_store_release(&place->process, task->signal);
}

static bool victim_take(const struct signal_struct *process, u32 pid, struct victim *taken)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(victims); i++) {
		if (smp_load_acquire(&victims[i].process) != process)
			continue;
		*taken = victims[i];
		if (cmpxchg(&victims[i].process, process, NULL) == process && taken->pid == pid)
			return true;
	}
	return false;
}

/* A victim that was not chosen is of a group that dies as a whole; without a choice it is the caller, which was ending. */
static u32 was_dying(const struct task_struct *task)
{
	if (call.trigger != current || (!call.choice && chosen.error))
		return NOT_SEEN;
	if (!call.choice)
		return YES;
	return call.choice == task->signal && call.choice_dying ? YES : NO;
}

static void memory_fill(struct kill *event, struct mm_struct *mm)
{
	event->anon_pages = get_mm_counter(mm, MM_ANONPAGES);
	event->file_pages = get_mm_counter(mm, MM_FILEPAGES);
	event->shmem_pages = get_mm_counter(mm, MM_SHMEMPAGES);
	event->swap_pages = get_mm_counter(mm, MM_SWAPENTS);
	event->page_table_bytes = mm_pgtables_bytes(mm);
}

/*
 * A victim that was marked keeps its memory; one that was only chosen may let go of it at any moment, but not while the lock is
 * held. A lock that somebody else holds is not waited for: then another thread's is tried. Under rcu_read_lock().
 */
static void memory_find(struct kill *event, struct task_struct *task)
{
	struct mm_struct *mm = READ_ONCE(task->signal->oom_mm);
	struct task_struct *thread;

	if (mm) {
		memory_fill(event, mm);
		return;
	}
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return;
	for_each_thread(task, thread) {
		bool found;

		if (!spin_trylock(&thread->alloc_lock))
			continue;
		found = thread->mm;
		if (found)
			memory_fill(event, thread->mm);
		spin_unlock(&thread->alloc_lock);
		if (found)
			return;
	}
}

static void kill_emit(struct task_struct *task)
{
	bool seen = call.trigger == current;
	struct vesper_write write;
	struct kill *event;

	event = kill_reserve(&write);
	if (!event)
		return;
	event->pid = task->tgid;
	event->uid = __kuid_val(task_uid(task));
	memcpy(event->comm, task->group_leader->comm, sizeof(event->comm));
	event->dying = was_dying(task);
	event->oom_score_adj = task->signal->oom_score_adj;
	memory_find(event, task);
	event->trigger_pid = current->tgid;
	event->trigger_thread = current->pid;
	memcpy(event->trigger_comm, current->comm, sizeof(event->trigger_comm));
	event->order = seen ? call.order : -2;
	event->gfp = seen ? call.gfp : 0;
	event->constraint = seen ? call.constraint : CONSTRAINT_NOT_SEEN;
	event->limit_pages = seen ? call.limit_pages : 0;
	event->total_pages = totalram_pages();
	event->free_pages = global_zone_page_state(NR_FREE_PAGES);
	if (seen)
		memcpy(event->memcg, call.memcg, sizeof(event->memcg));
	task_memcg_path(task, event->victim_memcg);
	vesper_commit(&write);
}

static void on_victim(struct task_struct *task)
{
	/* Further threads of a victim may be marked when they run out of memory on their way out. */
	if (victim_known(task->signal, task->tgid))
		return;
	victim_add(task);
	kill_emit(task);
}

static int on_choice(struct kprobe *kprobe, struct pt_regs *regs)
{
	const struct oom_control *control = (const struct oom_control *)regs_get_kernel_argument(regs, 0);

	if (!vesper_enter(&chosen))
		return 0;
	call_fill(control);
	call.constraint = control->constraint;
	call.limit_pages = control->totalpages;
	call.choice = control->chosen->signal;
	call.choice_dying = READ_ONCE(control->chosen->signal->flags) & SIGNAL_GROUP_EXIT || control->chosen->flags & PF_EXITING;
	rcu_read_lock();
	on_victim(control->chosen);
	rcu_read_unlock();
	return 0;
}

/*
 * The tracepoint passes the task since 6.8 and later stable kernels (72ba14deb40a), before that its pid. With symbol versions
 * a module built for one loads into the other, and nothing checks tracepoints: look at what comes, addresses of the kernel
 * are negative.
 */
static void on_mark(void *point, long task_or_pid)
{
	struct task_struct *task;

	if (!vesper_enter(point))
		return;
	rcu_read_lock();
	task = task_or_pid < 0 ? (struct task_struct *)task_or_pid :
				 pid_task(find_pid_ns((int)task_or_pid, &init_pid_ns), PIDTYPE_PID);
	if (task)
		on_victim(task);
	rcu_read_unlock();
}
VESPER_TRACEPOINT(marked, "mark_victim", on_mark, true, "a process is killed: who, its memory");

static void on_reaped(void *point, int pid)
{
	unsigned int i;

	if (!vesper_enter(point))
		return;
	for (i = 0; i < ARRAY_SIZE(victims); i++)
		if (READ_ONCE(victims[i].process) && victims[i].thread == pid)
			WRITE_ONCE(victims[i].reaped, true);
}
VESPER_TRACEPOINT(reaped, "finish_task_reaping", on_reaped, false, "the OOM reaper took the memory of a victim that was stuck");

/*
 * Every thread passes here after it has let go of its memory. Of several that end at once more than one may find none left
 * alive; the first takes the entry.
 */
static void on_exit(void *point, struct task_struct *task)
{
	struct vesper_write write;
	struct victim victim;
	struct gone *event;

	if (!vesper_enter(point))
		return;
	if (likely(!task->signal->oom_mm) || atomic_read(&task->signal->live))
		return;
	if (!victim_take(task->signal, task->tgid, &victim))
		return;
	event = gone_reserve(&write);
	if (!event)
		return;
	event->pid = victim.pid;
	event->uid = __kuid_val(task_uid(task));
	memcpy(event->comm, task->group_leader->comm, sizeof(event->comm));
	event->reaped = victim.reaped;
	event->took_ns = ktime_get_mono_fast_ns() - victim.killed_ns;
	vesper_commit(&write);
}
VESPER_TRACEPOINT(exited, "sched_process_exit", on_exit, true, "the victim has ended");

/* ---- self-test ---- */

static bool canary_sang;

static noinline int canary(int note)
{
	barrier();
	return note;
}

static int on_canary(struct kprobe *kprobe, struct pt_regs *regs)
{
	canary_sang = true;
	return 0;
}

static int nothing(void *unused)
{
	return 0;
}

/*
 * A kernel thread ends: that fires the point at the end of a task. The others cannot be fired without killing a process, or
 * telling everyone else who traces mark_victim of a victim that is none: their hits stay 0. What can silence them without
 * any error is that kprobes on function entries never fire while kernel.ftrace_enabled is 0. That is tried on a function of
 * this module: -EIO.
 */
static int self_test(struct vesper_probe *probe)
{
	struct kprobe kprobe = { .addr = (kprobe_opcode_t *)canary, .pre_handler = on_canary };
	struct task_struct *task = kthread_create(nothing, NULL, "vesper-subject");
	int error, tries;

	if (IS_ERR(task))
		return PTR_ERR(task);
	get_task_struct(task);
	kthread_stop(task);
	/* kthread_stop() returns a little before the thread is through with do_exit(). */
	for (tries = 0; tries < HZ && !READ_ONCE(task->exit_state); tries++)
		schedule_timeout_uninterruptible(1);
	put_task_struct(task);

	canary_sang = false;
	error = register_kprobe(&kprobe);
	if (!error) {
		canary(0);
		unregister_kprobe(&kprobe);
		if (!canary_sang)
			error = -EIO;
	}
	return error;
}

VESPER_PROBE(oom, "The OOM killer: whom it kills and why, and when the victim is gone.", self_test, &called, &chosen, &marked,
	     &reaped, &exited);

MODULE_AUTHOR("The VESPER authors");
MODULE_VERSION("0.1.0");
MODULE_DESCRIPTION("VESPER probe: the OOM killer's victims, why they were chosen, and when they are gone");
MODULE_LICENSE("GPL");
