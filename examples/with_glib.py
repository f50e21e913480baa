# SPDX-License-Identifier: MIT
"""Watch the device in GLib's main loop, as a GTK program would: with_glib.py [THRESHOLDS]."""

import sys

from gi.repository import GLib  # type: ignore[import-not-found] # Debian's python3-gi, of its own python3

from memnotify.client import Lost, Memnotify


def ready(_fd: int, _condition: int, device: Memnotify) -> bool:
    """Handle an event, and stay in the loop."""
    event = device.wait(0)
    if isinstance(event, Lost):
        print(event.error.strerror, flush=True)
    for change in event.changes if event else ():
        direction = "up" if change.up else "down"
        print(f"{change.name} went {direction}: {device.figures.used.percent:.0f} % used", flush=True)
    return bool(GLib.SOURCE_CONTINUE)


with Memnotify() as opened:
    thresholds = sys.argv[1] if len(sys.argv) > 1 else "used 80%"
    opened.subscribe(thresholds)
    # The descriptor stays valid when the daemon ends, so IO_IN is enough.
    GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, opened.fileno(), GLib.IO_IN, ready, opened)
    state = ", which is exceeded" if any(opened.exceeded.values()) else ""
    print(f"watching {thresholds}{state}", flush=True)
    GLib.MainLoop().run()
