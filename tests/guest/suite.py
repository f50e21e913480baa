# SPDX-License-Identifier: MIT
"""Run pytest inside a guest, and read its outcomes.

It runs with the Python that runs here. In a guest with a root of its own it runs with the python3 of that
root, which reads this repository and this Python's pytest.
"""

import shlex
import sys
import sysconfig
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from guest.vm import HOST, REPOSITORY, RESULTS, run
from support.require import required, unavailable

REPORT = "junit.xml"
OPTIONS = (
    "-p",
    "no:cacheprovider",
    f"--junitxml={RESULTS}/{REPORT}",
    # The form of the report that has the properties that a test records.
    "-o",
    "junit_family=xunit1",
    # A test that hangs shows its stacks in the output before the guest's time is up.
    "-o",
    "faulthandler_timeout=120",
)
# With hypothesis's plugin pytest would compile all of hypothesis if the venv has no cached rewrite of it: 7 s
# on an emulated processor. Its strategies and @given work without the plugin.
ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@dataclass(frozen=True)
class Case:
    """One test in the guest: passed, failed, error, skipped or xfailed, and its message.

    `recorded` has its measurements, by pytest's record_property.
    """

    name: str
    outcome: str
    message: str
    recorded: Mapping[str, str]


@dataclass(frozen=True)
class SuiteResult:
    """The result of pytest in the guest: its exit status, its cases, and all of its output."""

    status: int
    cases: Sequence[Case]
    output: str


def run_pytest(
    args: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout_s: float = 900,
    system: Sequence[Path] = (),
    suite: str = "",
) -> SuiteResult:
    """Boot one guest, run pytest with `args` in the repository's directory there, and return every case.

    `system` and `suite` are those of vm.run. The guest lacks what the host lacks: a test that cannot run is
    skipped there as it is here, unless MEMNOTIFY_REQUIRE_ALL is 1.

    If there is no case, pytest ended before it wrote its report: see its output.
    Raises GuestLost and GuestUnavailable as vm.run does.
    """
    python, cwd = sys.executable, REPOSITORY
    env = {**ENVIRONMENT, **required(), **env}
    if system:
        python, cwd = "/usr/bin/python3", Path(f"{HOST}{REPOSITORY}")
        env["PYTHONPATH"] = HOST + sysconfig.get_path("purelib")
    command = shlex.join([python, "-m", "pytest", *args, *OPTIONS])
    result = run(command, timeout_s=timeout_s, env=env, cwd=cwd, system=system, suite=suite)
    return SuiteResult(result.status, cases(result.files.get(REPORT, b"")), result.output)


def report(result: SuiteResult, subtests: pytest.Subtests) -> None:
    """Make each case of a guest a subtest here, with the outcome that it had there."""
    assert result.cases, result.output
    for case in result.cases:
        for name, value in case.recorded.items():
            print(f"{name}: {value}")  # noqa: T201 - pytest -rA shows it, but not from a subtest
        with subtests.test(case.name):
            if case.outcome == "skipped":
                unavailable(f"skipped in the guest: {case.message}")
            if case.outcome != "passed":
                pytest.fail(f"{case.outcome} in the guest: {case.message}", pytrace=False)
    # No case shows an error at collection or a warning at exit.
    assert result.status == 0, result.output


def cases(report: bytes) -> list[Case]:
    """Return the cases of a JUnit report, which may be empty."""
    if not report:
        return []
    tree = ET.fromstring(report)  # noqa: S314 - our own guest wrote it
    return [_case(element) for element in tree.iter("testcase")]


def _case(element: ET.Element) -> Case:
    name = f"{element.get('classname')}::{element.get('name')}"
    recorded = {each.get("name", ""): each.get("value", "") for each in element.iter("property")}
    outcomes = {"failure": "failed", "error": "error", "skipped": "skipped"}  # the worst first
    for tag, outcome in outcomes.items():
        found = element.find(tag)
        if found is not None:
            message = found.text or found.get("message") or ""
            return Case(
                name, "xfailed" if found.get("type") == "pytest.xfail" else outcome, message, recorded
            )
    return Case(name, "passed", "", recorded)
