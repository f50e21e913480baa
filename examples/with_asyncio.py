# SPDX-License-Identifier: MIT
"""Workers that start no new work while memory is short: with_asyncio.py [THRESHOLDS].

A threshold that is exceeded at the start is not an event: the workers pause from the next crossing on.
"""

import asyncio
import sys

from memnotify.client import Crossed, Memnotify, Restored


async def work(enough: asyncio.Event) -> None:
    """Do one piece of work after the other, while there is enough memory."""
    while True:
        await enough.wait()
        await asyncio.sleep(0.01)  # the work


async def main(thresholds: str) -> None:
    """Start the workers, and pause them while memory is short."""
    enough = asyncio.Event()
    exceeded: set[str] = set()
    with Memnotify() as device:
        device.subscribe(thresholds)
        enough.set()
        print(f"watching {thresholds}", flush=True)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(work(enough))
            async for event in device:
                if not (isinstance(event, Crossed | Restored) and event.changes):
                    continue
                for change in event.changes:
                    (exceeded.add if change.up else exceeded.discard)(change.name)
                if exceeded:
                    enough.clear()
                else:
                    enough.set()
                state = "work goes on" if enough.is_set() else "no new work"
                print(f"{event.after.used.percent:.0f} % used: {state}", flush=True)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "used 80%"))
