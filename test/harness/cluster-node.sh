#!/bin/bash
# SPDX-License-Identifier: Apache-2.0

# PID 1 of a node, in namespaces of its own: cluster-node.sh NAME TREE DIRECTORY
# Lays the tree of packages over /usr and gives the node its own /etc, /run, /var/lib, /var/log and /dev/shm; then starts a
# daemon for each line it reads, and ends, and all that runs on the node with it, when there are no more. It is bash, which
# reaps the children of dead parents: for libvirt and Pacemaker a process nobody reaped still lives.
set -eu
name=$1 tree=$2 directory=$3
config=$directory/config private=$directory/private

mount -t tmpfs -o mode=0755 node "$private"
lay() {
	mkdir -p "$private$1"/{upper,work}
	mount -t overlay -o "lowerdir=${2-}$1,upperdir=$private$1/upper,workdir=$private$1/work" node "$1"
}
lay /usr "$tree/usr:"
lay /etc
lay /var/lib
lay /var/cache
mount -t tmpfs -o mode=0755 node /run
mount -t tmpfs -o mode=0755 node /var/log
mount -t tmpfs -o mode=1777 node /dev/shm
hostname "$name"
cat "$config/hosts" >>/etc/hosts

user() {
	getent group "$2" >/dev/null || echo "$2:x:$3:" >>/etc/group
	getent passwd "$1" >/dev/null || echo "$1:x:$3:$3::/nonexistent:/usr/sbin/nologin" >>/etc/passwd
}
# The first gets any free id from Debian; here it is one that no package may have.
user hacluster haclient 64189
user libvirt-qemu libvirt-qemu 64055
owner=(-o hacluster -g haclient)
install -d "${owner[@]}" -m 0750 /var/lib/pacemaker/{,cib,pengine,blackbox,cores} /var/log/pacemaker /run/crm
install -d -m 0755 /var/lib/corosync /var/log/corosync /etc/corosync /etc/pacemaker /run/resource-agents
install -d -m 1777 /run/lock
install -m 0644 "$config/corosync.conf" /etc/corosync/
install "${owner[@]}" -m 0600 "$config/cib.xml" /var/lib/pacemaker/cib/
install "${owner[@]}" -m 0640 "$config/authkey" /etc/pacemaker/

# libvirt without what a machine of its own would have: a system bus, control groups, security modules.
install -d -m 0755 /etc/libvirt
cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
seccomp_sandbox = 0
dynamic_ownership = 0
END
# The other node sends its machines here; to libvirt two machines with the same identity are the same one.
cat >/etc/libvirt/libvirtd.conf <<END
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
END

echo ready
while read -r daemon; do
	case $daemon in
	corosync) corosync -f >>/var/log/corosync.log 2>&1 & ;;
	pacemaker) PCMK_logfile=/var/log/pacemaker/pacemaker.log pacemakerd -f >>/var/log/pacemakerd.log 2>&1 & ;;
	libvirt) libvirtd --listen >>/var/log/libvirtd.log 2>&1 & ;;
	esac
done
