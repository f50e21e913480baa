# SPDX-License-Identifier: MIT
"""``memnotify exporter`` for a real daemon, scraped by the Prometheus and the node_exporter of Debian."""

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.daemon import QUICK, Daemon
from support.fake_memory import FakeMemory
from support.program import Program
from support.require import unavailable
from support.waiting import eventually

from memnotify.cli.status import METHOD
from memnotify.cli.varlink import call
from memnotify.client import PAGE_SIZE, Memnotify

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy/prometheus"
COMMAND = (sys.executable, "-m", "memnotify", "exporter")
TOTAL = 10_000_000 * 1024
"""The total of a FakeMemory."""


@contextlib.contextmanager
def serving(memory: FakeMemory, place: str) -> Iterator[Daemon]:
    """Give a daemon with a status socket."""
    arguments = (*QUICK, *memory.ARGUMENTS, "--status-socket", place)
    with Daemon(*arguments, name="memnotify-metrics", program=memory.program) as daemon:
        yield daemon


@pytest.fixture
def daemon(_can_serve: None, memory: FakeMemory, place: str) -> Iterator[Daemon]:
    """Return a daemon with a status socket, half of whose memory is used."""
    with serving(memory, place) as daemon:
        yield daemon


class Exporter(Program):
    """The exporter, serving HTTP to this machine."""

    def __init__(self, place: str) -> None:
        super().__init__(*COMMAND, "--listen", "127.0.0.1:0", "--socket", place)
        self.url = self.hear("ready: ").rpartition(" ")[2]
        self.address = self.url.removeprefix("http://").removesuffix("/metrics")


@pytest.fixture
def exporter(place: str) -> Iterator[Exporter]:
    """Return an exporter, of a daemon that need not be there."""
    with Exporter(place) as exporter:
        yield exporter


def fetched(url: str) -> str:
    """Return the text at an address; the answer must be 200."""
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - of this machine
        assert answer.status == 200
        text: str = answer.read().decode()
    return text


def values(text: str) -> dict[str, float]:
    """Return the value of each series: ``name{label=value}``."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def written(file: Path, place: str) -> dict[str, float]:
    """Return what the exporter writes to a file once."""
    subprocess.run([*COMMAND, "--textfile", str(file), "--socket", place], check=True)
    return values(file.read_text())


def tool(name: str) -> str:
    """Return the path of a program of Debian's packages prometheus and prometheus-node-exporter."""
    found = shutil.which(name)
    if found is None:
        unavailable(f"{name} is not installed: apt install prometheus prometheus-node-exporter")
    return found


def ran(*command: str, stdin: str | None = None, cwd: Path | None = None) -> None:
    """Run a command, which must succeed and say nothing on stderr."""
    done = subprocess.run(command, input=stdin, cwd=cwd, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.representative
def test_the_metrics(daemon: Daemon, memory: FakeMemory, place: str, tmp_path: Path) -> None:
    file = tmp_path / "memnotify.prom"
    with Memnotify(daemon.path) as client:
        client.subscribe(used="80%", active="5%")
        with (
            open(daemon.path, "wb", buffering=0) as refused,
            pytest.raises(OSError, match="Invalid argument"),
        ):
            refused.write(b"use 5")
        before = written(file, place)
        memory.use(90)
        eventually(lambda: call(place, METHOD)["events"] == 1, "the event is counted")
        after = written(file, place)
    assert before["memnotify_up"] == 1
    assert before["memnotify_memory_total_bytes"] == pytest.approx(TOTAL, abs=PAGE_SIZE)
    assert before["memnotify_memory_used_bytes"] == pytest.approx(TOTAL / 2, abs=PAGE_SIZE)
    assert before["memnotify_memory_active_bytes"] == pytest.approx(TOTAL / 10, abs=PAGE_SIZE)
    assert before["memnotify_refused_writes_total"] == 1
    assert before["memnotify_injection_active"] == 0
    assert before["memnotify_thresholds{figure=used,side=below}"] == 1
    assert before["memnotify_thresholds{figure=active,side=above}"] == 1
    assert before["memnotify_sampling_interval_seconds"] <= 0.1
    assert before["memnotify_wake_latency_seconds_count"] == 0
    assert after["memnotify_memory_used_bytes"] == pytest.approx(0.9 * TOTAL, abs=PAGE_SIZE)
    assert after["memnotify_thresholds{figure=used,side=above}"] == 1
    assert after["memnotify_crossings_total{figure=used,side=above}"] == 1
    assert after["memnotify_wake_latency_seconds_count"] == 1
    assert after["memnotify_wake_latency_seconds_bucket{le=+Inf}"] == 1
    assert after["memnotify_wake_latency_seconds_sum"] > 0
    assert after["memnotify_samples_total"] > before["memnotify_samples_total"]


def test_promtool_has_no_complaint_and_the_page_has_each_metric(daemon: Daemon, exporter: Exporter) -> None:
    with Memnotify(daemon.path) as client:
        client.subscribe("used 80%")
        text = fetched(exporter.url)
    ran(tool("promtool"), "check", "metrics", stdin=text)
    table = (REPOSITORY / "docs/metrics.md").read_text().partition("## The metrics")[2].partition("\n##")[0]
    shown = dict(re.findall(r"(?m)^\| (.*) \| (gauge|counter|histogram) \|", table))
    documented = {name: kind for names, kind in shown.items() for name in re.findall(r"`(\w+)", names)}
    assert documented == dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))


def test_without_a_daemon(memory: FakeMemory, exporter: Exporter, place: str) -> None:
    """It answers, and needs no restart when a daemon comes."""
    assert values(fetched(exporter.url)) == {"memnotify_up": 0}
    assert f"{place} does not exist" in exporter.line()
    with serving(memory, place):
        assert values(fetched(exporter.url))["memnotify_up"] == 1
        assert "the daemon answers" in exporter.line()
    for _ in range(2):
        assert values(fetched(exporter.url)) == {"memnotify_up": 0}
    assert f"{place} does not exist" in exporter.line()


def test_a_client_that_says_nothing_delays_no_other(daemon: Daemon, exporter: Exporter) -> None:
    host, _, port = exporter.address.partition(":")
    with socket.create_connection((host, int(port))):
        assert values(fetched(exporter.url))["memnotify_up"] == 1


def test_a_file_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "directory.prom").mkdir()
    for file in "none/memnotify.prom", "directory.prom":
        command = [*COMMAND, "--textfile", str(tmp_path / file), "--socket", place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"{tmp_path / file}: " in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["directory.prom"]


def test_node_exporter_reads_the_file(daemon: Daemon, memory: FakeMemory, place: str) -> None:
    """Another user reads it, whatever the umask, and each state in turn."""
    directory = Path(place).parent
    file = directory / "memnotify.prom"
    arguments = ["--collector.disable-defaults", "--collector.textfile", "--web.listen-address=127.0.0.1:0"]
    umask = os.umask(0o077)
    try:
        writer = Program(*COMMAND, "--textfile", str(file), "--interval", "0.1", "--socket", place)
    finally:
        os.umask(umask)
    program = (tool("prometheus-node-exporter"), *arguments, f"--collector.textfile.directory={directory}")
    with writer, Program(*program, user="nobody") as node_exporter:
        address = node_exporter.hear('msg="Listening on"').rpartition("=")[2]

        def has(share: float) -> bool:
            found = values(fetched(f"http://{address}/metrics"))
            assert found["node_textfile_scrape_error"] == 0
            return abs(found.get("memnotify_memory_used_bytes", 0) / TOTAL - share) < 1e-4

        eventually(lambda: has(0.5), "the figures are there")
        memory.use(90)
        eventually(lambda: has(0.9), "they are new")


# deploy/prometheus


def expressions(dashboard: Any) -> list[str]:
    """Return the expressions of a dashboard, with its variables replaced."""
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def test_the_rules() -> None:
    ran(tool("promtool"), "check", "rules", "memnotify.rules.yml", cwd=DEPLOY)
    ran(tool("promtool"), "check", "config", "prometheus.yml", cwd=DEPLOY)
    ran(tool("promtool"), "test", "rules", "memnotify.rules.test.yml", cwd=DEPLOY)
    text = {path.name: path.read_text() for path in DEPLOY.glob("*.yml")}
    alerts = set(re.findall(r"- alert: (\w+)", text["memnotify.rules.yml"]))
    fired = re.findall(r"alertname: (\w+)\n +exp_alerts", text["memnotify.rules.test.yml"])
    assert set(fired) == alerts


def test_the_dashboard_is_laid_out() -> None:
    panels = json.loads((DEPLOY / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        own = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not own & cells
        cells |= own
    rows = 1 + max(row for _, row in cells)
    assert cells == {(column, row) for column in range(24) for row in range(rows)}


class Prometheus(Program):
    """Debian's Prometheus with the files of deploy/prometheus, which scrapes an exporter."""

    def __init__(self, directory: Path, target: str) -> None:
        job = (DEPLOY / "prometheus.yml").read_text()
        assert job.count("127.0.0.1:9012") == 1
        often = "global: { scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms }\n"
        config = directory / "prometheus.yml"
        config.write_text(often + job.replace("127.0.0.1:9012", target))
        shutil.copy(DEPLOY / "memnotify.rules.yml", directory)
        super().__init__(
            tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={directory}/data",
            "--web.listen-address=127.0.0.1:0",
        )  # fmt: skip
        # Two of its threads log these, in either order.
        address, is_ready = "", False
        while not (address and is_ready):
            line = self.line()
            if "Listening on" in line:
                address = line.rpartition("=")[2]
            is_ready = is_ready or "Server is ready" in line
        self._api = f"http://{address}/api/v1"

    def ask(self, name: str, **parameters: str) -> Any:
        """Return the data of an answer of the API, which must not be an error."""
        answer = json.loads(fetched(f"{self._api}/{name}?{urllib.parse.urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expression: str) -> list[float]:
        """Return the values of an expression, by series."""
        return [float(each["value"][1]) for each in self.ask("query", query=expression)["result"]]


def test_prometheus_scrapes_it(memory: FakeMemory, exporter: Exporter, place: str, tmp_path: Path) -> None:
    """Each expression of the dashboard has a value, and each rule can be evaluated."""
    wanted = expressions(json.loads((DEPLOY / "dashboard.json").read_text()))
    with Prometheus(tmp_path, exporter.address) as prometheus:
        with serving(memory, place) as daemon, Memnotify(daemon.path) as client:
            client.subscribe(used="80%")
            eventually(lambda: prometheus.value("memnotify_thresholds == 1") == [1], "it is scraped")
            assert prometheus.value("memnotify_memory_total_bytes") == [pytest.approx(TOTAL, abs=PAGE_SIZE)]
            memory.use(90)
            for expression in wanted:
                eventually(functools.partial(prometheus.value, expression), expression)
        eventually(lambda: prometheus.value("memnotify_up") == [0], "the daemon is down")
        eventually(
            lambda: prometheus.value('ALERTS{alertname="MemnotifyDown", alertstate="pending"}') == [1],
            "the alert waits for its time",
        )
        rules = prometheus.ask("rules")["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}, rules
