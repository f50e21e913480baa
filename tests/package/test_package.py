# SPDX-License-Identifier: MIT
"""The Debian packages: their build, their files, and what they leave behind if no service manager runs."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guest.kernel import GuestUnavailable
from guest.root import minbase
from support.daemon import Daemon
from support.package import REPOSITORY, build, changes, clone, in_chroot, lacking, of_python, run
from support.require import unavailable
from support.waiting import eventually

# Files that only a Debian package has.
DEBIAN = re.compile(r"/usr/share/(lintian/|doc/(python3-)?memnotify/(changelog|copyright))")
# Files of the tool that installs a Python package; and the licence, which Debian has elsewhere.
INSTALLER = re.compile(r"dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|LICENSE)$")


def contents(package: Path) -> set[str]:
    """Return the files of a package: uncompressed, and with /usr/lib for /lib."""
    lines = run("dpkg-deb", "--contents", str(package)).splitlines()
    names = {line.split(maxsplit=5)[5].removeprefix(".") for line in lines if not line.startswith("d")}
    return {re.sub(r"^/lib/", "/usr/lib/", name).removesuffix(".gz") for name in names}


def source_name(package: Path) -> str:
    """Return the stem of the files that have the source's version: without the commit."""
    return re.sub(r"\+git[^_]*", "", package.stem)


def files(directory: Path) -> set[str]:
    """Return the files below a directory, as absolute names below it."""
    return {f"/{path.relative_to(directory)}" for path in directory.rglob("*") if not path.is_dir()}


def test_the_build_leaves_nothing_behind(tree: Path, package: Path) -> None:
    """Git sees no change in the tree; the directory above has the files of dpkg-buildpackage."""
    assert changes(tree) == ""
    source = source_name(package)
    made = {
        package.name,
        of_python(package).name,
        package.name.replace("_", "-dbgsym_", 1),
        f"{source}.buildinfo",
        f"{source}.changes",
    }
    assert {path.name for path in tree.parent.iterdir()} == made | {tree.name}


def test_the_commands_of_the_readme(package: Path) -> None:
    """They install the two packages, remove them, and before an upgrade remove the files of the build."""
    readme = (REPOSITORY / "README.md").read_text()
    first = dict(re.findall(r"(?ms)^## (Install|Upgrade|Remove)\n.*?^```sh\n(.*?)^```", readme))

    def named(line: str) -> set[Path]:
        return {path for word in line.split() for path in package.parent.glob(word.removeprefix("../"))}

    packages = {package, of_python(package)}
    for title in ("Install", "Upgrade"):
        (install,) = re.findall(r"(?m)^apt install (\.\./.*)$", first[title])
        assert named(install) == packages
    (made,) = re.findall(r"(?m)^rm -f (.*)$", first["Upgrade"])
    assert named(made) == {path for path in package.parent.iterdir() if path.is_file()}
    removed = set(re.findall(r"(?m)^apt (?:remove|purge) (\S+)", first["Remove"]))
    assert removed == {path.name.partition("_")[0] for path in packages}


def test_lintian(package: Path) -> None:
    """It has no complaint that debian/memnotify.lintian-overrides does not explain."""
    changes_file = package.with_name(f"{source_name(package)}.changes")
    run("lintian", "--allow-root", "--fail-on", "error,warning", str(changes_file))


def revision(tree: Path, *more: str) -> str:
    """Return what debian/rules adds to the version."""
    show = ("--eval", "show: ; @echo '$(revision)'", "show")
    return run("make", "--silent", "-f", "debian/rules", *more, *show, cwd=tree).strip()


def test_a_later_commit_is_a_later_version(tmp_path: Path) -> None:
    """So that apt upgrades to its build; also if the tree has changes."""
    if lacking():
        unavailable(lacking())
    tree = clone(tmp_path / "tree")
    first = revision(tree)
    assert re.fullmatch(r"\+git\d{8}\.\d{6}\.[0-9a-f]{7,}", first)
    eventually(lambda: datetime.now(UTC).strftime("+git%Y%m%d.%H%M%S") > first[:19], "a second has passed")
    (tree / "README.md").write_text("changed")
    changed = revision(tree)
    assert re.fullmatch(r"\+git\d{8}\.\d{6}\.[0-9a-f]{7,}\.dirty", changed)
    run("dpkg", "--compare-versions", f"0.1.0{first}", "lt", f"0.1.0{changed}")
    shutil.rmtree(tree / ".git")
    assert revision(tree) == ""


def test_the_source_package_builds(tmp_path: Path) -> None:
    """It has the files that git tracks, and builds a package whose version is the changelog's alone."""
    if lacking():
        unavailable(lacking())
    tree = clone(tmp_path / "clone" / "tree")
    (tree / ".venv").mkdir()
    (tree / ".venv/file").touch()
    run("dpkg-buildpackage", "--unsigned-source", "--unsigned-changes", "--build=source", cwd=tree)
    (description,) = (tmp_path / "clone").glob("*.dsc")
    unpacked = tmp_path / "unpacked/tree"
    unpacked.parent.mkdir()
    run("dpkg-source", "--extract", str(description), str(unpacked))
    left_out = re.compile(r"/\.git/|/\.venv/|/\.gitignore$|/debian/files$")
    assert files(unpacked) == {name for name in files(tree) if not left_out.match(name)}
    version = run("dpkg-parsechangelog", "--show-field", "Version", cwd=tree).strip()
    assert build(unpacked).name.startswith(f"memnotify_{version}_")


def test_what_is_in_it(package: Path) -> None:
    assert {
        "/usr/bin/memnotify",
        "/usr/lib/modules-load.d/memnotify.conf",
        "/usr/lib/python3/dist-packages/memnotify/_shim.abi3.so",
        "/usr/lib/python3/dist-packages/memnotify/py.typed",
        "/usr/lib/systemd/system-generators/memnotify-generator",
        "/usr/lib/systemd/system/memnotify.service",
        "/usr/lib/systemd/system/memnotify.socket",
        "/usr/lib/systemd/user/memnotify.service",
        "/usr/lib/sysusers.d/memnotify.conf",
        "/usr/lib/udev/rules.d/99-memnotify.rules",
        "/usr/share/bash-completion/completions/memnotify",
        "/usr/share/fish/vendor_completions.d/memnotify.fish",
        "/usr/share/zsh/vendor-completions/_memnotify",
        "/usr/share/dbus-1/system.d/org.freedesktop.LowMemoryMonitor.conf",
        "/usr/share/doc/memnotify/copyright",
        "/usr/share/doc/memnotify/docs/architecture.md",
        "/usr/share/doc/memnotify/docs/memnotify.toml",
        "/usr/share/doc/memnotify/examples/epoll.c",
        "/usr/share/man/man1/memnotify.1",
        "/usr/share/man/man4/memnotify.4",
        "/usr/share/man/man5/memnotify.toml.5",
        "/usr/share/man/man8/memnotify.8",
    } <= contents(package) | contents(of_python(package))
    depends = run("dpkg-deb", "--field", str(package), "Depends")
    for needed in ("python3-memnotify (= ", "python3-cffi-backend", "libfuse3-"):
        assert needed in depends
    assert "python3 (>= 3.11)" in run("dpkg-deb", "--field", str(of_python(package)), "Depends")
    # dpkg asks about a conffile that both the administrator and the package have changed.
    assert "conffiles" not in run("dpkg-deb", "--info", str(package))


def test_make_install_installs_the_same_files(package: Path, tmp_path: Path) -> None:
    """The clone gets no file, not even an ignored one; every user can read the files under any umask."""
    tree, root = clone(tmp_path / "tree"), tmp_path / "root"
    root.mkdir()
    before = files(tree)
    old = os.umask(0o077)
    try:
        run("make", "install", "prefix=/usr", f"DESTDIR={root}", cwd=tree)
    finally:
        os.umask(old)
    for path in root.rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o444 == 0o444, path
    installed = {name for name in files(root) if not INSTALLER.search(name)}
    both = contents(package) | contents(of_python(package))
    packaged = {name for name in both if not DEBIAN.match(name) and not INSTALLER.search(name)}
    assert installed == packaged
    assert files(tree) == before


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_make_uninstall_leaves_nothing(tree: Path, tmp_path: Path, prefix: str) -> None:
    """The configuration stays, and so do other files."""
    variables = (f"prefix={prefix}", f"DESTDIR={tmp_path}")
    run("make", "install", *variables, cwd=tree)
    run("make", "uninstall", *variables, cwd=tree)
    assert files(tmp_path) == set()
    assert list(tmp_path.rglob("memnotify*")) == []
    run("make", "install", *variables, cwd=tree)
    mine = {"/etc/memnotify/mine", "/etc/memnotify/memnotify.toml.d/10-local.toml"}
    for name in mine:
        (tmp_path / name.removeprefix("/")).touch()
    run("make", "uninstall", *variables, cwd=tree)
    assert files(tmp_path) == mine
    assert changes(tree) == ""


@pytest.mark.parametrize(
    ("user", "variables", "message"),
    [
        (0, ("prefix=/opt/x",), "installs programs in /usr/local/bin, not in /opt/x/bin"),
        (65534, (), "run it as root"),
    ],
)
def test_make_install_refuses_before_it_writes(
    tree: Path, user: int, variables: Sequence[str], message: str
) -> None:
    done = subprocess.run(
        ["make", "install", *variables], cwd=tree, user=user, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert changes(tree) == ""
    assert not Path("/opt/x").exists()


def test_make_install_below_usr_local_runs(tree: Path, system: Path, tmp_path: Path) -> None:
    """So does a second installation over the first."""
    for _ in range(2):
        run("make", "install", f"DESTDIR={tmp_path}", cwd=tree)
    script = """
        cp -a /mnt/. /
        /usr/local/bin/memnotify --version
        python3 -c 'import memnotify.transports.session; print(memnotify.transports.session.__file__)'
        systemd-sysusers
        getent passwd memnotify
        systemctl enable memnotify
        systemd-analyze --man=no verify memnotify.service
        grep ExecStart= /etc/systemd/system/multi-user.target.wants/memnotify.service
    """
    said = in_chroot(system, tmp_path, script)
    assert "\nmemnotify 0." in said
    assert re.search(r"\n/usr/local/lib/python3\.\d+/dist-packages/memnotify/transports/session\.py\n", said)
    assert "\nExecStart=/usr/local/bin/memnotify serve" in said


def test_installed_upgraded_removed_and_purged(packages: Path, system: Path) -> None:
    """The administrator's changes last until the purge, which leaves the user and other packages' files."""
    script = """
        mknod /dev/cuse c 10 203
        find / -xdev | sort >/dev/before
        dpkg --install /mnt/old/*.deb
        dpkg-query --show memnotify
        memnotify --version
        getent passwd memnotify
        [ "$(systemctl is-enabled memnotify)" = enabled ]

        systemctl disable memnotify
        echo '# mine' >/etc/memnotify/memnotify.toml.d/10-local.toml
        touch /etc/memnotify/memnotify.toml /etc/memnotify/mydaemon.mn
        dpkg --install /mnt/new/*.deb
        dpkg-query --show memnotify
        memnotify --version
        [ "$(systemctl is-enabled memnotify)" = disabled ]
        grep -x '# mine' /etc/memnotify/memnotify.toml.d/10-local.toml

        systemctl enable memnotify
        dpkg --remove memnotify
        memnotify read --help >/dev/null
        memnotify serve || [ $? = 4 ]
        grep -x '# mine' /etc/memnotify/memnotify.toml.d/10-local.toml
        dpkg --install /mnt/new/*.deb
        [ "$(systemctl is-enabled memnotify)" = enabled ]
        dpkg --purge memnotify
        getent passwd memnotify
        [ "$(ls -A /etc/memnotify)" = mydaemon.mn ]
        dpkg --install /mnt/new/*.deb
        rm /etc/memnotify/mydaemon.mn
        dpkg --purge memnotify python3-memnotify
        find / -xdev | sort >/dev/after
        comm -13 /dev/before /dev/after
    """
    said = in_chroot(system, packages, script)
    left = said.rpartition("+ comm ")[2].splitlines()[1:]
    of_dpkg = re.compile(r"/var/(lib/dpkg|log|cache/ldconfig)/|/etc/(passwd|group|shadow|gshadow)-$")
    assert [name for name in left if not of_dpkg.match(name)] == []
    versions = re.findall(r"(?m)^memnotify\t(\S+)$", said)
    run("dpkg", "--compare-versions", versions[0], "lt", versions[1])
    assert re.findall(r"(?m)^memnotify (\S+)$", said) == versions


def test_an_upgrade_from_the_single_package(packages: Path, system: Path) -> None:
    """The files change owner. The file that was a conffile keeps its settings, without a question."""
    script = """
        for setting in '' 'update_period = 500'; do
            dpkg --install /mnt/single/*.deb
            [ "$(memnotify)" = 'memnotify of one package' ]
            echo "$setting" >>/etc/memnotify/memnotify.toml
            dpkg --install /mnt/new/*.deb </dev/null
            memnotify --version
            dpkg --search /usr/bin/memnotify
            dpkg --verify memnotify python3-memnotify
            memnotify check-config | grep '^update_period'
            dpkg --purge memnotify python3-memnotify
            [ ! -e /etc/memnotify ]
        done
    """
    said = in_chroot(system, packages, script)
    assert said.count("\nmemnotify 0.1.0+git") == 2
    assert said.count("\npython3-memnotify: /usr/bin/memnotify\n") == 2
    assert re.findall(r"\nupdate_period += (\d+)", said) == ["250", "500"]


ALONE = r"""
test -z "$(command -v gcc cc pkg-config)"
test -z "$(find / -xdev -name 'libfuse*')"
dpkg --install /mnt/new/python3-memnotify_*.deb
for command in serve check-config read wait run watch env lowmem-bus exporter doctor; do
    memnotify $command --help >/dev/null
done
export MEMNOTIFY_PATH=/mnt/socket
memnotify read
memnotify wait --up --now --timeout=0 'used 1M'
memnotify run --now --count=1 --when 'used 1M' -- sh -c 'echo "run for $MEMNOTIFY_EVENT"'
python3 -c 'from memnotify import Memnotify; print(Memnotify().subscribe("used 99%"))'
memnotify serve || echo "serve ended with $?"
memnotify simulate 'hold 1s' -- true || echo "simulate ended with $?"
python3 -c 'from memnotify.testing import SimulatedDevice; SimulatedDevice().__enter__()' || true
dpkg --purge python3-memnotify
test ! -e /usr/lib/python3/dist-packages/memnotify
"""


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_python3_memnotify_alone(packages: Path, suite: str) -> None:
    """The library and all commands except serve and simulate work without compiler and libfuse3."""
    try:
        system = minbase(suite, "python3", "python3-venv")
    except GuestUnavailable as missing:
        unavailable(str(missing))
    with Daemon("--socket", str(packages / "socket")):
        said = in_chroot(system, packages, ALONE)
    assert len(re.findall(r"(?m)^used +\d+ pages", said)) == 1
    assert len(re.findall(r"(?m)^total \d+ used \d+ active \d+$", said)) == 2
    assert "\nrun for up\n" in said
    assert "serve ended with 4" in said
    assert "ERROR: the compiled module is not installed" in said
    assert "install the Debian package memnotify" in said
    assert "simulate ended with 4" in said
    assert "SimulationError: the compiled module of memnotify is not installed" in said
    assert said.count("Traceback") == 1


def test_it_is_enabled_where_the_kernel_can_serve(packages: Path, system: Path) -> None:
    """Only the first installation decides; later the administrator does, whatever the kernel then has."""
    script = """
        state() { echo "state: $(systemctl is-enabled memnotify)"; }
        for name in cuse fuse; do
            mknod /dev/$name c 10 200
            dpkg --install /mnt/old/*.deb
            state
            dpkg --purge memnotify
            rm /dev/$name
        done
        dpkg --install /mnt/old/*.deb
        state
        mknod /dev/cuse c 10 200
        dpkg --install /mnt/new/*.deb
        state
    """
    said = in_chroot(system, packages, script)
    states = [line for line in said.splitlines() if line.startswith("state: ")]
    assert states == ["state: enabled", "state: enabled", "state: disabled", "state: disabled"]
    assert (
        said.count("memnotify: this kernel has neither CUSE nor FUSE: memnotify.service is not enabled.") == 1
    )
