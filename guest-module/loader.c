// SPDX-License-Identifier: GPL-2.0-only
/*
 * The loader thread works off what may take long, one job after the other, and answers each. Modules are loaded and unloaded by the
 * system calls' own code, called from this thread with the private address space: no process takes part.
 */
#include <linux/freezer.h>
#include <linux/kthread.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/spinlock.h>
#include <linux/static_call.h>
#include <linux/ktime.h>
#include <linux/wait.h>

#include "vesper.h"

#if defined(CONFIG_X86_64)
#define SYSCALL_PREFIX "__x64_sys_"
#elif defined(CONFIG_ARM64)
#define SYSCALL_PREFIX "__arm64_sys_"
#else
#error "the loader knows the system call convention of x86-64 and arm64 only"
#endif

/* Never called: the type for the static calls. */
long vesper_system_call(const struct pt_regs *regs);
DEFINE_STATIC_CALL_NULL(vesper_init_module, vesper_system_call);
DEFINE_STATIC_CALL_NULL(vesper_delete_module, vesper_system_call);

#define JOBS 16

static DEFINE_SPINLOCK(jobs_lock);
static struct vesper_job jobs[JOBS];
static unsigned int jobs_first, jobs_end;
static DECLARE_WAIT_QUEUE_HEAD(jobs_queue);
static struct task_struct *loader_task;

/* Of the job under way: too large for the stack. */
static struct vesper_points result;

bool vesper_loader_is_current(void)
{
	return current == loader_task;
}

/* False: too many jobs wait already. */
bool vesper_loader_queue(const struct vesper_job *job)
{
	bool room;

	spin_lock(&jobs_lock);
	room = jobs_end - jobs_first < JOBS;
	if (room)
		jobs[jobs_end++ % JOBS] = *job;
	spin_unlock(&jobs_lock);
	wake_up(&jobs_queue);
	return room;
}

static bool loader_next(struct vesper_job *job)
{
	bool found;

	spin_lock(&jobs_lock);
	found = jobs_end != jobs_first;
	if (found)
		*job = jobs[jobs_first++ % JOBS];
	spin_unlock(&jobs_lock);
	return found;
}

static void call_arguments(struct pt_regs *regs, unsigned long first, unsigned long second, unsigned long third)
{
#ifdef CONFIG_X86_64
	regs->di = first;
	regs->si = second;
	regs->dx = third;
#else
	regs->regs[0] = first;
	regs->regs[1] = second;
	regs->regs[2] = third;
#endif
}

static unsigned long user_address(enum vesper_space_part part)
{
	return (unsigned long)vesper_space_user(vesper_space_memory(part));
}

static int module_load(u32 bytes)
{
	struct pt_regs regs = {};
	long err;

	call_arguments(&regs, user_address(VESPER_SPACE_IMAGE), bytes, user_address(VESPER_SPACE_ARGS));
	vesper_space_enter();
	err = static_call(vesper_init_module)(&regs);
	vesper_space_leave();
	return err;
}

static int module_unload(u32 slot)
{
	char *name = vesper_space_memory(VESPER_SPACE_NAME);
	struct pt_regs regs = {};
	long err;

	err = vesper_slot_name(slot, name, vesper_space_bytes(VESPER_SPACE_NAME));
	if (err)
		return err;
	/* O_NONBLOCK: one that is in use is refused, as rmmod does. */
	call_arguments(&regs, user_address(VESPER_SPACE_NAME), O_NONBLOCK, 0);
	vesper_space_enter();
	err = static_call(vesper_delete_module)(&regs);
	vesper_space_leave();
	return err;
}

static void answer(const struct vesper_job *job, u16 type, const void *payload, u32 bytes, const struct vesper_points *points)
{
	/* A host that hears that a probe is gone has read all that it wrote. */
	vesper_inline_flush();
	vesper_transmit(job->session, type, job->request_id, payload, bytes, points ? points->status : NULL,
			points ? points->count * sizeof(points->status[0]) : 0);
}

static void loader_load(const struct vesper_job *job)
{
	const struct vesper_image *image = vesper_push_image();
	struct vesper_loaded loaded = { .slot = cpu_to_le32(image->slot) };
	enum vesper_load_stage stage = VESPER_STAGE_TRANSFER;
	const struct vesper_points *points = NULL;
	struct vesper_slot slot;
	u64 begin;
	int err;

	err = vesper_push_verify() ?: vesper_slot_claim(image);
	if (err)
		goto out;
	vesper_probe_result_reset();
	begin = ktime_get_boottime_ns();
	err = module_load(image->bytes);
	loaded.load_ns = cpu_to_le64(ktime_get_boottime_ns() - begin);
	vesper_slot_loaded(image->slot, err == 0);

	stage = err ? VESPER_STAGE_INIT_MODULE : VESPER_STAGE_LOADED;
	points = vesper_probe_result();
	vesper_slot_read(image->slot, &slot);
	loaded.registered = cpu_to_le32(!err && slot.probe);
	loaded.armed_points = cpu_to_le32(err ? 0 : slot.armed_points);
	loaded.points = cpu_to_le32(points->count);
out:
	loaded.error = cpu_to_le32(err);
	loaded.stage = cpu_to_le32(stage);
	vesper_push_done();
	answer(job, VESPER_MSG_LOADED, &loaded, sizeof(loaded), points);
}

static void loader_arm(const struct vesper_job *job)
{
	int err = vesper_probe_arm(job->slot, job->on, &result);
	struct vesper_armed armed = {
		.error = cpu_to_le32(err),
		.slot = cpu_to_le32(job->slot),
		.armed_points = cpu_to_le32(result.marked),
		.points = cpu_to_le32(result.count),
	};

	answer(job, VESPER_MSG_ARMED, &armed, sizeof(armed), &result);
}

static void loader_self_test(const struct vesper_job *job)
{
	int err = vesper_probe_self_test(job->slot, &result);
	struct vesper_self_tested tested = {
		.error = cpu_to_le32(err),
		.slot = cpu_to_le32(job->slot),
		.fired_points = cpu_to_le32(result.marked),
		.points = cpu_to_le32(result.count),
	};

	answer(job, VESPER_MSG_SELF_TESTED, &tested, sizeof(tested), &result);
}

static void loader_unload(const struct vesper_job *job)
{
	struct vesper_unloaded unloaded = { .slot = cpu_to_le32(job->slot) };
	struct vesper_slot slot;
	int err;

	/* -ENOENT: it never registered. Its handlers, if any, are its own affair. */
	vesper_probe_arm(job->slot, false, &result);
	err = module_unload(job->slot);
	vesper_slot_read(job->slot, &slot);
	unloaded.error = cpu_to_le32(err);
	unloaded.written = cpu_to_le64(slot.written);
	unloaded.lost = cpu_to_le64(slot.lost);
	answer(job, VESPER_MSG_UNLOADED, &unloaded, sizeof(unloaded), NULL);
}

static void loader_activate(const struct vesper_job *job)
{
	struct vesper_activated activated = {};
	int err;

	err = vesper_relay_activate(&job->activate, &activated);
	if (!err)
		vesper_pages_forget();
	answer(job, VESPER_MSG_ACTIVATED, &activated, sizeof(activated), NULL);
	if (!err)
		vesper_inline_attach(job->session);
}

static void loader_deactivate(const struct vesper_job *job)
{
	struct vesper_deactivated deactivated = {};
	struct vesper_relay_state last;

	vesper_probe_disarm_all();
	vesper_relay_deactivate(&last);
	deactivated.written = cpu_to_le64(last.written);
	deactivated.lost = cpu_to_le64(last.lost);
	answer(job, VESPER_MSG_DEACTIVATED, &deactivated, sizeof(deactivated), NULL);
	vesper_inline_open(NULL, 0);
}

static void loader_pages(const struct vesper_job *job)
{
	/* Too large for the stack; only this thread uses it. */
	static struct vesper_piece list[VESPER_PIECES_MAX];
	struct vesper_pages pages = {};

	vesper_pages_request(&job->pages, &pages, list);
	vesper_transmit(job->session, VESPER_MSG_PAGES, job->request_id, &pages, sizeof(pages), list,
			le32_to_cpu(pages.pieces) * sizeof(list[0]));
}

static void loader_do(const struct vesper_job *job)
{
	unsigned int flags;

	/* The probe's own code: it may have to wait for memory as anyone else, to see what happens. */
	if (job->type == VESPER_MSG_SELF_TEST)
		return loader_self_test(job);
	/* Nothing depends on this: there are other backends. */
	if (job->type == VESPER_MSG_PAGES_REQUEST)
		return loader_pages(job);

	/* Loading, arming and even disarming allocate: a guest out of memory keeps reserves for exactly such a thread. */
	flags = memalloc_noreclaim_save();
	switch (job->type) {
	case VESPER_MSG_PUSH_COMMIT:
		loader_load(job);
		break;
	case VESPER_MSG_ARM:
		loader_arm(job);
		break;
	case VESPER_MSG_UNLOAD:
		loader_unload(job);
		break;
	case VESPER_MSG_ACTIVATE:
		loader_activate(job);
		break;
	case VESPER_MSG_DEACTIVATE:
		loader_deactivate(job);
		break;
	}
	memalloc_noreclaim_restore(flags);
}

static int loader_run(void *unused)
{
	set_user_nice(current, MIN_NICE);
	set_freezable();
	while (!kthread_should_stop()) {
		struct vesper_job job;

		wait_event_freezable(jobs_queue, READ_ONCE(jobs_end) != READ_ONCE(jobs_first) || kthread_should_stop());
		while (!kthread_should_stop() && !try_to_freeze() && loader_next(&job))
			loader_do(&job);
	}
	return 0;
}

static int loader_find(void)
{
	void *init_module = vesper_symbol(SYSCALL_PREFIX "init_module");
	void *delete_module = vesper_symbol(SYSCALL_PREFIX "delete_module");

	if (!init_module || !delete_module)
		return -ENOENT;
	static_call_update(vesper_init_module, (typeof(&vesper_system_call))init_module);
	static_call_update(vesper_delete_module, (typeof(&vesper_system_call))delete_module);
	return 0;
}

int vesper_loader_start(void)
{
	int err = loader_find();

	if (err) {
		pr_err("this kernel hides init_module: no probe can be loaded\n");
		return err;
	}
	loader_task = kthread_run(loader_run, NULL, "vesper-loader");
	return PTR_ERR_OR_ZERO(loader_task);
}

void vesper_loader_stop(void)
{
	kthread_stop(loader_task);
}
