# SPDX-License-Identifier: MIT
"""The package builds from its own source archive, and says what is missing where it cannot."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def _run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_an_sdist_becomes_a_wheel_that_installs_and_runs(tmp_path: Path) -> None:
    # Without --wheel or --sdist the wheel is built from the sdist, not from this tree.
    built = _run(sys.executable, "-m", "build", "--outdir", str(tmp_path), str(REPOSITORY))
    assert built.returncode == 0, built.stdout + built.stderr
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"cffi_build/shim.c", "cffi_build/shim.h", "cffi_build/callbacks.h", "LICENSE"} <= names
    assert {
        "Makefile",
        "debian/rules",
        "udev/99-memnotify.rules",
        "dbus/org.freedesktop.LowMemoryMonitor.conf",
        "tools/mn_test.py",
        "benchmarks/peer.c",
        "docs/clients/c.md",
        "docs/man/memnotify.toml.5",
        "examples/epoll.c",
        "README.md",
    } <= names
    with zipfile.ZipFile(wheel) as archived:
        assert "memnotify/py.typed" in archived.namelist()

    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    installed = _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    assert installed.returncode == 0, installed.stderr
    shown = _run(str(tmp_path / "venv/bin/memnotify"), "--version")
    assert shown.stdout.startswith("memnotify ")
    # From elsewhere: here the tree itself would be imported.
    imported = _run(
        python,
        "-I",
        "-c",
        "import memnotify.transports.session; print(memnotify.transports.session.__file__)",
    )
    assert imported.stdout.startswith(str(tmp_path)), imported.stderr


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        (
            {"PKG_CONFIG_LIBDIR": "/nonexistent", "PKG_CONFIG_PATH": ""},
            "libfuse3's headers are not installed",
        ),
        ({"PATH": "/nonexistent", "CC": "/bin/true"}, "pkg-config is not installed"),
        ({"CC": "no-such-compiler"}, "the C compiler no-such-compiler is not installed"),
    ],
)
def test_what_the_build_lacks_is_said_with_its_remedy(environment: dict[str, str], complaint: str) -> None:
    done = _run(sys.executable, "cffi_build/build_shim.py", **environment)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "apt install" in done.stderr
    assert "Traceback" not in done.stderr
