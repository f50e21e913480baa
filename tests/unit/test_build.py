# SPDX-License-Identifier: MIT
"""The build: from the source archive, by tools/setup, and the messages for what is missing."""

import os
import shutil
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
    # Without --wheel and --sdist, build makes the wheel from the sdist, not from this tree.
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
    # -I: the tree itself, which is the current directory, would be imported otherwise.
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
def test_a_missing_build_tool_is_named_with_its_remedy(environment: dict[str, str], complaint: str) -> None:
    done = _run(sys.executable, "cffi_build/build_shim.py", **environment)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "apt install" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_pure_wheel_needs_no_compiler(tmp_path: Path) -> None:
    """It has no compiled module, even though this tree has one."""
    wheel = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path))
    built = _run(*wheel, str(REPOSITORY), MEMNOTIFY_PURE="1", CC="no-such-compiler")
    assert built.returncode == 0, built.stderr
    (made,) = tmp_path.iterdir()
    assert made.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(made) as archived:
        assert [name for name in archived.namelist() if name.endswith(".so")] == []


_DPKG_QUERY = """#!/bin/sh
for word; do case $word in -*|*{*|$LACKING) ;; *) echo "$word installed" ;; esac; done
"""
_RECORD = """#!/bin/sh
case $* in *_shim*) ;; *) echo "${0##*/} $*" >>"$LOG" ;; esac
"""


class Checkout:
    """A copy of the files that tools/setup looks at, with programs that record how they are called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("tools", "cffi_build"):
            shutil.copytree(REPOSITORY / name, directory / name)
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, directory)
        programs = {"bin/dpkg-query": _DPKG_QUERY, "bin/apt-get": _RECORD, ".venv/bin/python": _RECORD}
        programs["bin/id"] = "#!/bin/sh\necho 0\n"
        for name, text in programs.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)

    def setup(self, goal: str, lacking: str = "") -> list[str]:
        """Run tools/setup; return the calls of apt-get and of the Python in .venv."""
        log = self.directory / "log"
        log.write_text("")
        path = f"{self.directory}/bin:{os.environ['PATH']}"
        done = _run(
            str(self.directory / "tools/setup"), goal, PATH=path, LACKING=lacking or "-", LOG=str(log)
        )
        assert done.returncode == 0, done.stderr
        return log.read_text().splitlines()


def test_setup_does_only_what_is_missing(tmp_path: Path) -> None:
    """Without the network and without pip, unless a package, an extra or a build is missing."""
    checkout = Checkout(tmp_path)
    (run,) = checkout.setup("run")
    assert run.endswith("install --editable .")
    assert checkout.setup("run") == []
    (test,) = checkout.setup("test")
    assert test.endswith("install --editable .[test]")
    assert checkout.setup("run") == checkout.setup("test") == []
    (dev,) = checkout.setup("dev")
    assert dev.endswith("install --editable .[dev]")
    assert checkout.setup("run") == checkout.setup("test") == checkout.setup("dev") == []
    for name in ("pyproject.toml", "setup.py", "cffi_build/shim.c", "cffi_build/callbacks.h"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        assert len(checkout.setup("test")) == 1
        assert checkout.setup("test") == []
    update, install = checkout.setup("test", lacking="fuse3")
    assert update == "apt-get -qq update"
    assert install.endswith(" fuse3")


def test_setup_after_a_build_that_failed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    checkout.setup("test")
    python = tmp_path / ".venv/bin/python"
    python.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(AssertionError):
        checkout.setup("dev")
    python.write_text(_RECORD)
    assert len(checkout.setup("test")) == 1


def test_the_package_has_the_unit_that_make_install_has() -> None:
    unit = REPOSITORY / "debian/memnotify.service"
    assert unit.is_symlink()
    assert unit.resolve() == REPOSITORY / "systemd/memnotify.service"
