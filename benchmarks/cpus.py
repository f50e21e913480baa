#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure what each CPU costs the daemon: guests with few and with many, a threshold far away."""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent / "tests"))

from guest.kernel import GuestUnavailable  # noqa: E402 - the tests' directory is not on the path
from guest.vm import GuestLost, run  # noqa: E402

from memnotify.client import Memnotify  # noqa: E402

_ROW = re.compile(
    r"^measured: ([0-9]+) KiB, ([0-9]+) rings, ([0-9]+) descriptors, end ([0-9.]+) s$", re.MULTILINE
)
_GUEST_S = 300.0


def main() -> int:
    """Boot a guest for each number of CPUs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Needs what the guest tests need (tools/setup test). A guest takes 10 to 60 s.",
    )
    parser.add_argument(
        "--cpus", type=int, nargs="+", default=[2, 16], help="CPUs of each guest (default: 2 16)"
    )
    parser.add_argument(
        "--python", default=sys.executable, help="measure the version that this Python has installed"
    )
    parser.add_argument("--in-guest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_guest:
        _measure()
        return 0
    print("CPUs  RSS, KiB  rings  descriptors  end, s")
    for cpus in options.cpus:
        command = f"{options.python} -P {HERE} --in-guest"
        try:
            result = run(command, timeout_s=_GUEST_S, memory="2G", cpus=cpus, cwd=Path("/"))
        except (GuestLost, GuestUnavailable) as error:
            print(f"cpus.py: {error}", file=sys.stderr)
            return 1
        found = _ROW.search(result.output)
        if found is None:
            print(f"cpus.py: the guest measured nothing:\n{result.output}", file=sys.stderr)
            return 1
        rss_kib, rings, descriptors, end_s = found.groups()
        print(f"{cpus:4}  {rss_kib:>8}  {rings:>5}  {descriptors:>11}  {end_s:>6}", flush=True)
    return 0


def _measure() -> None:
    """Serve in this guest, with a threshold that is far away, and print what the daemon takes."""
    serve = subprocess.Popen([sys.executable, "-m", "memnotify", "serve"], stderr=subprocess.PIPE, text=True)
    next(line for line in serve.stderr or () if "ready:" in line)
    with Memnotify() as device:
        device.subscribe(used="90%")
        process = Path(f"/proc/{serve.pid}")
        # The page counters are open since the start; the first sample arms them.
        time.sleep(3)
        (rss_kib,) = re.findall(r"VmRSS:\s+([0-9]+)", (process / "status").read_text())
        rings = (process / "maps").read_text().count("perf_event")
        descriptors = len(list((process / "fd").iterdir()))
        begun_s = time.monotonic()
        serve.terminate()
        serve.wait()
        end_s = time.monotonic() - begun_s
    print(f"measured: {rss_kib} KiB, {rings} rings, {descriptors} descriptors, end {end_s:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
