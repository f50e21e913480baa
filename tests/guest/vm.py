# SPDX-License-Identifier: MIT
"""Run a script as root in a fresh guest: a kernel with CUSE, in QEMU, with the host's files.

The guest's root directory is the host's, at the same paths, so the host's Python, its venv and this
repository work inside unchanged. All files can be written, and all writes vanish: see init.sh. Only the
directory $RESULTS lasts; the host reads its files when the guest has ended.

With a root of its own (see root.py) the guest is a whole system: systemd is its process 1, the script is one
of its services, and the host's files are below HOST.
"""

import itertools
import lzma
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guest.kernel import ENVIRONMENT, Kernel, busybox, kernel

REPOSITORY = Path(__file__).parents[2]
RESULTS = "/run/guest/results"  # in the guest; $RESULTS there
HOST = "/host"  # in a guest with a root of its own: the host's root, which cannot be written there
IN_GUEST = "MEMNOTIFY_IN_GUEST"  # set to 1 in every guest, and nowhere else
# The modules to mount the host's root; others are loaded by name after that.
MODULES = ("virtio_pci", "9p", "9pnet_virtio", "overlay")
# Emulated, because a nested KVM may exist and be broken; and by one host thread, which runs the guest's
# processors in turn. With a thread each (tcg,thread=multi) they run at once, but on a busy host one spins on
# a lock of 9p while its holder waits for its turn: 96 tests took 238 s instead of 120 s. With one thread a
# sleeper still wakes within 15 ms beside a program that never sleeps.
# MEMNOTIFY_GUEST_ACCEL replaces it: kvm, or tcg,thread=multi to search for a race.
ACCELERATOR = os.environ.get("MEMNOTIFY_GUEST_ACCEL") or "tcg,thread=single"
# Without the self-tests of its ciphers the kernel boots 0.2 s faster. A panic ends the guest at once. Without
# no_timer_check the kernel panics if ticks are late, as on a busy host: "IO-APIC + timer doesn't work".
KERNEL_ARGUMENTS = "console=ttyS0 cryptomgr.notests no_timer_check panic=-1"
TAIL_LINES = 40


class GuestLost(Exception):  # noqa: N818 - named as pytest's own outcomes: an event, not an error
    """The guest ended, or had to be ended, before its script returned an exit status."""


@dataclass(frozen=True)
class GuestResult:
    """The results of a script: exit status, stdout and stderr as one text, its files in $RESULTS by path."""

    status: int
    output: str
    files: Mapping[str, bytes]


def run(
    script: str,
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
    memory: str = "1G",
    cpus: int = 2,
    system: Sequence[Path] = (),
    suite: str = "",
    options: Sequence[str] = (),
) -> GuestResult:
    """Run a bash script in a guest of its own, which is up after 2 to 3 s, and return its results.

    `env` is added to the guest's own few variables; the rest of the host's environment is absent.
    `system` is the root to boot instead of the host's, with its systemd as process 1: a list of directories
    to overlay, the topmost first. The script runs when that system is up, after 8 s.
    `suite` is the Debian whose kernel boots, by default that of kernel(). `options` are more of QEMU's.
    `timeout_s` counts from the start of the boot; emulated processors are about 10 times slower than real.
    Raises GuestLost, and GuestUnavailable if this host cannot run guests. No process outlives the call or the
    caller, even if the caller is killed.
    """
    booted = kernel(suite)
    with tempfile.TemporaryDirectory(prefix="memnotify-guest-") as directory:
        console, initramfs, shared = (Path(directory, name) for name in ("console", "initramfs", "shared"))
        results = shared / "results"
        results.mkdir(parents=True)
        (shared / "script").write_text(script)
        (shared / "environment").write_text(_environment(env or {}, cwd))
        (shared / "modules").write_text(f"{HOST if system else ''}{booted.modules}\n")
        initramfs.write_bytes(_initramfs(booted, Path(directory, "unpacked")))
        command = [*_qemu(booted, initramfs, shared, system, memory=memory, cpus=cpus), *options]
        why = _boot(command, console, timeout_s)
        status, output = (_text(shared / name) for name in ("status", "output"))
        if why or not status.endswith("\n"):
            raise GuestLost(
                f"{why or 'the guest ended without an exit status'}\n"
                f"--- its script's last lines\n{_tail(output)}\n--- its console's\n{_tail(_text(console))}"
            )
        files = {
            str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()
        }
    return GuestResult(int(status), output, files)


def _boot(command: list[str], console: Path, timeout_s: float) -> str:
    """Run QEMU to its end, its output and the console in one file. Return why it had to be ended, or ''."""
    with console.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"the guest was still running after {timeout_s:g} s"
        finally:  # also if the wait is interrupted
            process.kill()
            process.wait()
    return ""


def _qemu(
    booted: Kernel, initramfs: Path, shared: Path, system: Sequence[Path], *, memory: str, cpus: int
) -> list[str]:
    """Return the command that boots a guest. setpriv executes QEMU, which dies with this process."""
    # fmt: off
    command = [
        "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64",
        # -nodefaults: no DVD drive and no network card, which would take the kernel time.
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-machine", "q35", "-accel", ACCELERATOR, "-cpu", "host" if ACCELERATOR == "kvm" else "max",
        "-smp", str(cpus), "-m", memory,
        "-kernel", str(booted.image), "-initrd", str(initramfs),
        # An option that the kernel does not know becomes a variable of init.sh.
        "-append", KERNEL_ARGUMENTS + (f" layers={len(system)}" if system else ""),
    ]
    # fmt: on
    # remap: inode numbers stay unique if the host's root has several file systems.
    shares = {"host": "path=/,readonly=on,multidevs=remap", "guest": f"path={shared}"}
    shares |= {f"system{number}": f"path={directory},readonly=on" for number, directory in enumerate(system)}
    for tag, options in shares.items():
        command += ["-fsdev", f"local,id={tag},security_model=none,{options}"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return command


def _environment(env: Mapping[str, str], cwd: Path) -> str:
    """Return the lines that process 1 executes before the script."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "RESULTS": RESULTS, IN_GUEST: "1", **env}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines += [f"cd {shlex.quote(str(cwd))}"]
    return "\n".join(lines)


def _initramfs(booted: Kernel, directory: Path) -> bytes:
    """Return the initial file system: busybox, init.sh, and the modules in the order of their loading."""
    (directory / "bin").mkdir(parents=True)
    (directory / "modules").mkdir()
    shutil.copy(busybox(), directory / "bin/busybox")
    shutil.copy(Path(__file__).with_name("init.sh"), directory / "init")
    (directory / "init").chmod(0o755)
    root, release = booted.modules.parents[2], booted.modules.name
    modprobe = ["modprobe", "-d", str(root), "-S", release, "--all", "--show-depends", *MODULES]
    shown = subprocess.run(modprobe, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True).stdout
    paths = dict.fromkeys(line.split()[1] for line in shown.splitlines() if line.startswith("insmod "))
    for number, path in zip(itertools.count(10), map(Path, paths), strict=False):
        packed = path.read_bytes()
        module = lzma.decompress(packed) if path.suffix == ".xz" else packed
        (directory / "modules" / f"{number}-{path.name.removesuffix('.xz')}").write_bytes(module)
    names = "\n".join(str(path.relative_to(directory)) for path in sorted(directory.rglob("*")))
    cpio = ["busybox", "cpio", "--quiet", "-o", "-H", "newc"]
    return subprocess.run(
        cpio, cwd=directory, env=ENVIRONMENT, input=names.encode(), stdout=subprocess.PIPE, check=True
    ).stdout


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])
