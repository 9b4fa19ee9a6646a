#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the outer guest of test/nested.ts, which has the real vhost_vsock: a libvirtd, and a domain that has neither a virtio-serial
# controller nor a vsock device. The service plugs a vsock device in, and leaves the domain as it was.

. /vesper/test/nested/steps.sh
alive() { kill -0 $libvirtd 2>/dev/null && kill -0 $service 2>/dev/null; }

mkfifo /tmp/shell.in /tmp/shell.out
mkdir -p /run /var/lib /var/log /etc/libvirt
ln -sfn /run /var/run
printf '%s\n' 'root:x:0:0::/:/bin/sh' 'libvirt-qemu:x:64055:108::/:/bin/false' >/etc/passwd
printf '%s\n' 'root:x:0:' 'kvm:x:107:' 'libvirt-qemu:x:108:' >/etc/group
# Nothing of systemd is here, nor cgroups, nor a security module.
cat >/etc/libvirt/qemu.conf <<'END'
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
seccomp_sandbox = 0
END
libvirtd >/tmp/libvirtd 2>&1 &
libvirtd=$!
service=$libvirtd
trap 'virsh destroy domain >/dev/null 2>&1; kill -9 $service $libvirtd' EXIT

answers() { virsh version >/tmp/virsh 2>&1; }
patiently 120 'libvirtd answers' answers
virsh define /vesper/test/nested/domain.xml >/tmp/virsh 2>&1 || fail 'the domain is defined'
virsh start domain >/tmp/virsh 2>&1 || fail 'the domain is started'
vesper serve --libvirt --catalogue /vesper/build >/tmp/serve 2>&1 &
service=$!
patiently 1800 'the domain is up' grep -q 'VESPER-GUEST READY' /tmp/console
patiently 120 'the service has found it' guest_is running
virsh dumpxml domain >/tmp/before 2>&1 || fail 'its live XML'
grep -q -e "type='virtio-serial'" -e '<vsock' -e ua-vesper /tmp/before && fail 'it has nothing of what is to be plugged in'

vesper attach domain signal >/tmp/attach 2>&1 || fail 'a vsock device is plugged in, and a probe attached'
say "$(head -n 1 /tmp/attach)"
guest_is active || fail 'the session is active'
virsh dumpxml domain >/tmp/after 2>&1
cid=$(sed -n "s/.*<cid auto='yes' address='\([0-9]*\)'.*/\1/p" /tmp/after)
grep -q ua-vesper-vsock /tmp/after && [ -n "$cid" ] || fail 'the vsock device in its live XML'
grep -q "vsock port 837 of CID $cid\"" /tmp/guests || fail "it goes over vsock, CID $cid"
say "the session goes over the vsock device that was plugged in, CID $cid"
grep -q '"backend": *"ivshmem"' /tmp/guests || fail 'its region is plugged in'
echo 'actor --name hotplugged segv' >/tmp/shell.in
patiently 300 'its event came' event_came domain hotplugged

vesper detach domain --all >/tmp/attach 2>&1 || fail 'the probe is detached'
say "$(head -n 1 /tmp/attach)"
virsh dumpxml domain >/tmp/after 2>&1
cmp -s /tmp/before /tmp/after || fail "its live XML as it was: $(diff /tmp/before /tmp/after)"
say 'its live XML is what it was'
ls /dev/shm | grep -q vesper && fail "no region's file is left: $(ls /dev/shm)"

# The second time it gets another device.
vesper attach domain signal >/tmp/attach 2>&1 || fail 'a probe is attached again'
say "once more: $(head -n 1 /tmp/attach)"
echo 'actor --name again segv' >/tmp/shell.in
patiently 300 'its event came' event_came domain again
vesper detach domain --all >/tmp/attach 2>&1 || fail 'the probe is detached again'
virsh dumpxml domain >/tmp/after 2>&1
cmp -s /tmp/before /tmp/after || fail "its live XML as it was: $(diff /tmp/before /tmp/after)"
