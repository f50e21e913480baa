# SPDX-License-Identifier: MIT
"""The one thing that pyproject.toml cannot say: which module cffi builds."""

from setuptools import setup

setup(cffi_modules=["cffi_build/build_shim.py:ffibuilder"])
