# SPDX-License-Identifier: MIT
"""The course that a script or a recording describes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnotify.abi.figures import PAGE_SIZE
from memnotify.simulation.script import RECORDING, STEP_S, Course, ScriptError, read_recording, read_script

TOTAL = 16 * 2**30 // PAGE_SIZE
HEAD = json.dumps({RECORDING: 1, "page_size": PAGE_SIZE})


def used_percent(course: Course, when_s: float) -> int:
    figures = course.at(when_s)
    return round(100 * figures.used / figures.total)


def test_the_issues_script() -> None:
    course = read_script("at 0s used 40%; ramp to 95% in 10s; hold 5s; drop to 30%")
    assert course.at(0).total == TOTAL
    seen = {when_s: used_percent(course, when_s) for when_s in (0, 2, 10, 14.9, 15, 1000)}
    assert seen == {0: 40, 2: 51, 10: 95, 14.9: 95, 15: 30, 1000: 30}
    assert course.end_s == 15


def test_what_a_script_leaves_out() -> None:
    figures = read_script("hold 1s").at(0)
    assert (figures.used, figures.active) == (TOTAL // 2, round(TOTAL / 10))


def test_lines_comments_units_and_other_figures() -> None:
    course = read_script(
        "# a small machine\ntotal 1G\nat 500ms used 256M active 100 # pages\n\nramp active to 50% in 1m;\n"
    )
    mib = 2**20 // PAGE_SIZE
    assert course.at(0).figures == (1024 * mib, 512 * mib, round(102.4 * mib))
    assert course.at(0.5).figures == (1024 * mib, 256 * mib, 100)
    assert course.at(61).figures == (1024 * mib, 256 * mib, 512 * mib)


def test_the_cgroup() -> None:
    """A percentage of cgroup is one of cgroup_limit, which is total at first; the figures are total's."""
    course = read_script(
        "total 4000K; hold 1s; cgroup_limit 400K cgroup 80%; hold 1s; ramp cgroup to 100% in 2s"
    )
    assert course.at(0)[-2:] == (500, 1000)
    assert course.at(1)[-2:] == (80, 100)
    assert course.at(3)[-2:] == (90, 100)
    assert course.at(4)[-2:] == (100, 100)


def test_a_recording_may_have_the_cgroup() -> None:
    course = read_recording(f"{HEAD}\n[0, 1000, 100, 10, 5, 50]\n[1, 1000, 100, 10]\n")
    assert course.at(0)[-2:] == (5, 50)
    assert course.at(1)[-2:] == (500, 1000)


def test_when_the_figures_move_next() -> None:
    course = read_script("hold 2s; ramp to 60% in 1s; hold 3s; drop to 0")
    assert course.next_s(0) == 2
    assert course.next_s(2) == 2 + STEP_S
    assert course.next_s(2.99) == 3
    assert course.next_s(3) == 6
    assert course.next_s(6) == math.inf


@pytest.mark.parametrize(
    ("script", "place", "expected"),
    [
        ("", "line 1, column 1", "a statement"),
        ("use 40%", "line 1, column 1", "a statement"),
        ("ramp too 95%", "line 1, column 6", "'to'"),
        ("hold 1s; ramp to 95% for 10s", "line 1, column 22", "'in'"),
        ("hold 1s\nhold 5", "line 2, column 6", "a time"),
        ("hold", "line 1, column 5", "a time"),
        ("ramp to 95% in 1000000000000000000s", "line 1, column 16", "a time"),
        ("used 120%", "line 1, column 6", "an amount up to total (16G)"),
        ("used x", "line 1, column 6", "an amount"),
        ("drop to", "line 1, column 8", "an amount"),
        ("drop to ; hold 1s", "line 1, column 9", "an amount"),
        ("at 3s used 2%; at 1s used 1%", "line 1, column 19", "a time of at least 3s"),
        ("at 3s total 2%", "line 1, column 7", "used, active, cgroup or cgroup_limit"),
        ("hold 1s; total 4G", "line 1, column 10", "'total' only before"),
        ("total 40%", "line 1, column 7", "a size"),
        ("total 0", "line 1, column 7", "a size"),
        ("cgroup_limit 0", "line 1, column 14", "an amount"),
        ("cgroup 101%", "line 1, column 8", "an amount"),
        ("hold 1s hold 1s", "line 1, column 9", "';'"),
    ],
)
def test_errors_name_the_position_and_what_is_allowed(script: str, place: str, expected: str) -> None:
    with pytest.raises(ScriptError) as refused:
        read_script(script)
    text = str(refused.value)
    assert text.startswith(f"{place}: {expected}")
    assert "ramp [FIGURE] to AMOUNT in TIME" in text


WORDS = [
    "at",
    "0s",
    "10s",
    "used",
    "active",
    "40%",
    "6G",
    "ramp",
    "to",
    "in",
    "hold",
    "drop",
    "total",
    ";",
    "\n",
]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3)).map(" ".join))
def test_any_text_is_a_script_or_refused(script: str) -> None:
    try:
        course = read_script(script)
    except ScriptError:
        return
    for when_s in (0.0, course.end_s / 3, course.end_s):
        figures = course.at(when_s)
        assert 0 <= figures.used <= figures.total
        assert course.next_s(when_s) > when_s


def test_a_recording_holds_each_sample_until_the_next() -> None:
    course = read_recording(f"{HEAD}\n[0, 1000, 100, 10]\n[1.5, 1000, 200, 20]\n[2, 2000, 300, 30]\n")
    assert course.at(0).figures == course.at(1.4).figures == (1000, 100, 10)
    assert course.at(1.5).figures == (1000, 200, 20)
    assert course.at(9).figures == (2000, 300, 30)
    assert [course.next_s(0), course.next_s(1.5), course.next_s(2)] == [1.5, 2, math.inf]


def test_a_recording_of_another_page_size() -> None:
    head = json.dumps({RECORDING: 1, "page_size": 4 * PAGE_SIZE})
    assert read_recording(f"{head}\n[0, 1000, 100, 10]").at(0).figures == (4000, 400, 40)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}\n",
        f"{HEAD}\n[0, 1]",
        f"{HEAD}\n[0, 10, 20, 5]",
        f"{HEAD}\n[2,9,1,1]\n[1,9,1,1]",
        f"{HEAD}\nx",
        f"{HEAD}\n[1e18,9,1,1]",
        f"{HEAD}\n[0,9,-1,1]",
    ],
)
def test_a_recording_that_is_not_understood(text: str) -> None:
    with pytest.raises(ScriptError, match="recording"):
        read_recording(text)
