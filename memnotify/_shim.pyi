# SPDX-License-Identifier: MIT
# cffi's objects have no types; their meaning is in cffi_build/shim.h.
from typing import Any

ffi: Any
lib: Any
