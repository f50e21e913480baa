# SPDX-License-Identifier: MIT
"""The errors of a device: OSErrors whose text says what to do next."""

import errno
import os


class MemnotifyError(OSError):
    """An error of the device: ``errno`` and ``filename`` are set, ``strerror`` says what to do next."""


class DeviceMissingError(MemnotifyError, FileNotFoundError):
    """No daemon serves the device."""


class DeviceForbiddenError(MemnotifyError, PermissionError):
    """This user may not open the device."""


class DeviceLostError(MemnotifyError, ConnectionError):
    """The daemon that served the device has ended."""


class NotADeviceError(MemnotifyError, ValueError):
    """The file is not a memnotify device."""


class ThresholdError(MemnotifyError, ValueError):
    """Thresholds are not understood; the previous ones stay in force."""


_KINDS: dict[int, tuple[type[MemnotifyError], str]] = {
    errno.ENOENT: (DeviceMissingError, "start 'memnotify serve'"),
    # A CUSE node whose device is gone, or not there yet
    errno.ENODEV: (DeviceMissingError, "start 'memnotify serve'"),
    errno.ENXIO: (DeviceMissingError, "start 'memnotify serve'"),
    # A socket that no process listens on
    errno.ECONNREFUSED: (DeviceMissingError, "start 'memnotify serve'"),
    errno.EACCES: (
        DeviceForbiddenError,
        (
            "only the user that serves a FUSE file can open it; the mode of a device is set by"
            " udev (99-memnotify.rules) or chmod: see 'memnotify doctor'"
        ),
    ),
    # The device cgroup
    errno.EPERM: (
        DeviceForbiddenError,
        "the unit's sandbox forbids the device: add the device to DeviceAllow=",
    ),
    errno.ENOTCONN: (DeviceLostError, "its daemon has ended: start 'memnotify serve' again"),
    errno.ECONNABORTED: (DeviceLostError, "its daemon has ended: start 'memnotify serve' again"),
    errno.EOPNOTSUPP: (
        ThresholdError,
        (
            "a threshold on this process's cgroup needs cgroup v2 with the memory controller, and a daemon"
            " that sees this process: its log says why"
        ),
    ),
    errno.EINVAL: (
        ThresholdError,
        "write pairs of a name and a value (5000 pages, 80%, 1.5G), such as 'used 80%'",
    ),
}


def device_error(number: int, path: str) -> OSError:
    """Return the error for an errno of the device: a MemnotifyError where the errno is known."""
    kind, hint = _KINDS.get(number, (OSError, ""))
    return kind(number, "; ".join(filter(None, (os.strerror(number), hint))), path)
