// SPDX-License-Identifier: GPL-2.0-only
/* The regions of memory shared with the host that this guest has, whatever device they came with. */
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/string.h>

#include "vesper.h"

static DEFINE_MUTEX(regions_lock);
static LIST_HEAD(regions);

/*
 * Looks at the host's line of the header. -ENODEV: not a region of ours. Else `region` says what it is, and region->error why
 * it cannot be used.
 */
int vesper_region_check(struct vesper_region_memory *region, u64 available)
{
	struct vesper_region header;

	if (available < sizeof(header))
		return -ENODEV;
	memcpy(&header, region->memory, sizeof(header));
	if (le64_to_cpu(header.magic) != VESPER_REGION_MAGIC)
		return -ENODEV;
	memcpy(region->token, header.token, sizeof(region->token));
	region->bytes = le64_to_cpu(header.region_bytes);
	if (le32_to_cpu(header.layout_version) != VESPER_LAYOUT_VERSION)
		region->error = -EPROTONOSUPPORT;
	else if (region->bytes > available || region->bytes < VESPER_REGION_PAGE)
		region->error = -EINVAL;
	return 0;
}

static void region_notify(const struct vesper_region_memory *region, bool present, u32 session)
{
	struct vesper_region_notice notice = {
		.present = cpu_to_le32(present),
		.error = cpu_to_le32(region->error),
		.size = cpu_to_le64(region->bytes),
	};

	memcpy(notice.token, region->token, sizeof(notice.token));
	if (session)
		vesper_transmit(session, VESPER_MSG_REGION, 0, &notice, sizeof(notice), NULL, 0);
}

void vesper_region_add(struct vesper_region_memory *region)
{
	mutex_lock(&regions_lock);
	list_add_tail(&region->node, &regions);
	region_notify(region, true, vesper_session_current());
	mutex_unlock(&regions_lock);
}

/* Called by the relay when it no longer uses the region. */
void vesper_region_forget(const struct vesper_region_memory *region)
{
	mutex_lock(&regions_lock);
	list_del(&((struct vesper_region_memory *)region)->node);
	mutex_unlock(&regions_lock);
}

/* Afterwards nothing in the frontend touches the region. True: the host does not either, as far as it has one in use. */
bool vesper_region_remove(struct vesper_region_memory *region, int reason)
{
	bool released = vesper_relay_release(region, reason);

	region_notify(region, false, vesper_session_current());
	return released;
}

/* By what the host knows it from now on. */
void vesper_region_name(struct vesper_region_memory *region, const u8 *token)
{
	mutex_lock(&regions_lock);
	memcpy(region->token, token, sizeof(region->token));
	mutex_unlock(&regions_lock);
}

/* The caller keeps it from being removed. */
struct vesper_region_memory *vesper_region_find(const u8 *token)
{
	struct vesper_region_memory *region, *found = NULL;

	mutex_lock(&regions_lock);
	list_for_each_entry(region, &regions, node) {
		if (!memcmp(region->token, token, sizeof(region->token)))
			found = region;
	}
	mutex_unlock(&regions_lock);
	return found;
}

/* The newest usable one. */
void vesper_region_describe(struct vesper_hello *hello)
{
	const struct vesper_region_memory *region;

	mutex_lock(&regions_lock);
	list_for_each_entry_reverse(region, &regions, node) {
		if (region->error)
			continue;
		memcpy(hello->relay_token, region->token, sizeof(hello->relay_token));
		hello->relay_size = cpu_to_le64(region->bytes);
		break;
	}
	mutex_unlock(&regions_lock);
}

/* Tells a new session of all regions that are there. */
void vesper_region_announce(u32 session)
{
	const struct vesper_region_memory *region;

	mutex_lock(&regions_lock);
	list_for_each_entry(region, &regions, node)
		region_notify(region, true, session);
	mutex_unlock(&regions_lock);
}
