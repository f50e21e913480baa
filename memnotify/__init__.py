# SPDX-License-Identifier: MIT
"""memnotify: /dev/memnotify made in userspace, a memory meter that programs can poll."""

__version__ = "0.1.0"
