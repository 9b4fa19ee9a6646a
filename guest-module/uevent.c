// SPDX-License-Identifier: GPL-2.0-only
/*
 * Listens to the kernel's uevents as udev would, with a socket of our own: a port's name becomes readable only after the port was
 * added, and the uevent then is the one notice of it (a class interface would come too early). A module's comes when it is live.
 */
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/socket.h>
#include <linux/string.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "vesper.h"

#define KERNEL_GROUP 1

static struct socket *uevents;
static void (*old_data_ready)(struct sock *sk);
static void (*old_error_report)(struct sock *sk);

/* Also when one was dropped for want of memory. */
static void uevent_arrived(struct sock *sk)
{
	vesper_channel_wake(VESPER_CHANNEL_SEARCH);
}

int vesper_uevent_init(void)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = KERNEL_GROUP };
	int err;

	err = sock_create_kern(&init_net, AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT, &uevents);
	if (err)
		return err;
	write_lock_bh(&uevents->sk->sk_callback_lock);
	old_data_ready = uevents->sk->sk_data_ready;
	old_error_report = uevents->sk->sk_error_report;
	uevents->sk->sk_data_ready = uevent_arrived;
	uevents->sk->sk_error_report = uevent_arrived;
	write_unlock_bh(&uevents->sk->sk_callback_lock);
	err = kernel_bind(uevents, (struct sockaddr *)&address, sizeof(address));
	if (err)
		vesper_uevent_exit();
	return err;
}

void vesper_uevent_exit(void)
{
	write_lock_bh(&uevents->sk->sk_callback_lock);
	uevents->sk->sk_data_ready = old_data_ready;
	uevents->sk->sk_error_report = old_error_report;
	write_unlock_bh(&uevents->sk->sk_callback_lock);
	/* Takes the socket off the multicast list under the lock that senders hold: no callback is under way afterwards. */
	sock_release(uevents);
}

/* "add@/devices/pci…/virtio3", "change@/devices/pci…/virtio3/virtio-ports/vport3p1", "add@/module/vsock" */
static bool is_wanted(const char *text, size_t bytes)
{
	return strnstr(text, "/virtio", bytes) || strnstr(text, "/module/vsock", bytes);
}

/* Takes all messages; true where something to open may have come. */
bool vesper_uevent_drain(void)
{
	char text[256];
	bool found = false;
	int bytes;

	do {
		struct msghdr message = { .msg_flags = MSG_DONTWAIT };
		struct kvec vector = { .iov_base = text, .iov_len = sizeof(text) };

		bytes = kernel_recvmsg(uevents, &message, &vector, 1, sizeof(text), MSG_DONTWAIT);
		/* After an overrun (-ENOBUFS) anything may have happened. */
		if (bytes == -ENOBUFS || (bytes > 0 && is_wanted(text, min_t(size_t, bytes, sizeof(text)))))
			found = true;
	} while (bytes > 0 || bytes == -ENOBUFS);
	return found;
}
