# SPDX-License-Identifier: MIT
"""Settings of every layer of tests."""

from hypothesis import settings

# A machine that is shared is slow by spells; a test says what must happen, not how soon.
settings.register_profile("memnotify", deadline=None)
settings.load_profile("memnotify")
