# SPDX-License-Identifier: MIT
"""What Linux reports and offers: plain values and descriptors."""
