"""Devices of simulated clients: how fast they are, when they are online, and a clock for them.

``Devices.fleet`` → `fleet.Fleet`, which says when a client's reply arrives → `clock` (asynchronous
aggregations) or `deadlines` (rounds). All times are virtual: nobody waits for them.
"""

from collections.abc import Mapping

from fedrec.devices.base import Devices
from fedrec.devices.file import DeviceFile
from fedrec.devices.synthetic import SyntheticDevices

__all__ = ["DEVICES", "DeviceFile", "Devices", "SyntheticDevices"]

DEVICES: Mapping[str, type[Devices]] = {
    "file": DeviceFile,
    "synthetic": SyntheticDevices,
}
