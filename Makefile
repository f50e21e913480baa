# SPDX-License-Identifier: MIT
# Installs memnotify for the whole machine. debian/rules takes the list of files from here, too.
#   make install                     below /usr/local
#   make install prefix=/usr         where the package has the files
#   make uninstall                   with the same variables; keeps the configuration
# DESTDIR is put before all names, those in /etc too, which are the same for every prefix.
prefix = /usr/local
PYTHON = /usr/bin/python3

lib = $(DESTDIR)$(prefix)/lib
share = $(DESTDIR)$(prefix)/share
etc = $(DESTDIR)/etc
# systemd and udev look below /usr/local; the bus does not.
bus = $(if $(filter /usr,$(prefix)),$(share),$(etc))/dbus-1
# zsh looks below /usr/local in another directory; fish looks there only if XDG_DATA_DIRS names it, as a desktop's does.
zsh = $(share)/zsh/$(if $(filter /usr,$(prefix)),vendor-completions,site-functions)
fish = $(if $(filter /usr,$(prefix)),$(share)/fish/vendor_completions.d,$(etc)/fish/completions)
# Debian's Python installs below /usr/local unless this variable says that it is the system's own.
layout = $(if $(filter /usr,$(prefix)),DEB_PYTHON_INSTALL_LAYOUT=deb)
# install(1) sets modes and ignores the umask.
put = install -D -m 644

.PHONY: install check install-python install-unit install-data uninstall

install: check install-python install-unit install-data

# Before anything is written: without the right to, pip would install for this user alone.
check:
	@test -n "$(DESTDIR)" || test "$$(id -u)" = 0 || { echo "make install writes to $(prefix) and /etc: run it as root," \
		"or with DESTDIR=. For one user alone: pip install . in a venv" >&2; exit 1; }
	@scripts=$$($(layout) $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("scripts"))') && \
	test "$$scripts" = "$(prefix)/bin" || { echo "$(PYTHON) installs programs in $$scripts, not in $(prefix)/bin:" \
		"give another prefix=, or PYTHON=" >&2; exit 1; }

# Offline, with the setuptools and the cffi of PYTHON, and from a copy: files that root makes in the clone would stop the
# next build of its owner, and files in build/ of an earlier version would be installed. pip obeys the umask.
install-python:
	copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && umask 022 && \
	cp -R pyproject.toml setup.py README.md LICENSE MANIFEST.in cffi_build memnotify "$$copy" && \
	$(layout) $(PYTHON) -m pip install --quiet --root-user-action=ignore --no-warn-script-location --no-compile \
		--no-deps --no-build-isolation --ignore-installed --root=$(or $(DESTDIR),/) "$$copy"

install-unit:
	$(put) systemd/memnotify.service systemd/memnotify.socket -t $(lib)/systemd/system
	$(put) systemd/user/memnotify.service -t $(lib)/systemd/user
	sed -i 's|/usr/bin/memnotify|$(prefix)/bin/memnotify|' $(lib)/systemd/*/memnotify.service

install-data:
	install -D systemd/memnotify-generator -t $(lib)/systemd/system-generators
	$(put) systemd/memnotify.sysusers $(lib)/sysusers.d/memnotify.conf
	$(put) systemd/memnotify.modules-load $(lib)/modules-load.d/memnotify.conf
	$(put) udev/99-memnotify.rules -t $(lib)/udev/rules.d
	$(put) dbus/*.conf -t $(bus)/system.d
	for page in docs/man/*.[1-8]; do $(put) $$page -t $(share)/man/man$${page##*.} || exit; done
	find docs -name '*.md' -exec $(put) {} $(share)/doc/memnotify/{} \;
	$(put) docs/memnotify.toml -t $(share)/doc/memnotify/docs
	$(put) README.md -t $(share)/doc/memnotify
	$(put) examples/*.* -t $(share)/doc/memnotify/examples
	$(PYTHON) tools/completions.py $(share)/bash-completion/completions $(zsh) $(fish)
	install -d -m 755 $(etc)/memnotify/memnotify.toml.d

# The files are those that an installation into an empty directory makes. The user memnotify stays, as with the package.
uninstall:
	list=$$(mktemp -d) && trap 'rm -rf "$$list"' EXIT && \
	$(MAKE) --no-print-directory --silent install-unit install-data DESTDIR="$$list" && \
	(cd "$$list" && find . -type f) | while read -r file; do rm -f "$(DESTDIR)/$$file"; done
	rm -rf $(share)/doc/memnotify $(DESTDIR)$(prefix)/bin/memnotify
	modules=$(DESTDIR)$$($(layout) $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("platlib"))') && \
	rm -rf "$$modules/memnotify" "$$modules"/memnotify-*.dist-info
	for made in $(etc)/memnotify/memnotify.toml.d $(etc)/memnotify; do \
		test ! -d $$made || rmdir --ignore-fail-on-non-empty $$made; done
