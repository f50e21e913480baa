# SPDX-License-Identifier: MIT
"""What ``memnotify doctor`` checks: a function for each check, and at the end the table of them."""

import contextlib
import errno
import fnmatch
import grp
import importlib
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from memnotify.cli.doctor.machine import UNIT, Machine, Node, option
from memnotify.cli.doctor.probe import Attempt, Step, attempt, round_trip
from memnotify.config import files as config_files
from memnotify.config.settings import ConfigError

OK = "ok"
WARNING = "warning"
FAILED = "failed"
NOT_APPLICABLE = "not applicable"

# udev(7), modules-load.d(5): the first one wins where two have a file of the same name.
_RULES = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d")
_MODULES = tuple(
    f"{directory}/modules-load.d" for directory in ("/etc", "/run", "/usr/local/lib", "/usr/lib")
)
_RULE = re.compile(r'(\w+)(?:\{[^}]*\})?\s*(==|!=|\+=|-=|:=|=)\s*"([^"]*)"')
_START = f"start it: 'memnotify serve', or systemctl start {UNIT}"
_AS_ROOT = "run it as root to look at that"
_TRIGGER = "udevadm control --reload; udevadm trigger -c add -s cuse"


class Finding(NamedTuple):
    """What a check has found."""

    state: str
    """OK, WARNING, FAILED or NOT_APPLICABLE"""
    found: str
    advice: str = ""
    """What to do next; for a warning or a failure."""


# The program and the kernel


def program(_: Machine) -> Finding:
    """Whether the daemon can be loaded at all."""
    try:
        importlib.import_module("memnotify.transports")
    except ImportError as error:
        return Finding(
            FAILED, f"the daemon cannot be loaded: {error}", "apt install libfuse3-3, or install it anew"
        )
    return Finding(OK, "the daemon can be loaded, and libfuse3 is there")


def cuse(machine: Machine) -> Finding:
    """Whether the kernel has CUSE."""
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
    """Whether the module is loaded, now and at boot."""
    file = _module_file(machine)
    loaded = machine.exists("/sys/class/cuse")
    if not file:
        return Finding(NOT_APPLICABLE, "CUSE is built in" if loaded else "there is none for this kernel")
    if loaded and not machine.exists("/dev/cuse"):
        return Finding(
            FAILED,
            "cuse is loaded and /dev/cuse is not there",
            "is /dev a devtmpfs? modprobe -r cuse; modprobe cuse",
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
    """Whether the kernel has FUSE, on which CUSE stands, too."""
    if machine.exists("/dev/fuse"):
        return Finding(OK, "the kernel has FUSE")
    if machine.exists("/dev/cuse"):
        return Finding(WARNING, "/dev/fuse is not there: no FUSE file can be served", "modprobe fuse")
    return Finding(
        FAILED,
        "neither /dev/fuse nor /dev/cuse is there",
        "modprobe fuse; in a container, pass one of them in",
    )


def pressure(machine: Machine) -> Finding:
    """Whether memory stalls (PSI) wake the daemon."""
    if not machine.exists("/proc/pressure/memory"):
        return Finding(
            WARNING,
            "no /proc/pressure/memory: memory stalls do not wake the daemon",
            "boot with psi=1, or a kernel with CONFIG_PSI",
        )
    return _used_by_daemon(machine, "/proc/pressure/memory", "memory stalls (PSI)")


def tracepoints(machine: Machine) -> Finding:
    """Whether pages that are allocated and freed wake the daemon."""
    missing = [
        path
        for path in ("/proc/sys/kernel/perf_event_paranoid", "/sys/kernel/tracing")
        if not machine.exists(path)
    ]
    if missing:
        return Finding(
            WARNING,
            f"no {missing[0]}: pages that are allocated do not wake the daemon, it samples by time",
            "boot a kernel with CONFIG_PERF_EVENTS and CONFIG_FTRACE",
        )
    return _used_by_daemon(machine, "anon_inode:[perf_event]", "counters of pages (tracepoints)")


def _used_by_daemon(machine: Machine, fd: str, what: str) -> Finding:
    fds = machine.servers[0].fds if machine.is_device and machine.servers else None
    if fds is None:
        return Finding(OK, f"the kernel has {what}")
    if fd in fds:
        return Finding(OK, f"{what} wake the daemon")
    return Finding(
        WARNING,
        f"the kernel has {what}, but the daemon does not use them",
        "was it told not to, or not started as root? See what it logs at its start",
    )


# The device


def node(machine: Machine) -> Finding:
    """Whether the device is there, and is one."""
    path, there = machine.path, machine.node
    if there is None:
        return _silent(machine, machine.looked)
    if machine.is_mount:
        return _mount(path, there)
    if there.error:
        missing = there.error == errno.ENOENT
        advice = _START if missing else "look at the directories on the way there"
        return Finding(FAILED, f"{path} is not there: {os.strerror(there.error)}", advice)
    if stat.S_ISCHR(there.mode):
        return _character_device(machine, there)
    if there.mode == stat.S_IFREG | 0o200:
        return Finding(FAILED, f"{path} is a mount point on which nothing is mounted", _START)
    kinds = {stat.S_IFREG: "a plain file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link"}
    kind = kinds.get(stat.S_IFMT(there.mode), "something else")
    return Finding(FAILED, f"{path} is {kind}, and no device", f"move it away, then {_START}")


def _character_device(machine: Machine, there: Node) -> Finding:
    path = machine.path
    name = path.removeprefix("/dev/").replace("/", "!")
    try:
        registered = machine.text(f"/sys/class/cuse/{name}/dev").strip()
    except FileNotFoundError:
        return Finding(FAILED, f"{path} is no CUSE device: nobody serves it", f"rm {path}, then {_START}")
    if registered != there.device:
        return Finding(
            FAILED,
            f"{path} is the device {there.device}, and the one that is served is {registered}",
            f"rm {path}, then restart the daemon",
        )
    return Finding(OK, f"{path} is the CUSE device {registered}")


def _mount(path: str, there: Node) -> Finding:
    if there.error in (errno.ENOTCONN, errno.ECONNABORTED):
        undo = "umount -l" if os.geteuid() == 0 else "fusermount3 -u -z"
        return Finding(
            FAILED, f"{path} is the mount of a daemon that has ended", f"{undo} {path}, then {_START}"
        )
    if there.error == errno.EACCES:
        return Finding(
            FAILED,
            f"{path} is mounted by another user, for himself alone",
            "run it as that user, or let root serve the device",
        )
    if there.error:
        return Finding(FAILED, f"{path}: {os.strerror(there.error)}", "look into the daemon's log")
    return Finding(OK, f"{path} is a FUSE file")


def permissions(machine: Machine) -> Finding:
    """Whether this user, and others, may use the device."""
    there = machine.node
    if there is None or not machine.is_device:
        return Finding(NOT_APPLICABLE, "there is no device that answers")
    owner, group = _user(there.uid), _group(there.gid)
    mode = stat.S_IMODE(there.mode)
    shown = f"{mode:04o} {owner}:{group}"
    by_rule = f"see 'udev rule'; until then: chmod 0666 {machine.path}"
    if not there.usable:
        join = f"as root: usermod -aG {group} {_user(os.geteuid())}, and log in again"
        return Finding(
            FAILED, f"{shown}: this user may not use it", join if mode & 0o060 == 0o060 else by_rule
        )
    if mode & 0o006 == 0o006:
        return Finding(OK, f"{shown}: everybody may use it")
    if mode & 0o060 == 0o060:
        return Finding(OK, f"{shown}: the group {group} may use it")
    return Finding(WARNING, f"{shown}: nobody but {owner} may use it", by_rule)


def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def udev_rule(machine: Machine) -> Finding:
    """Whether a udev rule gives the device its mode, and has done so."""
    there = machine.node
    if machine.is_mount:
        return Finding(NOT_APPLICABLE, "a FUSE file has its mode from the daemon")
    if not machine.exists("/run/udev/control"):
        return Finding(NOT_APPLICABLE, "udev does not run here: the mode is up to chmod")
    given: dict[str, str] = {}
    for path in machine.files(_RULES, "*.rules"):
        for rule in machine.text(path).replace("\\\n", "").splitlines():
            given |= _given(rule, os.path.basename(machine.path), path)
    if not given:
        return Finding(
            WARNING,
            f"no rule is for {machine.path}: a CUSE device stays 0600, root's alone",
            f"copy udev/99-memnotify.rules to /etc/udev/rules.d, then: {_TRIGGER}",
        )
    rule = given.pop("rule")
    told = f"{rule}: {' '.join(f'{key}={value}' for key, value in given.items())}"
    if there is None or not machine.is_device:
        return Finding(OK, told)
    has = {"MODE": f"{stat.S_IMODE(there.mode):04o}", "OWNER": _user(there.uid), "GROUP": _group(there.gid)}
    different = [key for key in has if key in given and has[key] not in (given[key], given[key].zfill(4))]
    if different:
        return Finding(
            WARNING,
            f"{told}, but the device has {' '.join(f'{key}={has[key]}' for key in different)}",
            _TRIGGER,
        )
    return Finding(OK, f"{told}, and the device has it")


def _given(rule: str, name: str, path: str) -> dict[str, str]:
    """Return what a udev rule gives the device of that name; nothing if it is for others."""
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
    """Whether the configuration is good: that of the daemon, or what the next one would read."""
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
            FAILED, "; ".join(str(error).splitlines()), "mend it; 'memnotify check-config' tells more"
        )
    served = settings.path or f"/dev/{settings.name}"
    if not machine.servers and machine.is_default and served != machine.path:
        return Finding(WARNING, f"it has another device, {served}", f"memnotify doctor --path {served}")
    files = sorted({origin.rpartition(":")[0] for origin in origins.values()} - {""})
    return Finding(OK, f"{', '.join(files)}: good" if files else f"nothing in {path}: the defaults")


def unit(machine: Machine) -> Finding:  # noqa: PLR0911 - one for each state of it
    """Whether systemd starts the daemon."""
    if not machine.is_default or machine.name != "memnotify":
        return Finding(NOT_APPLICABLE, "the unit serves /dev/memnotify")
    says = machine.unit
    if says is None:
        return Finding(NOT_APPLICABLE, "systemd does not run here")
    if says["LoadState"] != "loaded":
        advice = {
            "masked": f"systemctl unmask {UNIT}",
            "not-found": "install the package, or 'make install'",
        }.get(says["LoadState"], f"systemd-analyze verify {UNIT}")
        return Finding(WARNING, f"{UNIT} is {says['LoadState']}", advice)
    shown = f"{UNIT} is {says['ActiveState']} ({says['SubState']}), {says['UnitFileState']}"
    if says["ActiveState"] == "inactive":
        return Finding(WARNING, shown, f"systemctl enable --now {UNIT}")
    if says["ActiveState"] not in ("active", "reloading"):
        advice = f"journalctl -u {UNIT} -b; systemctl restart {UNIT}"
        return Finding(FAILED, f"{shown}, Result={says['Result']}", advice)
    if says["UnitFileState"] == "disabled":
        return Finding(WARNING, f"{shown}: it does not start at boot", f"systemctl enable {UNIT}")
    pids = [server.pid for server in machine.servers]
    if pids and int(says["MainPID"]) not in pids:
        return Finding(
            WARNING,
            f"{shown}, but process {pids[0]} serves the device, and not its process {says['MainPID']}",
            f"end {pids[0]}, then: systemctl restart {UNIT}",
        )
    return Finding(OK, shown)


def daemon(machine: Machine) -> Finding:
    """Whether a process serves the device, and runs."""
    servers = machine.servers
    if not servers:
        if machine.is_device and machine.unseen:
            return Finding(WARNING, "not found: this user sees no other's descriptors", _AS_ROOT)
        if machine.is_device or machine.node is None:
            return Finding(
                WARNING, "not found among the processes here", "is this a container, and it outside of it?"
            )
        return Finding(FAILED, f"nobody serves {machine.path}", _START)
    pid, state = servers[0].pid, servers[0].status["State"]
    if state[0] in "Tt":
        return Finding(FAILED, f"process {pid} is stopped: {state}", f"kill -CONT {pid}")
    others = ", ".join(str(server.pid) for server in servers[1:])
    several = f", or one of {others}," if others else ""
    return Finding(OK, f"process {pid}{several} serves it")


def privileges(machine: Machine) -> Finding:
    """Whether the daemon has dropped what it does not need."""
    if not machine.servers:
        return Finding(NOT_APPLICABLE, "no daemon is seen")
    status = machine.servers[0].status
    user = _user(int(status["Uid"].split()[1]))
    capabilities = int(status["CapEff"], 16)
    new = "cannot" if status["NoNewPrivs"] == "1" else "may"
    shown = f"user {user}, capabilities {capabilities:x}, {new} gain privileges"
    if user == "root":
        return Finding(WARNING, shown, "let it drop them: start it by its unit")
    return Finding(OK, shown)


def locked_memory(machine: Machine) -> Finding:
    """Whether the daemon stays in memory when that is short."""
    if not machine.servers:
        return Finding(NOT_APPLICABLE, "no daemon is seen")
    locked_kib = int(machine.servers[0].status["VmLck"].split()[0])
    if not locked_kib:
        return Finding(
            WARNING,
            "the daemon's memory is not locked: it may be late when memory is short",
            "start it by its unit or as root, or with an unlimited RLIMIT_MEMLOCK",
        )
    return Finding(OK, f"the daemon has locked {locked_kib / 1024:.0f} MiB")


def trip(machine: Machine) -> Finding:
    """Whether the device does for a client what it should."""
    if machine.node is None:
        return _silent(machine, machine.looked)
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
        return _silent(machine, tried)
    found, advice = tried.result
    return Finding(FAILED, f"{tried.step}: {found}", advice) if advice else Finding(OK, found)


def _silent(machine: Machine, tried: Attempt) -> Finding:
    left = f"; process {tried.left_pid} hangs in it until there is one" if tried.left_pid else ""
    stopped = [server.pid for server in machine.servers if server.status["State"][0] in "Tt"]
    return Finding(
        FAILED,
        f"no answer to '{tried.step}' within {machine.timeout_s:g} s{left}",
        f"its daemon is stopped: kill -CONT {stopped[0]}"
        if stopped
        else f"restart the daemon: systemctl restart {UNIT}",
    )


CHECKS: Mapping[str, Callable[[Machine], Finding]] = {
    "program": program,
    "cuse": cuse,
    "module": module,
    "fuse": fuse,
    "pressure": pressure,
    "tracepoints": tracepoints,
    "node": node,
    "permissions": permissions,
    "udev rule": udev_rule,
    "config": config,
    "unit": unit,
    "daemon": daemon,
    "privileges": privileges,
    "locked memory": locked_memory,
    "round trip": trip,
}
"""Each check by its name, which --json shows too; in this order."""


def examine(machine: Machine) -> Iterator[tuple[str, Finding]]:
    """Do all checks, one after the other."""
    for name, check in CHECKS.items():
        try:
            yield name, check(machine)
        except OSError as error:
            advice = (
                _AS_ROOT if isinstance(error, PermissionError) and os.geteuid() else "look at that by hand"
            )
            yield name, Finding(WARNING, f"cannot be looked at: {error}", advice)
