# SPDX-License-Identifier: MIT
"""The client library in event loops: asyncio, trio, anyio on both."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from support.fake_device import FakeDaemon
from support.waiting import DEADLINE_S

from memnotify.client import Crossed, Event, Lost, Memnotify, Restored

Main = Callable[[], Coroutine[Any, Any, object]]


def _anyio_on(backend: str) -> Callable[[Main], object]:
    return lambda main: anyio.run(main, backend=backend)


LOOPS: dict[str, Callable[[Main], object]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "trio": trio.run,
    "anyio on asyncio": _anyio_on("asyncio"),
    "anyio on trio": _anyio_on("trio"),
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Main], object]:
    """Return a function that runs a main function, in each of the loops."""
    return LOOPS[request.param]


def test_events_come_one_by_one(
    run: Callable[[Main], object], daemon: FakeDaemon, subscribed: Memnotify
) -> None:
    seen: list[tuple[type, int]] = []
    threads = threading.active_count()

    def restart() -> None:
        daemon.end()
        daemon.serving = True

    steps: list[Callable[[], object]] = [
        partial(daemon.use, 300),
        partial(daemon.use, 100),
        restart,
        lambda: None,
    ]

    async def step() -> None:
        await anyio.lowlevel.checkpoint()  # the other task waits for the subscribed by then
        steps.pop(0)()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(step)
            async for event in subscribed:
                seen.append((type(event), event.before.used))
                assert threading.active_count() == threads
                if isinstance(event, Restored):
                    break
                group.start_soon(step)

    run(main)
    assert seen == [(Crossed, 100), (Crossed, 300), (Lost, 100), (Restored, 100)]


def test_a_cancelled_wait_loses_nothing(
    run: Callable[[Main], object], daemon: FakeDaemon, subscribed: Memnotify
) -> None:
    async def main() -> None:
        for used in (300, 100):
            with anyio.move_on_after(0.01) as scope:
                await anext(subscribed)
            assert scope.cancelled_caught
            daemon.use(used)
            event = await anext(subscribed)
            assert isinstance(event, Crossed)
            assert event.after.used == used
        # Cancelled in the very round in which it becomes readable
        taken: list[Event | None] = []

        async def take() -> None:
            taken.append(await anext(subscribed))

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            await anyio.sleep(0.01)
            daemon.use(300)
            group.cancel_scope.cancel()
        (last,) = taken or [subscribed.wait(0)]
        assert isinstance(last, Crossed)
        assert last.after.used == 300

    run(main)


def test_close_ends_the_iteration(
    run: Callable[[Main], object], daemon: FakeDaemon, subscribed: Memnotify
) -> None:
    ended: list[bool] = []

    async def iterate() -> None:
        async for event in subscribed:
            pytest.fail(f"{event} although nothing happened")
        ended.append(True)

    async def main() -> None:
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(iterate)
                await anyio.sleep(0.01)
                subscribed.close()
        # The number of the closed descriptor is another device's now, which is watched as well as any.
        with Memnotify("another path") as other:
            other.subscribe("used 200")
            daemon.use(300)
            with anyio.fail_after(DEADLINE_S):
                assert isinstance(await anext(other), Crossed)

    run(main)
    assert ended == [True]


def test_closed_in_the_turn_of_an_event(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    async def main() -> list[Event]:
        daemon.use(300)
        # Of one turn asyncio runs timers last: the task that waits is woken, and does not run yet.
        asyncio.get_running_loop().call_later(0, subscribed.close)
        return [event async for event in subscribed]

    assert asyncio.run(main()) == []


def test_close_in_a_child_leaves_the_parent_s_loop_alone(
    run: Callable[[Main], object], daemon: FakeDaemon, subscribed: Memnotify
) -> None:
    def close_in_a_child() -> None:
        child = os.fork()
        if child == 0:
            subscribed.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    async def fork() -> None:
        await anyio.sleep(0.01)
        close_in_a_child()
        daemon.use(300)

    async def main() -> None:
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(fork)
                assert isinstance(await anext(subscribed), Crossed)

    run(main)


def test_a_second_task_is_refused(
    run: Callable[[Main], object], daemon: FakeDaemon, subscribed: Memnotify
) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anext, subscribed)
            await anyio.sleep(0.01)
            with pytest.raises(RuntimeError, match="another task waits for this Memnotify"):
                await anext(subscribed)
            daemon.use(300)

    run(main)


def test_a_loop_is_not_kept_alive(daemon: FakeDaemon, subscribed: Memnotify) -> None:
    async def wait() -> None:
        await anext(subscribed)

    async def main() -> None:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(main())
    daemon.use(300)
    assert isinstance(subscribed.wait(0), Crossed)


def test_without_a_loop(subscribed: Memnotify) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        subscribed.__anext__().send(None)
