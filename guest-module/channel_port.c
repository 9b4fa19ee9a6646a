// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control channel's port: one of virtio_console's, opened through a devtmpfs mount that only this module has, so that no
 * device node in any process's view, no udev and no mount is needed. virtio_console and other ports (qemu-ga) go on as they are.
 *
 * Everything is non-blocking; the port's wait queue wakes the channel thread.
 */
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/wait.h>

#include "vesper.h"

/* A write makes virtio_console allocate as much: keep to what a guest short of memory still has. */
#define WRITE_MAX PAGE_SIZE

static struct vfsmount *devtmpfs;
static struct vfsmount *sysfs;

static struct {
	struct file *file;
	wait_queue_head_t *queue;
	wait_queue_entry_t wait;
	poll_table poll;
} port;

static struct vfsmount *mount_internally(const char *name)
{
	struct file_system_type *type = get_fs_type(name);

	return type ? kern_mount(type) : ERR_PTR(-ENODEV);
}

static int port_init(void)
{
	devtmpfs = mount_internally("devtmpfs");
	if (IS_ERR(devtmpfs))
		return PTR_ERR(devtmpfs);
	sysfs = mount_internally("sysfs");
	if (IS_ERR(sysfs)) {
		kern_unmount(devtmpfs);
		return PTR_ERR(sysfs);
	}
	return 0;
}

static void port_exit(void)
{
	kern_unmount(sysfs);
	kern_unmount(devtmpfs);
}

static int port_woken(wait_queue_entry_t *wait, unsigned int mode, int flags, void *key)
{
	vesper_channel_wake(VESPER_CHANNEL_READY);
	return 0;
}

static void port_watch(struct file *file, wait_queue_head_t *queue, poll_table *poll)
{
	if (port.queue)
		return;
	port.queue = queue;
	init_waitqueue_func_entry(&port.wait, port_woken);
	add_wait_queue(queue, &port.wait);
}

/* -EMFILE, -EBUSY: another program holds it. */
static int port_open(void)
{
	char node[32];
	struct file *file;
	int err;

	err = vesper_port_search(sysfs, node, sizeof(node));
	if (err)
		/* -ENXIO: it is just going away. */
		return err == -ENXIO ? -ENODEV : err;
	file = file_open_root_mnt(devtmpfs, node, O_RDWR | O_NONBLOCK, 0);
	if (IS_ERR(file))
		return PTR_ERR(file) == -ENXIO ? -ENODEV : PTR_ERR(file);
	/* Kernel helpers refuse a driver that has no read_iter; the operations are called with the space's user pointers instead. */
	if (!file->f_op->read || !file->f_op->write || !file->f_op->poll) {
		__fput_sync(file);
		return -EOPNOTSUPP;
	}
	port.file = file;
	port.queue = NULL;
	init_poll_funcptr(&port.poll, port_watch);
	vfs_poll(file, &port.poll);
	pr_info("control channel on %s\n", node);
	return 0;
}

static void port_close(void)
{
	if (!port.file)
		return;
	if (port.queue)
		remove_wait_queue(port.queue, &port.wait);
	/* At once: fput() of a kernel thread is done later, and a port that still counts as open cannot be opened again. */
	__fput_sync(port.file);
	port.file = NULL;
}

static bool port_is_open(void)
{
	return port.file;
}

/* `to` lies in the space. */
static ssize_t port_read(void *to, size_t bytes)
{
	loff_t position = 0;

	return port.file->f_op->read(port.file, vesper_space_user(to), bytes, &position);
}

/* `from` lies in the space. */
static ssize_t port_write(const void *from, size_t bytes)
{
	unsigned int flags = memalloc_noreclaim_save();
	loff_t position = 0;
	ssize_t taken;

	taken = port.file->f_op->write(port.file, vesper_space_user(from), min_t(size_t, bytes, WRITE_MAX), &position);
	memalloc_noreclaim_restore(flags);
	/* virtio_console says 0 where the queue was full after all. */
	return taken ?: -EAGAIN;
}

const struct vesper_transport vesper_transport_port = {
	.name = "virtio-serial",
	.init = port_init,
	.exit = port_exit,
	.open = port_open,
	.close = port_close,
	.is_open = port_is_open,
	.read = port_read,
	.write = port_write,
};
