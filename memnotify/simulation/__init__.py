# SPDX-License-Identifier: MIT
"""A device whose memory is made up: the engine and the FUSE file of the daemon, on figures from a script."""
