# SPDX-License-Identifier: MIT
"""The contract with clients: the figures and the grammar of a write. Pure; it imports no other package."""
