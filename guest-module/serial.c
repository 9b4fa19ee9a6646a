// SPDX-License-Identifier: GPL-2.0-only
/*
 * The queues of a virtio-serial controller that is VESPER's own, and the talk about its port on the control queues (VIRTIO 1.2, 5.3).
 * Such a controller has one port that counts, number 1; 0 is for consoles.
 *
 * All memory for buffers is allocated when the controller comes: reading and writing take none. The caller sees to it that one
 * thread at a time is in here; only interrupts come besides, and they wake the channel thread.
 */
#include <linux/gfp.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>

#include "vesper.h"

#define PORT 1
/* The device throws messages away for which it finds no buffer: as many as its queue takes. */
#define CONTROL_BUFFERS 32
#define DATA_PAGES 16

enum serial_queue { CONSOLE_IN, CONSOLE_OUT, CONTROL_IN, CONTROL_OUT, PORT_IN, PORT_OUT, QUEUES };

/* A longer name is cut off: it is not ours. */
struct control_message {
	struct virtio_console_control control;
	char name[sizeof(VESPER_PORT_NAME) + 1];
};

struct vesper_serial {
	struct virtio_device *device;
	struct virtqueue *queues[QUEUES];
	bool running;

	/* What there is to say to the device, by the bits below, one at a time. */
	unsigned long unsaid;
	bool saying;
	struct virtio_console_control said;
	struct control_message heard[CONTROL_BUFFERS];

	bool port_open;
	bool port_lost;
	bool host_present;

	u8 *in[DATA_PAGES];
	/* The page that is being read. */
	u8 *page;
	u32 page_bytes;
	u32 page_at;

	u8 *out[DATA_PAGES];
	u8 *free[DATA_PAGES];
	unsigned int free_count;
};

/* In the order in which they have to be said. */
enum serial_saying { SAY_DEVICE_READY, SAY_PORT_READY, SAY_PORT_OPEN, SAYINGS };

static const struct {
	u16 event;
	u32 port;
} sayings[] = {
	[SAY_DEVICE_READY] = { VIRTIO_CONSOLE_DEVICE_READY, VIRTIO_CONSOLE_BAD_ID },
	[SAY_PORT_READY] = { VIRTIO_CONSOLE_PORT_READY, PORT },
	[SAY_PORT_OPEN] = { VIRTIO_CONSOLE_PORT_OPEN, PORT },
};

static void serial_woken(struct virtqueue *queue)
{
	vesper_channel_wake(VESPER_CHANNEL_READY);
}

/* All of them: where one has no name, the numbers of those behind it move up. */
static int serial_find_queues(struct vesper_serial *serial)
{
#ifdef VESPER_VIRTQUEUE_INFO
	struct virtqueue_info infos[QUEUES] = {
		[CONSOLE_IN] = { "console in" },
		[CONSOLE_OUT] = { "console out" },
		[CONTROL_IN] = { "control in", serial_woken },
		[CONTROL_OUT] = { "control out", serial_woken },
		[PORT_IN] = { "in", serial_woken },
		[PORT_OUT] = { "out", serial_woken },
	};

	return virtio_find_vqs(serial->device, QUEUES, serial->queues, infos, NULL);
#else
	vq_callback_t *callbacks[QUEUES] = {
		[CONTROL_IN] = serial_woken,
		[CONTROL_OUT] = serial_woken,
		[PORT_IN] = serial_woken,
		[PORT_OUT] = serial_woken,
	};
	static const char *const names[QUEUES] = {
		[CONSOLE_IN] = "console in",
		[CONSOLE_OUT] = "console out",
		[CONTROL_IN] = "control in",
		[CONTROL_OUT] = "control out",
		[PORT_IN] = "in",
		[PORT_OUT] = "out",
	};

	return virtio_find_vqs(serial->device, QUEUES, serial->queues, callbacks, names, NULL);
#endif
}

/* Takes no memory: one piece needs no indirect descriptor. */
static int serial_offer(struct vesper_serial *serial, enum serial_queue queue, void *buffer, size_t bytes)
{
	struct scatterlist piece;

	sg_init_one(&piece, buffer, bytes);
	return virtqueue_add_inbuf(serial->queues[queue], &piece, 1, buffer, GFP_ATOMIC);
}

static void serial_say(struct vesper_serial *serial)
{
	struct virtqueue *queue = serial->queues[CONTROL_OUT];
	unsigned int saying, bytes;
	struct scatterlist piece;

	if (virtqueue_get_buf(queue, &bytes))
		serial->saying = false;
	saying = find_first_bit(&serial->unsaid, SAYINGS);
	if (serial->saying || saying == SAYINGS)
		return;
	serial->said.id = cpu_to_virtio32(serial->device, sayings[saying].port);
	serial->said.event = cpu_to_virtio16(serial->device, sayings[saying].event);
	serial->said.value = cpu_to_virtio16(serial->device, 1);
	sg_init_one(&piece, &serial->said, sizeof(serial->said));
	if (virtqueue_add_outbuf(queue, &piece, 1, &serial->said, GFP_ATOMIC))
		return;
	serial->saying = true;
	__clear_bit(saying, &serial->unsaid);
	if (saying == SAY_PORT_OPEN)
		serial->port_open = true;
	virtqueue_kick(queue);
}

static void serial_drop_input(struct vesper_serial *serial)
{
	unsigned int bytes;

	while (serial->page || (serial->page = virtqueue_get_buf(serial->queues[PORT_IN], &bytes))) {
		serial_offer(serial, PORT_IN, serial->page, PAGE_SIZE);
		serial->page = NULL;
	}
	virtqueue_kick(serial->queues[PORT_IN]);
}

static void serial_hear(struct vesper_serial *serial, const struct control_message *message, u32 bytes)
{
	u32 name_bytes = min_t(u32, bytes, sizeof(*message)) - sizeof(message->control);

	if (bytes < sizeof(message->control) || virtio32_to_cpu(serial->device, message->control.id) != PORT)
		return;
	switch (virtio16_to_cpu(serial->device, message->control.event)) {
	case VIRTIO_CONSOLE_PORT_ADD:
		__set_bit(SAY_PORT_READY, &serial->unsaid);
		break;
	case VIRTIO_CONSOLE_PORT_REMOVE:
		serial->port_lost = serial->port_open;
		serial->port_open = false;
		serial->host_present = false;
		serial->unsaid &= BIT(SAY_DEVICE_READY);
		/* It may be followed by a port with the same number. */
		serial_drop_input(serial);
		break;
	case VIRTIO_CONSOLE_PORT_NAME:
		if (strnlen(message->name, name_bytes) == strlen(VESPER_PORT_NAME) &&
		    !memcmp(message->name, VESPER_PORT_NAME, strlen(VESPER_PORT_NAME)))
			__set_bit(SAY_PORT_OPEN, &serial->unsaid);
		else
			dev_warn(&serial->device->dev, "the port of this controller is not called %s: nobody uses it\n", VESPER_PORT_NAME);
		break;
	case VIRTIO_CONSOLE_PORT_OPEN:
		serial->host_present = virtio16_to_cpu(serial->device, message->control.value);
		break;
	}
}

static void serial_control(struct vesper_serial *serial)
{
	struct virtqueue *queue = serial->queues[CONTROL_IN];
	struct control_message *message;
	bool heard = false;
	unsigned int bytes;

	while ((message = virtqueue_get_buf(queue, &bytes))) {
		serial_hear(serial, message, bytes);
		serial_offer(serial, CONTROL_IN, message, sizeof(*message));
		heard = true;
	}
	if (heard)
		virtqueue_kick(queue);
	serial_say(serial);
}

/* As vesper_transport.read. */
ssize_t vesper_serial_read(struct vesper_serial *serial, void *to, size_t bytes)
{
	struct virtqueue *queue = serial->queues[PORT_IN];
	size_t taken;

	if (!serial->running)
		return -EAGAIN;
	if (virtqueue_is_broken(queue))
		return -ENODEV;
	serial_control(serial);
	if (serial->port_lost) {
		serial->port_lost = false;
		return -ECONNRESET;
	}
	if (!serial->page) {
		serial->page = virtqueue_get_buf(queue, &serial->page_bytes);
		serial->page_bytes = min_t(u32, serial->page_bytes, PAGE_SIZE);
		serial->page_at = 0;
	}
	if (!serial->page)
		return serial->host_present ? -EAGAIN : 0;
	taken = min_t(size_t, bytes, serial->page_bytes - serial->page_at);
	memcpy(to, serial->page + serial->page_at, taken);
	serial->page_at += taken;
	if (serial->page_at == serial->page_bytes) {
		serial_offer(serial, PORT_IN, serial->page, PAGE_SIZE);
		virtqueue_kick(queue);
		serial->page = NULL;
	}
	return taken;
}

/* Asks for an interrupt only where it has none: what is written needs no answer otherwise. */
static u8 *serial_free_page(struct vesper_serial *serial)
{
	struct virtqueue *queue = serial->queues[PORT_OUT];
	unsigned int bytes;
	u8 *page;

	do {
		virtqueue_disable_cb(queue);
		while ((page = virtqueue_get_buf(queue, &bytes)))
			serial->free[serial->free_count++] = page;
		if (serial->free_count)
			return serial->free[--serial->free_count];
	} while (!virtqueue_enable_cb(queue));
	return NULL;
}

/* As vesper_transport.write. */
ssize_t vesper_serial_write(struct vesper_serial *serial, const void *from, size_t bytes)
{
	size_t some = min_t(size_t, bytes, PAGE_SIZE);
	struct virtqueue *queue = serial->queues[PORT_OUT];
	struct scatterlist piece;
	u8 *page;

	if (!serial->running || !serial->port_open || !serial->host_present)
		return -EAGAIN;
	page = serial_free_page(serial);
	if (!page)
		return -EAGAIN;
	memcpy(page, from, some);
	sg_init_one(&piece, page, some);
	if (virtqueue_add_outbuf(queue, &piece, 1, page, GFP_ATOMIC)) {
		serial->free[serial->free_count++] = page;
		return -EAGAIN;
	}
	virtqueue_kick(queue);
	return some;
}

/* Also after the device was reset: everything begins anew. */
int vesper_serial_start(struct vesper_serial *serial)
{
	int err = serial_find_queues(serial);

	if (err)
		return err;
	serial->unsaid = BIT(SAY_DEVICE_READY);
	serial->saying = false;
	serial->port_open = false;
	serial->port_lost = false;
	serial->host_present = false;
	serial->page = NULL;
	memcpy(serial->free, serial->out, sizeof(serial->free));
	serial->free_count = DATA_PAGES;
	/* First: before it some kernels (VIRTIO_HARDEN_NOTIFICATION) take no buffers. */
	virtio_device_ready(serial->device);
	/* A queue may be shorter than there are buffers. */
	for (unsigned int i = 0; i < CONTROL_BUFFERS; i++)
		if (serial_offer(serial, CONTROL_IN, &serial->heard[i], sizeof(serial->heard[i])))
			break;
	for (unsigned int i = 0; i < DATA_PAGES; i++)
		if (serial_offer(serial, PORT_IN, serial->in[i], PAGE_SIZE))
			break;
	serial->running = true;
	virtqueue_kick(serial->queues[CONTROL_IN]);
	virtqueue_kick(serial->queues[PORT_IN]);
	serial_say(serial);
	return 0;
}

void vesper_serial_stop(struct vesper_serial *serial)
{
	if (!serial->running)
		return;
	serial->running = false;
	virtio_reset_device(serial->device);
	for (unsigned int i = 0; i < QUEUES; i++)
		while (virtqueue_detach_unused_buf(serial->queues[i]))
			;
	serial->device->config->del_vqs(serial->device);
}

struct vesper_serial *vesper_serial_create(struct virtio_device *device)
{
	struct vesper_serial *serial = kzalloc(sizeof(*serial), GFP_KERNEL);

	if (!serial)
		return NULL;
	serial->device = device;
	for (unsigned int i = 0; i < DATA_PAGES; i++) {
		serial->in[i] = (u8 *)__get_free_page(GFP_KERNEL);
		serial->out[i] = (u8 *)__get_free_page(GFP_KERNEL);
		if (!serial->in[i] || !serial->out[i]) {
			vesper_serial_destroy(serial);
			return NULL;
		}
	}
	return serial;
}

struct device *vesper_serial_device(struct vesper_serial *serial)
{
	return &serial->device->dev;
}

void vesper_serial_destroy(struct vesper_serial *serial)
{
	for (unsigned int i = 0; i < DATA_PAGES; i++) {
		free_page((unsigned long)serial->in[i]);
		free_page((unsigned long)serial->out[i]);
	}
	kfree(serial);
}
