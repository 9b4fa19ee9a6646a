// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control channel over vsock: a kernel socket that listens, for with the vsock of Firecracker and its kin only the host can call.
 * One host at a time. Only the hypervisor is listened to: to the kernel's privileges no process of this guest (vsock's loopback) and
 * no other guest may talk.
 *
 * No symbol of vsock is needed, so that the frontend loads without it. Its module is not asked for either (that would wait for a
 * process, and there may be none): it comes with the device's driver, and a uevent tells. Held open, it cannot be unloaded.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/net.h>
#include <linux/sched/mm.h>
#include <linux/string.h>
#include <linux/vm_sockets.h>
#include <linux/wait.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "vesper.h"

/* A write makes the transport allocate as much: keep to what a guest short of memory still has. */
#define WRITE_MAX PAGE_SIZE
#define BACKLOG 8
#define PORT_RESERVED_MAX 1023

struct watched_socket {
	struct socket *socket;
	wait_queue_entry_t wait;
};

static struct vfsmount *sysfs;
static struct watched_socket listener;
static struct watched_socket host;

static int vsock_init(void)
{
	struct file_system_type *type = get_fs_type("sysfs");

	sysfs = type ? kern_mount(type) : ERR_PTR(-ENODEV);
	return PTR_ERR_OR_ZERO(sysfs);
}

static void vsock_exit(void)
{
	kern_unmount(sysfs);
}

static int socket_woken(wait_queue_entry_t *wait, unsigned int mode, int flags, void *key)
{
	vesper_channel_wake(VESPER_CHANNEL_READY);
	return 0;
}

/*
 * The socket's own wait queue, not its callbacks: those are called without any lock when the device goes, and could not be taken
 * back safely.
 */
static void socket_watch(struct watched_socket *watched, struct socket *socket)
{
	watched->socket = socket;
	init_waitqueue_func_entry(&watched->wait, socket_woken);
	add_wait_queue(sk_sleep(socket->sk), &watched->wait);
	/* Pairs with the one in skwq_has_sleeper(): either the sender sees us waiting, or we see what it sent. */
	smp_mb();
}

static void socket_release(struct watched_socket *watched)
{
	if (!watched->socket)
		return;
	remove_wait_queue(sk_sleep(watched->socket->sk), &watched->wait);
	sock_release(watched->socket);
	watched->socket = NULL;
}

/* Whether vsock is loaded and has done its init; sock_create_kern() would call for a process that loads it. */
static int vsock_is_there(void)
{
	struct file *file = file_open_root_mnt(sysfs, "module/vsock", O_RDONLY | O_DIRECTORY, 0);
	char state[8] = "";
	loff_t position = 0;
	ssize_t bytes;

	if (IS_ERR(file))
		return PTR_ERR(file) == -ENOENT ? -ENODEV : PTR_ERR(file);
	__fput_sync(file);
	file = file_open_root_mnt(sysfs, "module/vsock/initstate", O_RDONLY, 0);
	/* Built in: it has none. */
	if (IS_ERR(file))
		return PTR_ERR(file) == -ENOENT ? 0 : PTR_ERR(file);
	bytes = kernel_read(file, state, sizeof(state) - 1, &position);
	__fput_sync(file);
	return bytes > 0 && sysfs_streq(state, "live") ? 0 : -ENODEV;
}

static int vsock_open(void)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_port = VESPER_VSOCK_PORT,
		.svm_cid = VMADDR_CID_ANY,
	};
	struct socket *socket;
	int err;

	err = vsock_is_there();
	if (err)
		return err;
	err = sock_create_kern(&init_net, AF_VSOCK, SOCK_STREAM, 0, &socket);
	if (err)
		return err == -EAFNOSUPPORT ? -ENODEV : err;
	err = kernel_bind(socket, (struct sockaddr *)&address, sizeof(address));
	if (!err)
		err = kernel_listen(socket, BACKLOG);
	if (err) {
		sock_release(socket);
		return err;
	}
	socket_watch(&listener, socket);
	pr_info("control channel on vsock port %u\n", VESPER_VSOCK_PORT);
	return 0;
}

static void vsock_close(void)
{
	socket_release(&host);
	socket_release(&listener);
}

static bool vsock_is_open(void)
{
	return listener.socket;
}

static bool is_hypervisor(struct socket *socket)
{
	struct sockaddr_vm peer = {};

	/* The number the device's other end gave itself: loopback and other guests have theirs. */
	return kernel_getpeername(socket, (struct sockaddr *)&peer) >= 0 && peer.svm_cid == VMADDR_CID_HOST &&
	       (!vesper_vsock_reserved || peer.svm_port <= PORT_RESERVED_MAX);
}

static bool vsock_accept(bool busy)
{
	bool came = false;
	struct socket *socket;

	/* Without anybody in the backlog accept() would wait for a tick, also where it may not. */
	while (READ_ONCE(listener.socket->sk->sk_ack_backlog) && !kernel_accept(listener.socket, &socket, O_NONBLOCK)) {
		if (!is_hypervisor(socket)) {
			pr_warn_ratelimited("somebody who is not the hypervisor called on vsock\n");
			sock_release(socket);
			continue;
		}
		if (busy || came) {
			sock_release(socket);
			continue;
		}
		socket_release(&host);
		socket_watch(&host, socket);
		came = true;
	}
	return came;
}

static ssize_t vsock_read(void *to, size_t bytes)
{
	struct kvec vector = { .iov_base = to, .iov_len = bytes };
	struct msghdr message = { .msg_flags = MSG_DONTWAIT };
	unsigned int flags;
	int taken;

	if (!host.socket)
		return 0;
	/* Tells the sender that there is room again. */
	flags = memalloc_noreclaim_save();
	taken = kernel_recvmsg(host.socket, &message, &vector, 1, bytes, MSG_DONTWAIT);
	memalloc_noreclaim_restore(flags);
	if (taken > 0 || taken == -EAGAIN)
		return taken;
	socket_release(&host);
	return -ECONNRESET;
}

static ssize_t vsock_write(const void *from, size_t bytes)
{
	size_t some = min_t(size_t, bytes, WRITE_MAX);
	struct kvec vector = { .iov_base = (void *)from, .iov_len = some };
	struct msghdr message = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	unsigned int flags;
	int taken;

	if (!host.socket)
		return -EAGAIN;
	flags = memalloc_noreclaim_save();
	taken = kernel_sendmsg(host.socket, &message, &vector, 1, some);
	memalloc_noreclaim_restore(flags);
	return taken == -ENOMEM || taken == 0 ? -EAGAIN : taken;
}

const struct vesper_transport vesper_transport_vsock = {
	.name = "vsock",
	.init = vsock_init,
	.exit = vsock_exit,
	.open = vsock_open,
	.close = vsock_close,
	.is_open = vsock_is_open,
	.accept = vsock_accept,
	.read = vsock_read,
	.write = vsock_write,
};
