/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside the frontend. Two kernel threads do all the work:
 *
 *   channel   owns the transports: reads and parses frames, answers what can be answered at once, writes queued frames. Never
 *             waits for anything but them, so that heartbeats go on while a module loads.
 *   loader    works off what may take long: activate, deactivate, load, arm, self-test, unload; one after the other.
 *
 * Both borrow one private address space (space.c), because init_module and the port's read and write take user pointers.
 *
 * Locks, none held while a module's init or exit runs, outer first:
 *   arm_lock (probe.c) > slots_lock (slot.c)
 *   a device's lock > serial_lock (channel_serial.c)
 *   pages_lock (region_pages.c) > change_lock or revoke_lock (relay.c) > state_lock (relay.c), regions_lock (region.c), inline_lock (inline.c) > transmit_lock (transmit.c)
 */
#ifndef _VESPER_H
#define _VESPER_H

#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/types.h>
#include <vesper/probe.h>
#include <vesper/wire.h>

#undef pr_fmt
#define pr_fmt(fmt) "vesper: " fmt

#define VESPER_FRONTEND_VERSION "0.1.0"

/* main.c */
extern unsigned int vesper_image_kib;
extern unsigned int vesper_write_timeout_ms;
extern unsigned int vesper_revoke_timeout_ms;
extern char *vesper_channel_choice;
extern bool vesper_vsock_reserved;

/* identity.c: who this guest is */
void vesper_identity_init(void);
const u8 *vesper_boot_id(void);
void vesper_identity_fill(struct vesper_hello *hello);

/* symbol.c: functions the kernel does not export */
int vesper_symbol_init(void);
void *vesper_symbol(const char *name);

/* space.c: the private address space; every part is seen by the kernel and, at the same time, as user memory of it */
enum vesper_space_part { VESPER_SPACE_RX, VESPER_SPACE_TX, VESPER_SPACE_ARGS, VESPER_SPACE_NAME, VESPER_SPACE_IMAGE };
int vesper_space_create(void);
void vesper_space_destroy(void);
void vesper_space_enter(void);
void vesper_space_leave(void);
void *vesper_space_memory(enum vesper_space_part part);
size_t vesper_space_bytes(enum vesper_space_part part);
void __user *vesper_space_user(const void *memory);

/*
 * What can carry the control channel. Only the channel thread calls these, in its private space; what becomes ready wakes it with
 * VESPER_CHANNEL_READY.
 */
struct vesper_transport {
	const char *name;	/* as in the parameter `channel` */
	int (*init)(void);
	void (*exit)(void);

	/* Optional. Called before open(), which may use up the kernel's reserves of memory and must not wait for work of others. */
	void (*prepare)(void);
	/* -ENODEV: what it needs is not there, a search will tell when; other errors: try again later. */
	int (*open)(void);
	void (*close)(void);
	bool (*is_open)(void);

	/* Optional. True: another host has come, and nothing is left of the one before. Where `busy`, newcomers are turned away. */
	bool (*accept)(bool busy);
	/* Bytes; 0: no host there; -EAGAIN: nothing to read; -ECONNRESET: that host is gone; -ENODEV: the transport is. */
	ssize_t (*read)(void *to, size_t bytes);
	/* Bytes taken; -EAGAIN: no room, or no host there. */
	ssize_t (*write)(const void *from, size_t bytes);
};

/* channel_serial.c: a virtio-serial controller of our own */
extern const struct vesper_transport vesper_transport_serial;

/* serial.c: the queues of that controller */
struct virtio_device;
struct vesper_serial;
struct vesper_serial *vesper_serial_create(struct virtio_device *device);
void vesper_serial_destroy(struct vesper_serial *serial);
struct device *vesper_serial_device(struct vesper_serial *serial);
int vesper_serial_start(struct vesper_serial *serial);
void vesper_serial_stop(struct vesper_serial *serial);
ssize_t vesper_serial_read(struct vesper_serial *serial, void *to, size_t bytes);
ssize_t vesper_serial_write(struct vesper_serial *serial, const void *from, size_t bytes);

/* channel_port.c: the virtio_console port */
extern const struct vesper_transport vesper_transport_port;

/* channel_vsock.c: a kernel socket that listens */
extern const struct vesper_transport vesper_transport_vsock;

/* port_search.c: which of the virtio_console ports is ours */
struct vfsmount;
int vesper_port_search(struct vfsmount *sysfs, char *node, size_t bytes);

/* uevent.c: tells when ports and modules come */
int vesper_uevent_init(void);
void vesper_uevent_exit(void);
bool vesper_uevent_drain(void);

/* channel.c: the channel thread */
enum vesper_channel_event { VESPER_CHANNEL_READY, VESPER_CHANNEL_SEARCH, VESPER_CHANNEL_DOORBELL, VESPER_CHANNEL_OUTPUT };
ssize_t vesper_channel_write(const void *from, size_t bytes);
int vesper_channel_start(void);
void vesper_channel_stop(void);
bool vesper_channel_is_current(void);
bool vesper_channel_has_host(void);
bool vesper_channel_host_left(void);
void vesper_channel_wake(enum vesper_channel_event event);

/* frame.c: frames from and to bytes */
struct vesper_arrived {
	u16 type;
	u16 version;
	u32 request_id;
	u64 received_ns;
	const u8 *payload;
	u32 bytes;
};

struct vesper_parser {
	u8 *data;
	u32 capacity;
	u32 start;
	u32 end;
	u64 bad_frames;
	u64 bad_bytes;
};

enum vesper_parsed { VESPER_PARSED_NOTHING, VESPER_PARSED_FRAME, VESPER_PARSED_BAD };
enum vesper_parsed vesper_parse(struct vesper_parser *parser, struct vesper_arrived *message);
bool vesper_parser_resync(struct vesper_parser *parser);
void vesper_parser_compact(struct vesper_parser *parser);
void vesper_parser_restart(struct vesper_parser *parser, u32 bytes);
u32 vesper_frame_encode(void *to, u16 type, u32 request_id, const void *payload, u32 bytes, const void *tail, u32 tail_bytes);

/* transmit.c: frames on their way out; a session is named by its number, frames of an ended one are dropped */
void vesper_transmit_init(void);
u32 vesper_session_open(void);
u32 vesper_session_current(void);
void vesper_transmit(u32 session, u16 type, u32 request_id, const void *payload, u32 bytes, const void *tail, u32 tail_bytes);
int vesper_transmit_flush(void);
void vesper_transmit_give_up(void);
void vesper_transmit_reset(void);

/* session.c: what the messages mean */
extern struct vesper_parser vesper_parser;
void vesper_session_handle(const struct vesper_arrived *message);
void vesper_session_bad_frame(const struct vesper_arrived *message);
void vesper_session_doorbell(void);

/* push.c: an image on its way in, in the space's image part */
struct vesper_image {
	u32 slot;
	u32 bytes;
	u32 args_bytes;
	u8 sha256[32];
	char name[56];
};
int vesper_push_begin(const struct vesper_push_begin *begin);
void vesper_push_data(u32 slot, u32 offset, const u8 *data, u32 bytes);
int vesper_push_commit(u32 slot, const u8 *args, u32 args_bytes);
const struct vesper_image *vesper_push_image(void);
int vesper_push_verify(void);
void vesper_push_done(void);
void vesper_push_reset(void);

/* loader.c: the loader thread */
struct vesper_job {
	u16 type;		/* enum vesper_message */
	u32 session;
	u32 request_id;
	u32 slot;
	bool on;
	union {
		struct vesper_activate activate;
		struct vesper_pages_request pages;
	};
};
int vesper_loader_start(void);
void vesper_loader_stop(void);
bool vesper_loader_queue(const struct vesper_job *job);
bool vesper_loader_is_current(void);

/* slot.c: the probe slots */
enum vesper_slot_state { VESPER_SLOT_EMPTY, VESPER_SLOT_LOADING, VESPER_SLOT_LOADED };

struct vesper_slot {
	enum vesper_slot_state state;
	char name[MODULE_NAME_LEN];
	u8 sha256[32];
	const struct module *module;	/* to recognise it, never followed */
	struct vesper_probe *probe;	/* NULL: the module did not register */
	bool registered;
	u32 points;
	u32 armed_points;
	u64 written;		/* of probes that have gone from the slot */
	u64 lost;
};

int vesper_slot_init(void);
void vesper_slot_exit(void);
int vesper_slot_claim(const struct vesper_image *image);
void vesper_slot_loaded(u32 slot, bool loaded);
bool vesper_slot_taken(u32 slot);
int vesper_slot_name(u32 slot, char *name, size_t bytes);
void vesper_slot_disarm_at_once(u32 slot);
void vesper_slot_read(u32 slot, struct vesper_slot *copy);
u32 vesper_slot_report(struct vesper_probe_status *status, u32 max);
int vesper_slot_attach(struct vesper_probe *probe);
void vesper_slot_detach(struct vesper_probe *probe);
struct vesper_probe *vesper_slot_probe(u32 slot);
void vesper_slot_points(struct vesper_probe *probe, u32 armed_points);

/* probe.c: registered probes */
struct vesper_points {
	u32 count;
	u32 marked;		/* armed, or fired in a self-test */
	struct vesper_point_status status[VESPER_POINTS_MAX];
};
void vesper_probe_result_reset(void);
const struct vesper_points *vesper_probe_result(void);
int vesper_probe_arm(u32 slot, bool on, struct vesper_points *points);
int vesper_probe_self_test(u32 slot, struct vesper_points *points);
void vesper_probe_disarm_all(void);

/* point.c: probe points */
int vesper_point_arm(struct vesper_point *point);
void vesper_points_disarm(struct vesper_point **points, unsigned int count);

/* point_entry.c: entries of functions through ftrace */
void vesper_entry_init(void);
void vesper_entry_exit(void);
bool vesper_entry_arm(struct vesper_point *point);
void vesper_entry_disarm(struct vesper_point *point);
void vesper_entries_synchronize(void);

/* region.c: memory shared with the host, or read for it */
struct vesper_region_memory {
	struct list_head node;
	void *memory;		/* NULL where error is set */
	u64 bytes;
	u8 token[16];
	int error;
	void __iomem *doorbell;	/* the device's register, NULL: it has none */
	enum vesper_backend backend;
};
int vesper_region_check(struct vesper_region_memory *region, u64 available);
void vesper_region_add(struct vesper_region_memory *region);
bool vesper_region_remove(struct vesper_region_memory *region, int reason);
void vesper_region_name(struct vesper_region_memory *region, const u8 *token);
struct vesper_region_memory *vesper_region_find(const u8 *token);
void vesper_region_forget(const struct vesper_region_memory *region);
void vesper_region_describe(struct vesper_hello *hello);
void vesper_region_announce(u32 session);

/* region_ivshmem.c */
int vesper_ivshmem_init(void);
void vesper_ivshmem_exit(void);

/* region_pages.c */
void vesper_pages_request(const struct vesper_pages_request *request, struct vesper_pages *reply, struct vesper_piece *list);
void vesper_pages_forget(void);
void vesper_pages_exit(void);

/* inline.c: the relay without shared memory */
struct vesper_layout;
struct vesper_region_memory *vesper_inline_create(const u8 *token, const struct vesper_layout *layout);
void vesper_inline_open(struct vesper_region_memory *region, u64 epoch);
void vesper_inline_attach(u32 session);
bool vesper_inline_is_open(void);
bool vesper_inline_send(void);
void vesper_inline_consumed(const struct vesper_consumed *consumed);
void vesper_inline_flush(void);
void vesper_inline_exit(void);

/* layout.c: the region's header, directory and control blocks */
struct vesper_layout {
	u32 cpus;
	u32 rings;
	u32 ring_bytes[2];	/* by enum vesper_ring_kind */
	u64 header_bytes;
	u64 data_offset;
	u64 total_bytes;
};
int vesper_layout_plan(struct vesper_layout *layout, const struct vesper_activate *activate, u64 region_bytes);
void vesper_layout_write(const struct vesper_layout *layout, void *memory, u64 epoch);
u64 vesper_layout_block(const struct vesper_layout *layout, u32 index);
u64 vesper_layout_data(const struct vesper_layout *layout, u32 index);

/* relay.c: starting and stopping the rings */
struct vesper_relay_state {
	u64 epoch;		/* 0: not active */
	u64 written;
	u64 lost;
};
void vesper_relay_read(struct vesper_relay_state *state);
void vesper_relay_describe(struct vesper_hello *hello);
int vesper_relay_resume(const struct vesper_activate *activate, struct vesper_activated *reply);
int vesper_relay_activate(const struct vesper_activate *activate, struct vesper_activated *reply);
void vesper_relay_deactivate(struct vesper_relay_state *last);
bool vesper_relay_uses(const struct vesper_region_memory *region);
bool vesper_relay_release(const struct vesper_region_memory *region, int reason);
void vesper_relay_revoked(u64 epoch);
long vesper_relay_beat(void);
int vesper_relay_compare_clocks(const struct vesper_compare_clocks *request, u32 *answered);

/* ring.c: the rings' producers */
void vesper_ring_doorbell_set(void __iomem *doorbell, u32 value);
bool vesper_ring_doorbell_by_register(void);
void vesper_ring_give_way(void);
void vesper_ring_open(int cpu, u32 kind, struct vesper_ring_block *block, void *data, u32 bytes, u64 epoch);
void vesper_ring_close(void);
void vesper_ring_read(u64 *written, u64 *lost);
u64 vesper_ring_doorbells(void);

/* panic.c: the record of a panic */
void vesper_panic_init(void);
void vesper_panic_exit(void);

#endif
