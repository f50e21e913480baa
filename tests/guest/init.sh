#!/bin/busybox sh
# SPDX-License-Identifier: MIT
# The guest's first program, which the kernel runs from the initramfs that vm.py packs. It makes the host's root
# directory the guest's own, runs /run/guest/script there and resets the machine. With $layers the root consists of
# that number of other directories, and its systemd runs the script.
set -e
b=/bin/busybox

$b mkdir /proc /host /overlay /root.new
$b mount -t proc proc /proc
for module in /modules/*; do # vm.py numbers them so that each follows those it needs
    $b insmod "$module"
done

# The guest cannot write to the root: writes go to an overlay in the guest's memory and vanish with it.
# cache=loose, because nothing in the guest needs to see the host change a file: importing pytest takes 3.4 s instead
# of 4.1 s. msize is the largest request that virtio carries, four times the default.
p9=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "ro,cache=loose,$p9" host /host
lower=/host
[ -z "$layers" ] || lower=
for number in $($b seq 0 $((layers - 1))); do
    $b mkdir /system$number
    $b mount -t 9p -o "ro,cache=loose,$p9" system$number /system$number
    lower=$lower${lower:+:}/system$number
done
$b mount -t tmpfs overlay /overlay
$b mkdir /overlay/upper /overlay/work
$b mount -t overlay -o "lowerdir=$lower,upperdir=/overlay/upper,workdir=/overlay/work" root /root.new

cd /root.new
$b mount -t proc proc proc
$b mount -t sysfs sys sys
$b mount -t cgroup2 cgroup sys/fs/cgroup
$b mount -t devtmpfs dev dev
$b mkdir dev/pts dev/shm
$b mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
$b mount -t tmpfs -o mode=1777 shm dev/shm
$b ln -s /proc/self/fd dev/fd
$b ip link set lo up

# The host's /run describes daemons that do not run here (udev's database, sockets): a fresh one.
$b mount -t tmpfs -o mode=755 run run
$b mkdir run/guest
# Not cached: the host has all that the guest wrote, even if the guest dies at once.
$b mount -t 9p -o "rw,$p9" guest run/guest
$b mkdir -p lib/modules
$b ln -sfn "$($b cat run/guest/modules)" lib/modules/

# The script's output goes to a file, not to the console, where kernel messages would interrupt it. Its exit status is
# written last; if it is missing, the guest died. "b" resets at once, and QEMU, started with -no-reboot, ends at a
# reset. bash, as process 1, also reaps the orphans of daemons.
$b cat >run/guest/run <<'END'
. /run/guest/environment || exit
bash /run/guest/script </dev/null >>/run/guest/output 2>&1
echo $? >/run/guest/status
echo b >/proc/sysrq-trigger
END
[ "$layers" ] || exec $b switch_root /root.new /bin/bash /run/guest/run

# A system that boots for the script only: no preparations for another boot, no logins, no timers, and no events for
# the present hardware (each takes an emulated processor as long as a test).
$b mkdir -p host run/systemd/system run/systemd/system-generators run/systemd/journald.conf.d
$b mount --move /host host
cd run/systemd
printf '[Journal]\nStorage=volatile\n' >journald.conf.d/guest.conf
for unit in systemd-udev-trigger systemd-logind systemd-random-seed systemd-update-utmp systemd-update-utmp-runlevel \
    systemd-user-sessions systemd-journal-flush systemd-machine-id-commit systemd-firstboot systemd-binfmt \
    systemd-pstore systemd-repart e2scrub_reap; do
    $b ln -s /dev/null system/$unit.service
done
for unit in getty.target timers.target systemd-ask-password-console.path systemd-ask-password-wall.path \
    proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-config.mount \
    sys-kernel-debug.mount; do
    $b ln -s /dev/null system/$unit
done
for generator in ../../lib/systemd/system-generators/systemd-*; do
    $b ln -s /dev/null "system-generators/${generator##*/}"
done
$b cat >system/guest.service <<'END'
[Unit]
After=multi-user.target
[Service]
ExecStart=/bin/bash /run/guest/run
TasksMax=infinity
END
$b cat >system/guest.target <<'END'
[Unit]
Requires=guest.service
Wants=multi-user.target
END
$b ln -s guest.target system/default.target
unset layers
exec $b switch_root /root.new /lib/systemd/systemd
