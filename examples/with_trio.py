# SPDX-License-Identifier: MIT
"""A job that is cancelled when memory gets short, and started again later: with_trio.py [THRESHOLD]."""

import sys

import trio

from memnotify.client import Memnotify


async def changed(device: Memnotify, *, up: bool) -> float:
    """Wait until a threshold is crossed in this direction; return the use then, in percent."""
    async for event in device:
        if any(change.up is up for change in event.changes):
            return device.figures.used.percent
    raise AssertionError("the device is never closed")


async def job(name: str) -> None:
    """Take memory and time."""
    try:
        await trio.sleep_forever()
    finally:
        print(f"the {name} frees its memory", flush=True)


async def main(threshold: str) -> None:
    """Run the job while there is enough memory."""
    with Memnotify() as device:
        device.subscribe(threshold)
        print(f"watching {threshold}", flush=True)
        if any(device.exceeded.values()):  # what is exceeded already is not an event
            await changed(device, up=False)
        while True:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job, "job")
                await changed(device, up=True)
                nursery.cancel_scope.cancel()
            used_percent = await changed(device, up=False)
            print(f"{used_percent:.0f} % used: the job starts again", flush=True)


trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "used 80%")
