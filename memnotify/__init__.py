# SPDX-License-Identifier: MIT
"""memnotify: /dev/memnotify made in userspace, a memory reader that programs can poll."""

__version__ = "0.1.0"
