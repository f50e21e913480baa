# SPDX-License-Identifier: MIT
"""The settings of the daemon: their table, and the files that set them."""
