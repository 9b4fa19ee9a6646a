// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds the port by its name, in the words of the kernel's stable interface: /sys/class/virtio-ports/<node>/name, on a sysfs
 * mount of our own. (The class and virtio_console's structures are private to it and change.)
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/string.h>

#include "vesper.h"

#define PORT_CLASS "class/virtio-ports"
#define NODE_BYTES 32
#define BATCH 8

struct port_list {
	struct dir_context context;
	unsigned int count;
	char node[BATCH][NODE_BYTES];
};

/* Runs under the folder's lock: only remembers the names. False: full, go on from here later. */
static bool port_list_add(struct dir_context *context, const char *name, int length, loff_t offset, u64 inode, unsigned int type)
{
	struct port_list *list = container_of(context, struct port_list, context);

	if (length <= 0 || length >= NODE_BYTES || name[0] == '.')
		return true;
	if (list->count == BATCH)
		return false;
	memcpy(list->node[list->count], name, length);
	list->node[list->count++][length] = '\0';
	return true;
}

/* Whether it has, or negative errno. */
static int port_has_our_name(struct vfsmount *sysfs, const char *node)
{
	char path[sizeof(PORT_CLASS "//name") + NODE_BYTES];
	char name[sizeof(VESPER_PORT_NAME) + 2] = "";
	loff_t position = 0;
	struct file *file;
	ssize_t bytes;

	snprintf(path, sizeof(path), PORT_CLASS "/%s/name", node);
	file = file_open_root_mnt(sysfs, path, O_RDONLY, 0);
	/* Missing until the host has sent the name; the uevent that follows it makes us look again. */
	if (IS_ERR(file))
		return PTR_ERR(file) == -ENOENT ? 0 : PTR_ERR(file);
	bytes = kernel_read(file, name, sizeof(name) - 1, &position);
	__fput_sync(file);
	return bytes > 0 && sysfs_streq(name, VESPER_PORT_NAME);
}

/* -ENODEV: there is none, for now. */
int vesper_port_search(struct vfsmount *sysfs, char *node, size_t bytes)
{
	struct port_list list = { .context.actor = port_list_add };
	struct file *folder = file_open_root_mnt(sysfs, PORT_CLASS, O_RDONLY | O_DIRECTORY, 0);
	int err;

	/* No such class before virtio_console is there. */
	if (IS_ERR(folder))
		return PTR_ERR(folder) == -ENOENT ? -ENODEV : PTR_ERR(folder);
	do {
		list.count = 0;
		err = iterate_dir(folder, &list.context);
		for (unsigned int i = 0; !err && i < list.count; i++) {
			int ours = port_has_our_name(sysfs, list.node[i]);

			if (!ours)
				continue;
			strscpy(node, list.node[i], bytes);
			__fput_sync(folder);
			return min(ours, 0);
		}
	} while (!err && list.count == BATCH);
	__fput_sync(folder);
	return err ?: -ENODEV;
}
