// SPDX-License-Identifier: GPL-2.0-only
/* How the rings lie in a region; host/wire/region.ts has the picture. */
#include <linux/align.h>
#include <linux/cpumask.h>
#include <linux/log2.h>
#include <linux/string.h>

#include "vesper.h"

static bool ring_bytes_valid(u32 bytes)
{
	return is_power_of_2(bytes) && bytes >= VESPER_RING_MIN && bytes <= 1u << 30;
}

int vesper_layout_plan(struct vesper_layout *layout, const struct vesper_activate *activate, u64 region_bytes)
{
	u32 cpus = num_possible_cpus();

	layout->cpus = cpus;
	layout->rings = 2 * cpus;
	layout->ring_bytes[VESPER_RING_CRITICAL] = le32_to_cpu(activate->critical_ring_bytes);
	layout->ring_bytes[VESPER_RING_OTHER] = le32_to_cpu(activate->ring_bytes);
	if (!ring_bytes_valid(layout->ring_bytes[0]) || !ring_bytes_valid(layout->ring_bytes[1]))
		return -EINVAL;
	layout->header_bytes = ALIGN(VESPER_DIRECTORY_OFFSET + layout->rings * sizeof(struct vesper_ring_entry), VESPER_REGION_PAGE);
	layout->data_offset = layout->header_bytes + ALIGN(layout->rings * VESPER_RING_BLOCK, VESPER_REGION_PAGE);
	layout->total_bytes = layout->data_offset + (u64)cpus * layout->ring_bytes[0] + (u64)cpus * layout->ring_bytes[1];
	return layout->total_bytes <= region_bytes ? 0 : -ENOSPC;
}

u64 vesper_layout_block(const struct vesper_layout *layout, u32 index)
{
	return layout->header_bytes + index * VESPER_RING_BLOCK;
}

u64 vesper_layout_data(const struct vesper_layout *layout, u32 index)
{
	u64 cpu_bytes = (u64)layout->ring_bytes[0] + layout->ring_bytes[1];

	return layout->data_offset + index / 2 * cpu_bytes + (index % 2 ? layout->ring_bytes[0] : 0);
}

/* Everything but the state, which the caller sets when the rings are ready. The host's line of the header stays as it is. */
void vesper_layout_write(const struct vesper_layout *layout, void *memory, u64 epoch)
{
	struct vesper_ring_entry *entry = memory + VESPER_DIRECTORY_OFFSET;
	struct vesper_region *header = memory;
	u32 index = 0;
	int cpu;

	memset(memory + offsetof(struct vesper_region, epoch), 0, layout->data_offset - offsetof(struct vesper_region, epoch));
	header->epoch = cpu_to_le64(epoch);
	memcpy(header->boot_id, vesper_boot_id(), sizeof(header->boot_id));
	header->header_bytes = cpu_to_le32(layout->header_bytes);
	header->ring_count = cpu_to_le32(layout->rings);
	header->cpu_count = cpu_to_le32(layout->cpus);
	for_each_possible_cpu(cpu) {
		for (u32 kind = 0; kind < 2; kind++, index++, entry++) {
			entry->block_offset = cpu_to_le64(vesper_layout_block(layout, index));
			entry->data_offset = cpu_to_le64(vesper_layout_data(layout, index));
			entry->data_bytes = cpu_to_le32(layout->ring_bytes[kind]);
			entry->cpu = cpu_to_le16(cpu);
			entry->kind = cpu_to_le16(kind);
		}
	}
}
