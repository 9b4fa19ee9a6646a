// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control channel on a virtio-serial controller that belongs to VESPER, with a driver of our own: it needs neither virtio_console
 * nor devtmpfs, and nothing that a process does with ports touches it.
 *
 * The host marks such a controller by its PCI class: "class=0xff" of QEMU's virtio-serial-pci, which no controller has unasked. It
 * can be seen without touching the device, so no other controller is ever disturbed. virtio_console, which takes every controller,
 * has to give this one away, and gets it back when the frontend is unloaded.
 */
#include <linux/device.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include "vesper.h"

/* PCI_CLASS_OTHERS in QEMU's words, and the programming interface. */
#define CLASS_OF_OURS (0x00ff << 8)

/* Outside of it a controller may go at any time; none of the channel thread's calls into the driver core holds it. */
static DEFINE_MUTEX(serial_lock);
static struct vesper_serial *serial;

/* Only the channel thread uses it: it has not closed what it opened, be the controller there or not. */
static bool serial_opened;

static int serial_probe(struct virtio_device *device)
{
	struct vesper_serial *created;
	int err;

	if (!virtio_has_feature(device, VIRTIO_CONSOLE_F_MULTIPORT)) {
		dev_warn(&device->dev, "a controller for VESPER needs max_ports=2\n");
		return -ENODEV;
	}
	created = vesper_serial_create(device);
	if (!created)
		return -ENOMEM;
	mutex_lock(&serial_lock);
	err = serial ? -EBUSY : vesper_serial_start(created);
	if (!err)
		serial = created;
	mutex_unlock(&serial_lock);
	if (err)
		vesper_serial_destroy(created);
	return err;
}

static void serial_remove(struct virtio_device *device)
{
	mutex_lock(&serial_lock);
	vesper_serial_stop(serial);
	vesper_serial_destroy(serial);
	serial = NULL;
	mutex_unlock(&serial_lock);
	vesper_channel_wake(VESPER_CHANNEL_READY);
}

#ifdef CONFIG_PM
static int serial_freeze(struct virtio_device *device)
{
	mutex_lock(&serial_lock);
	vesper_serial_stop(serial);
	mutex_unlock(&serial_lock);
	return 0;
}

static int serial_restore(struct virtio_device *device)
{
	int err;

	mutex_lock(&serial_lock);
	err = vesper_serial_start(serial);
	mutex_unlock(&serial_lock);
	vesper_channel_wake(VESPER_CHANNEL_READY);
	return err;
}
#endif

/* Of all devices of the bus none: they are bound by hand, for probing a device of others would leave its status changed. */
static const struct virtio_device_id no_ids[] = { {} };
static const unsigned int serial_features[] = { VIRTIO_CONSOLE_F_MULTIPORT };

static struct virtio_driver serial_driver = {
	.driver = {
		.name = "vesper",
		.owner = THIS_MODULE,
		.suppress_bind_attrs = true,
	},
	.id_table = no_ids,
	.feature_table = serial_features,
	.feature_table_size = ARRAY_SIZE(serial_features),
	.probe = serial_probe,
	.remove = serial_remove,
#ifdef CONFIG_PM
	.freeze = serial_freeze,
	.restore = serial_restore,
#endif
};

static int serial_init(void)
{
	return register_virtio_driver(&serial_driver);
}

static void serial_exit(void)
{
	unregister_virtio_driver(&serial_driver);
}

struct controller_search {
	const struct device *parent;
	struct device *found;
};

static int keep_child(struct device *device, void *data)
{
	struct controller_search *search = data;

	if (device->parent != search->parent || dev_to_virtio(device)->id.device != VIRTIO_ID_CONSOLE)
		return 0;
	search->found = get_device(device);
	return 1;
}

/*
 * A reference to it, or NULL. From the PCI device down, which cannot go meanwhile; over the bus, for among its parent's children a
 * device is found too late: after the uevent that tells of it.
 */
static struct device *controller_find(void)
{
	struct controller_search search = {};
	struct pci_dev *pci = NULL;

	while (!search.found && (pci = pci_get_class(CLASS_OF_OURS, pci))) {
		search.parent = &pci->dev;
		bus_for_each_dev(serial_driver.driver.bus, NULL, &search, keep_child);
	}
	pci_dev_put(pci);
	return search.found;
}

/* Waits for work of virtio_console's. */
static void serial_prepare(void)
{
	struct device *controller = controller_find();

	if (!controller)
		return;
	device_release_driver(controller);
	put_device(controller);
}

static int serial_open(void)
{
	struct device *controller = controller_find();
	int err;

	if (!controller)
		return -ENODEV;
	err = device_driver_attach(&serial_driver.driver, controller);
	if (!err) {
		serial_opened = true;
		pr_info("control channel on a controller of its own, %s\n", dev_name(controller));
	}
	put_device(controller);
	return err;
}

static void serial_close(void)
{
	struct device *controller = NULL;

	if (!serial_opened)
		return;
	serial_opened = false;
	mutex_lock(&serial_lock);
	if (serial)
		controller = get_device(vesper_serial_device(serial));
	mutex_unlock(&serial_lock);
	if (!controller)
		return;
	device_release_driver(controller);
	/* Whatever driver wants it; there may be none. */
	if (device_attach(controller) < 0)
		dev_warn(controller, "no other driver could take it back\n");
	put_device(controller);
}

static bool serial_is_open(void)
{
	return serial_opened;
}

static ssize_t serial_read(void *to, size_t bytes)
{
	ssize_t taken;

	mutex_lock(&serial_lock);
	taken = serial ? vesper_serial_read(serial, to, bytes) : -ENODEV;
	mutex_unlock(&serial_lock);
	return taken;
}

static ssize_t serial_write(const void *from, size_t bytes)
{
	ssize_t taken;

	mutex_lock(&serial_lock);
	taken = serial ? vesper_serial_write(serial, from, bytes) : -EAGAIN;
	mutex_unlock(&serial_lock);
	return taken;
}

const struct vesper_transport vesper_transport_serial = {
	.name = "virtio-serial",
	.init = serial_init,
	.exit = serial_exit,
	.prepare = serial_prepare,
	.open = serial_open,
	.close = serial_close,
	.is_open = serial_is_open,
	.read = serial_read,
	.write = serial_write,
};
