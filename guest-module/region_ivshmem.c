// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions in QEMU's ivshmem devices. Such devices serve other purposes too: only one whose memory the host has stamped is taken.
 */
#include <linux/io.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include "vesper.h"

#define IVSHMEM_VENDOR 0x1af4
#define IVSHMEM_DEVICE 0x1110
#define REGISTER_BAR 0
#define MEMORY_BAR 2
#define REGISTER_BYTES 16
#define DOORBELL_REGISTER 12

/* Without them everything works, only the doorbell takes the channel. */
static void ivshmem_map_registers(struct pci_dev *device, struct vesper_region_memory *region)
{
	void __iomem *registers;

	if (pci_resource_len(device, REGISTER_BAR) < REGISTER_BYTES || pci_request_region(device, REGISTER_BAR, "vesper"))
		return;
	registers = pci_iomap(device, REGISTER_BAR, REGISTER_BYTES);
	if (registers)
		region->doorbell = registers + DOORBELL_REGISTER;
	else
		pci_release_region(device, REGISTER_BAR);
}

static void ivshmem_unmap_registers(struct pci_dev *device, struct vesper_region_memory *region)
{
	if (!region->doorbell)
		return;
	pci_iounmap(device, region->doorbell - DOORBELL_REGISTER);
	pci_release_region(device, REGISTER_BAR);
}

static int ivshmem_map(struct pci_dev *device, struct vesper_region_memory *region)
{
	int err;

	region->bytes = pci_resource_len(device, MEMORY_BAR);
	err = pci_enable_device_mem(device);
	if (err)
		return err;
	err = pci_request_region(device, MEMORY_BAR, "vesper");
	if (err)
		goto err_disable;
	region->memory = memremap(pci_resource_start(device, MEMORY_BAR), region->bytes, MEMREMAP_WB);
	if (!region->memory) {
		err = -ENOMEM;
		goto err_release;
	}
	err = vesper_region_check(region, pci_resource_len(device, MEMORY_BAR));
	if (err)
		goto err_unmap;
	ivshmem_map_registers(device, region);
	return 0;

err_unmap:
	memunmap(region->memory);
	region->memory = NULL;
err_release:
	pci_release_region(device, MEMORY_BAR);
err_disable:
	pci_disable_device(device);
	return err;
}

static int ivshmem_probe(struct pci_dev *device, const struct pci_device_id *id)
{
	struct vesper_region_memory *region = kzalloc(sizeof(*region), GFP_KERNEL);
	int err;

	if (!region)
		return -ENOMEM;
	region->backend = VESPER_BACKEND_IVSHMEM;
	/*
	 * A BAR that found no address (a bridge's window is too small: the kernel leaves an empty resource) cannot be read, so
	 * nobody knows whose it is: it is taken, and the host is told, for it believes the memory is there.
	 */
	if (!pci_resource_len(device, MEMORY_BAR) || (pci_resource_flags(device, MEMORY_BAR) & IORESOURCE_UNSET)) {
		region->error = -ENOSPC;
	} else {
		err = ivshmem_map(device, region);
		if (err)
			goto err_free;
	}
	pci_set_drvdata(device, region);
	vesper_region_add(region);
	if (region->error)
		pci_warn(device, "the shared region cannot be used (%d)\n", region->error);
	return 0;

err_free:
	kfree(region);
	return err;
}

static void ivshmem_remove(struct pci_dev *device)
{
	struct vesper_region_memory *region = pci_get_drvdata(device);

	vesper_region_remove(region, -ENODEV);
	if (region->memory) {
		ivshmem_unmap_registers(device, region);
		memunmap(region->memory);
		pci_release_region(device, MEMORY_BAR);
		pci_disable_device(device);
	}
	kfree(region);
}

static const struct pci_device_id ivshmem_ids[] = {
	{ PCI_DEVICE(IVSHMEM_VENDOR, IVSHMEM_DEVICE) },
	{}
};
MODULE_DEVICE_TABLE(pci, ivshmem_ids);

static struct pci_driver ivshmem_driver = {
	.name = "vesper",
	.id_table = ivshmem_ids,
	.probe = ivshmem_probe,
	.remove = ivshmem_remove,
};

int vesper_ivshmem_init(void)
{
	return pci_register_driver(&ivshmem_driver);
}

void vesper_ivshmem_exit(void)
{
	pci_unregister_driver(&ivshmem_driver);
}
