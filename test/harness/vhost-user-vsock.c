// SPDX-License-Identifier: Apache-2.0
/*
 * A vsock device for one guest, as a vhost-user backend: what a hypervisor that does vsock in a process of its own offers to the
 * host, a unix socket that wants "CONNECT <port>\n" and says "OK <number>\n". For tests on machines without vhost_vsock.
 *
 *   vhost-user-vsock VHOST-SOCKET HYBRID-SOCKET CID
 *
 * One thread and one poll loop. Prints "listening" once both sockets can be connected to. Only the host may open connections.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* --- vhost-user: docs/interop/vhost-user.rst of QEMU --- */

enum {
	GET_FEATURES = 1,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	SET_VRING_ERR = 14,
	GET_PROTOCOL_FEATURES = 15,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	GET_CONFIG = 24,
};

#define FEATURES (1ull << 32 | 1ull << 30) /* VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES */
#define PROTOCOL_FEATURES (1ull << 9)	   /* VHOST_USER_PROTOCOL_F_CONFIG */
#define REPLY (1u | 1u << 2)
#define NO_FD (1u << 8)
#define REGIONS_MAX 8

struct vhost_message {
	struct {
		uint32_t request, flags, size;
	} header;
	union {
		uint64_t number;
		struct {
			uint32_t index, value;
		} state;
		struct {
			uint32_t index, flags;
			uint64_t descriptors, used, available, log;
		} addresses;
		struct {
			uint32_t count, padding;
			struct {
				uint64_t guest, bytes, user, offset;
			} region[REGIONS_MAX];
		} memory;
		struct {
			uint32_t offset, size, flags;
			uint8_t bytes[256];
		} config;
	} body;
} __attribute__((packed));

static struct region {
	uint64_t guest, user, bytes;
	void *mapping;
	size_t mapped;
	char *memory;
} regions[REGIONS_MAX];
static unsigned int region_count;

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags, next;
};
struct available {
	uint16_t flags, index, ring[];
};
struct used {
	uint16_t flags, index;
	struct {
		uint32_t id, bytes;
	} ring[];
};

enum { RX, TX, QUEUES };
static struct queue {
	uint32_t size;
	uint16_t next;
	bool enabled;
	uint64_t descriptors, available, used; /* in QEMU's addresses */
	int kick, call;
} queues[QUEUES] = { { .kick = -1, .call = -1 }, { .kick = -1, .call = -1 } };

/* --- vsock: virtio 1.2, 5.10 --- */

struct packet {
	uint64_t source_cid, target_cid;
	uint32_t source_port, target_port, bytes;
	uint16_t type, op;
	uint32_t flags, buffer, forwarded;
} __attribute__((packed));

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
#define STREAM 1
#define HOST_CID 2
#define BUFFER (256u << 10)
#define PAYLOAD_MAX (64u << 10)
#define CONNECTIONS_MAX 32

static uint64_t guest_cid;
static uint32_t last_port = 1u << 30;

static struct connection {
	int fd; /* -1: unused */
	enum { ASKED, WAITING, OPEN } state;
	uint32_t host_port, guest_port;
	uint32_t guest_buffer, guest_forwarded, sent; /* what the guest has room for */
	uint32_t forwarded, told;		      /* of what it sent */
	char line[32];
	unsigned int line_bytes;
	char *pending; /* for the client, BUFFER bytes */
	uint32_t pending_start, pending_end;
} connections[CONNECTIONS_MAX];

/* Answers that found no room with the guest. */
static struct packet owed[1024];
static unsigned int owed_count;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void *translate(uint64_t address, uint64_t bytes, bool user)
{
	for (unsigned int i = 0; i < region_count; i++) {
		struct region *r = &regions[i];
		uint64_t base = user ? r->user : r->guest;

		if (address >= base && address - base < r->bytes && bytes <= r->bytes - (address - base))
			return r->memory + (address - base);
	}
	return NULL;
}

static bool runs(const struct queue *q)
{
	return q->enabled && q->kick >= 0 && q->size && translate(q->used, 1, true);
}

/* The next chain's parts; -1: there is none. */
struct part {
	char *memory;
	uint32_t bytes;
};
static int queue_peek(struct queue *q, struct part *parts, int max, uint16_t *head)
{
	struct available *available = translate(q->available, 4 + 2 * q->size, true);
	struct descriptor *table = translate(q->descriptors, 16ull * q->size, true);
	int count = 0;
	uint16_t at;

	if (!available || !table || __atomic_load_n(&available->index, __ATOMIC_ACQUIRE) == q->next)
		return -1;
	at = *head = available->ring[q->next % q->size];
	while (count < max && at < q->size) {
		struct descriptor d = table[at];

		parts[count].memory = translate(d.address, d.bytes, false);
		parts[count].bytes = parts[count].memory ? d.bytes : 0;
		count++;
		if (!(d.flags & 1))
			break;
		at = d.next;
	}
	return count;
}

static void queue_put(struct queue *q, uint16_t head, uint32_t bytes)
{
	struct used *used = translate(q->used, 4 + 8 * q->size, true);
	struct available *available = translate(q->available, 4, true);
	uint64_t one = 1;

	q->next++;
	used->ring[used->index % q->size].id = head;
	used->ring[used->index % q->size].bytes = bytes;
	__atomic_store_n(&used->index, used->index + 1, __ATOMIC_RELEASE);
	atomic_thread_fence(memory_order_seq_cst);
	if (q->call >= 0 && !(available->flags & 1) && write(q->call, &one, sizeof(one)) < 0)
		perror("call");
}

/* Bytes of payload the guest's next buffer takes; -1: it has none. */
static int room(void)
{
	struct part parts[8];
	uint16_t head;
	int count, bytes = 0;

	if (!runs(&queues[RX]))
		return -1;
	count = queue_peek(&queues[RX], parts, 8, &head);
	for (int i = 0; i < count; i++)
		bytes += parts[i].bytes;
	return count < 0 ? -1 : bytes - (int)sizeof(struct packet);
}

static void scatter(const struct part *parts, int count, uint32_t at, const void *from, uint32_t bytes)
{
	for (int i = 0; i < count && bytes; i++) {
		uint32_t some;

		if (at >= parts[i].bytes) {
			at -= parts[i].bytes;
			continue;
		}
		some = parts[i].bytes - at < bytes ? parts[i].bytes - at : bytes;
		memcpy(parts[i].memory + at, from, some);
		from = (const char *)from + some;
		bytes -= some;
		at = 0;
	}
}

static void deliver(const struct packet *packet, const void *payload)
{
	struct part parts[8];
	uint16_t head;
	int count = queue_peek(&queues[RX], parts, 8, &head);

	scatter(parts, count, 0, packet, sizeof(*packet));
	scatter(parts, count, sizeof(*packet), payload, packet->bytes);
	queue_put(&queues[RX], head, sizeof(*packet) + packet->bytes);
}

static void pay(void)
{
	unsigned int paid = 0;

	while (paid < owed_count && room() >= 0)
		deliver(&owed[paid++], NULL);
	memmove(owed, owed + paid, (owed_count - paid) * sizeof(owed[0]));
	owed_count -= paid;
}

static void answer(struct packet packet)
{
	if (owed_count == sizeof(owed) / sizeof(owed[0])) {
		fprintf(stderr, "the guest takes no packets\n");
		exit(1);
	}
	owed[owed_count++] = packet;
	pay();
}

static struct packet packet_of(const struct connection *c, uint16_t op)
{
	return (struct packet){
		.source_cid = HOST_CID,
		.target_cid = guest_cid,
		.source_port = c->host_port,
		.target_port = c->guest_port,
		.type = STREAM,
		.op = op,
		.buffer = BUFFER,
		.forwarded = c->forwarded,
	};
}

static void drop(struct connection *c)
{
	close(c->fd);
	c->fd = -1;
	free(c->pending);
	c->pending = NULL;
}

static void drop_all(void)
{
	for (int i = 0; i < CONNECTIONS_MAX; i++)
		if (connections[i].fd >= 0)
			drop(&connections[i]);
	owed_count = 0;
}

/* The client has gone, or did what it may not. */
static void hang_up(struct connection *c)
{
	if (c->state != ASKED)
		answer(packet_of(c, RST));
	drop(c);
}

static void client_flush(struct connection *c)
{
	while (c->pending_start < c->pending_end) {
		ssize_t some = send(c->fd, c->pending + c->pending_start, c->pending_end - c->pending_start, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (some < 0)
			break;
		c->pending_start += some;
		c->forwarded += some;
	}
	if (c->pending_start == c->pending_end)
		c->pending_start = c->pending_end = 0;
	if (c->state == OPEN && c->forwarded - c->told > BUFFER / 2) {
		c->told = c->forwarded;
		answer(packet_of(c, CREDIT_UPDATE));
	}
}

static void client_take(struct connection *c, const struct part *parts, int count, uint32_t bytes)
{
	uint32_t skip = sizeof(struct packet);

	if (c->pending_end + bytes > BUFFER) {
		memmove(c->pending, c->pending + c->pending_start, c->pending_end - c->pending_start);
		c->pending_end -= c->pending_start;
		c->pending_start = 0;
	}
	if (c->pending_end + bytes > BUFFER) {
		hang_up(c);
		return;
	}
	for (int i = 0; i < count && bytes; i++) {
		uint32_t from = skip < parts[i].bytes ? skip : parts[i].bytes;
		uint32_t some = parts[i].bytes - from < bytes ? parts[i].bytes - from : bytes;

		skip -= from;
		memcpy(c->pending + c->pending_end, parts[i].memory + from, some);
		c->pending_end += some;
		bytes -= some;
	}
	client_flush(c);
}

static struct connection *connection_of(const struct packet *p)
{
	for (int i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *c = &connections[i];

		if (c->fd >= 0 && c->state != ASKED && c->host_port == p->target_port && c->guest_port == p->source_port)
			return c;
	}
	return NULL;
}

static void from_guest(const struct packet *p, const struct part *parts, int count)
{
	struct connection *c = connection_of(p);
	char line[32];
	int bytes;

	if (!c) {
		struct packet rst = {
			.source_cid = HOST_CID,
			.target_cid = guest_cid,
			.source_port = p->target_port,
			.target_port = p->source_port,
			.type = STREAM,
			.op = RST,
		};

		if (p->op != RST)
			answer(rst);
		return;
	}
	c->guest_buffer = p->buffer;
	c->guest_forwarded = p->forwarded;
	switch (p->op) {
	case RESPONSE:
		if (c->state != WAITING)
			break;
		c->state = OPEN;
		bytes = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
		if (send(c->fd, line, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != bytes)
			hang_up(c);
		break;
	case RW:
		client_take(c, parts, count, p->bytes);
		break;
	case CREDIT_REQUEST:
		answer(packet_of(c, CREDIT_UPDATE));
		break;
	case SHUTDOWN:
		client_flush(c);
		hang_up(c);
		break;
	case RST:
		client_flush(c);
		drop(c);
		break;
	}
}

static void queue_transmit(void)
{
	struct queue *q = &queues[TX];
	struct part parts[20];
	struct packet packet;
	uint16_t head;
	int count;

	while (runs(q) && (count = queue_peek(q, parts, 20, &head)) >= 0) {
		/* Both kernels send the header in one piece, alone or with the payload behind it. */
		if (count > 0 && parts[0].bytes >= sizeof(packet)) {
			memcpy(&packet, parts[0].memory, sizeof(packet));
			from_guest(&packet, parts, count);
		}
		queue_put(q, head, 0);
	}
}

static void client_ask(struct connection *c)
{
	unsigned int port;
	ssize_t some = recv(c->fd, c->line + c->line_bytes, 1, MSG_DONTWAIT);

	if (some <= 0) {
		if (some == 0 || errno != EAGAIN)
			drop(c);
		return;
	}
	if (c->line[c->line_bytes++] != '\n') {
		if (c->line_bytes == sizeof(c->line) - 1)
			drop(c);
		return;
	}
	c->line[c->line_bytes] = '\0';
	if (sscanf(c->line, "CONNECT %u\n", &port) != 1 || !runs(&queues[RX])) {
		drop(c);
		return;
	}
	c->host_port = ++last_port;
	c->guest_port = port;
	c->state = WAITING;
	answer(packet_of(c, REQUEST));
}

static uint32_t credit(const struct connection *c)
{
	uint32_t used = c->sent - c->guest_forwarded;

	return used < c->guest_buffer ? c->guest_buffer - used : 0;
}

static void client_read(struct connection *c)
{
	static char payload[PAYLOAD_MAX];
	struct packet packet;
	ssize_t some;
	uint32_t most;

	if (c->state == ASKED) {
		client_ask(c);
		return;
	}
	most = c->state == OPEN && !owed_count && room() > 0 ? (uint32_t)room() : 0;
	if (most > credit(c))
		most = credit(c);
	if (most > PAYLOAD_MAX)
		most = PAYLOAD_MAX;
	/* Without room only the end is looked for. */
	some = recv(c->fd, payload, most ? most : 1, MSG_DONTWAIT | (most ? 0 : MSG_PEEK));
	if (some == 0 || (some < 0 && errno != EAGAIN)) {
		hang_up(c);
		return;
	}
	if (some < 0 || !most)
		return;
	c->told = c->forwarded;
	packet = packet_of(c, RW);
	packet.bytes = some;
	c->sent += some;
	deliver(&packet, payload);
}

static bool wants_to_read(const struct connection *c)
{
	return c->state != OPEN || (!owed_count && room() > 0 && credit(c));
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8))
		fail(path);
	return fd;
}

static void client_come(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	for (int i = 0; fd >= 0 && i < CONNECTIONS_MAX; i++) {
		struct connection *c = &connections[i];

		if (c->fd >= 0)
			continue;
		*c = (struct connection){ .fd = fd, .state = ASKED, .pending = malloc(BUFFER) };
		return;
	}
	if (fd >= 0)
		close(fd);
}

static void memory_set(const struct vhost_message *m, const int *fds)
{
	for (unsigned int i = 0; i < region_count; i++)
		munmap(regions[i].mapping, regions[i].mapped);
	region_count = 0;
	for (unsigned int i = 0; i < m->body.memory.count && i < REGIONS_MAX; i++) {
		struct region *r = &regions[region_count++];
		uint64_t offset = m->body.memory.region[i].offset;

		r->guest = m->body.memory.region[i].guest;
		r->user = m->body.memory.region[i].user;
		r->bytes = m->body.memory.region[i].bytes;
		r->mapped = offset + r->bytes;
		r->mapping = mmap(NULL, r->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
		if (r->mapping == MAP_FAILED)
			fail("mmap");
		r->memory = (char *)r->mapping + offset;
	}
}

static void reply(int vmm, struct vhost_message *m, uint32_t size)
{
	m->header.flags = REPLY;
	m->header.size = size;
	if (send(vmm, m, sizeof(m->header) + size, MSG_NOSIGNAL) < 0)
		perror("reply");
}

static void set_fd(int *to, uint64_t number, int *fds)
{
	if (*to >= 0)
		close(*to);
	*to = number & NO_FD ? -1 : fds[0];
	fds[0] = -1;
}

/* False: the VMM is gone. */
static bool vmm_serve(int vmm)
{
	char control[CMSG_SPACE(REGIONS_MAX * sizeof(int))] __attribute__((aligned(8)));
	int fds[REGIONS_MAX] = { -1, -1, -1, -1, -1, -1, -1, -1 };
	struct vhost_message m = {};
	struct iovec part = { &m.header, sizeof(m.header) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct queue *q;

	if (recvmsg(vmm, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL) != sizeof(m.header) || m.header.size > sizeof(m.body))
		return false;
	if (m.header.size && recv(vmm, &m.body, m.header.size, MSG_WAITALL) != (ssize_t)m.header.size)
		return false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		if (c->cmsg_type == SCM_RIGHTS)
			memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	q = &queues[m.body.number & 0xff ? TX : RX];
	switch (m.header.request) {
	case GET_FEATURES:
		m.body.number = FEATURES;
		reply(vmm, &m, 8);
		break;
	case GET_PROTOCOL_FEATURES:
		m.body.number = PROTOCOL_FEATURES;
		reply(vmm, &m, 8);
		break;
	case GET_QUEUE_NUM:
		m.body.number = QUEUES;
		reply(vmm, &m, 8);
		break;
	case GET_CONFIG:
		memset(m.body.config.bytes, 0, sizeof(m.body.config.bytes));
		memcpy(m.body.config.bytes, &guest_cid, sizeof(guest_cid));
		reply(vmm, &m, m.header.size);
		break;
	case SET_MEM_TABLE:
		memory_set(&m, fds);
		break;
	case SET_VRING_NUM:
		q->size = m.body.state.value;
		break;
	case SET_VRING_ADDR:
		q->descriptors = m.body.addresses.descriptors;
		q->available = m.body.addresses.available;
		q->used = m.body.addresses.used;
		break;
	case SET_VRING_BASE:
		q->next = m.body.state.value;
		break;
	case GET_VRING_BASE:
		/* The guest reboots, or the device goes. */
		drop_all();
		q->enabled = false;
		m.body.state.value = q->next;
		reply(vmm, &m, 8);
		break;
	case SET_VRING_KICK:
		set_fd(&q->kick, m.body.number, fds);
		break;
	case SET_VRING_CALL:
		set_fd(&q->call, m.body.number, fds);
		break;
	case SET_VRING_ENABLE:
		q->enabled = m.body.state.value;
		break;
	}
	for (int i = 0; i < REGIONS_MAX; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return true;
}

int main(int argc, char **argv)
{
	int vmm_listener, host_listener, vmm = -1;

	if (argc != 4) {
		fprintf(stderr, "usage: %s VHOST-SOCKET HYBRID-SOCKET CID\n", argv[0]);
		return 2;
	}
	guest_cid = strtoull(argv[3], NULL, 10);
	vmm_listener = listen_at(argv[1]);
	host_listener = listen_at(argv[2]);
	for (int i = 0; i < CONNECTIONS_MAX; i++)
		connections[i].fd = -1;
	puts("listening");
	fflush(stdout);

	for (;;) {
		enum { VMM, HOST, KICK, CLIENTS = KICK + QUEUES };
		struct pollfd set[CLIENTS + CONNECTIONS_MAX] = {
			[VMM] = { vmm < 0 ? vmm_listener : vmm, POLLIN, 0 },
			[HOST] = { host_listener, POLLIN, 0 },
			[KICK + RX] = { queues[RX].kick, POLLIN, 0 },
			[KICK + TX] = { queues[TX].kick, POLLIN, 0 },
		};
		uint64_t kicks;

		for (int i = 0; i < CONNECTIONS_MAX; i++) {
			const struct connection *c = &connections[i];
			short events = (wants_to_read(c) ? POLLIN : POLLRDHUP) | (c->pending_end ? POLLOUT : 0);

			set[CLIENTS + i] = (struct pollfd){ c->fd, c->fd < 0 ? 0 : events, 0 };
		}
		if (poll(set, sizeof(set) / sizeof(set[0]), -1) < 0 && errno != EINTR)
			fail("poll");

		for (int i = 0; i < CONNECTIONS_MAX; i++) {
			struct connection *c = &connections[i];

			if (c->fd < 0 || c->fd != set[CLIENTS + i].fd)
				continue;
			if (set[CLIENTS + i].revents & POLLOUT)
				client_flush(c);
			if (set[CLIENTS + i].revents & ~POLLOUT)
				client_read(c);
		}
		for (int i = 0; i < QUEUES; i++)
			if (set[KICK + i].revents & POLLIN && read(queues[i].kick, &kicks, sizeof(kicks)) < 0)
				perror("kick");
		queue_transmit();
		pay();
		if (set[HOST].revents)
			client_come(host_listener);
		if (!set[VMM].revents)
			continue;
		if (vmm < 0) {
			vmm = accept4(vmm_listener, NULL, NULL, SOCK_CLOEXEC);
		} else if (!vmm_serve(vmm)) {
			close(vmm);
			vmm = -1;
			drop_all();
			queues[RX].enabled = queues[TX].enabled = false;
		}
	}
}
