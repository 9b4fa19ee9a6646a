// SPDX-License-Identifier: GPL-2.0-only
/*
 * The channel thread: opens the transports when they come, reads and dispatches frames, writes what is queued. It waits in one place,
 * for events set by wait queues, sockets and irq_work; nothing here polls, and nothing but a transport can make it wait.
 * The one thing it does unasked is the heartbeat.
 *
 * With several transports open, the one that a host spoke through last carries the channel; there is one host at a time.
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
/* When a transport is there and cannot be opened (another program holds it, there is no memory): nobody tells when that ends. */
#define RETRY_MS 2000
/* A host with a session that has sent no frame for so long makes room for another. It asks for the time more often. */
#define SILENT_MS 30000

struct vesper_parser vesper_parser;

static DECLARE_WAIT_QUEUE_HEAD(channel_queue);
static unsigned long channel_events;
static struct task_struct *channel_task;
static DECLARE_COMPLETION(channel_started);
static int channel_error;

/* Written by the thread only. */
static bool host_present;

/* Only the thread uses these. */
static struct candidate {
	const struct vesper_transport *transport;
	bool chosen;
	int open_error;
} candidates[] = {
	/* Before the port: of a controller that is ours virtio_console may have made one. */
	{ .transport = &vesper_transport_serial },
	{ .transport = &vesper_transport_port },
	{ .transport = &vesper_transport_vsock },
};
static const struct vesper_transport *carrier;
static unsigned long heard;
static bool search_due;
static bool resync_due;
static bool complained;
static unsigned long stalled_since;
static bool stalled;

bool vesper_channel_is_current(void)
{
	return current == channel_task;
}

/* Whether a host has the other end open, as far as the transport knows. */
bool vesper_channel_has_host(void)
{
	return READ_ONCE(host_present);
}

/* The host that spoke has gone. A transport that was itself taken away tells nothing of its host. */
bool vesper_channel_host_left(void)
{
	return READ_ONCE(carrier) && !READ_ONCE(host_present);
}

/* Any context but NMI. */
void vesper_channel_wake(enum vesper_channel_event event)
{
	set_bit(event, &channel_events);
	wake_up(&channel_queue);
}

ssize_t vesper_channel_write(const void *from, size_t bytes)
{
	return carrier ? carrier->write(from, bytes) : -EAGAIN;
}

/* Another host from now on, or none; `bytes` of it lie behind what the parser has. */
static void channel_take(const struct vesper_transport *transport, u32 bytes)
{
	carrier = transport;
	vesper_transmit_reset();
	vesper_parser_restart(&vesper_parser, bytes);
	vesper_push_reset();
	WRITE_ONCE(host_present, false);
	resync_due = false;
	complained = false;
	stalled = false;
}

static void channel_close(const struct vesper_transport *transport)
{
	transport->close();
	if (transport == carrier)
		channel_take(NULL, 0);
	pr_info("control channel gone: %s\n", transport->name);
	/* Another one may have come meanwhile. */
	search_due = true;
	set_bit(VESPER_CHANNEL_SEARCH, &channel_events);
}

static bool open_is_worth_a_retry(const struct candidate *candidate)
{
	return candidate->chosen && !candidate->transport->is_open() && candidate->open_error && candidate->open_error != -ENODEV;
}

static void channel_open(struct candidate *candidate)
{
	unsigned int flags;
	int err;

	if (candidate->transport->prepare)
		candidate->transport->prepare();
	flags = memalloc_noreclaim_save();
	err = candidate->transport->open();
	memalloc_noreclaim_restore(flags);
	if (err && err != candidate->open_error && err != -ENODEV && err != -EAGAIN)
		pr_warn("%s cannot be opened (%d)%s\n", candidate->transport->name, err,
			err == -EMFILE || err == -EBUSY || err == -EADDRINUSE ? ": another program holds it" : "");
	candidate->open_error = err;
	if (!err)
		set_bit(VESPER_CHANNEL_READY, &channel_events);
}

static void channel_dispatch(void)
{
	struct vesper_arrived message = { .received_ns = ktime_get_boottime_ns() };
	enum vesper_parsed parsed;

	while ((parsed = vesper_parse(&vesper_parser, &message)) != VESPER_PARSED_NOTHING) {
		/* One complaint says enough of a run of garbage. */
		if (parsed == VESPER_PARSED_FRAME) {
			heard = jiffies;
			vesper_session_handle(&message);
		} else if (!complained) {
			vesper_session_bad_frame(&message);
		}
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

/* A host is there, and lives: no other may take its place. */
static bool channel_is_busy(void)
{
	return host_present && vesper_session_current() && time_before(jiffies, heard + msecs_to_jiffies(SILENT_MS));
}

/* Takes what there is to read. */
static void channel_read(const struct vesper_transport *transport)
{
	while (!kthread_should_stop()) {
		struct vesper_parser *p = &vesper_parser;
		ssize_t bytes = transport->read(p->data + p->end, p->capacity - p->end);

		if (bytes > 0) {
			if (transport != carrier)
				channel_take(transport, bytes);
			else
				p->end += bytes;
			resync_due = true;
			channel_dispatch();
			channel_flush();
			vesper_relay_beat();
			cond_resched();
			continue;
		}
		/*
		 * The port learns that a host came or went later than it gets the host's bytes: this is no ground to end a
		 * session, which may already be that of the next host. Its hello does that.
		 */
		if (transport == carrier)
			WRITE_ONCE(host_present, bytes == -EAGAIN);
		if (bytes == -ENODEV)
			channel_close(transport);
		else if (bytes == -ECONNRESET && transport == carrier)
			channel_take(NULL, 0);
		else if (bytes < 0 && bytes != -EAGAIN && bytes != -ECONNRESET)
			pr_warn_ratelimited("reading %s failed (%zd)\n", transport->name, bytes);
		return;
	}
}

static void channel_receive(void)
{
	/* First: its host may have gone, which makes room for one who has come. */
	if (carrier)
		channel_read(carrier);
	for (unsigned int i = 0; i < ARRAY_SIZE(candidates); i++) {
		const struct vesper_transport *transport = candidates[i].transport;

		if (!candidates[i].chosen || !transport->is_open())
			continue;
		if (transport->accept && transport->accept(channel_is_busy())) {
			channel_take(transport, 0);
			channel_read(transport);
		} else if (transport != carrier && !channel_is_busy()) {
			channel_read(transport);
		}
	}
}

/* How long to wait for an event, in jiffies. */
static long channel_patience(void)
{
	long patience = MAX_SCHEDULE_TIMEOUT;

	for (unsigned int i = 0; i < ARRAY_SIZE(candidates); i++)
		if (open_is_worth_a_retry(&candidates[i]))
			patience = msecs_to_jiffies(RETRY_MS);
	if (resync_due && vesper_parser.end > vesper_parser.start)
		patience = min_t(long, patience, msecs_to_jiffies(RESYNC_MS));
	if (stalled)
		patience = min_t(long, patience, msecs_to_jiffies(vesper_write_timeout_ms));
	return patience;
}

static void channel_turn(unsigned long events, bool timed_out)
{
	if (test_bit(VESPER_CHANNEL_SEARCH, &events) && vesper_uevent_drain())
		search_due = true;
	for (unsigned int i = 0; i < ARRAY_SIZE(candidates); i++) {
		struct candidate *candidate = &candidates[i];

		if (!candidate->chosen || candidate->transport->is_open())
			continue;
		if (search_due || (timed_out && open_is_worth_a_retry(candidate)))
			channel_open(candidate);
	}
	search_due = false;
	if (test_bit(VESPER_CHANNEL_DOORBELL, &events))
		vesper_session_doorbell();
	channel_receive();
	if (timed_out && carrier && resync_due) {
		/* Once; new bytes make it worth another try. */
		resync_due = false;
		while (vesper_parser_resync(&vesper_parser))
			channel_dispatch();
	}
	if (carrier)
		channel_flush();
	if (carrier && !stalled && vesper_inline_send()) {
		channel_flush();
		/* There may be more; but first whatever has come in. */
		set_bit(VESPER_CHANNEL_OUTPUT, &channel_events);
	}
}

/* Also closes those that are open. */
static void transports_exit(void)
{
	for (int i = ARRAY_SIZE(candidates) - 1; i >= 0; i--) {
		if (!candidates[i].chosen)
			continue;
		candidates[i].transport->close();
		candidates[i].transport->exit();
		candidates[i].chosen = false;
	}
}

static int transports_init(void)
{
	bool all = sysfs_streq(vesper_channel_choice, "auto");
	bool known = all, any = false;

	for (unsigned int i = 0; i < ARRAY_SIZE(candidates); i++) {
		int err;

		if (!all && !sysfs_streq(vesper_channel_choice, candidates[i].transport->name))
			continue;
		known = true;
		err = candidates[i].transport->init();
		/* This kernel was built without what it rests on. */
		if (err == -ENODEV)
			continue;
		if (err) {
			transports_exit();
			return err;
		}
		candidates[i].chosen = any = true;
	}
	if (!known)
		pr_err("channel=%s: it is virtio-serial, vsock or auto\n", vesper_channel_choice);
	return any ? 0 : known ? -ENODEV : -EINVAL;
}

static int channel_setup(void)
{
	int err = vesper_space_create();

	if (err)
		return err;
	err = transports_init();
	if (err)
		goto err_space;
	err = vesper_uevent_init();
	if (err)
		goto err_transports;
	vesper_parser.data = vesper_space_memory(VESPER_SPACE_RX);
	vesper_parser.capacity = vesper_space_bytes(VESPER_SPACE_RX);
	vesper_transmit_init();
	return 0;

err_transports:
	transports_exit();
err_space:
	vesper_space_destroy();
	return err;
}

/* Waits for an event, and beats meanwhile. True: none came for as long as there was patience. */
static bool channel_wait(long patience)
{
	for (;;) {
		long turn = min(patience, vesper_relay_beat());
		long left = wait_event_freezable_timeout(channel_queue, READ_ONCE(channel_events) || kthread_should_stop(), turn);

		try_to_freeze();
		if (left || turn == patience)
			return !left;
		if (patience != MAX_SCHEDULE_TIMEOUT)
			patience -= turn;
	}
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

	/*
	 * Before all ordinary tasks: what it has to tell cannot wait for them. It seldom runs for long; in a storm it does where it
	 * sends the records, too.
	 */
	sched_set_fifo_low(current);
	/* A machine that suspends takes the transport's device away, and expects that nobody uses it then. */
	set_freezable();
	vesper_space_enter();
	search_due = true;
	set_bit(VESPER_CHANNEL_SEARCH, &channel_events);
	while (!kthread_should_stop()) {
		bool timed_out = channel_wait(channel_patience());

		channel_turn(xchg(&channel_events, 0), timed_out);
	}
	transports_exit();
	vesper_space_leave();

	vesper_uevent_exit();
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
