"""The contracts of descriptions of devices."""

import numpy as np

from fedrec.compute.context import RoundContext
from fedrec.devices.base import Devices
from fedrec.testing.trial import require, small_split


def _context() -> RoundContext:
    split = small_split()
    return RoundContext(0, 0, split.n_clients, split.n_items)


def every_client_has_a_device(devices: Devices) -> None:
    """Give a device to each client, and let every reply arrive after it was asked for."""
    fleet = devices.checked_fleet(_context())
    clients = np.arange(len(fleet))
    one = np.ones_like(clients)
    for start in (0.0, 1e5):
        arrivals = fleet.arrivals(clients, start, 100 * one, 10**5 * one, 10**5 * one)
        require((arrivals > start).all(), "a reply arrives before it is asked for")


def runs_with_one_seed_have_the_same(devices: Devices) -> None:
    """Give the same devices to the clients of runs with the same seed."""
    hashes = {devices.checked_fleet(_context()).hash for _ in range(2)}
    require(len(hashes) == 1, "fleet: the second time it returns other devices")


DEVICES_CONTRACTS = (every_client_has_a_device, runs_with_one_seed_have_the_same)
