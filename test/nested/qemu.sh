#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the outer guest of test/nested.ts, which has the real vhost_vsock: a service, and a guest with a vhost-vsock-pci device.

. /vesper/test/nested/steps.sh
alive() { kill -0 $qemu 2>/dev/null && kill -0 $service 2>/dev/null; }

mkfifo /tmp/shell.in /tmp/shell.out
# Reserved: the service is to call from a port below 1024.
qemu-system-x86_64 -name guest=inner -machine pc -accel tcg,thread=single,tb-size=64 -cpu max -m 256 \
	-nodefaults -no-user-config -display none -kernel /inner/vmlinuz -initrd /inner/initramfs \
	-append 'console=ttyS0 no_timer_check vesper_modules=virtio_pci,vmw_vsock_virtio_transport,vesper vesper.channel=vsock vesper.vsock_reserved=1' \
	-serial file:/tmp/console -serial pipe:/tmp/shell -serial null \
	-device vhost-vsock-pci,guest-cid=42 -qmp unix:/tmp/inner.qmp,server=on,wait=off >/tmp/qemu 2>&1 &
qemu=$!
vesper serve --qemu inner=/tmp/inner.qmp --catalogue /vesper/build >/tmp/serve 2>&1 &
service=$!
trap 'kill -9 $qemu $service' EXIT
patiently 1800 'the inner guest is up' grep -q 'VESPER-GUEST READY' /tmp/console
patiently 600 'the session is active' guest_is active
grep -q 'vsock port 837 of CID 42' /tmp/guests || fail 'it goes over vsock'
vesper attach inner signal >/tmp/attach 2>&1 || fail 'a probe is attached'
say "$(head -n 1 /tmp/attach)"
echo 'actor --name nested segv' >/tmp/shell.in
patiently 300 'its event came' event_came inner nested
vesper detach inner --all >/tmp/attach 2>&1 || fail 'the probe is detached'
say "$(head -n 1 /tmp/attach)"
