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
mount -t tmpfs -o mode=0755 node /run
mount -t tmpfs -o mode=0755 node /var/log
mount -t tmpfs -o mode=1777 node /dev/shm
hostname "$name"

# Debian gives the packages' users any free system id; here it is one that no package may have.
id=64189
getent group haclient >/dev/null || echo "haclient:x:$id:" >>/etc/group
getent passwd hacluster >/dev/null || echo "hacluster:x:$id:$id::/var/lib/pacemaker:/usr/sbin/nologin" >>/etc/passwd
owner=(-o hacluster -g haclient)
install -d "${owner[@]}" -m 0750 /var/lib/pacemaker/{,cib,pengine,blackbox,cores} /var/log/pacemaker /run/crm
install -d -m 0755 /var/lib/corosync /var/log/corosync /etc/corosync /etc/pacemaker /run/resource-agents
install -d -m 1777 /run/lock
install -m 0644 "$config/corosync.conf" /etc/corosync/
install "${owner[@]}" -m 0600 "$config/cib.xml" /var/lib/pacemaker/cib/

echo ready
while read -r daemon; do
	case $daemon in
	corosync) corosync -f >>/var/log/corosync.log 2>&1 & ;;
	pacemaker) PCMK_logfile=/var/log/pacemaker/pacemaker.log pacemakerd -f >>/var/log/pacemakerd.log 2>&1 & ;;
	esac
done
