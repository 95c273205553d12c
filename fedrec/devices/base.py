"""What says how fast the devices of simulated clients are, and when they are online."""

from abc import abstractmethod
from typing import Any, final

from fedrec.compute.context import RoundContext
from fedrec.devices.fleet import Fleet
from fedrec.errors import ConfigError, kind_of
from fedrec.plugins import Plugin, name_of


class Devices(Plugin):
    """Base of all descriptions of devices.

    A fleet depends on nothing but the seed and the options (and the content of a file), so it is
    the same for any number of nodes and after a stop. Random numbers come from the `RoundContext`.
    """

    @abstractmethod
    def fleet(self, context: RoundContext) -> Fleet:
        """Return the devices of all clients of a run.

        Args:
            context: The run, before its first round.

        Raises:
            FedRecError: What is wrong, and what to do.
        """

    @final
    def checked_fleet(self, context: RoundContext) -> Fleet:
        """Return `fleet`.

        Raises:
            ConfigError: If it is no fleet with a device for each client.
        """
        returned: Any = self.fleet(context)
        n = context.n_clients
        if not isinstance(returned, Fleet) or len(returned) != n:
            came = f"{len(returned)} devices" if isinstance(returned, Fleet) else kind_of(returned)
            raise ConfigError(
                f"devices {name_of('devices', self)}: fleet returned {came}, expected a Fleet of "
                f"{n} devices, one for each client"
            )
        return returned
