"""When the replies of clients arrive: their devices, and what a job takes."""

from dataclasses import dataclass

from fedrec.devices.fleet import Fleet
from fedrec.devices.work import Work
from fedrec.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Timing:
    """What the virtual clock knows of all clients.

    Args:
        fleet: Their devices.
        work: What a job of each takes.
    """

    fleet: Fleet
    work: Work

    def arrivals(self, clients: IntArray, start: float) -> FloatArray:
        """Return when replies arrive, float64 [c], virtual seconds.

        Args:
            clients: int64 [c].
            start: The virtual second at which they are asked.

        Raises:
            NumericError: If a reply arrives later than the clock can tell.
        """
        return self.fleet.arrivals(clients, start, *self.work.of(clients))
