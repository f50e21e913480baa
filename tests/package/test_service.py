# SPDX-License-Identifier: MIT
"""The Debian package in a running Debian, with a real udevd, CUSE, and systemd as process 1."""

from pathlib import Path

from guest import vm
from support.program import build_client

# There is no network; all dependencies are installed. 7 is the number of poll(2). The installation of the new
# packages takes less memory than the second client waits for.
SCRIPT = r"""
set -eEux
trap 'journalctl --no-pager --unit="memnotify*"' ERR
apt() { apt-get --quiet --yes -o Dir::State::Lists=/run/none -o APT::Sandbox::User=root "$@"; }
user() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
mn_test() { user /usr/local/bin/mn_test "$@"; }
pid() { systemctl show --property=MainPID --value memnotify; }

cp -R "$PACKAGES"/* .
cp "$CLIENT" /usr/local/bin/mn_test
apt install ./old/*.deb
systemctl is-enabled memnotify
systemctl is-active memnotify
systemctl status --no-pager memnotify

wait_in_background() {
	used=$(mn_test | sed -n 's/.* used \([0-9]*\) .*/\1/p')
	mn_test "used $((used + $1))" >said &
	until grep '^7 ' "/proc/$(pgrep --exact mn_test)/syscall"; do sleep 0.1; done
}
cross() {
	user python3 -c "b'x' * ($1 << 20)"
	wait $!
	cat said
	test "$(grep --count '^--> memory figures reached' said)" = 1
}
wait_in_background 16384
cross 128

before=$(pid)
echo 'update_period = 500' >/etc/memnotify/memnotify.toml.d/10-local.toml
systemctl reload memnotify
until journalctl --unit=memnotify | grep 'changed: update_period'; do sleep 0.1; done
test "$(pid)" = "$before"
memnotify doctor

! systemctl is-enabled memnotify.socket
systemctl enable memnotify.socket
systemctl restart memnotify
before=$(pid)

wait_in_background 65536
apt install ./new/*.deb
systemctl is-active memnotify memnotify.socket
user python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/run/memnotify/socket")'
test "$(pid)" != "$before"
grep 'update_period = 500' /etc/memnotify/memnotify.toml.d/10-local.toml
pgrep --exact mn_test
cross 384
mn_test

dpkg --remove memnotify
! systemctl is-active memnotify memnotify.socket
test ! -e /dev/memnotify
dpkg --purge memnotify python3-memnotify
test ! -e /etc/memnotify
! systemctl cat memnotify
test -z "$(systemctl --failed --no-legend)"
"""


def test_installed_started_used_reloaded_upgraded_removed_and_purged(
    packages: Path, system: Path, tmp_path: Path
) -> None:
    """The mn_test of an unprivileged user works as soon as apt has ended."""
    client = tmp_path / "mn_test"
    build_client(client)
    env = {"PACKAGES": f"{vm.HOST}{packages}", "CLIENT": f"{vm.HOST}{client}"}
    result = vm.run(SCRIPT, timeout_s=400, env=env, cwd=Path("/opt"), system=[system])
    assert result.status == 0, result.output
