# SPDX-License-Identifier: MIT
"""What pyproject.toml cannot express: two wheels, and the licence for every setuptools.

Debian 12's setuptools refuses the newest form of the licence, and the newest ones will refuse the old form.

With MEMNOTIFY_PURE=1 in the environment, nothing is compiled. That installation has everything except
serve and simulate, and does not depend on cffi.
"""

import os
import sysconfig

from setuptools import setup

if os.environ.get("MEMNOTIFY_PURE") == "1":
    setup(license="MIT")
else:
    setup(
        license="MIT",
        cffi_modules=["cffi_build/build_shim.py:ffibuilder"],
        install_requires=["cffi>=1.15"],
        # One wheel for Python 3.11 and later; free-threaded Python has no limited API.
        options={}
        if sysconfig.get_config_var("Py_GIL_DISABLED")
        else {"bdist_wheel": {"py_limited_api": "cp311"}},
    )
