# SPDX-License-Identifier: MIT
"""``memnotify status``: what the running daemon does."""

import argparse
import json
import pwd
import time
from collections.abc import Iterator
from typing import Any

from memnotify.cli import add_command
from memnotify.cli.common import human, report, seconds
from memnotify.cli.varlink import CallError, add_socket_option, call
from memnotify.client import PAGE_SIZE

METHOD = "org.memnotify.Daemon.GetStatus"

_DESCRIPTION = """\
Show what the running daemon does: its figures, settings and their origins, when it samples and
why, and its observers with their thresholds. Other users' observers are shown to root only.
"""
_EPILOG = """\
exit codes: 0 shown; 2 no daemon has this status socket, or wrong arguments
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "status", "show what the running daemon does", _DESCRIPTION, _EPILOG)
    parser.add_argument("--json", action="store_true", help="print one JSON object, in pages")
    parser.add_argument("--watch", type=seconds, metavar="S", help="show it again every S seconds")
    add_socket_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the status; return the exit code."""
    while True:
        try:
            status = call(options.socket, METHOD)
        except CallError as error:
            report("status", str(error))
            return 2
        print(json.dumps(status) if options.json else "\n".join(as_text(status)), flush=True)
        if options.watch is None:
            return 0
        time.sleep(options.watch)
        if not options.json:
            print()


def as_text(status: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a status."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status["since"]))
    yield f"memnotify {status['version']}, process {status['pid']}: {status['path']}, a {status['transport']}"
    yield f"since      {since}"
    injection = status["injection"]
    if injection is not None:
        yield (
            f"NOT REAL   process {injection['pid']} injects {injection['figures']}"
            f" for {injection['ends_in']:.1f} s more"
        )
    figures = {each["name"]: each["pages"] for each in status["figures"]}
    for name, pages in figures.items():
        yield f"{name:<10} {_amount(pages, figures['total'])}"
    if not figures:
        yield "figures    cannot be read, see the log of the daemon"
    yield from _sampler(status["sampler"])
    for setting in status["settings"]:
        if setting["origin"] != "default":
            value = f"{setting['value']} {setting['unit']}".rstrip()
            yield f"setting    {setting['name']} = {value} ({setting['origin']})"
    yield f"writes     {status['refused_writes']} refused"
    yield f"readings   {status['failed_readings']} failed"
    for each in status["thresholds"]:
        if each["count"] or each["crossings"]:
            side = "at or above" if each["above"] else "below"
            yield f"thresholds {each['count']} {each['name']} {side}, {each['crossings']} crossings"
    shown = len(status["observers"])
    yield f"observers  {status['observer_count']}, of which {shown} are shown; {status['events']} events"
    for observer in status["observers"]:
        yield from _observer(observer, figures.get("total", 0))


def _sampler(sampler: dict[str, Any]) -> Iterator[str]:
    if sampler["watching"]:
        yield f"sampler    every {sampler['interval']:g} s ({sampler['reason']})"
    else:
        yield f"sampler    asleep: {sampler['reason']}"
    age_s = sampler["last_sample_age"]
    last = "none yet" if age_s is None else f"the last one {age_s:.3f} s ago"
    yield f"samples    {sampler['samples']}, {last}; {sampler['wakeups']} wake-ups"
    yield f"counters   page counters {sampler['page_counters']}"
    window = f", window {sampler['pressure_window']:g} s" if sampler["pressure_window"] else ""
    yield f"pressure   PSI trigger {sampler['pressure_trigger']}{window}"
    wakes = sum(each["count"] for each in sampler["wake_latencies"]["classes"])
    if wakes:
        mean_ms = 1000 * sampler["wake_latencies"]["sum"] / wakes
        yield f"wakes      {wakes}, on average {mean_ms:.3f} ms after the reading began"


def _observer(observer: dict[str, Any], total: int) -> Iterator[str]:
    client = f"process {observer['pid']}" if observer["pid"] else "a process of another namespace"
    events = f", {observer['events']} events"
    if observer["last_event_age"] is not None:
        events += f", the last one {observer['last_event_age']:.3f} s ago"
    events += " and pending since" if observer["pending"] else ""
    command = f" ({observer['command']})" if observer["command"] else ""
    where = f" in {observer['cgroup']}" if observer["cgroup"] else ""
    yield f"  {observer['id']}: {client}{command} of {_user(observer['uid'])}{where}{events}"
    for threshold in observer["thresholds"]:
        side = "at or above" if threshold["above"] else "below"
        event = "falls below" if threshold["above"] else "reaches"
        pages = threshold["next_pages"]
        yield (
            f"     {threshold['name']} {_amount(threshold['pages'], total)}: {side},"
            f" fires when it {event} {pages} pages"
        )


def _amount(pages: int, total: int) -> str:
    share = f", {100 * pages / total:.1f} %" if total else ""
    return f"{pages} pages, {human(pages * PAGE_SIZE)}{share}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
