# SPDX-License-Identifier: MIT
"""What every layer of tests shares."""

from hypothesis import settings

# A machine that is shared is slow by spells; a test says what must happen, not how soon.
settings.register_profile("memnotify", deadline=None)
settings.load_profile("memnotify")
