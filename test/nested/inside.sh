#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the outer guest of test/nested.ts, which has the real vhost_vsock: a service, and a guest with a vhost-vsock-pci device.

/bin/busybox --install -s /bin
export PATH=/vesper/dist:/bin:/usr/bin HOME=/tmp VESPER_RUN_DIR=/tmp/run VESPER_STATE_DIR=/tmp/state

say() { echo "NESTED $(cut -d. -f1 /proc/uptime) s: $*" >/dev/console; }

fail() {
	say "FAILED: $*"
	for log in console serve guests attach events qemu; do
		[ -s /tmp/$log ] && tail -n 15 /tmp/$log | sed "s/^/NESTED   $log: /" >/dev/console
	done
	exit 1
}

# patiently SECONDS WHAT COMMAND...
patiently() {
	deadline=$(($(cut -d. -f1 /proc/uptime) + $1))
	what=$2
	shift 2
	until "$@"; do
		kill -0 $qemu 2>/dev/null || fail "$what (QEMU has ended)"
		[ "$(cut -d. -f1 /proc/uptime)" -lt $deadline ] || fail "$what"
		sleep 1
	done
	say "$what"
}

guest_is_active() { vesper guests --json >/tmp/guests 2>&1 && grep -q '"state": *"active"' /tmp/guests; }
event_came() { vesper events --guest inner --json >/tmp/events 2>&1 && grep '"died"' /tmp/events | grep -q '"comm": *"nested"'; }

say 'the outer guest is up'
mkfifo /tmp/shell.in /tmp/shell.out
# Reserved: the service is to call from a port below 1024.
qemu-system-x86_64 -name guest=inner -machine pc -accel tcg,thread=single,tb-size=64 -cpu max -m 256 \
	-nodefaults -no-user-config -display none -kernel /inner/vmlinuz -initrd /inner/initramfs \
	-append 'console=ttyS0 no_timer_check vesper_modules=virtio_pci,vmw_vsock_virtio_transport,vesper vesper.channel=vsock vesper.vsock_reserved=1' \
	-serial file:/tmp/console -serial pipe:/tmp/shell -serial null \
	-device vhost-vsock-pci,guest-cid=42 -qmp unix:/tmp/inner.qmp,server=on,wait=off >/tmp/qemu 2>&1 &
qemu=$!
vesper serve --qemu inner=/tmp/inner.qmp --catalogue /vesper/build >/tmp/serve 2>&1 &
patiently 900 'the inner guest is up' grep -q 'VESPER-GUEST READY' /tmp/console
patiently 600 'the session is active' guest_is_active
grep -q 'vsock port 837 of CID 42' /tmp/guests || fail 'it goes over vsock'
vesper attach inner signal >/tmp/attach 2>&1 || fail 'a probe is attached'
say "$(head -n 1 /tmp/attach)"
echo 'actor --name nested segv' >/tmp/shell.in
patiently 300 'its event came' event_came
vesper detach inner --all >/tmp/attach 2>&1 || fail 'the probe is detached'
say "$(head -n 1 /tmp/attach)"
