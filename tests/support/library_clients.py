# SPDX-License-Identifier: MIT
"""A program with many clients of the library, of one kind, that prints their events.

``python -m support.library_clients KIND PATH THRESHOLDS COUNT``. On stdout: "subscribed", then a line
of JSON for each event: the client's number, the event's name, the changes (True is up), and the time
on the monotonic clock, in seconds. The program ends when its stdin does.
"""

import asyncio
import functools
import json
import select
import sys
import threading
import time
from collections.abc import Callable

import trio

from memnotify.client import Crossed, Event, Memnotify, Observer, Restored

_printing = threading.Lock()


def _print_event(number: int, event: Event) -> None:
    changes = [change.up for change in event.changes] if isinstance(event, Crossed | Restored) else []
    with _printing:
        print(json.dumps([number, type(event).__name__, changes, time.monotonic()]), flush=True)  # noqa: T201 - for the test


def _sync(devices: list[Memnotify]) -> None:
    poller = select.poll()
    poller.register(sys.stdin.fileno(), select.POLLIN)
    numbers = {device.fileno(): number for number, device in enumerate(devices)}
    for fd in numbers:
        poller.register(fd, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd == sys.stdin.fileno():
                return
            event = devices[numbers[fd]].wait(0)
            if event is not None:
                _print_event(numbers[fd], event)


def _threads(devices: list[Memnotify]) -> None:
    observers = [
        Observer(device, functools.partial(_print_event, number)) for number, device in enumerate(devices)
    ]
    for observer in observers:
        observer.start()
    sys.stdin.read()
    for observer in observers:
        observer.stop()


async def _follow(number: int, device: Memnotify) -> None:
    async for event in device:
        _print_event(number, event)


def _asyncio(devices: list[Memnotify]) -> None:
    async def main() -> None:
        followers = [asyncio.ensure_future(_follow(*each)) for each in enumerate(devices)]
        await asyncio.to_thread(sys.stdin.read)
        for device in devices:
            device.close()
        await asyncio.gather(*followers)

    asyncio.run(main())


def _trio(devices: list[Memnotify]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for each in enumerate(devices):
                nursery.start_soon(_follow, *each)
            await trio.to_thread.run_sync(sys.stdin.read)
            for device in devices:
                device.close()

    trio.run(main)


KINDS: dict[str, Callable[[list[Memnotify]], None]] = {
    "sync": _sync,
    "threads": _threads,
    "asyncio": _asyncio,
    "trio": _trio,
}


def _main(kind: str, path: str, thresholds: str, count: str) -> None:
    devices = [Memnotify(path) for _ in range(int(count))]
    for device in devices:
        device.subscribe(thresholds)
    print("subscribed", flush=True)  # noqa: T201 - for the test
    KINDS[kind](devices)
    for device in devices:
        device.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
