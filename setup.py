# SPDX-License-Identifier: MIT
"""What pyproject.toml cannot say: which module cffi builds, and the licence for every setuptools.

Debian 12's refuses the licence in the form that the newest want there, and they will refuse the old one.
"""

from setuptools import setup

setup(cffi_modules=["cffi_build/build_shim.py:ffibuilder"], license="MIT")
