"""Which items a client touches: the slots of a round, the pairs of an epoch or of a step."""

from __future__ import annotations

import numpy as np

from fedrec.compute.numba_compiler import compiled
from fedrec.training.executors.numba.draws import draw_extras, draw_negatives
from fedrec.training.executors.numba.values import Pairs

__all__ = ["collect", "pairs_of_epoch", "pairs_of_step", "pairs_of_user"]

_ONE = np.uint64(1)
# The top six bits of this number times 2**i are different for each i.
_SEQUENCE = 0x03F79D71B4CB0A89
_TIMES, _TOP = np.uint64(_SEQUENCE), np.uint64(58)
_PLACE = np.zeros(64, np.int64)
_PLACE[[(_SEQUENCE << i) % 2**64 >> 58 for i in range(64)]] = np.arange(64)


@compiled
def _mark(words, items):
    """Set the bit of each item."""
    for i in range(len(items)):
        words[items[i] >> 6] |= _ONE << np.uint64(items[i] & 63)


@compiled
def collect(data, settings, client, first, last, ids):
    """Draw all that a client trains on in a round and give each touched item a slot.

    Args:
        data: `Data`.
        settings: `Settings`.
        client: `Room.client`; ``negatives`` [epochs, n, k] and ``extras`` [epochs, users, e] flat,
            ``slot_of`` and ``row_slots`` are filled.
        first: user row.
        last: user row behind the client's last.
        ids: int64, filled with the items of the slots, sorted.

    Returns:
        The number of slots, and of distinct positives (0 without a table form).
    """
    low, high = data.offsets[first], data.offsets[last]
    marks, own, k, extra = client.marks, client.own, data.k, data.extra
    total = (high - low) * k
    _mark(marks, data.items[low:high])
    if settings.table:
        _mark(own, data.items[low:high])
    for epoch in range(settings.epochs):
        for u in range(first, last):
            a, b = data.offsets[u] - low, data.offsets[u + 1] - low
            drawn = client.negatives[epoch * total + a * k : epoch * total + b * k]
            if len(data.given) > 0:
                drawn[:] = data.given[epoch, low + a : low + b].reshape(-1)
            else:
                excluded = data.excluded[data.excluded_offsets[u] : data.excluded_offsets[u + 1]]
                draw_negatives(
                    settings.seed,
                    settings.round,
                    data.users[u],
                    epoch,
                    excluded,
                    data.n_items,
                    client.shift,
                    drawn,
                )
            _mark(marks, drawn)
            if extra > 0 and b > a:
                start = (epoch * (last - first) + u - first) * extra
                more = client.extras[start : start + extra]
                draw_extras(
                    settings.seed,
                    settings.round,
                    data.users[u],
                    epoch,
                    data.n_items,
                    more,
                )
                _mark(marks, more)
    count = rows = 0
    for word in range(len(marks)):
        left = marks[word]
        while left != 0:
            rest = left & (left - _ONE)
            lowest = left ^ rest
            item = 64 * word + _PLACE[(lowest * _TIMES) >> _TOP]
            ids[count] = item
            client.slot_of[item] = count
            if settings.table and own[word] & lowest != 0:
                client.row_slots[rows] = count
                rows += 1
            count += 1
            left = rest
        marks[word] = 0
    own[:] = 0
    return count, rows


@compiled
def pairs_of_epoch(data, client, whole, epoch, first, last):
    """Fill the pairs of all users of a client for an epoch; ``users_at`` says where each begins.

    Args:
        data: `Data`.
        client: `Room.client`, as `collect` left it.
        whole: `Room.epoch`, filled.
        epoch: the local epoch.
        first: user row.
        last: user row behind the client's last.
    """
    k, extra = data.k, data.extra
    low = data.offsets[first]
    total = (data.offsets[last] - low) * k
    start = 0
    for u in range(first, last):
        a, b = data.offsets[u] - low, data.offsets[u + 1] - low
        slots, up, down = whole.slots[start:], whole.up[start:], whole.down[start:]
        used = 0
        for p in range(low + a, low + b):
            t = client.slot_of[data.items[p]]
            client.place[t] = used
            slots[used], up[used], down[used] = t, 1.0, 0.0
            used += 1
        for i in range(a * k, b * k):
            t = client.slot_of[client.negatives[epoch * total + i]]
            at = client.place[t]
            if not (at < used and slots[at] == t):
                at = used
                client.place[t] = at
                slots[at], up[at], down[at] = t, 0.0, 0.0
                used += 1
            down[at] += 1.0
            whole.drawn[i] = at
        for i in range(extra if b > a else 0):
            t = client.slot_of[client.extras[(epoch * (last - first) + u - first) * extra + i]]
            at = client.place[t]
            if not (at < used and slots[at] == t):
                at = used
                client.place[t] = at
                slots[at], up[at], down[at] = t, 0.0, 0.0
                used += 1
            whole.extra_at[(u - first) * extra + i] = at
        start += used
        whole.users_at[u - first + 1] = start


@compiled
def pairs_of_user(data, whole, first, u):
    """The pairs of a user in the epoch, as they were filled."""
    a, b = whole.users_at[u - first], whole.users_at[u - first + 1]
    low = data.offsets[first]
    return Pairs(
        whole.slots[a:b],
        whole.up[a:b],
        whole.down[a:b],
        whole.branch[a:b],
        whole.drawn[(data.offsets[u] - low) * data.k : (data.offsets[u + 1] - low) * data.k],
    )


@compiled
def pairs_of_step(data, place, extra_at, step, whole, first, u, chosen):
    """Those of a user's pairs that belong to some of its positives.

    Args:
        data: `Data`.
        place: int32, scratch by slot.
        extra_at: int32 [users * e], which of the pairs each extra row is.
        step: `Room.step`, filled.
        whole: `Pairs` of the epoch.
        first: first user row of the client.
        u: the user row.
        chosen: int64 [m], the positives, by their places among the client's.
    """
    k, used = data.k, 0
    before = data.offsets[u] - data.offsets[first]
    of = step.of
    for i in range(len(chosen)):
        at = chosen[i] - before
        place[whole.slots[at]] = used
        of[used], step.up[used], step.down[used] = at, 1.0, 0.0
        used += 1
    for i in range(len(chosen)):
        for j in range(k):
            at = whole.drawn[(chosen[i] - before) * k + j]
            where = place[whole.slots[at]]
            if not (where < used and of[where] == at):
                where = used
                place[whole.slots[at]] = where
                of[where], step.up[where], step.down[where] = at, 0.0, 0.0
                used += 1
            step.down[where] += 1.0
            step.drawn[i * k + j] = where
    for i in range(data.extra):
        at = extra_at[(u - first) * data.extra + i]
        where = place[whole.slots[at]]
        if not (where < used and of[where] == at):
            place[whole.slots[at]] = used
            of[used], step.up[used], step.down[used] = at, 0.0, 0.0
            used += 1
    for i in range(used):
        step.slots[i] = whole.slots[of[i]]
        step.branch[i] = whole.branch[of[i]]
    return Pairs(
        step.slots[:used],
        step.up[:used],
        step.down[:used],
        step.branch[:used],
        step.drawn[: len(chosen) * k],
    )
