# SPDX-License-Identifier: MIT
"""The Debian package: built by Debian's own tools, and installed in copies of a small Debian."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TOOLS = {  # command: the Debian package that has it
    "dpkg-buildpackage": "dpkg-dev",
    "git": "git",
    "lintian": "lintian",
    "make": "make",
    "unshare": "util-linux",
}
# Debian's tools, with its own Python, whichever Python runs the tests.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
(BUILD,) = {
    tuple(line.split())
    for line in (REPOSITORY / "README.md").read_text().splitlines()
    if line.startswith("dpkg-buildpackage ")
}
"""The command that README gives, the same to install and to upgrade."""
_GIT = ("git", "-c", "safe.directory=*", "-c", "user.name=test", "-c", "user.email=test@localhost")
_CHROOT = """\
mount -t tmpfs tmpfs "$0"
cd "$0"
mkdir upper work root
mount -t overlay -o "lowerdir=$1,upperdir=upper,workdir=work" overlay root
cd root
mount -t proc proc proc
mount -t tmpfs tmpfs dev
mknod -m 666 dev/null c 1 3
mount --bind "$2" mnt
exec chroot . bash -euxc "$3"
"""


def lacking() -> str:
    """Return what must be installed to build and examine the package, or nothing."""
    path = _ENVIRONMENT["PATH"]
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None]
    if missing:
        return f"no tools for packages: apt-get install {' '.join(missing)}"
    checked = subprocess.run(
        ["dpkg-checkbuilddeps"], cwd=REPOSITORY, env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    return checked.stderr.strip() and f"{checked.stderr.strip()}: apt-get install them"


def run(*command: str, cwd: Path = REPOSITORY, **environment: str) -> str:
    """Return the output of a command, stdout and stderr as one text; fail with it if the command fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=_ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command[:5])} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def clone(directory: Path) -> Path:
    """Make ``directory`` a clean clone of this tree, with all that git tracks or would add. Return it."""
    listed = run(*_GIT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.rstrip("\0").split("\0"):
        if os.path.lexists(REPOSITORY / name):  # deleted, but not committed yet
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, directory / name, follow_symlinks=False)
    run(*_GIT, "init", "--quiet", cwd=directory)
    run(*_GIT, "add", "--all", cwd=directory)
    run(*_GIT, "commit", "--quiet", "--message=All", cwd=directory)
    return directory


def changes(directory: Path) -> str:
    """Return the changes that git sees in a clone."""
    return run(*_GIT, "status", "--porcelain", cwd=directory)


def build(tree: Path) -> Path:
    """Build the packages by README's command; return the .deb of memnotify, which is made beside ``tree``.

    As in a user's shell, another Python comes first, which has none of the modules that the build needs.
    """
    with tempfile.TemporaryDirectory(prefix="memnotify-python-") as other:
        (Path(other) / "build.py").write_text("raise SystemExit('not the build of Debian')\n")
        python = Path(other) / "python3"
        python.write_text("#!/bin/sh\necho 'not the Python of Debian' >&2\nexit 1\n")
        python.chmod(0o755)
        run(
            *BUILD,
            cwd=tree,
            PATH=f"{other}:{_ENVIRONMENT['PATH']}",
            PYTHONPATH=other,
            PYTHONHOME=other,
            VIRTUAL_ENV=other,
        )
    (package,) = tree.parent.glob("memnotify_*.deb")
    return package


def of_python(package: Path) -> Path:
    """Return the .deb of python3-memnotify beside that of memnotify."""
    (other,) = package.parent.glob("python3-memnotify_*_all.deb")
    return other


def build_single(tree: Path, directory: Path) -> None:
    """Make ``directory``/memnotify.deb: one package with a file of each of the two and a conffile.

    So were the builds before 0.1.0+git20261128.160000. Its service does not run.
    """
    files = {
        "DEBIAN/control": "Package: memnotify\nVersion: 0.1.0+git20261128.153000.e931504\nArchitecture: all\n"
        "Maintainer: test <test@localhost>\nDescription: as before\n",
        "DEBIAN/conffiles": "/etc/memnotify/memnotify.toml\n",
        "etc/memnotify/memnotify.toml": "# update_period = 250\n",
        "usr/bin/memnotify": "#!/bin/sh\necho memnotify of one package\n",
        "usr/lib/python3/dist-packages/memnotify/__init__.py": "",
        "usr/lib/python3/dist-packages/memnotify/_shim.abi3.so": "",
        "usr/share/man/man1/memnotify.1.gz": "",
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "usr/bin/memnotify").chmod(0o755)
    directory.mkdir()
    run("dpkg-deb", "--build", "--root-owner-group", str(tree), str(directory / "memnotify.deb"))


def in_chroot(system: Path, directory: Path, script: str) -> str:
    """Run a bash script, which stops at the first failure, in a copy of a root directory; return its output.

    The copy and its mounts end with the script. It has no service manager and no device but /dev/null;
    ``directory`` is its /mnt.
    """
    alone = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
    with tempfile.TemporaryDirectory(prefix="memnotify-chroot-") as mount_point:
        return run(*alone, "sh", "-ec", _CHROOT, mount_point, str(system), str(directory), script)
