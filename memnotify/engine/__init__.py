# SPDX-License-Identifier: MIT
"""What the device means, and when memory is sampled: no cffi, no /proc; clock, reader, wait are injected."""
