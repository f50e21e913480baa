# SPDX-License-Identifier: MIT
# Installs memnotify for the whole machine; debian/rules takes the list of files from here, too.
#   make install                     below /usr/local
#   make install prefix=/usr         where the package has them
# DESTDIR is put before all names, those in /etc too, which are the same for every prefix.
prefix = /usr/local
PYTHON = /usr/bin/python3

lib = $(DESTDIR)$(prefix)/lib
share = $(DESTDIR)$(prefix)/share
etc = $(DESTDIR)/etc
# What the bus, unlike systemd and udev, does not look for below /usr/local.
bus = $(if $(filter /usr,$(prefix)),$(share),$(etc))/dbus-1
# Debian's Python installs below /usr/local, unless it is told that this is the system's own.
layout = $(if $(filter /usr,$(prefix)),DEB_PYTHON_INSTALL_LAYOUT=deb)
put = install -D -m 644

.PHONY: install install-python install-unit install-data

install: install-python install-unit install-data

# Offline, with the setuptools and the cffi of PYTHON. What lies in build/ from an earlier version would come along.
install-python:
	rm -rf build
	$(layout) $(PYTHON) -m pip install --quiet --root-user-action=ignore --no-warn-script-location --no-compile \
		--no-deps --no-build-isolation --ignore-installed --root=$(or $(DESTDIR),/) .
	@test -x $(DESTDIR)$(prefix)/bin/memnotify || \
		{ echo "$(PYTHON) does not install below $(prefix): give prefix= another value" >&2; exit 1; }

install-unit:
	$(put) systemd/memnotify.service -t $(lib)/systemd/system
	sed -i 's|/usr/bin/memnotify|$(prefix)/bin/memnotify|' $(lib)/systemd/system/memnotify.service

install-data:
	install -D systemd/memnotify-generator -t $(lib)/systemd/system-generators
	$(put) systemd/memnotify.sysusers $(lib)/sysusers.d/memnotify.conf
	$(put) systemd/memnotify.modules-load $(lib)/modules-load.d/memnotify.conf
	$(put) udev/99-memnotify.rules -t $(lib)/udev/rules.d
	$(put) dbus/*.conf -t $(bus)/system.d
	for page in docs/man/*.[1-8]; do $(put) $$page -t $(share)/man/man$${page##*.} || exit; done
	find docs -name '*.md' -exec $(put) {} $(share)/doc/memnotify/{} \;
	$(put) README.md -t $(share)/doc/memnotify
	$(put) examples/*.* -t $(share)/doc/memnotify/examples
	test -e $(etc)/memnotify/memnotify.toml || $(put) docs/memnotify.toml -t $(etc)/memnotify
