// SPDX-License-Identifier: GPL-2.0-only
/*
 * Functions the kernel does not export. A kprobe finds kallsyms_lookup_name, that finds the rest; their callers use static calls:
 * a direct branch, where a pointer would fault on machines with IBT (such functions have no ENDBR any more).
 */
#include <linux/kprobes.h>
#include <linux/static_call.h>

#include "vesper.h"

/* Never called: the type for the static call. */
unsigned long vesper_kallsyms_lookup(const char *name);
DEFINE_STATIC_CALL_NULL(vesper_lookup, vesper_kallsyms_lookup);

int vesper_symbol_init(void)
{
	/* Disabled: it shall only find the address. Armed while kernel.ftrace_enabled is 0 it would damage ftrace's books. */
	struct kprobe kprobe = { .symbol_name = "kallsyms_lookup_name", .flags = KPROBE_FLAG_DISABLED };
	int err = register_kprobe(&kprobe);

	if (err) {
		pr_err("cannot place a kprobe (%d): does this kernel have CONFIG_KPROBES, and does lockdown allow them?\n", err);
		return err;
	}
	/* With IBT this address is behind the ENDBR: as good for a direct call. */
	static_call_update(vesper_lookup, (unsigned long (*)(const char *))kprobe.addr);
	unregister_kprobe(&kprobe);
	return 0;
}

/* NULL where there is no such symbol. May sleep. */
void *vesper_symbol(const char *name)
{
	return (void *)static_call(vesper_lookup)(name);
}
