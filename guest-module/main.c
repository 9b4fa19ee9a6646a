// SPDX-License-Identifier: GPL-2.0-only
/* Loading and unloading the frontend. */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "vesper.h"

unsigned int vesper_image_kib = 1024;
module_param_named(image_kib, vesper_image_kib, uint, 0444);
MODULE_PARM_DESC(image_kib, "largest probe image in KiB, 16 to 4096; as much memory is set aside (default 1024)");

unsigned int vesper_write_timeout_ms = 3000;
module_param_named(write_timeout_ms, vesper_write_timeout_ms, uint, 0644);
MODULE_PARM_DESC(write_timeout_ms, "how long a host may leave the control channel unread before its session ends, in ms (default 3000)");

unsigned int vesper_revoke_timeout_ms = 1000;
module_param_named(revoke_timeout_ms, vesper_revoke_timeout_ms, uint, 0644);
MODULE_PARM_DESC(revoke_timeout_ms, "how long to wait for the host to unmap a region that goes away, in ms (default 1000)");

char *vesper_channel_choice = "auto";
module_param_named(channel, vesper_channel_choice, charp, 0444);
MODULE_PARM_DESC(channel, "what carries the control channel: virtio-serial, vsock, or auto: both, as the host likes (default auto)");

bool vesper_vsock_reserved;
module_param_named(vsock_reserved, vesper_vsock_reserved, bool, 0644);
MODULE_PARM_DESC(vsock_reserved,
		 "vsock: listen only to hosts that call from a port below 1024, which takes privileges on the host (default N)");

static int __init vesper_init(void)
{
	int err;

	vesper_image_kib = clamp(vesper_image_kib, 16u, VESPER_IMAGE_MAX / 1024);
	err = vesper_symbol_init();
	if (err)
		return err;
	vesper_identity_init();
	vesper_entry_init();
	err = vesper_slot_init();
	if (err)
		goto err_entry;
	/* The loader uses the space that the channel thread makes and frees; before and after that it has nothing to do. */
	err = vesper_loader_start();
	if (err)
		goto err_slot;
	err = vesper_channel_start();
	if (err)
		goto err_loader;
	err = vesper_ivshmem_init();
	if (err)
		goto err_channel;
	vesper_panic_init();
	pr_info("frontend %s ready\n", VESPER_FRONTEND_VERSION);
	return 0;

err_channel:
	vesper_loader_stop();
	vesper_channel_stop();
	goto err_slot;
err_loader:
	vesper_loader_stop();
err_slot:
	vesper_slot_exit();
err_entry:
	vesper_entry_exit();
	return err;
}

/* No probe is loaded any more: each holds this module. */
static void __exit vesper_exit(void)
{
	vesper_panic_exit();
	/* Takes every region away, telling the host while the channel still runs. */
	vesper_ivshmem_exit();
	vesper_pages_exit();
	vesper_inline_exit();
	vesper_loader_stop();
	vesper_channel_stop();
	vesper_inline_open(NULL, 0);
	vesper_slot_exit();
	vesper_entry_exit();
}

module_init(vesper_init);
module_exit(vesper_exit);

MODULE_AUTHOR("The VESPER authors");
MODULE_DESCRIPTION("VESPER frontend: lets the hypervisor host attach kernel probes to this running guest");
MODULE_LICENSE("GPL");
MODULE_VERSION(VESPER_FRONTEND_VERSION);
MODULE_SOFTDEP("pre: virtio_console virtio_pci vmw_vsock_virtio_transport");
