# SPDX-License-Identifier: MIT
"""``python -m memnotify``: the same as the ``memnotify`` command."""

import sys

from memnotify.cli import main

if __name__ == "__main__":
    sys.exit(main())
