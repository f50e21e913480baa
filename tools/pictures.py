#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draw the pictures of ``memnotify watch`` in the documentation: python tools/pictures.py [DIRECTORY].

The figures, processes and times are made up, so that each run draws the same. It needs memnotify with its
extra ``watch``. --size, --light and --no-color draw one picture that way, to look at.
"""

import argparse
import io
import os
import re
import time
from pathlib import Path

from rich.console import Console
from rich.palette import Palette
from rich.screen import Screen
from rich.terminal_theme import SVG_EXPORT_THEME, TerminalTheme

from memnotify.cli.watch.machine import Holder, Machine, Memory, Tick
from memnotify.cli.watch.model import Watch
from memnotify.cli.watch.view import View
from memnotify.client import Crossed, Memnotify
from memnotify.simulation.script import read_script
from memnotify.testing import SimulatedDevice

DOCS = Path(__file__).parents[1] / "docs/pictures"
PICTURES = {"watch": (100, 30), "watch-wide": (130, 34), "watch-small": (40, 10)}
SCRIPT = """\
total 16G; used 41% active 30%
ramp to 55% in 50s; hold 20s; drop to 48%; hold 5s; ramp to 93% in 30s; hold 12s
ramp to 62% in 5s; hold 20s; ramp to 86% in 12s; hold 9s
"""
# xterm's colours, on white the palest that are common: yellow has a contrast of 1.7 only.
_XTERM = [
    (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0),
    (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229),
    (127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0),
    (92, 92, 255), (255, 0, 255), (0, 255, 255), (255, 255, 255),
]  # fmt: skip
LIGHT = TerminalTheme((255, 255, 255), (0, 0, 0), _XTERM[:8], _XTERM[8:])
START_S = 1_764_100_000
HOLDERS = [
    ("postgres", 2210, 4_812),
    ("chromium", 31022, 2_951),
    ("java", 7741, 2_204),
    ("python3", 9120, 1_377),
    ("mariadbd", 1877, 842),
    ("qemu-system-x86", 40111, 655),
    ("gnome-shell", 2876, 412),
    ("Xwayland", 2990, 203),
    ("systemd-journal", 411, 118),
    ("dockerd", 1530, 96),
    ("containerd", 1412, 61),
    ("sshd", 1201, 12),
]


def _machine(total: int) -> Machine:
    machine = Machine("/dev/memnotify", "/nonexistent")
    machine.memory = Memory(8 << 30, 3 << 30, (2_900 << 20, 810 << 20), (12.4, 3.1))
    machine.holders = [Holder(name, pid, mib << 20) for name, pid, mib in HOLDERS]
    machine.ticks = [Tick("used", round(total * share)) for share in (0.7, 0.95)]
    return machine


def _watch() -> Watch:
    """Return what watch has seen when the script has ended."""
    course = read_script(SCRIPT)
    with SimulatedDevice(kind="in-process") as device, Memnotify() as reader, Memnotify() as client:
        device.set(**course.at(0)._asdict())
        client.subscribe("used 80%")
        watch = Watch("/dev/memnotify", 1.0, reader.read())
        watch.add("used 80%")
        for second in range(round(course.end_s) + 1):
            device.set(**course.at(second)._asdict())
            watch.sample(reader, START_S + second)
            event = client.wait(0)
            if isinstance(event, Crossed):
                watch.add_changes(event.changes, event.after, START_S + second)
    return watch


def draw(
    watch: Watch, size: tuple[int, int], *, light: bool = False, color: bool = True, zoom: int = 1
) -> str:
    """Return the picture as SVG."""
    width, height = size
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        record=True,
        force_terminal=True,
        color_system="standard",
    )
    console.print(Screen(View(watch, _machine(watch.last.total), zoom=zoom)), end="")
    theme = LIGHT if light else SVG_EXPORT_THEME
    if not color:
        # The recording keeps colours that a terminal does not get.
        theme.ansi_colors = Palette([theme.foreground_color] * 16)
    svg = console.export_svg(title="memnotify watch --when 'used 80%'", theme=theme, unique_id="watch")
    # No font from elsewhere.
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+\n", "\n", svg.replace("Fira Code", "DejaVu Sans Mono"))


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, default=DOCS)
    parser.add_argument("--size", metavar="COLUMNSxROWS", help="one picture only")
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--no-color", action="store_true")
    parser.add_argument("--zoom", type=int, default=1)
    options = parser.parse_args()
    os.environ["TZ"] = "UTC"
    time.tzset()
    watch = _watch()
    options.directory.mkdir(parents=True, exist_ok=True)
    pictures = PICTURES
    if options.size:
        columns, rows = map(int, options.size.split("x"))
        pictures = {f"watch-{options.size}": (columns, rows)}
    for name, size in pictures.items():
        path = options.directory / f"{name}.svg"
        path.write_text(draw(watch, size, light=options.light, color=not options.no_color, zoom=options.zoom))
        print(path)


if __name__ == "__main__":
    main()
