# SPDX-License-Identifier: MIT
"""The source archive and the wheels that Python's own tools make of this tree."""

import os
import re
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

from support.package import REPOSITORY, run


def test_an_sdist_becomes_a_wheel_that_installs_and_runs(tmp_path: Path) -> None:
    # Without --wheel and --sdist, build makes the wheel from the sdist, not from this tree.
    run(
        sys.executable,
        "-m",
        "build",
        "--outdir",
        str(tmp_path),
        str(REPOSITORY),
        cwd=REPOSITORY,
        **os.environ,
    )
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"cffi_build/shim.c", "cffi_build/shim.h", "LICENSE"} <= names
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
    run(python, "-m", "pip", "install", "--quiet", str(wheel), cwd=tmp_path, **os.environ)
    assert run(str(tmp_path / "venv/bin/memnotify"), "--version", cwd=tmp_path).startswith("memnotify ")
    code = "import memnotify.transports.session as session; print(session.__file__)"
    assert run(python, "-c", code, cwd=tmp_path).startswith(str(tmp_path))


def test_a_clone_installs_without_a_compiler(tmp_path: Path) -> None:
    """The command of docs/clients/python.md, in a venv. It installs nothing that this tree has compiled."""
    page = (REPOSITORY / "docs/clients/python.md").read_text()
    (command,) = re.findall(r"`(MEMNOTIFY_PURE=1 pip install .*?)` in a venv", page)
    venv.create(tmp_path, with_pip=True)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    run("sh", "-euc", command, cwd=REPOSITORY, **{**os.environ, "PATH": path, "CC": "no-such-compiler"})
    (package,) = tmp_path.glob("lib/python3*/site-packages/memnotify")
    assert [path.name for path in package.rglob("*.so")] == []
    code = "import memnotify.client; print(memnotify.client.__file__)"
    assert run(f"{tmp_path}/bin/python", "-c", code, cwd=tmp_path).startswith(str(package))
