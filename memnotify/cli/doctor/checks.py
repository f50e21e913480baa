# SPDX-License-Identifier: MIT
"""The checks of ``memnotify doctor``: one function each, and the table CHECKS at the end."""

import contextlib
import errno
import fnmatch
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from memnotify.cli.doctor.machine import BARE_MODE, UNIT, Machine, Node, option
from memnotify.cli.doctor.probe import Attempt, Step, attempt, read_kib, round_trip
from memnotify.cli.loading import obstacle
from memnotify.config import files as config_files
from memnotify.config.settings import ConfigError
from memnotify.kernel.psi import PRESSURE_FILE, is_pressure

OK = "ok"
WARNING = "warning"
FAILED = "failed"
NOT_APPLICABLE = "not applicable"

# udev(7), modules-load.d(5): of two files with the same name, the first one wins.
_RULES = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d")
_MODULES = tuple(
    f"{directory}/modules-load.d" for directory in ("/etc", "/run", "/usr/local/lib", "/usr/lib")
)
_RULE = re.compile(r'(\w+)(?:\{[^}]*\})?\s*(==|!=|\+=|-=|:=|=)\s*"([^"]*)"')
_START = f"start it: 'memnotify serve', or systemctl start {UNIT}"
# memnotify.service and the daemon itself set it.
_OOM_SCORE = -900
_AS_ROOT = "run it as root to see that"
# lowmem-bus and the examples have thresholds up to it.
_USUAL_THRESHOLD_PERCENT = 80
_TRIGGER = "udevadm control --reload; udevadm trigger -c add -s cuse"


class Finding(NamedTuple):
    """The result of a check."""

    state: str
    """OK, WARNING, FAILED or NOT_APPLICABLE"""
    found: str
    advice: str = ""
    """What to do next, for a warning or a failure."""


# The program and the kernel


def program(_: Machine) -> Finding:
    """Check that the daemon can be loaded."""
    missing = obstacle()
    if missing:
        return Finding(FAILED, *missing)
    return Finding(OK, "the daemon can be loaded, and libfuse3 is there")


def installation(machine: Machine) -> Finding:
    """Check that shell and unit run the same installation."""
    programs = machine.installations()
    if not programs:
        return Finding(NOT_APPLICABLE, "no memnotify is on PATH")
    if len(programs) > 1:
        return Finding(
            WARNING,
            f"{programs[0]} shadows {' and '.join(programs[1:])} on PATH",
            "remove the older one: pip uninstall memnotify, or apt remove python3-memnotify",
        )
    started = ""
    # The check 'unit' reports an error of systemctl.
    with contextlib.suppress(OSError):
        started = _unit_program(machine)
    if started and machine.resolve(started) != machine.resolve(programs[0]):
        return Finding(
            WARNING,
            f"{UNIT} starts {started}, but PATH leads to {programs[0]}",
            f"remove one of them, or correct ExecStart=: systemctl edit {UNIT}",
        )
    return Finding(OK, f"{programs[0]}, the only one")


def _unit_program(machine: Machine) -> str:
    # systemctl prints "{ path=/usr/bin/memnotify ; argv[]=... }"
    found = re.match(r"\{ path=(.*?) ;", (machine.unit or {}).get("ExecStart", ""))
    return found[1] if found else ""


def cuse(machine: Machine) -> Finding:
    """Check that the kernel has CUSE."""
    if machine.exists("/sys/class/cuse"):
        return Finding(OK, "the kernel has CUSE")
    if _module_file(machine):
        return Finding(OK, "the kernel has CUSE as a module")
    return Finding(
        WARNING,
        f"kernel {os.uname().release} has no CUSE: the device can only be a FUSE file",
        "for a character device, boot a kernel with CONFIG_CUSE, such as Debian's",
    )


def module(machine: Machine) -> Finding:
    """Check that the module is loaded, now and at boot."""
    file = _module_file(machine)
    loaded = machine.exists("/sys/class/cuse")
    if not file:
        return Finding(NOT_APPLICABLE, "CUSE is built in" if loaded else "this kernel has none")
    if loaded and not machine.exists("/dev/cuse"):
        return Finding(
            FAILED,
            "cuse is loaded, but /dev/cuse does not exist",
            "/dev must be a devtmpfs; then: modprobe -r cuse; modprobe cuse",
        )
    at_boot = [
        path
        for path in machine.files(_MODULES, "*.conf")
        if "cuse" in map(str.strip, machine.text(path).splitlines())
    ]
    if loaded:
        return Finding(OK, f"cuse is loaded{f', and at boot by {at_boot[0]}' if at_boot else ''}")
    return Finding(
        WARNING,
        f"cuse is not loaded ({file}); 'memnotify serve' loads it if root starts it",
        "modprobe cuse"
        if at_boot
        else "modprobe cuse; at boot: echo cuse >/etc/modules-load.d/memnotify.conf",
    )


def _module_file(machine: Machine) -> str:
    directory = f"/lib/modules/{os.uname().release}"
    try:
        found = re.search(r"^(.*/cuse\.ko[.\w]*):", machine.text(f"{directory}/modules.dep"), re.MULTILINE)
    except FileNotFoundError:
        return ""
    return f"{directory}/{found[1]}" if found else ""


def fuse(machine: Machine) -> Finding:
    """Check that the kernel has FUSE, which CUSE needs as well."""
    if machine.exists("/dev/fuse"):
        return Finding(OK, "the kernel has FUSE")
    if machine.exists("/dev/cuse"):
        return Finding(WARNING, "/dev/fuse does not exist: no FUSE file can be served", "modprobe fuse")
    return Finding(
        FAILED,
        "neither /dev/fuse nor /dev/cuse exists",
        "modprobe fuse; in a container, pass one of them to it",
    )


def pressure(machine: Machine) -> Finding:
    """Check that memory stalls (PSI) wake the daemon."""
    if not machine.exists(PRESSURE_FILE):
        return Finding(
            WARNING,
            "no /proc/pressure/memory: memory stalls do not wake the daemon",
            "boot with psi=1, or a kernel with CONFIG_PSI",
        )
    if not is_pressure(machine.text(PRESSURE_FILE).encode()):
        return Finding(
            WARNING,
            f"{PRESSURE_FILE} is masked by another file: memory stalls do not wake the daemon",
            f"umount {PRESSURE_FILE}; for a container: podman --security-opt unmask={PRESSURE_FILE}",
        )
    return _used_by_daemon(machine, PRESSURE_FILE, "memory stalls (PSI)")


def tracepoints(machine: Machine) -> Finding:
    """Check that pages that are allocated and freed wake the daemon."""
    missing = [
        path
        for path in ("/proc/sys/kernel/perf_event_paranoid", "/sys/kernel/tracing")
        if not machine.exists(path)
    ]
    if missing:
        return Finding(
            WARNING,
            f"no {missing[0]}: allocated pages do not wake the daemon, it samples by time",
            "boot a kernel with CONFIG_PERF_EVENTS and CONFIG_FTRACE",
        )
    return _used_by_daemon(machine, "anon_inode:[perf_event]", "page counters (tracepoints)")


def meminfo(machine: Machine) -> Finding:
    """Check whose memory /proc/meminfo shows: the machine's or a container's."""
    mount = machine.mount("/proc/meminfo")
    if mount is not None:
        whose = "lxcfs makes it for this container" if mount.type == "fuse.lxcfs" else f"of type {mount.type}"
        return Finding(
            WARNING,
            f"/proc/meminfo is a mount ({whose}): total, used and active are not the machine's",
            "to watch the machine, serve the device on the host",
        )
    limit_bytes = machine.memory_limit_bytes
    if limit_bytes is None:
        return Finding(OK, "/proc/meminfo is the machine's")
    whose = "the daemon's" if machine.servers else "this process's"
    return Finding(
        OK,
        f"/proc/meminfo is the machine's, and {whose} cgroup is limited to {limit_bytes >> 20} MiB:"
        " total, used and active do not show that limit; a threshold on 'cgroup' follows it",
    )


def swap(machine: Machine) -> Finding:
    """Check that ``used`` can come near total: zram's pages lie in RAM, but its size counts as swap."""
    swaps = machine.text("/proc/swaps").splitlines()[1:] if machine.exists("/proc/swaps") else []
    zram_kib = sum(int(line.split()[2]) for line in swaps if line.startswith("/dev/zram"))
    memory = read_kib(machine.place("/proc/meminfo"))
    total_kib = memory["MemTotal"] + memory["SwapTotal"]
    reach_percent = 100 * (total_kib - zram_kib) // total_kib
    if reach_percent >= _USUAL_THRESHOLD_PERCENT:
        return Finding(OK, "swap on zram is small" if zram_kib else "no swap on zram")
    return Finding(
        WARNING,
        f"swap has {zram_kib >> 10} MiB of zram, which lies in RAM: if data does not compress,"
        f" memory is exhausted at 'used {reach_percent}%'",
        "set thresholds on 'available' (serve --figures available), or lower ones on 'used'",
    )


def suspend(machine: Machine) -> Finding:
    """Check that no client keeps the machine awake: the freezer makes poll(2) ask a frozen daemon."""
    try:
        states = machine.text("/sys/power/state").split()
    except FileNotFoundError:
        states = []
    if not states:
        return Finding(NOT_APPLICABLE, "this machine does not suspend")
    if not machine.is_device:
        return Finding(NOT_APPLICABLE, "there is no device that answers")
    pids = list(map(str, machine.pollers))
    if not pids:
        return Finding(OK, "no client is seen in poll(2) or select(2)")
    return Finding(
        WARNING,
        f"process {', '.join(pids)} has the device open and sleeps in poll(2) or select(2): a suspend may"
        " fail ('tasks refusing to freeze'), as the freezer's signal makes poll ask the frozen daemon",
        "use epoll(7), 'memnotify wait', memnotify.client or the socket (serve --socket) instead",
    )


def _used_by_daemon(machine: Machine, fd: str, what: str) -> Finding:
    fds = machine.servers[0].fds if machine.is_device and machine.servers else None
    if fds is None:
        return Finding(OK, f"the kernel has {what}")
    if fd in fds:
        return Finding(OK, f"{what} wake the daemon")
    return Finding(
        WARNING,
        f"the kernel has {what}, but the daemon does not use them",
        "its log says why: its options forbid it, or it was not started as root",
    )


# The device


def node(machine: Machine) -> Finding:  # noqa: PLR0911 - one return for each state
    """Check that the device exists and is one."""
    path, there = machine.path, machine.node
    if there is None:
        return _no_answer(machine, machine.inspection)
    if machine.is_mount:
        return _mount(machine, there)
    if there.error:
        unserved = there.error in (errno.ENOENT, errno.ECONNREFUSED)
        advice = _START if unserved else "check the directories of the path"
        return Finding(FAILED, f"{path} cannot be reached: {os.strerror(there.error)}", advice)
    if stat.S_ISCHR(there.mode):
        return _character_device(machine, there)
    if machine.is_socket:
        return Finding(OK, f"{path} is a socket with a listener")
    if there.mode in (stat.S_IFREG | BARE_MODE, stat.S_IFSOCK | BARE_MODE):
        return Finding(FAILED, f"{path} is a mount point on which nothing is mounted", _START)
    kinds = {stat.S_IFREG: "a plain file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link"}
    kind = kinds.get(stat.S_IFMT(there.mode), "something else")
    return Finding(FAILED, f"{path} is {kind}, and no device", f"move it away, then {_START}")


def _character_device(machine: Machine, there: Node) -> Finding:
    path = machine.path
    try:
        registered = machine.text(f"{machine.sysfs_directory}/dev").strip()
    except FileNotFoundError:
        return Finding(FAILED, f"{path} is no CUSE device: no daemon serves it", f"rm {path}, then {_START}")
    if registered != there.device:
        return Finding(
            FAILED,
            f"{path} is the device {there.device}, but the daemon serves {registered}",
            f"rm {path}, then restart the daemon",
        )
    return Finding(OK, f"{path} is the CUSE device {registered}")


def _mount(machine: Machine, there: Node) -> Finding:
    path = machine.path
    if there.error in (errno.ENOTCONN, errno.ECONNABORTED):
        undo = "umount -l" if os.geteuid() == 0 else "fusermount3 -u -z"
        return Finding(
            FAILED, f"{path} is the mount of a daemon that has ended", f"{undo} {path}, then {_START}"
        )
    if there.error == errno.EACCES:
        return Finding(
            FAILED,
            f"{path} is another user's FUSE mount: only {_mount_owner(machine) or 'that user'} may use it",
            "run it as that user, or let root serve the device",
        )
    if there.error:
        return Finding(FAILED, f"{path}: {os.strerror(there.error)}", "read the daemon's log")
    return Finding(OK, f"{path} is a FUSE file")


def _mount_owner(machine: Machine) -> str:
    """Return the one user that may use the mount, empty if it is for all users.

    Without allow_other, FUSE refuses every other user, root too, whatever the mode
    (fs/fuse/dir.c:fuse_allow_current_process).
    """
    options = machine.device_mount.options if machine.device_mount else {}
    return "" if "allow_other" in options or "user_id" not in options else _user(int(options["user_id"]))


def permissions(machine: Machine) -> Finding:
    """Check which users may use the device."""
    there = machine.node
    if there is None or not machine.is_device:
        return Finding(NOT_APPLICABLE, "there is no device that answers")
    owner, group = _user(there.uid), _group(there.gid)
    mode = stat.S_IMODE(there.mode)
    shown = f"{mode:04o} {owner}:{group}"
    by_rule = f"see 'udev rule'; until then: chmod 0666 {machine.path}"
    if machine.is_socket:
        by_rule = "set socket_mode in memnotify.toml, or SocketMode= of memnotify.socket"
    if not there.usable:
        join = f"as root: usermod -aG {group} {_user(os.geteuid())}, and log in again"
        return Finding(
            FAILED, f"{shown}: this user may not use it", join if mode & 0o060 == 0o060 else by_rule
        )
    if only := _mount_owner(machine):
        return Finding(OK, f"{shown}: only {only} may use it, as it is a FUSE mount of an ordinary user")
    if mode & 0o006 == 0o006:
        return Finding(OK, f"{shown}: all users may use it")
    if mode & 0o060 == 0o060:
        return Finding(OK, f"{shown}: the group {group} may use it")
    return Finding(WARNING, f"{shown}: only {owner} may use it", by_rule)


def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def udev_rule(machine: Machine) -> Finding:  # noqa: PLR0911 - one return for each state
    """Check that a udev rule sets the mode of the device, and has done so."""
    there = machine.node
    if machine.is_socket:
        return Finding(NOT_APPLICABLE, "udev sets no mode of a socket")
    if not machine.exists("/run/udev/control"):
        return Finding(NOT_APPLICABLE, "udev does not run here: chmod sets the mode")
    given: dict[str, str] = {}
    for path in machine.files(_RULES, "*.rules"):
        for rule in machine.text(path).replace("\\\n", "").splitlines():
            given |= _set_keys(rule, os.path.basename(machine.path), path)
    if machine.is_mount:
        return _rule_of_a_mount(machine, given)
    if not given:
        return Finding(
            WARNING,
            f"no rule matches {machine.path}: a CUSE device keeps mode 0600 and only root may use it",
            f"copy udev/99-memnotify.rules to /etc/udev/rules.d, then: {_TRIGGER}",
        )
    rule = given.pop("rule")
    rule_text = f"{rule}: {' '.join(f'{key}={value}' for key, value in given.items())}"
    if there is None or not machine.is_device:
        return Finding(OK, rule_text)
    if different := _different(there, given):
        return Finding(WARNING, f"{rule_text}, but the device has {different}", _TRIGGER)
    return Finding(OK, f"{rule_text}, and the device has it")


def _rule_of_a_mount(machine: Machine, given: dict[str, str]) -> Finding:
    """Check a rule that was meant for a device which is a FUSE file here."""
    there, rule = machine.node, given.pop("rule", "")
    if there is None or not (different := _different(there, given)):
        return Finding(NOT_APPLICABLE, "the daemon sets the mode of a FUSE file")
    wanted = " ".join(f"{key}={value}" for key, value in given.items())
    return Finding(
        WARNING,
        f"{rule}: {wanted} has no effect: udev sees no FUSE file, and this one has {different}",
        f"chgrp and chmod {machine.path} after each start, such as by ExecStartPost= of the unit",
    )


def _different(there: Node, given: Mapping[str, str]) -> str:
    """Return in which of the keys of a rule the device is different, and how."""
    has = {"MODE": f"{stat.S_IMODE(there.mode):04o}", "OWNER": _user(there.uid), "GROUP": _group(there.gid)}
    different = [key for key in has if key in given and has[key] not in (given[key], given[key].zfill(4))]
    return " ".join(f"{key}={has[key]}" for key in different)


def _set_keys(rule: str, name: str, path: str) -> dict[str, str]:
    """Return the keys that a udev rule sets for the device of that name; none if it does not match."""
    parts = [] if rule.lstrip().startswith("#") else _RULE.findall(rule)
    device = {"SUBSYSTEM": "cuse", "KERNEL": name, "ACTION": "add"}
    asked = {key for key, operator, _ in parts if operator in ("==", "!=")}
    for key, operator, pattern in parts:
        if operator in ("==", "!=") and key in device:
            matches = any(fnmatch.fnmatchcase(device[key], each) for each in pattern.split("|"))
            if matches != (operator == "=="):
                return {}
    if not asked >= {"SUBSYSTEM", "KERNEL"}:
        return {}
    given = {
        key: value
        for key, operator, value in parts
        if operator in ("=", ":=") and key in ("MODE", "OWNER", "GROUP")
    }
    return given | {"rule": path} if given else {}


# The daemon


def config(machine: Machine) -> Finding:
    """Check the daemon's configuration, or the one that the next daemon would read."""
    given = option(machine.servers[0].words, "--config") if machine.servers else ""
    if given and not os.path.isabs(given):
        try:
            given = os.path.join(os.readlink(machine.place(f"/proc/{machine.servers[0].pid}/cwd")), given)
        except OSError:
            return Finding(WARNING, f"{given}, in a directory that this user may not see", _AS_ROOT)
    path = given or config_files.DEFAULT_FILE
    try:
        settings, origins = config_files.load(given or None, {})
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError) and os.geteuid() != 0:
            return Finding(WARNING, "; ".join(str(error).splitlines()), _AS_ROOT)
        return Finding(
            FAILED,
            "; ".join(str(error).splitlines()),
            "correct it; 'memnotify check-config' shows each error",
        )
    served = settings.path or f"/dev/{settings.name}"
    if not machine.servers and machine.is_default and served != machine.path:
        return Finding(WARNING, f"it names another device, {served}", f"memnotify doctor --path {served}")
    files = sorted({origin.rpartition(":")[0] for origin in origins.values()} - {""})
    return Finding(OK, f"{', '.join(files)}: valid" if files else f"nothing in {path}: the defaults")


def unit(machine: Machine) -> Finding:  # noqa: PLR0911 - one return for each state
    """Check that systemd starts the daemon."""
    if not machine.is_default or machine.name != "memnotify":
        return Finding(NOT_APPLICABLE, "the unit serves /dev/memnotify")
    properties = machine.unit
    if properties is None:
        return Finding(NOT_APPLICABLE, "systemd does not run here")
    if properties["LoadState"] != "loaded":
        advice = {
            "masked": f"systemctl unmask {UNIT}",
            "not-found": "install the package, or 'make install'",
        }.get(properties["LoadState"], f"systemd-analyze verify {UNIT}")
        return Finding(WARNING, f"{UNIT} is {properties['LoadState']}", advice)
    shown = f"{UNIT} is {properties['ActiveState']} ({properties['SubState']}), {properties['UnitFileState']}"
    if properties["ActiveState"] == "inactive":
        return Finding(WARNING, shown, f"systemctl enable --now {UNIT}")
    if properties["ActiveState"] not in ("active", "reloading"):
        advice = f"journalctl -u {UNIT} -b; systemctl restart {UNIT}"
        return Finding(FAILED, f"{shown}, Result={properties['Result']}", advice)
    if properties["UnitFileState"] == "disabled":
        return Finding(WARNING, f"{shown}: it does not start at boot", f"systemctl enable {UNIT}")
    pids = [server.pid for server in machine.servers]
    if pids and int(properties["MainPID"]) not in pids:
        return Finding(
            WARNING,
            f"{shown}, but process {pids[0]} serves the device, not its process {properties['MainPID']}",
            f"end {pids[0]}, then: systemctl restart {UNIT}",
        )
    return Finding(OK, shown)


def daemon(machine: Machine) -> Finding:
    """Check that a process serves the device and is not stopped."""
    servers = machine.servers
    if not servers:
        if machine.is_device and machine.unseen:
            return Finding(WARNING, "not found: this user may not see the descriptors of others", _AS_ROOT)
        if machine.is_device or machine.node is None:
            return Finding(
                WARNING,
                "not found among the processes here",
                "if this is a container, look for it on the host",
            )
        return Finding(FAILED, f"no process serves {machine.path}", _START)
    pid, state = servers[0].pid, servers[0].status["State"]
    if state[0] in "Tt":
        return Finding(FAILED, f"process {pid} is stopped: {state}", f"kill -CONT {pid}")
    others = ", ".join(str(server.pid) for server in servers[1:])
    several = f", or one of {others}," if others else ""
    return Finding(OK, f"process {pid}{several} serves it")


def privileges(machine: Machine) -> Finding:
    """Check that the daemon has dropped the privileges that it does not need."""
    if not machine.servers:
        return Finding(NOT_APPLICABLE, "no daemon was found")
    status = machine.servers[0].status
    user = _user(int(status["Uid"].split()[1]))
    capabilities = int(status["CapEff"], 16)
    new = "cannot" if status["NoNewPrivs"] == "1" else "may"
    shown = f"user {user}, capabilities {capabilities:x}, {new} gain privileges"
    if user == "root":
        return Finding(WARNING, shown, "start it by its unit, which drops them")
    return Finding(OK, shown)


def locked_memory(machine: Machine) -> Finding:
    """Check that the daemon stays in memory under pressure."""
    if not machine.servers:
        return Finding(NOT_APPLICABLE, "no daemon was found")
    locked_kib = int(machine.servers[0].status["VmLck"].split()[0])
    if not locked_kib:
        return Finding(
            WARNING,
            "the daemon's memory is not locked: it may be late under memory pressure",
            "start it by its unit or as root, or with an unlimited RLIMIT_MEMLOCK",
        )
    return Finding(OK, f"the daemon has locked {locked_kib / 1024:.0f} MiB")


def oom_score(machine: Machine) -> Finding:
    """Check that the OOM killer selects the daemon, and the process that removes its files, late."""
    if not machine.servers:
        return Finding(NOT_APPLICABLE, "no daemon was found")
    scores = {
        pid: int(machine.text(f"/proc/{pid}/oom_score_adj"))
        for pid in (machine.servers[0].pid, *machine.removers)
    }
    early = [f"{pid}: {score}" for pid, score in scores.items() if score > _OOM_SCORE]
    if early:
        return Finding(
            WARNING,
            f"the OOM killer may select the daemon early: oom_score_adj of process {', '.join(early)}",
            f"start it by its unit or as root with CAP_SYS_RESOURCE, which make it {_OOM_SCORE}",
        )
    return Finding(OK, f"oom_score_adj is {', '.join(map(str, scores.values()))}")


def trip(machine: Machine) -> Finding:
    """Use the device as a client."""
    if machine.node is None:
        return _no_answer(machine, machine.inspection)
    if not machine.is_device:
        return Finding(NOT_APPLICABLE, "there is no device that answers")
    if not machine.node.usable:
        return Finding(NOT_APPLICABLE, "this user may not use it")

    def work(step: Step) -> tuple[str, str]:
        return round_trip(
            machine.place(machine.path), machine.place("/proc/meminfo"), machine.timeout_s, step
        )

    tried = attempt(work, machine.timeout_s)
    if tried.result is None:
        return _no_answer(machine, tried)
    found, advice = tried.result
    return Finding(FAILED, f"{tried.step}: {found}", advice) if advice else Finding(OK, found)


def _no_answer(machine: Machine, tried: Attempt) -> Finding:
    left = f"; process {tried.left_pid} hangs until it answers" if tried.left_pid else ""
    stopped = [server.pid for server in machine.servers if server.status["State"][0] in "Tt"]
    return Finding(
        FAILED,
        f"no answer to '{tried.step}' within {machine.timeout_s:g} s{left}",
        f"the daemon is stopped: kill -CONT {stopped[0]}"
        if stopped
        else f"restart the daemon: systemctl restart {UNIT}",
    )


CHECKS: Mapping[str, Callable[[Machine], Finding]] = {
    "program": program,
    "installation": installation,
    "cuse": cuse,
    "module": module,
    "fuse": fuse,
    "pressure": pressure,
    "tracepoints": tracepoints,
    "meminfo": meminfo,
    "swap": swap,
    "node": node,
    "permissions": permissions,
    "udev rule": udev_rule,
    "config": config,
    "unit": unit,
    "daemon": daemon,
    "privileges": privileges,
    "locked memory": locked_memory,
    "oom score": oom_score,
    "suspend": suspend,
    "round trip": trip,
}
"""The checks in their order, by the name that --json shows."""


def examine(machine: Machine) -> Iterator[tuple[str, Finding]]:
    """Run all checks in order."""
    for name, check in CHECKS.items():
        try:
            yield name, check(machine)
        except OSError as error:
            advice = _AS_ROOT if isinstance(error, PermissionError) and os.geteuid() else "check it by hand"
            yield name, Finding(WARNING, f"cannot be checked: {error}", advice)
