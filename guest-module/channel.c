// SPDX-License-Identifier: GPL-2.0-only
/*
 * The channel thread: opens the port when it comes, reads and dispatches frames, writes what is queued. It waits in one place, for
 * events set by wait queues, sockets and irq_work; nothing here polls, and nothing but the port can make it wait.
 */
#include <linux/completion.h>
#include <linux/freezer.h>
#include <linux/kthread.h>
#include <linux/sched/mm.h>
#include <linux/ktime.h>
#include <linux/wait.h>

#include "vesper.h"

/* When half a frame is there and nothing more comes, look for a new sender behind it. */
#define RESYNC_MS 50
/* When the port is there and cannot be opened (another program holds it, there is no memory): nobody tells when that ends. */
#define RETRY_MS 2000

struct vesper_parser vesper_parser;

static DECLARE_WAIT_QUEUE_HEAD(channel_queue);
static unsigned long channel_events;
static struct task_struct *channel_task;
static DECLARE_COMPLETION(channel_started);
static int channel_error;

/* Written by the thread only. */
static bool host_present;

/* Only the thread uses these. */
static bool search_due;
static bool resync_due;
static bool complained;
static unsigned long stalled_since;
static bool stalled;
static int open_error;

bool vesper_channel_is_current(void)
{
	return current == channel_task;
}

/* Whether a host has the other end open, as far as the port knows. */
bool vesper_channel_has_host(void)
{
	return READ_ONCE(host_present);
}

/* Any context but NMI. */
void vesper_channel_wake(enum vesper_channel_event event)
{
	set_bit(event, &channel_events);
	wake_up(&channel_queue);
}

static void channel_close(void)
{
	vesper_port_close();
	vesper_transmit_reset();
	vesper_parser_reset(&vesper_parser);
	vesper_push_reset();
	WRITE_ONCE(host_present, false);
	resync_due = false;
	complained = false;
	stalled = false;
	pr_info("control channel gone\n");
	/* Another one may have come meanwhile. */
	search_due = true;
	set_bit(VESPER_CHANNEL_SEARCH, &channel_events);
}

static void channel_open(void)
{
	unsigned int flags = memalloc_noreclaim_save();
	int err = vesper_port_open();

	memalloc_noreclaim_restore(flags);
	search_due = false;
	/* It is just going away. */
	if (err == -ENXIO)
		err = -ENODEV;
	if (err && err != open_error && err != -ENODEV)
		pr_warn("the port %s cannot be opened (%d)%s\n", VESPER_PORT_NAME, err,
			err == -EMFILE || err == -EBUSY ? ": another program holds it" : "");
	open_error = err;
	if (!err)
		set_bit(VESPER_CHANNEL_PORT, &channel_events);
}

static void channel_dispatch(void)
{
	struct vesper_arrived message = { .received_ns = ktime_get_boottime_ns() };
	enum vesper_parsed parsed;

	while ((parsed = vesper_parse(&vesper_parser, &message)) != VESPER_PARSED_NOTHING) {
		/* One complaint says enough of a run of garbage. */
		if (parsed == VESPER_PARSED_FRAME)
			vesper_session_handle(&message);
		else if (!complained)
			vesper_session_bad_frame(&message);
		complained = parsed == VESPER_PARSED_BAD;
		cond_resched();
	}
	vesper_parser_compact(&vesper_parser);
}

static void channel_flush(void)
{
	int err = vesper_transmit_flush();

	if (err == 1 || (err == -EAGAIN && !stalled))
		stalled_since = jiffies;
	stalled = err == 1 || err == -EAGAIN;
	if (!stalled || !time_after_eq(jiffies, stalled_since + msecs_to_jiffies(vesper_write_timeout_ms)))
		return;
	stalled = false;
	if (vesper_session_current() && host_present)
		pr_warn_ratelimited("the host has read nothing for %u ms: its session ends\n", vesper_write_timeout_ms);
	vesper_transmit_give_up();
}

/* Takes what there is to read. */
static void channel_receive(void)
{
	while (!kthread_should_stop()) {
		struct vesper_parser *p = &vesper_parser;
		ssize_t bytes = vesper_port_read(p->data + p->end, p->capacity - p->end);

		if (bytes > 0) {
			resync_due = true;
			p->end += bytes;
			channel_dispatch();
			channel_flush();
			cond_resched();
			continue;
		}
		/*
		 * The port learns that a host came or went later than it gets the host's bytes: this is no ground to end a
		 * session, which may already be that of the next host. Its hello does that.
		 */
		WRITE_ONCE(host_present, bytes == -EAGAIN);
		if (bytes == -ENODEV)
			channel_close();
		else if (bytes < 0 && bytes != -EAGAIN)
			pr_warn_ratelimited("reading the port failed (%zd)\n", bytes);
		return;
	}
}

/* How long to wait for an event, in jiffies. */
static long channel_patience(void)
{
	long patience = MAX_SCHEDULE_TIMEOUT;

	if (!vesper_port_is_open())
		return open_error && open_error != -ENODEV ? msecs_to_jiffies(RETRY_MS) : patience;
	if (resync_due && vesper_parser.end > vesper_parser.start)
		patience = msecs_to_jiffies(RESYNC_MS);
	if (stalled)
		patience = min_t(long, patience, msecs_to_jiffies(vesper_write_timeout_ms));
	return patience;
}

static void channel_turn(unsigned long events, bool timed_out)
{
	if (test_bit(VESPER_CHANNEL_SEARCH, &events) && vesper_uevent_drain())
		search_due = true;
	if (!vesper_port_is_open()) {
		if (search_due || timed_out)
			channel_open();
		if (!vesper_port_is_open())
			return;
	}
	if (test_bit(VESPER_CHANNEL_DOORBELL, &events))
		vesper_session_doorbell();
	channel_receive();
	if (timed_out && vesper_port_is_open() && resync_due) {
		/* Once; new bytes make it worth another try. */
		resync_due = false;
		while (vesper_parser_resync(&vesper_parser))
			channel_dispatch();
	}
	if (vesper_port_is_open())
		channel_flush();
	if (vesper_port_is_open() && !stalled && vesper_inline_send()) {
		channel_flush();
		/* There may be more; but first whatever has come in. */
		set_bit(VESPER_CHANNEL_OUTPUT, &channel_events);
	}
}

static int channel_setup(void)
{
	int err = vesper_space_create();

	if (err)
		return err;
	err = vesper_port_init();
	if (err)
		goto err_space;
	err = vesper_uevent_init();
	if (err)
		goto err_port;
	vesper_parser.data = vesper_space_memory(VESPER_SPACE_RX);
	vesper_parser.capacity = vesper_space_bytes(VESPER_SPACE_RX);
	vesper_transmit_init();
	return 0;

err_port:
	vesper_port_exit();
err_space:
	vesper_space_destroy();
	return err;
}

static int channel_run(void *unused)
{
	channel_error = channel_setup();
	complete(&channel_started);
	if (channel_error) {
		/* kthread_stop() must find the thread alive. */
		wait_event_idle(channel_queue, kthread_should_stop());
		return channel_error;
	}

	set_user_nice(current, MIN_NICE);
	/* A machine that suspends takes the port's device away, and expects that nobody uses it then. */
	set_freezable();
	vesper_space_enter();
	search_due = true;
	set_bit(VESPER_CHANNEL_SEARCH, &channel_events);
	while (!kthread_should_stop()) {
		long left = wait_event_freezable_timeout(channel_queue, READ_ONCE(channel_events) || kthread_should_stop(),
							 channel_patience());

		try_to_freeze();
		channel_turn(xchg(&channel_events, 0), left == 0);
	}
	vesper_port_close();
	vesper_space_leave();

	vesper_uevent_exit();
	vesper_port_exit();
	vesper_space_destroy();
	return 0;
}

int vesper_channel_start(void)
{
	channel_task = kthread_run(channel_run, NULL, "vesper");
	if (IS_ERR(channel_task))
		return PTR_ERR(channel_task);
	wait_for_completion(&channel_started);
	if (channel_error)
		kthread_stop(channel_task);
	return channel_error;
}

void vesper_channel_stop(void)
{
	kthread_stop(channel_task);
}
