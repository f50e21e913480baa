# SPDX-License-Identifier: MIT
"""What tools/wheels makes, and what pip takes of it, in a Debian without compiler and without libfuse3."""

import os
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from guest.kernel import GuestUnavailable
from guest.root import minbase
from support.package import REPOSITORY, in_chroot, run
from support.require import unavailable

PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the files to publish, and with the dependencies of the platform's wheel."""
    if not Path("/etc/debian_version").exists():
        unavailable("the licence of libfuse3 comes from its Debian package")
    directory = tmp_path_factory.mktemp("dist")
    run("tools/wheels", str(directory), cwd=REPOSITORY, **os.environ)
    for version in PYTHONS.values():
        download(directory, directory, "manylinux_2_17_x86_64", "cffi", f"--python-version={version}")
    return directory


def download(to: Path, links: Path, platform: str, project: str, *more: str) -> None:
    """Let pip choose the wheels of a project for another platform."""
    options = ("--quiet", "--only-binary=:all:", f"--platform={platform}", f"--find-links={links}")
    run(
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        f"--dest={to}",
        *more,
        project,
        cwd=REPOSITORY,
        **os.environ,
    )


def contents(wheel: Path) -> tuple[list[str], str]:
    """Return the names in a wheel, and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return names, archive.read(metadata).decode()


def test_the_wheel_of_the_platform(dist: Path) -> None:
    """It brings libfuse3 with its licence, and needs cffi."""
    (wheel,) = dist.glob("memnotify-*-cp311-abi3-manylinux_*_x86_64.whl")
    names, metadata = contents(wheel)
    assert "memnotify/_shim.abi3.so" in names
    assert any(re.match(r"memnotify\.libs/libfuse3-\w+\.so", name) for name in names)
    assert "Requires-Dist: cffi" in metadata
    texts = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            if "/LICENSE" in name:
                texts[name.rpartition("/")[2]] = archive.read(name).decode()
    assert texts.keys() == {"LICENSE", "LICENSE.LGPL-2.1", "LICENSE.libfuse3"}
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in texts["LICENSE.LGPL-2.1"]
    assert re.search(r"https://snapshot\.debian\.org/package/fuse3/3\.\S+/\n", texts["LICENSE.libfuse3"])
    assert "Miklos Szeredi" in texts["LICENSE.libfuse3"]


def test_the_pure_wheel(dist: Path) -> None:
    """It has nothing compiled, nothing of libfuse3, and no dependency."""
    (wheel,) = dist.glob("memnotify-*-py3-none-any.whl")
    names, metadata = contents(wheel)
    assert "memnotify/client/__init__.py" in names
    assert [name for name in names if ".so" in name or "LGPL" in name or "libfuse3" in name] == []
    assert [line for line in re.findall("Requires-Dist: .*", metadata) if "extra ==" not in line] == []


def test_the_sdist(dist: Path) -> None:
    """It has nothing that was built."""
    (sdist,) = dist.glob("memnotify-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert "tools/wheels" in names
    assert [name for name in names if re.search(r"\.so(\.|$)", name) or "LGPL" in name] == []


@pytest.mark.parametrize(
    "platform", ["manylinux_2_39_aarch64", "musllinux_1_2_x86_64", "manylinux_2_31_x86_64"]
)
def test_elsewhere_pip_takes_the_pure_wheel(dist: Path, tmp_path: Path, platform: str) -> None:
    """On another processor, with another C library, or with an older one."""
    download(tmp_path, dist, platform, "memnotify", "--no-index")
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")


SCRIPT = r"""
test -z "$(command -v gcc cc pkg-config)"
test -z "$(find / -xdev -name 'libfuse*')"

python3 -m venv /full
/full/bin/pip install --no-index --find-links=/mnt memnotify
/full/bin/memnotify read --help
/full/bin/python -c 'import memnotify.client'
mknod /dev/fuse c 10 229
timeout 120 /full/bin/memnotify serve --transport=fuse --path=/run/memnotify 2>/run/log &
until grep 'ready: /run/memnotify' /run/log; do kill -0 $! || { cat /run/log; exit 1; }; sleep 0.1; done

python3 -m venv /pure
(cd /mnt && PATH="/pure/bin:$PATH" PIP_NO_INDEX=1 && export PATH PIP_NO_INDEX && INSTALL)
for command in serve check-config read wait run watch env lowmem-bus exporter doctor; do
    /pure/bin/memnotify $command --help >/dev/null
done
/pure/bin/memnotify read --path=/run/memnotify
/pure/bin/memnotify wait --up --timeout=0 --path=/run/memnotify 'used 100%' || test $? = 3
/pure/bin/python -c 'import memnotify.client as c; print(c.Memnotify("/run/memnotify").subscribe("used 99%"))'
/pure/bin/memnotify serve --path=/run/other || echo "serve ended with $?"
/pure/bin/memnotify doctor --path=/run/memnotify || echo "doctor ended with $?"

kill $!
wait $!
"""


@pytest.mark.parametrize("suite", PYTHONS)
def test_without_compiler_and_libfuse(dist: Path, suite: str) -> None:
    """Pip takes the platform's wheel, which serves.

    All commands but serve work with the pure one, which docs/clients/python.md installs.
    """
    if not Path("/dev/fuse").exists():
        unavailable("this kernel has no FUSE: modprobe fuse")
    try:
        system = minbase(suite, "python3", "python3-venv")
    except GuestUnavailable as missing:
        unavailable(str(missing))
    page = (REPOSITORY / "docs/clients/python.md").read_text()
    (install,) = re.findall(r"`(pip install \S+\.whl)`", page)
    said = in_chroot(system, dist, SCRIPT.replace("INSTALL", install))
    assert re.search(r"Processing (/mnt|\.)/memnotify-\S+-cp311-abi3-manylinux_\S+\.whl", said), said
    assert "Traceback" not in said
    assert "ERROR: the compiled module is not installed" in said
    assert "serve ended with 4" in said
    assert "the daemon cannot be loaded" not in said
    assert "doctor ended with 1" in said
