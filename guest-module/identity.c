// SPDX-License-Identifier: GPL-2.0-only
/* Who this guest is: what a hello says. */
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/sysctl.h>
#include <linux/ktime.h>
#include <linux/utsname.h>
#include <linux/uuid.h>
#define INCLUDE_VERMAGIC
#include <linux/vermagic.h>

#include "vesper.h"

static uuid_t boot_id;

/* Never called: the type of proc_do_uuid() for the static call. (Its table became const in 6.11.) */
int vesper_proc_handler(struct ctl_table *table, int write, void *buffer, size_t *length, loff_t *position);
DEFINE_STATIC_CALL_NULL(vesper_proc_do_uuid, vesper_proc_handler);

/*
 * The kernel makes /proc/sys/kernel/random/boot_id when it is first read, so it is read in the way a process would. It stays the
 * same when the frontend is loaded again; one made up here would not.
 */
static int boot_id_read(void)
{
	char text[UUID_STRING_LEN + 2] = "";
	struct ctl_table table = { .procname = "boot_id", .data = vesper_symbol("sysctl_bootid"), .maxlen = UUID_STRING_LEN };
	void *handler = vesper_symbol("proc_do_uuid");
	size_t length = sizeof(text) - 1;
	loff_t position = 0;
	int err;

	if (!handler || !table.data)
		return -ENOENT;
	static_call_update(vesper_proc_do_uuid,
			   (int (*)(struct ctl_table *, int, void *, size_t *, loff_t *))handler);
	err = static_call(vesper_proc_do_uuid)(&table, 0, text, &length, &position);
	return err ?: uuid_parse(text, &boot_id);
}

void vesper_identity_init(void)
{
	int err = boot_id_read();

	if (err) {
		pr_notice("the kernel's boot id cannot be had (%d): the host takes a reload of this module for a reboot\n", err);
		generate_random_uuid(boot_id.b);
	}
}

const u8 *vesper_boot_id(void)
{
	return boot_id.b;
}

void vesper_identity_fill(struct vesper_hello *hello)
{
	u64 features = VESPER_FEATURE_IVSHMEM | VESPER_FEATURE_GUEST_PAGES | VESPER_FEATURE_INLINE |
		       VESPER_FEATURE_COMPARE_CLOCKS;

	if (IS_ENABLED(CONFIG_CRYPTO_LIB_SHA256))
		features |= VESPER_FEATURE_SHA256;
	hello->guest_time_ns = cpu_to_le64(ktime_get_boottime_ns());
	hello->features = cpu_to_le64(features);
	memcpy(hello->boot_id, boot_id.b, sizeof(hello->boot_id));
	hello->cpu_count = cpu_to_le32(num_possible_cpus());
	hello->page_size = cpu_to_le32(PAGE_SIZE);
	hello->chunk_max = cpu_to_le32(VESPER_CHUNK_MAX);
	hello->image_max = cpu_to_le32(vesper_space_bytes(VESPER_SPACE_IMAGE));
	strscpy(hello->frontend_version, VESPER_FRONTEND_VERSION, sizeof(hello->frontend_version));
	strscpy(hello->kernel_release, init_utsname()->release, sizeof(hello->kernel_release));
	strscpy(hello->vermagic, VERMAGIC_STRING, sizeof(hello->vermagic));
	strscpy(hello->machine, init_utsname()->machine, sizeof(hello->machine));
}
