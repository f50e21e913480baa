# SPDX-License-Identifier: MIT
"""What pyproject.toml cannot express: the module that cffi builds, and the licence for every setuptools.

Debian 12's setuptools refuses the newest form of the licence, and the newest ones will refuse the old form.
"""

from setuptools import setup

setup(cffi_modules=["cffi_build/build_shim.py:ffibuilder"], license="MIT")
