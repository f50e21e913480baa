# SPDX-License-Identifier: MIT
"""The library for programs that use the device. It needs nothing but the standard library.

``Memnotify`` is the device; docs/clients.md shows every way to use it.
"""

from memnotify.client.control import ControlFileError
from memnotify.client.device import DEFAULT_PATH, Crossed, Event, Lost, Memnotify, Restored
from memnotify.client.errors import (
    DeviceForbiddenError,
    DeviceLostError,
    DeviceMissingError,
    MemnotifyError,
    NotADeviceError,
    ThresholdError,
)
from memnotify.client.figures import PAGE_SIZE, Figures, Pages
from memnotify.client.observer import Observer
from memnotify.client.signals import Signal, Signals
from memnotify.client.source import Source
from memnotify.client.thresholds import Change

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
]
