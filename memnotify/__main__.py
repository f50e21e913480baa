# SPDX-License-Identifier: MIT
"""The process of a command: ``memnotify``, and ``python -m memnotify``."""

import sys


def main() -> int:
    """Run the command and return its exit code. SIGINT ends it without a traceback, imports included."""
    try:
        # Imported here, in this order, so that SIGINT is taken first: the commands' imports take 50 ms.
        from memnotify import interrupts  # noqa: PLC0415

        interrupts.end_at_once()
        from memnotify import cli  # noqa: PLC0415
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
