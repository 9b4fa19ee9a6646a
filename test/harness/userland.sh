#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# PID 1 of a Debian guest's userspace: a namespace over this machine's own files, where all that is written stays in memory, with
# further packages, a kernel's headers and modules, and daemons. The kernel it talks of is another one, in a virtual machine:
# what would change that one or ask it goes through a socket. It ends with its standard input, and all it started with it.
# Arguments: a folder that it shares with who started it; the packages; the kernel's release, modules, headers, build tools.
set -e
outside=$1 packages=$2 release=$3 modules=$4 headers=$5 tools=$6

mount --make-rprivate /
mount -t tmpfs -o size=1g tmpfs "$outside/memory"
cd "$outside/memory"
mkdir upper work root modules modules-work
# No layer may lie in another, and the packages lie below /.
cp -a "$packages/." upper
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount --rbind /dev dev
for folder in run tmp usr/src var/lib/dkms; do
	mkdir -p $folder
	mount -t tmpfs -o size=1g tmpfs $folder
done
chmod 1777 tmp
mkdir -p run/outside run/sshd "usr/lib/modules/$release"
mount --bind "$outside/shared" run/outside
mount --bind "$outside/sys" sys
mount --bind "$outside/boot_id" proc/sys/kernel/random/boot_id
mount -t overlay overlay -o "lowerdir=$modules,upperdir=$outside/memory/modules,workdir=$outside/memory/modules-work" \
	"usr/lib/modules/$release"
for folder in "$headers" "${headers%-*-*}-common"; do
	mkdir -p "usr/src/${folder##*/}"
	mount --bind "$folder" "usr/src/${folder##*/}"
done
mkdir -p "usr/lib/${tools##*/}"
mount --bind "$tools" "usr/lib/${tools##*/}"

mkdir usr/lib/real
mv usr/bin/uname usr/bin/dmesg usr/sbin/modprobe usr/sbin/rmmod usr/lib/real
cat >usr/bin/uname <<END
#!/bin/sh
[ "\$*" = -r ] && exec echo $release
exec /usr/lib/real/uname "\$@"
END
cat >usr/bin/dmesg <<END
#!/bin/sh
name=\${0##*/}
# modprobe looks itself for the file that it loads.
[ \$name = modprobe ] && set -- "\$(/usr/lib/real/modprobe -S $release --show-depends "\$1" | sed -n '\$s/^insmod \\([^ ]*\\).*/\\1/p')"
answer=\$(echo "\$name \$*" | socat -t 300 - UNIX-CONNECT:/run/outside/kernel.sock)
echo "\$answer" | tail -n +2
exit "\$(echo "\$answer" | head -n 1)"
END
chmod +x usr/bin/uname usr/bin/dmesg
ln usr/bin/dmesg usr/sbin/modprobe
ln usr/bin/dmesg usr/sbin/rmmod

echo 'sshd:x:964:65534::/run/sshd:/usr/sbin/nologin' >>etc/passwd
id=1964
for user in admin guest; do
	echo "$user:x:$id:$id::/:/bin/sh" >>etc/passwd
	echo "$user:*:19000:0:99999:7:::" >>etc/shadow
	echo "$user:x:$id:" >>etc/group
	id=$((id + 1))
done
echo 'admin ALL=(root) NOPASSWD: ALL' >etc/sudoers.d/admin
chmod 0440 etc/sudoers.d/admin
cat >etc/ssh/test_config <<END
HostKey /run/outside/host_ed25519
HostKey /run/outside/host_rsa
AuthorizedKeysFile /run/outside/authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
END
cat >usr/lib/real/daemons <<'END'
#!/bin/sh
socat UNIX-LISTEN:/run/outside/ssh.sock,fork EXEC:'/usr/sbin/sshd -i -f /etc/ssh/test_config -E /run/outside/sshd.log' &
qemu-ga -m unix-listen -p /run/outside/agent.sock -t /run -l /run/outside/agent.log &
END
chmod +x usr/lib/real/daemons

exec chroot . /bin/bash -c 'cd /
for type in ed25519 rsa; do ssh-keygen -q -t $type -N "" -f /run/outside/host_$type; done
# Whatever is done in here must not reach the kernel of this machine.
setpriv --bounding-set=-sys_module,-sys_boot,-syslog,-sys_rawio /usr/lib/real/daemons
while [ ! -S /run/outside/ssh.sock ] || [ ! -S /run/outside/agent.sock ]; do sleep 0.02; done
echo ready
while read -r _; do :; done'
