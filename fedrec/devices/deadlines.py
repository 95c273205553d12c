"""Rounds on a virtual clock: who replies in time, who does not, and when the round ends."""

from dataclasses import dataclass

import numpy as np

from fedrec.devices.availability import seconds_of, ticks_of
from fedrec.errors import ConfigError
from fedrec.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a round.

    Args:
        time: The virtual second at which it ends.
        replied: int64, the clients whose updates count, sorted.
        stragglers: int64, the others of the cohort, sorted.
    """

    time: float
    replied: IntArray
    stragglers: IntArray


def end_of_round(
    clients: IntArray,
    arrivals: FloatArray,
    start: float,
    wanted: int | None = None,
    deadline: float | None = None,
    quorum: int = 1,
) -> Ended:
    """Return when a round ends, and with whom.

    It ends as soon as all replies that are wanted have arrived, or at the deadline. If by then
    there is no quorum, it ends when there is one. Replies that arrive at the same time are taken
    in the order of the client ids.

    Args:
        clients: int64 [c], the cohort; may be empty: then the round ends as it starts.
        arrivals: float64 [c], virtual seconds, when each reply arrives.
        start: The virtual second at which they are asked.
        wanted: Replies that are enough, where more clients are asked; None: all.
        deadline: Virtual seconds after the start; None: there is none.
        quorum: Replies without which no round ends.

    Raises:
        ConfigError: If more replies are wanted than clients are asked, or the quorum is more than
            are wanted.
    """
    if not len(clients):
        return Ended(start, clients, clients)
    wanted = len(clients) if wanted is None else wanted
    if not 1 <= quorum <= wanted <= len(clients):
        raise ConfigError(
            f"a round of {len(clients)} clients waits for {wanted} replies with a quorum of "
            f"{quorum}; expected a quorum from 1, and no more replies than clients"
        )
    in_order = np.lexsort((clients, arrivals))
    times = arrivals[in_order]
    end = float(times[wanted - 1])
    if deadline is not None:
        latest = float(seconds_of(ticks_of(start) + ticks_of(deadline)))
        end = min(end, max(latest, float(times[quorum - 1])))
    counted = min(wanted, int(np.searchsorted(times, end, side="right")))
    replied, stragglers = np.split(clients[in_order], [counted])
    return Ended(end, np.sort(replied), np.sort(stragglers))
