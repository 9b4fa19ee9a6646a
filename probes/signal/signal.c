// SPDX-License-Identifier: GPL-2.0-only
/*
 * Signals and the deaths they cause.
 *
 * Every signal passes the tracepoint signal_generate, which says who sent what to whom and what became of it: event
 * "delivered". A process is dead when the last of its threads passes acct_collect(), before its memory is torn down, which for a
 * large process takes long: event "died". In between the sender is remembered in a small table without locks.
 */
#include <linux/acct.h>
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/glob.h>
#include <linux/hash.h>
#include <linux/jiffies.h>
#include <linux/kernfs.h>
#include <linux/kthread.h>
#include <linux/ptrace.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/signal.h>
#include <trace/events/signal.h>
#include <vesper/probe.h>

#define DELIVERED_FIELDS(F, E)                                                                                           \
	F(E, u32, signal, , LABEL, NONE, "signal", "signal number")                                                      \
	F(E, u32, code, , LABEL, NONE, "code", "why: low half si_code; high half the signal where its meaning depends on it") \
	F(E, u32, result, , LABEL, NONE, "result", "what became of it")                                                  \
	F(E, u32, kernel, , LABEL, NONE, "kernel", "whether the kernel made it, rather than a process asking for it")   \
	F(E, u32, scope, , LABEL, NONE, "scope", "whether it was meant for one thread or for the whole process")        \
	F(E, u32, sender_pid, , PID, NONE, "", "thread that was running when it was made, 0: none (interrupt)")          \
	F(E, u32, sender_tgid, , PID, NONE, "", "process of that thread")                                                \
	F(E, u32, sender_uid, , UID, NONE, "", "real user id of the sender")                                             \
	F(E, char, sender_comm, [TASK_COMM_LEN], COMM, NONE, "", "name of the sending thread")                           \
	F(E, u32, target_pid, , PID, NONE, "", "thread it was sent to; the main thread if for the whole process")        \
	F(E, u32, target_tgid, , PID, NONE, "", "process of that thread")                                                \
	F(E, u32, target_uid, , UID, NONE, "", "real user id of the target")                                             \
	F(E, char, target_comm, [TASK_COMM_LEN], COMM, NONE, "", "name of the target thread")
VESPER_EVENT(delivered, 1, INFO, DELIVERED_FIELDS, "A signal was sent: delivered, or why not.");

#define PATH_BYTES 192

#define DIED_FIELDS(F, E)                                                                                                \
	F(E, u32, signal, , LABEL, NONE, "signal", "signal it died of")                                                  \
	F(E, u32, code, , LABEL, NONE, "code", "why: low half si_code; high half the signal where its meaning depends on it") \
	F(E, u32, core, , LABEL, NONE, "answer", "whether a core was dumped")                                            \
	F(E, u32, kernel, , LABEL, NONE, "kernel", "whether the kernel made it, rather than a process asking for it")   \
	F(E, u64, address, , ADDRESS, NONE, "", "faulting address of SIGSEGV, SIGBUS, SIGILL and SIGFPE, else 0")        \
	F(E, u32, pid, , PID, NONE, "", "process that died")                                                             \
	F(E, u32, thread, , PID, NONE, "", "thread the signal was sent to, 0: not seen")                                 \
	F(E, u32, uid, , UID, NONE, "", "its real user id")                                                              \
	F(E, char, comm, [TASK_COMM_LEN], COMM, NONE, "", "name of its main thread")                                     \
	F(E, u32, sender_pid, , PID, NONE, "", "thread that was running when the signal was made, 0: none or not seen")  \
	F(E, u32, sender_tgid, , PID, NONE, "", "process of that thread")                                                \
	F(E, u32, sender_uid, , UID, NONE, "", "real user id of the sender")                                             \
	F(E, char, sender_comm, [TASK_COMM_LEN], COMM, NONE, "", "name of the sending thread")                           \
	F(E, char, cgroup, [PATH_BYTES], DETAIL, NONE, "", "its cgroup, of the unified hierarchy (v2); a long path keeps its end")
VESPER_EVENT(died, 2, CRITICAL, DIED_FIELDS, "A process died of a signal. Once per process, whatever the number of its threads.");

/* Real-time signals are shown by number: what SIGRTMIN is, is for the guest's C library to say. */
#define SIGNAL_NAMES(S)                                                                                                  \
	S(SIGHUP) S(SIGINT) S(SIGQUIT) S(SIGILL) S(SIGTRAP) S(SIGABRT) S(SIGBUS) S(SIGFPE) S(SIGKILL) S(SIGUSR1)         \
	S(SIGSEGV) S(SIGUSR2) S(SIGPIPE) S(SIGALRM) S(SIGTERM) S(SIGSTKFLT) S(SIGCHLD) S(SIGCONT) S(SIGSTOP) S(SIGTSTP) \
	S(SIGTTIN) S(SIGTTOU) S(SIGURG) S(SIGXCPU) S(SIGXFSZ) S(SIGVTALRM) S(SIGPROF) S(SIGWINCH) S(SIGIO) S(SIGPWR)    \
	S(SIGSYS)
#define SIGNAL_VALUE(_signal) VESPER_VALUE(signal, ENUM, _signal, #_signal);
SIGNAL_NAMES(SIGNAL_VALUE)

#define CODE_OF(_signal, _code) ((u32)(_signal) << 16 | (u16)(_code))
#define CODE_NOT_SEEN U32_MAX
#define GENERAL_CODE(_code) VESPER_VALUE(code, ENUM, CODE_OF(0, _code), #_code);
#define SIGNAL_CODE(_signal, _code) VESPER_VALUE(code, ENUM, CODE_OF(_signal, _code), #_code);
#define CODE_NAMES(G, S)                                                                                                 \
	G(SI_USER) G(SI_KERNEL) G(SI_QUEUE) G(SI_TIMER) G(SI_MESGQ) G(SI_ASYNCIO) G(SI_SIGIO) G(SI_TKILL)                \
	S(SIGSEGV, SEGV_MAPERR) S(SIGSEGV, SEGV_ACCERR) S(SIGSEGV, SEGV_BNDERR) S(SIGSEGV, SEGV_PKUERR)                  \
	S(SIGBUS, BUS_ADRALN) S(SIGBUS, BUS_ADRERR) S(SIGBUS, BUS_OBJERR) S(SIGBUS, BUS_MCEERR_AR)                       \
	S(SIGBUS, BUS_MCEERR_AO)                                                                                         \
	S(SIGILL, ILL_ILLOPC) S(SIGILL, ILL_ILLOPN) S(SIGILL, ILL_ILLADR) S(SIGILL, ILL_ILLTRP) S(SIGILL, ILL_PRVOPC)    \
	S(SIGFPE, FPE_INTDIV) S(SIGFPE, FPE_INTOVF) S(SIGFPE, FPE_FLTDIV) S(SIGFPE, FPE_FLTOVF) S(SIGFPE, FPE_FLTUND)    \
	S(SIGFPE, FPE_FLTRES) S(SIGFPE, FPE_FLTINV) S(SIGFPE, FPE_FLTSUB)                                                \
	S(SIGTRAP, TRAP_BRKPT) S(SIGTRAP, TRAP_TRACE) S(SIGTRAP, TRAP_HWBKPT)                                            \
	S(SIGSYS, SYS_SECCOMP)                                                                                           \
	S(SIGCHLD, CLD_EXITED) S(SIGCHLD, CLD_KILLED) S(SIGCHLD, CLD_DUMPED) S(SIGCHLD, CLD_TRAPPED)                     \
	S(SIGCHLD, CLD_STOPPED) S(SIGCHLD, CLD_CONTINUED)
CODE_NAMES(GENERAL_CODE, SIGNAL_CODE)
VESPER_VALUE(code, ENUM, CODE_NOT_SEEN, "not seen");

VESPER_VALUE(result, ENUM, TRACE_SIGNAL_DELIVERED, "delivered");
VESPER_VALUE(result, ENUM, TRACE_SIGNAL_IGNORED, "ignored");
VESPER_VALUE(result, ENUM, TRACE_SIGNAL_ALREADY_PENDING, "already pending");
VESPER_VALUE(result, ENUM, TRACE_SIGNAL_OVERFLOW_FAIL, "queue full");
VESPER_VALUE(result, ENUM, TRACE_SIGNAL_LOSE_INFO, "delivered without info");

enum { KERNEL_NO, KERNEL_YES, KERNEL_NOT_SEEN };
VESPER_VALUE(kernel, ENUM, KERNEL_NO, "no");
VESPER_VALUE(kernel, ENUM, KERNEL_YES, "yes");
VESPER_VALUE(kernel, ENUM, KERNEL_NOT_SEEN, "not seen");

VESPER_VALUE(scope, ENUM, 0, "thread");
VESPER_VALUE(scope, ENUM, 1, "process");
VESPER_VALUE(answer, ENUM, 0, "no");
VESPER_VALUE(answer, ENUM, 1, "yes");

/* ---- parameters ---- */

#define SIGNAL_MAX _NSIG
static DECLARE_BITMAP(wanted, SIGNAL_MAX + 1);
static char comm_pattern[32];

static bool fatal_by_default(int sig)
{
	return !siginmask(sig, SIG_KERNEL_IGNORE_MASK | SIG_KERNEL_STOP_MASK);
}

static int signal_of(const char *word, size_t length)
{
	static const struct {
		const char *name;
		int sig;
	} names[] = {
#define SIGNAL_ENTRY(_signal) { #_signal, _signal },
		SIGNAL_NAMES(SIGNAL_ENTRY)
	};
	char text[12];
	unsigned int i;
	int sig;

	if (length >= sizeof(text))
		return -EINVAL;
	memcpy(text, word, length);
	text[length] = '\0';
	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcasecmp(text, names[i].name) || !strcasecmp(text, names[i].name + strlen("SIG")))
			return names[i].sig;
	if (kstrtoint(text, 10, &sig) || sig < 1 || sig > SIGNAL_MAX)
		return -EINVAL;
	return sig;
}

static int signals_set(const char *text, const struct kernel_param *param)
{
	DECLARE_BITMAP(chosen, SIGNAL_MAX + 1) = {};

	for (;;) {
		size_t length = strcspn(text, ",\n");
		int sig;

		if (length == strlen("all") && !strncasecmp(text, "all", length)) {
			bitmap_set(chosen, 1, SIGNAL_MAX);
		} else if (length == strlen("fatal") && !strncasecmp(text, "fatal", length)) {
			for (sig = 1; sig <= SIGNAL_MAX; sig++)
				if (fatal_by_default(sig))
					__set_bit(sig, chosen);
		} else {
			sig = signal_of(text, length);
			if (sig < 0)
				return sig;
			__set_bit(sig, chosen);
		}
		text += length;
		if (*text != ',')
			break;
		text++;
	}
	bitmap_copy(wanted, chosen, SIGNAL_MAX + 1);
	return 0;
}

static int signals_get(char *text, const struct kernel_param *param)
{
	return scnprintf(text, PAGE_SIZE, "%*pbl\n", SIGNAL_MAX + 1, wanted);
}

static const struct kernel_param_ops signals_ops = { .set = signals_set, .get = signals_get };
module_param_cb(signals, &signals_ops, NULL, 0444);
__MODULE_PARM_TYPE(signals, "charp");
MODULE_PARM_DESC(signals, "signals to report: names or numbers, separated by commas, or all, or fatal: those that end a process unless it handles them (default fatal; example signals=SIGKILL,SEGV,6)");

static int comm_set(const char *text, const struct kernel_param *param)
{
	size_t length = strcspn(text, "\n");

	/* No task has a longer name: the parameter is mistyped. */
	if (length >= (strpbrk(text, "*?[") ? sizeof(comm_pattern) : TASK_COMM_LEN))
		return -EINVAL;
	memcpy(comm_pattern, text, length);
	comm_pattern[length] = '\0';
	return 0;
}

static int comm_get(char *text, const struct kernel_param *param)
{
	return scnprintf(text, PAGE_SIZE, "%s\n", comm_pattern);
}

static const struct kernel_param_ops comm_ops = { .set = comm_set, .get = comm_get };
module_param_cb(comm, &comm_ops, NULL, 0444);
__MODULE_PARM_TYPE(comm, "charp");
MODULE_PARM_DESC(comm, "only targets with this name, of the thread or of the process; * and ? as in a shell (default empty: all; example comm=nginx*)");

static bool comm_matches(const struct task_struct *task)
{
	return !comm_pattern[0] || glob_match(comm_pattern, task->comm) || glob_match(comm_pattern, task->group_leader->comm);
}

/* ---- who sent it ---- */

struct sender {
	u32 pid;
	u32 tgid;
	u32 uid;
	char comm[TASK_COMM_LEN];
};

/*
 * The running task, where it is the one that caused the signal. It is given for signals of the kernel too: who wrote to
 * cgroup.kill, whose allocation woke the OOM killer, which parent's death was to be announced.
 */
static void sender_fill(struct sender *sender)
{
	if (!in_task())
		return;
	sender->pid = current->pid;
	sender->tgid = current->tgid;
	sender->uid = __kuid_val(current_uid());
	memcpy(sender->comm, current->comm, sizeof(sender->comm));
}

struct cause {
	u32 code;
	u32 kernel;
	u64 address;
};

static struct cause cause_of(int sig, const struct kernel_siginfo *info)
{
	/*
	 * SEND_SIG_NOINFO and SEND_SIG_PRIV are not pointers. System calls always bring a siginfo, so both are the kernel's doing;
	 * to the target the first one looks as if the running process had sent it.
	 */
	if (info == SEND_SIG_NOINFO)
		return (struct cause){ .code = SI_USER, .kernel = KERNEL_YES };
	if (info == SEND_SIG_PRIV)
		return (struct cause){ .code = SI_KERNEL, .kernel = KERNEL_YES };

	switch (info->si_code) {
	case SI_KERNEL:
	case SI_TIMER:
	case SI_MESGQ:
	case SI_ASYNCIO:
	case SI_SIGIO:
		return (struct cause){ .code = CODE_OF(0, info->si_code), .kernel = KERNEL_YES };
	}
	if (info->si_code <= 0)
		return (struct cause){ .code = CODE_OF(0, info->si_code), .kernel = KERNEL_NO };
	return (struct cause){
		.code = CODE_OF(sig, info->si_code),
		.kernel = KERNEL_YES,
		.address = siginmask(sig, sigmask(SIGSEGV) | sigmask(SIGBUS) | sigmask(SIGILL) | sigmask(SIGFPE)) ?
				   (u64)(uintptr_t)info->si_addr :
				   0,
	};
}

/*
 * Signals that will end a process but have not yet: a hash table of sets, searched linearly. An entry is claimed by making
 * its turn odd; who finds it odd leaves it alone and never waits, so any context may write. What does not fit
 * replaces the oldest of its set: that death is reported with its sender not seen.
 */
#define SENT_SETS_BITS 6
#define SENT_WAYS 4
static struct sent {
	u32 turn;
	u32 signal;
	const struct signal_struct *target;
	u32 thread;
	struct cause cause;
	struct sender sender;
	unsigned long since;	/* jiffies */
} sent[1 << SENT_SETS_BITS][SENT_WAYS];

static bool sent_claim(struct sent *entry)
{
	u32 turn = READ_ONCE(entry->turn);

	return !(turn & 1) && cmpxchg(&entry->turn, turn, turn + 1) == turn;
}

static void sent_release(struct sent *entry)
{
	smp_store_release(&entry->turn, entry->turn + 1); /* pairs with the cmpxchg in sent_claim() */
}

static bool sent_is(const struct sent *entry, const struct signal_struct *target, u32 sig)
{
	return READ_ONCE(entry->target) == target && READ_ONCE(entry->signal) == sig;
}

static void sent_remember(int sig, const struct task_struct *task, const struct cause *cause)
{
	struct sent *set = sent[hash_ptr(task->signal, SENT_SETS_BITS)], *entry = set, *end = set + SENT_WAYS;
	struct sent *best = set;

	for (; entry < end; entry++) {
		if (sent_is(entry, task->signal, sig)) {
			best = entry;
			break;
		}
		if (READ_ONCE(best->target) &&
		    (!READ_ONCE(entry->target) || time_before(READ_ONCE(entry->since), READ_ONCE(best->since))))
			best = entry;
	}
	if (!sent_claim(best))
		return;
	memset(&best->sender, 0, sizeof(best->sender));
	WRITE_ONCE(best->signal, sig);
	WRITE_ONCE(best->target, task->signal);
	WRITE_ONCE(best->since, jiffies);
	best->thread = task->pid;
	best->cause = *cause;
	sender_fill(&best->sender);
	sent_release(best);
}

/* Takes the entry out. */
static bool sent_recall(int sig, const struct signal_struct *target, struct sent *found)
{
	struct sent *set = sent[hash_ptr(target, SENT_SETS_BITS)], *entry;
	bool mine = false;

	for (entry = set; entry < set + SENT_WAYS && !mine; entry++) {
		if (!sent_is(entry, target, sig) || !sent_claim(entry))
			continue;
		mine = sent_is(entry, target, sig);
		if (mine) {
			*found = *entry;
			WRITE_ONCE(entry->target, NULL);
		}
		sent_release(entry);
	}
	return mine;
}

/* ---- where it died ---- */

#ifdef CONFIG_CGROUPS
/* Puts `text` before what is at path[at], as much of its end as there is room for; where it begins. */
static size_t path_prepend(char *path, size_t at, const char *text)
{
	size_t length = strnlen(text, PATH_BYTES), taken = min(length, at);

	memcpy(path + at - taken, text + length - taken, taken);
	return at - taken;
}

/*
 * Writes the path of the running task's cgroup, or its end after "..." where it is longer: the end names the unit, or the
 * container. Neither the lock of kernfs is taken nor a buffer needed: in the unified hierarchy nothing is renamed, a cgroup
 * holds its parent, and the task still holds its own.
 */
static void cgroup_fill(char path[PATH_BYTES])
{
	struct cgroup *cgroup, *parent;
	size_t at = PATH_BYTES - 1;

	rcu_read_lock();
	for (cgroup = task_dfl_cgroup(current); at; cgroup = parent) {
		parent = cgroup_parent(cgroup);
		if (!parent)
			break;
		at = path_prepend(path, at, cgroup->kn->name);
		at = path_prepend(path, at, "/");
	}
	rcu_read_unlock();
	if (at == PATH_BYTES - 1)
		at = path_prepend(path, at, "/");
	if (!at)
		memcpy(path, "...", 3);
	memmove(path, path + at, PATH_BYTES - 1 - at);
	memset(path + PATH_BYTES - 1 - at, 0, at + 1);
}
#else
static void cgroup_fill(char path[PATH_BYTES])
{
}
#endif

/* ---- points ---- */

/* Signals to it and its death are the self-test's own: counted as hits, not reported. */
static struct task_struct *test_subject;

static void on_generate(void *point, int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)
{
	struct vesper_write write;
	struct delivered *event;
	struct sender sender = {};
	struct cause cause;

	if (!vesper_enter(point))
		return;
	if (!test_bit(sig, wanted) || task == READ_ONCE(test_subject))
		return;

	cause = cause_of(sig, info);
	/* The target's siglock is held: its handlers stand still. */
	if ((result == TRACE_SIGNAL_DELIVERED || result == TRACE_SIGNAL_LOSE_INFO) && fatal_by_default(sig) &&
	    rcu_dereference_raw(task->sighand)->action[sig - 1].sa.sa_handler == SIG_DFL)
		sent_remember(sig, task, &cause);
	if (!comm_matches(task))
		return;

	event = delivered_reserve(&write);
	if (!event)
		return;
	sender_fill(&sender);
	event->signal = sig;
	event->code = cause.code;
	event->result = result;
	event->kernel = cause.kernel;
	event->scope = !!group;
	event->sender_pid = sender.pid;
	event->sender_tgid = sender.tgid;
	event->sender_uid = sender.uid;
	memcpy(event->sender_comm, sender.comm, sizeof(event->sender_comm));
	event->target_pid = task->pid;
	event->target_tgid = task->tgid;
	event->target_uid = __kuid_val(task_uid(task));
	memcpy(event->target_comm, task->comm, sizeof(event->target_comm));
	vesper_commit(&write);
}
VESPER_TRACEPOINT(generated, "signal_generate", on_generate, true, "a signal is sent: who, whom, what became of it");

/*
 * acct_collect(exit code, whether this is the last thread): do_exit() calls it once per thread. The last one is decided by an
 * atomic counter, so there is exactly one. Threads that exec() gets rid of leave it running and are no death.
 */
VESPER_KPROBE(exited, "acct_collect", on_exit, true, "the last thread of a process exits");

static int on_exit(struct kprobe *kprobe, struct pt_regs *regs)
{
	const struct signal_struct *process = current->signal;
	struct sent seen = { .cause = { .code = CODE_NOT_SEEN, .kernel = KERNEL_NOT_SEEN } };
	struct vesper_write write;
	struct died *event;
	int status, sig;

	if (!vesper_enter(&exited))
		return 0;
	if (!(int)regs_get_kernel_argument(regs, 1) || (current->flags & PF_KTHREAD))
		return 0;

	/* What wait() will tell the parent. */
	status = process->flags & SIGNAL_GROUP_EXIT ? process->group_exit_code : (int)regs_get_kernel_argument(regs, 0);
	sig = status & 0x7f;
	if (!sig || !test_bit(sig, wanted))
		return 0;
	sent_recall(sig, process, &seen);
	if (!comm_matches(current->group_leader))
		return 0;

	event = died_reserve(&write);
	if (!event)
		return 0;
	event->signal = sig;
	event->code = seen.cause.code;
	event->core = !!(status & 0x80);
	event->kernel = seen.cause.kernel;
	event->address = seen.cause.address;
	event->pid = current->tgid;
	event->thread = seen.thread;
	event->uid = __kuid_val(current_uid());
	memcpy(event->comm, current->group_leader->comm, sizeof(event->comm));
	event->sender_pid = seen.sender.pid;
	event->sender_tgid = seen.sender.tgid;
	event->sender_uid = seen.sender.uid;
	memcpy(event->sender_comm, seen.sender.comm, sizeof(event->sender_comm));
	cgroup_fill(event->cgroup);
	vesper_commit(&write);
	return 0;
}

/* ---- self-test ---- */

static int subject(void *unused)
{
	while (!kthread_should_stop()) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (!kthread_should_stop())
			schedule();
		__set_current_state(TASK_RUNNING);
		flush_signals(current);
	}
	return 0;
}

/* A kernel thread is sent a signal that means nothing to it, then ends. -EIO: a handler did not run. */
static int self_test(struct vesper_probe *probe)
{
	u64 generated_before = vesper_hits(&generated), exited_before = vesper_hits(&exited);
	struct task_struct *task = kthread_create(subject, NULL, "vesper-subject");

	if (IS_ERR(task))
		return PTR_ERR(task);
	get_task_struct(task);
	WRITE_ONCE(test_subject, task);
	wake_up_process(task);
	send_sig(SIGWINCH, task, 1);
	kthread_stop(task);
	WRITE_ONCE(test_subject, NULL);
	put_task_struct(task);
	return vesper_hits(&generated) > generated_before && vesper_hits(&exited) > exited_before ? 0 : -EIO;
}

VESPER_PROBE_NO_INIT(signal, "Signals, and the processes that die of them.", self_test, &generated, &exited);

static int __init signal_init(void)
{
	if (bitmap_empty(wanted, SIGNAL_MAX + 1))
		signals_set("fatal", NULL);
	return vesper_probe_register(&vesper_this_probe);
}

static void __exit signal_exit(void)
{
	vesper_probe_unregister(&vesper_this_probe);
}

module_init(signal_init);
module_exit(signal_exit);

MODULE_AUTHOR("The VESPER authors");
MODULE_VERSION("0.1.0");
MODULE_DESCRIPTION("VESPER probe: signals, and the processes that die of them");
MODULE_LICENSE("GPL");
