# SPDX-License-Identifier: MIT
"""The Debian package: how it is built, what is in it, and what it leaves where no service manager runs."""

import re
from pathlib import Path

from support.package import changes, in_chroot, run

# What Debian wants of a package alone.
DEBIAN = re.compile(r"/usr/share/(lintian/|doc/memnotify/(changelog|copyright))")
# What whoever installs Python packages writes about himself; and the licence, which Debian has elsewhere.
INSTALLER = re.compile(r"dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|LICENSE)$")


def contents(package: Path) -> set[str]:
    """Return the files in it, uncompressed and by the names that they have where /lib is /usr/lib."""
    lines = run("dpkg-deb", "--contents", str(package)).splitlines()
    names = {line.split(maxsplit=5)[5].removeprefix(".") for line in lines if not line.startswith("d")}
    return {re.sub(r"^/lib/", "/usr/lib/", name).removesuffix(".gz") for name in names}


def files(directory: Path) -> set[str]:
    """Return the files below a directory, by their names there."""
    return {f"/{path.relative_to(directory)}" for path in directory.rglob("*") if not path.is_dir()}


def test_the_build_leaves_nothing_behind(tree: Path, package: Path) -> None:
    """In the tree nothing that git would show, beside it what dpkg-buildpackage makes."""
    assert changes(tree) == ""
    name = package.stem
    made = {f"{name}.deb", f"{name}.buildinfo", f"{name}.changes", name.replace("_", "-dbgsym_", 1) + ".deb"}
    assert {path.name for path in tree.parent.iterdir()} == made | {tree.name}


def test_lintian(package: Path) -> None:
    """It has nothing to say, but for what debian/memnotify.lintian-overrides explains."""
    run("lintian", "--allow-root", "--fail-on", "error,warning", str(package.with_suffix(".changes")))


def test_what_is_in_it(package: Path) -> None:
    assert {
        "/etc/memnotify/memnotify.toml",
        "/usr/bin/memnotify",
        "/usr/lib/modules-load.d/memnotify.conf",
        "/usr/lib/python3/dist-packages/memnotify/_shim.abi3.so",
        "/usr/lib/python3/dist-packages/memnotify/py.typed",
        "/usr/lib/systemd/system-generators/memnotify-generator",
        "/usr/lib/systemd/system/memnotify.service",
        "/usr/lib/sysusers.d/memnotify.conf",
        "/usr/lib/udev/rules.d/99-memnotify.rules",
        "/usr/share/dbus-1/system.d/org.freedesktop.LowMemoryMonitor.conf",
        "/usr/share/doc/memnotify/copyright",
        "/usr/share/doc/memnotify/docs/architecture.md",
        "/usr/share/doc/memnotify/examples/epoll.c",
        "/usr/share/man/man1/memnotify.1",
        "/usr/share/man/man4/memnotify.4",
        "/usr/share/man/man5/memnotify.toml.5",
        "/usr/share/man/man8/memnotify.8",
    } <= contents(package)
    depends = run("dpkg-deb", "--field", str(package), "Depends")
    for needed in ("python3 (>= 3.11)", "python3-cffi-backend", "libfuse3-"):
        assert needed in depends
    conffiles = run("dpkg-deb", "--info", str(package), "conffiles")
    assert conffiles.split() == ["/etc/memnotify/memnotify.toml"]


def test_make_install_installs_the_same_files(tree: Path, package: Path, tmp_path: Path) -> None:
    run("make", "install", "prefix=/usr", f"DESTDIR={tmp_path}", cwd=tree)
    installed = {name for name in files(tmp_path) if not INSTALLER.search(name)}
    packaged = {name for name in contents(package) if not DEBIAN.match(name) and not INSTALLER.search(name)}
    assert installed == packaged
    assert changes(tree) == ""


def test_what_make_install_installs_runs_from_usr_local(tree: Path, system: Path, tmp_path: Path) -> None:
    """And it keeps a configuration that is there."""
    for _ in range(2):
        run("make", "install", f"DESTDIR={tmp_path}", cwd=tree)
        with (tmp_path / "etc/memnotify/memnotify.toml").open("a") as configuration:
            configuration.write("# mine\n")
    assert (tmp_path / "etc/memnotify/memnotify.toml").read_text().endswith("# mine\n# mine\n")
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
    assert re.search(r"\n/usr/local/lib/python3\.\d+/dist-packages/memnotify/session\.py\n", said)
    assert "\nExecStart=/usr/local/bin/memnotify serve" in said


def test_installed_upgraded_removed_and_purged(packages: Path, system: Path) -> None:
    """The administrator's changes last until the purge, of which nothing but the user is left."""
    script = """
        mknod /dev/cuse c 10 203
        find / -xdev | sort >/dev/before
        dpkg --install /mnt/old.deb
        memnotify --version
        getent passwd memnotify
        [ "$(systemctl is-enabled memnotify)" = enabled ]

        systemctl disable memnotify
        echo '# mine' >>/etc/memnotify/memnotify.toml
        mkdir -p /etc/memnotify/memnotify.toml.d
        touch /etc/memnotify/memnotify.toml.d/mine.toml
        dpkg --install /mnt/new.deb
        dpkg-query --show memnotify
        memnotify --version
        [ "$(systemctl is-enabled memnotify)" = disabled ]
        grep -x '# mine' /etc/memnotify/memnotify.toml

        systemctl enable memnotify
        dpkg --remove memnotify
        [ ! -e /usr/bin/memnotify ]
        grep -x '# mine' /etc/memnotify/memnotify.toml
        dpkg --install /mnt/new.deb
        [ "$(systemctl is-enabled memnotify)" = enabled ]
        dpkg --purge memnotify
        getent passwd memnotify
        find / -xdev | sort >/dev/after
        comm -13 /dev/before /dev/after
    """
    said = in_chroot(system, packages, script)
    left = said.rpartition("+ comm ")[2].splitlines()[1:]
    of_dpkg = re.compile(r"/var/(lib/dpkg|log|cache/ldconfig)/|/etc/(passwd|group|shadow|gshadow)-$")
    assert [name for name in left if not of_dpkg.match(name)] == []
    assert re.search(r"\nmemnotify\t0\S+\.1\n", said)


def test_it_is_enabled_where_the_kernel_can_serve(packages: Path, system: Path) -> None:
    """At the first installation alone: what the kernel has later is for the administrator to decide."""
    script = """
        state() { echo "state: $(systemctl is-enabled memnotify)"; }
        for name in cuse fuse; do
            mknod /dev/$name c 10 200
            dpkg --install /mnt/old.deb
            state
            dpkg --purge memnotify
            rm /dev/$name
        done
        dpkg --install /mnt/old.deb
        state
        mknod /dev/cuse c 10 200
        dpkg --install /mnt/new.deb
        state
    """
    said = in_chroot(system, packages, script)
    states = [line for line in said.splitlines() if line.startswith("state: ")]
    assert states == ["state: enabled", "state: enabled", "state: disabled", "state: disabled"]
    assert said.count("memnotify: neither CUSE nor FUSE here: memnotify.service is not enabled.") == 1
