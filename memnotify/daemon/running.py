# SPDX-License-Identifier: MIT
"""The parts of a running daemon."""

from typing import NamedTuple

from memnotify.daemon.reload import ConfigReloader
from memnotify.engine.sampler import Sampler
from memnotify.engine.table import ObserverTable
from memnotify.transports import Transport


class Engine(NamedTuple):
    """What the status is made of."""

    transport: Transport
    table: ObserverTable
    sampler: Sampler
    reloader: ConfigReloader
