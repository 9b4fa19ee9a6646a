// SPDX-License-Identifier: GPL-2.0-only
/*
 * Frames on their way out. Any thread may queue one, the channel thread writes them. The queue is bounded and nobody waits for
 * it: a host that does not read loses its session (it may open a new one), never the guest its threads.
 */
#include <linux/mutex.h>
#include <linux/string.h>

#include "vesper.h"

static DEFINE_MUTEX(transmit_lock);

/* Protected by transmit_lock. */
static u8 *queue;
static u32 queue_bytes;
static u32 start;		/* next byte to write */
static u32 end;
static u32 boundary;		/* end of the frame that is half out, or `start` */

/* 0: no session. Written under transmit_lock. */
static u32 session;
static u32 last_session;

void vesper_transmit_init(void)
{
	queue = vesper_space_memory(VESPER_SPACE_TX);
	queue_bytes = vesper_space_bytes(VESPER_SPACE_TX);
}

/* What is still queued was for another host, but the rest of a frame that is half out: the next must begin at a boundary. */
static void queue_drop(void)
{
	end = boundary;
}

/* Whoever said hello last has the session. */
u32 vesper_session_open(void)
{
	mutex_lock(&transmit_lock);
	queue_drop();
	if (++last_session == 0)
		last_session = 1;
	WRITE_ONCE(session, last_session);
	mutex_unlock(&transmit_lock);
	return last_session;
}

u32 vesper_session_current(void)
{
	return READ_ONCE(session);
}

static u32 frame_bytes(u32 at)
{
	struct vesper_frame header;

	memcpy(&header, queue + at, sizeof(header));
	return sizeof(header) + le32_to_cpu(header.payload_length);
}

/* What is written of the queue makes room at its front. */
static void queue_compact(void)
{
	memmove(queue, queue + start, end - start);
	boundary -= start;
	end -= start;
	start = 0;
}

/*
 * Queues a frame for a session; does nothing where that session has ended. Session 0 is the answer to a stranger who has not
 * said hello. Process context.
 */
void vesper_transmit(u32 to, u16 type, u32 request_id, const void *payload, u32 bytes, const void *tail, u32 tail_bytes)
{
	u32 needed = sizeof(struct vesper_frame) + bytes + tail_bytes;

	mutex_lock(&transmit_lock);
	if (to != session)
		goto out;
	if (queue_bytes - end < needed)
		queue_compact();
	if (queue_bytes - end < needed) {
		if (session)
			pr_warn_ratelimited("the host does not read: its session ends\n");
		WRITE_ONCE(session, 0);
		goto out;
	}
	end += vesper_frame_encode(queue + end, type, request_id, payload, bytes, tail, tail_bytes);
out:
	mutex_unlock(&transmit_lock);
	/* The channel thread flushes after whatever it does. */
	if (!vesper_channel_is_current())
		vesper_channel_wake(VESPER_CHANNEL_OUTPUT);
}

/*
 * Writes what the channel takes. 0: all is written; -EAGAIN: it takes no more now; 1: it took some, and no more now; other errors:
 * the host or the transport is gone. Channel thread only.
 */
int vesper_transmit_flush(void)
{
	bool progress = false;
	ssize_t taken = 0;

	mutex_lock(&transmit_lock);
	while (start < end) {
		taken = vesper_channel_write(queue + start, end - start);
		if (taken < 0)
			break;
		progress = true;
		start += taken;
		while (boundary < start)
			boundary += frame_bytes(boundary);
	}
	if (start == end)
		start = end = boundary = 0;
	mutex_unlock(&transmit_lock);
	return taken >= 0 ? 0 : taken == -EAGAIN && progress ? 1 : taken;
}

/* Ends the session and drops its frames. */
void vesper_transmit_give_up(void)
{
	mutex_lock(&transmit_lock);
	WRITE_ONCE(session, 0);
	queue_drop();
	mutex_unlock(&transmit_lock);
}

/* Ends the session and drops everything: the host or the transport is gone. */
void vesper_transmit_reset(void)
{
	mutex_lock(&transmit_lock);
	WRITE_ONCE(session, 0);
	start = end = boundary = 0;
	mutex_unlock(&transmit_lock);
}
