# SPDX-License-Identifier: MIT
"""The library for programs that use the device. It needs nothing but the standard library.

``Memnotify`` is the device; docs/README.md leads to every way to use it.
"""

from memnotify.abi.paths import DEFAULT_PATH
from memnotify.client._control import ControlFileError
from memnotify.client._device import (
    Crossed,
    Event,
    Lost,
    Memnotify,
    Restored,
    ThresholdWarning,
    default_path,
)
from memnotify.client._errors import (
    DeviceForbiddenError,
    DeviceLostError,
    DeviceMissingError,
    MemnotifyError,
    NotADeviceError,
    ThresholdError,
    device_error,
)
from memnotify.client._figures import PAGE_SIZE, Figures, Pages
from memnotify.client._latch import Latch
from memnotify.client._observer import Observer
from memnotify.client._signals import Signal, Signals
from memnotify.client._source import Source
from memnotify.client._thresholds import Change

__all__ = [
    "DEFAULT_PATH",
    "PAGE_SIZE",
    "Change",
    "ControlFileError",
    "Crossed",
    "DeviceForbiddenError",
    "DeviceLostError",
    "DeviceMissingError",
    "Event",
    "Figures",
    "Latch",
    "Lost",
    "Memnotify",
    "MemnotifyError",
    "NotADeviceError",
    "Observer",
    "Pages",
    "Restored",
    "Signal",
    "Signals",
    "Source",
    "ThresholdError",
    "ThresholdWarning",
    "default_path",
    "device_error",
]
