# SPDX-License-Identifier: MIT
"""The build: what tools/setup does, and the messages for missing tools."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def _run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=False
    )


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
    """It uses neither network nor pip, unless a package, an extra or a build is missing."""
    checkout = Checkout(tmp_path)
    (run,) = checkout.setup("run")
    assert " install --editable . " in run
    assert checkout.setup("run") == []
    (test,) = checkout.setup("test")
    assert " install --editable .[test] " in test
    assert checkout.setup("run") == checkout.setup("test") == []
    (dev,) = checkout.setup("dev")
    assert " install --editable .[dev] " in dev
    assert checkout.setup("run") == checkout.setup("test") == checkout.setup("dev") == []
    for name in ("pyproject.toml", "setup.py", "cffi_build/shim.c", "cffi_build/shim.h"):
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
