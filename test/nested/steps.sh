# SPDX-License-Identifier: Apache-2.0
# What the parts of test/nested.ts have in common; read by them in the outer guest. A part says `alive`: whether to go on waiting.

export PATH=/vesper/dist:/bin:/usr/bin:/usr/sbin HOME=/tmp VESPER_RUN_DIR=/tmp/run VESPER_STATE_DIR=/tmp/state

say() { echo "NESTED $(cut -d. -f1 /proc/uptime) s: $*" | tr -cd '\n -~' >/dev/console; }

fail() {
	say "FAILED: $*"
	for log in console serve guests attach events qemu libvirtd virsh before after; do
		[ -s /tmp/$log ] && tail -n 15 /tmp/$log | tr -d '\r' | sed "s/^/NESTED   $log: /" >/dev/console
	done
	exit 1
}

# patiently SECONDS WHAT COMMAND...
patiently() {
	deadline=$(($(cut -d. -f1 /proc/uptime) + $1))
	what=$2
	shift 2
	until "$@"; do
		alive || fail "$what (what it waits for has ended)"
		[ "$(cut -d. -f1 /proc/uptime)" -lt $deadline ] || fail "$what"
		sleep 1
	done
	say "$what"
}

guest_is() { vesper guests --json >/tmp/guests 2>&1 && grep -q "\"state\": *\"$1\"" /tmp/guests; }

# event_came GUEST COMM
event_came() {
	vesper events --guest "$1" --json >/tmp/events 2>&1 && grep '"died"' /tmp/events | grep -q "\"comm\": *\"$2\""
}
