// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the host's messages mean. All of this runs on the channel thread: what may take long becomes a job of the loader thread.
 */
#include <linux/string.h>
#include <linux/ktime.h>

#include "vesper.h"

/* A fixed payload copied out of the receive buffer, where it need not be aligned. */
union request {
	struct vesper_hello_request hello;
	struct vesper_activate activate;
	struct vesper_push_begin begin;
	struct vesper_push_data data;
	struct vesper_push_commit commit;
	struct vesper_arm arm;
	struct vesper_self_test self_test;
	struct vesper_unload unload;
	struct vesper_ping ping;
	struct vesper_revoked revoked;
	struct vesper_pages_request pages;
	struct vesper_consumed consumed;
	struct vesper_compare_clocks compare_clocks;
};

struct request_in {
	const struct vesper_arrived *message;
	const union request *request;
	const u8 *tail;
	u32 tail_bytes;
	u32 session;
};

static void reply(const struct request_in *a, u16 type, const void *payload, u32 bytes)
{
	vesper_transmit(a->session, type, a->message->request_id, payload, bytes, NULL, 0);
}

static void refuse(const struct vesper_arrived *message, int error, const char *why)
{
	struct vesper_error refusal = {
		.error = cpu_to_le32(error),
		.type = cpu_to_le32(message->type),
		.min_version = cpu_to_le16(VESPER_PROTOCOL_VERSION),
		.max_version = cpu_to_le16(VESPER_PROTOCOL_VERSION),
	};

	vesper_transmit(vesper_session_current(), VESPER_MSG_ERROR, message->request_id, &refusal, sizeof(refusal), why, strlen(why));
}

/* A frame with a wrong CRC or length. Its type and request id cannot be trusted: the host learns of it unsolicited. */
void vesper_session_bad_frame(const struct vesper_arrived *message)
{
	struct vesper_arrived stranger = { .type = message->type };

	if (message->bytes > VESPER_FRAME_PAYLOAD_MAX)
		refuse(&stranger, -EMSGSIZE, "the frame is longer than any frame may be");
	else
		refuse(&stranger, -EBADMSG, "the frame's checksum is wrong");
}

static void queue_job(const struct request_in *a, struct vesper_job *job)
{
	job->type = a->message->type;
	job->session = a->session;
	job->request_id = a->message->request_id;
	if (!vesper_loader_queue(job))
		refuse(a->message, -EBUSY, "too many requests are waiting");
}

static void on_hello_request(const struct request_in *a)
{
	u16 low = le16_to_cpu(a->request->hello.min_version);
	u16 high = le16_to_cpu(a->request->hello.max_version);
	struct vesper_hello hello = {};
	u32 session;

	if (low > VESPER_PROTOCOL_VERSION || high < VESPER_PROTOCOL_VERSION) {
		refuse(a->message, -EPROTONOSUPPORT, "the frontend speaks another protocol version");
		return;
	}
	/* Whatever another host left half done ends here; probes and rings live on. */
	vesper_push_reset();
	session = vesper_session_open();
	vesper_identity_fill(&hello);
	vesper_relay_describe(&hello);
	vesper_transmit(session, VESPER_MSG_HELLO, a->message->request_id, &hello, sizeof(hello), NULL, 0);
	vesper_region_announce(session);
}

static void on_activate(const struct request_in *a)
{
	struct vesper_job job = { .activate = a->request->activate };
	struct vesper_activated activated = {};
	int err;

	if (!(le32_to_cpu(job.activate.flags) & VESPER_ACTIVATE_RESUME)) {
		queue_job(a, &job);
		return;
	}
	/* Nothing to wait for: not even a loader that is busy with a module may keep a new host from its events. */
	err = vesper_relay_resume(&job.activate, &activated);
	reply(a, VESPER_MSG_ACTIVATED, &activated, sizeof(activated));
	if (!err)
		vesper_inline_attach(a->session);
}

static void on_deactivate(const struct request_in *a)
{
	struct vesper_job job = {};

	for (u32 slot = 0; slot < VESPER_SLOTS; slot++)
		vesper_slot_disarm_at_once(slot);
	queue_job(a, &job);
}

/* To get memory may take long. */
static void on_pages_request(const struct request_in *a)
{
	struct vesper_job job = { .pages = a->request->pages };

	queue_job(a, &job);
}

static void on_push_begin(const struct request_in *a)
{
	struct vesper_push_ready ready = { .slot = a->request->begin.slot };

	ready.error = cpu_to_le32(vesper_push_begin(&a->request->begin));
	reply(a, VESPER_MSG_PUSH_READY, &ready, sizeof(ready));
}

static void on_push_data(const struct request_in *a)
{
	vesper_push_data(le32_to_cpu(a->request->data.slot), le32_to_cpu(a->request->data.offset), a->tail, a->tail_bytes);
}

static void on_push_commit(const struct request_in *a)
{
	struct vesper_job job = { .slot = le32_to_cpu(a->request->commit.slot) };
	struct vesper_loaded loaded = { .slot = a->request->commit.slot, .stage = cpu_to_le32(VESPER_STAGE_TRANSFER) };
	int err = vesper_push_commit(job.slot, a->tail, a->tail_bytes);

	job.type = a->message->type;
	job.session = a->session;
	job.request_id = a->message->request_id;
	if (!err && !vesper_loader_queue(&job)) {
		vesper_push_done();
		err = -EBUSY;
	}
	if (!err)
		return;
	loaded.error = cpu_to_le32(err);
	reply(a, VESPER_MSG_LOADED, &loaded, sizeof(loaded));
}

static bool slot_is_valid(const struct request_in *a, u32 slot)
{
	if (slot < VESPER_SLOTS)
		return true;
	refuse(a->message, -EINVAL, "there is no such probe slot");
	return false;
}

static void on_arm(const struct request_in *a)
{
	struct vesper_job job = { .slot = le32_to_cpu(a->request->arm.slot), .on = le32_to_cpu(a->request->arm.on) };

	if (!slot_is_valid(a, job.slot))
		return;
	if (!job.on)
		vesper_slot_disarm_at_once(job.slot);
	queue_job(a, &job);
}

static void on_self_test(const struct request_in *a)
{
	struct vesper_job job = { .slot = le32_to_cpu(a->request->self_test.slot) };

	if (slot_is_valid(a, job.slot))
		queue_job(a, &job);
}

static void on_unload(const struct request_in *a)
{
	struct vesper_job job = { .slot = le32_to_cpu(a->request->unload.slot) };

	if (!slot_is_valid(a, job.slot))
		return;
	vesper_slot_disarm_at_once(job.slot);
	queue_job(a, &job);
}

static void on_status(const struct request_in *a)
{
	/* Too large for the stack; only this thread uses it. */
	static struct vesper_probe_status probes[VESPER_SLOTS];
	u32 count = vesper_slot_report(probes, ARRAY_SIZE(probes));
	struct vesper_status_report report = {
		.doorbells = cpu_to_le64(vesper_ring_doorbells()),
		.bad_frames = cpu_to_le64(vesper_parser.bad_frames),
		.bad_bytes = cpu_to_le64(vesper_parser.bad_bytes),
		.probes = cpu_to_le32(count),
	};
	struct vesper_relay_state relay;

	vesper_relay_read(&relay);
	report.epoch = cpu_to_le64(relay.epoch);
	report.written = cpu_to_le64(relay.written);
	report.lost = cpu_to_le64(relay.lost);
	vesper_transmit(a->session, VESPER_MSG_STATUS_REPORT, a->message->request_id, &report, sizeof(report), probes,
			count * sizeof(probes[0]));
}

static void on_ping(const struct request_in *a)
{
	struct vesper_relay_state relay;
	struct vesper_pong pong;

	vesper_relay_read(&relay);
	pong.host_time_ns = a->request->ping.host_time_ns;
	pong.guest_received_ns = cpu_to_le64(a->message->received_ns);
	pong.written = cpu_to_le64(relay.written);
	pong.lost = cpu_to_le64(relay.lost);
	pong.guest_sent_ns = cpu_to_le64(ktime_get_boottime_ns());
	reply(a, VESPER_MSG_PONG, &pong, sizeof(pong));
}

static void on_revoked(const struct request_in *a)
{
	vesper_relay_revoked(le64_to_cpu(a->request->revoked.epoch));
}

static void on_consumed(const struct request_in *a)
{
	vesper_inline_consumed(&a->request->consumed);
}

static void on_compare_clocks(const struct request_in *a)
{
	struct vesper_clocks_compared compared = {};
	u32 answered = 0;

	compared.error = cpu_to_le32(vesper_relay_compare_clocks(&a->request->compare_clocks, &answered));
	compared.answered = cpu_to_le32(answered);
	reply(a, VESPER_MSG_CLOCKS_COMPARED, &compared, sizeof(compared));
}

static const struct {
	void (*handle)(const struct request_in *a);
	u16 bytes;
	u16 tail_max;
} requests[] = {
	/* One of a later version may be longer. */
	[VESPER_MSG_HELLO_REQUEST] = { on_hello_request, sizeof(struct vesper_hello_request), 256 },
	[VESPER_MSG_ACTIVATE] = { on_activate, sizeof(struct vesper_activate) },
	[VESPER_MSG_DEACTIVATE] = { on_deactivate, sizeof(struct vesper_deactivate) },
	[VESPER_MSG_PUSH_BEGIN] = { on_push_begin, sizeof(struct vesper_push_begin) },
	[VESPER_MSG_PUSH_DATA] = { on_push_data, sizeof(struct vesper_push_data), VESPER_CHUNK_MAX },
	[VESPER_MSG_PUSH_COMMIT] = { on_push_commit, sizeof(struct vesper_push_commit), VESPER_ARGS_MAX },
	[VESPER_MSG_ARM] = { on_arm, sizeof(struct vesper_arm) },
	[VESPER_MSG_SELF_TEST] = { on_self_test, sizeof(struct vesper_self_test) },
	[VESPER_MSG_UNLOAD] = { on_unload, sizeof(struct vesper_unload) },
	[VESPER_MSG_STATUS] = { on_status, sizeof(struct vesper_status) },
	[VESPER_MSG_PING] = { on_ping, sizeof(struct vesper_ping) },
	[VESPER_MSG_REVOKED] = { on_revoked, sizeof(struct vesper_revoked) },
	[VESPER_MSG_PAGES_REQUEST] = { on_pages_request, sizeof(struct vesper_pages_request) },
	[VESPER_MSG_CONSUMED] = { on_consumed, sizeof(struct vesper_consumed) },
	[VESPER_MSG_COMPARE_CLOCKS] = { on_compare_clocks, sizeof(struct vesper_compare_clocks) },
};

void vesper_session_handle(const struct vesper_arrived *message)
{
	struct request_in a = { .message = message, .session = vesper_session_current() };
	union request request = {};
	u16 type = message->type;

	/* A hello names the versions its sender speaks, whatever the version of its own frame. */
	if (message->version != VESPER_PROTOCOL_VERSION && type != VESPER_MSG_HELLO_REQUEST) {
		vesper_parser.bad_frames++;
		refuse(message, -EPROTONOSUPPORT, "the frontend speaks another protocol version");
		return;
	}
	if (type >= ARRAY_SIZE(requests) || !requests[type].handle) {
		vesper_parser.bad_frames++;
		refuse(message, -EOPNOTSUPP, "the frontend knows no such request");
		return;
	}
	if (message->bytes < requests[type].bytes || message->bytes > requests[type].bytes + requests[type].tail_max) {
		vesper_parser.bad_frames++;
		refuse(message, -EINVAL, "the request has the wrong length");
		return;
	}
	if (!a.session && type != VESPER_MSG_HELLO_REQUEST) {
		refuse(message, -ENOTCONN, "there is no session: say hello first");
		return;
	}
	memcpy(&request, message->payload, min_t(size_t, requests[type].bytes, sizeof(request)));
	a.request = &request;
	a.tail = message->payload + requests[type].bytes;
	a.tail_bytes = message->bytes - requests[type].bytes;
	requests[type].handle(&a);
}

void vesper_session_doorbell(void)
{
	struct vesper_relay_state relay;
	struct vesper_doorbell doorbell;
	u32 session = vesper_session_current();

	vesper_relay_read(&relay);
	/* Where there are no frames with the records themselves. */
	if (!session || !relay.epoch || vesper_inline_is_open())
		return;
	doorbell.epoch = cpu_to_le64(relay.epoch);
	vesper_transmit(session, VESPER_MSG_DOORBELL, 0, &doorbell, sizeof(doorbell), NULL, 0);
}
