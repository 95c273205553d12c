"""Matrix factorisation, alone or with the kernel form of PLGC: a round of some clients."""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from fedrec.training.jit.arithmetic import dot, log1p_exp, sigmoid, user_step
from fedrec.training.jit.compiler import compiled
from fedrec.training.jit.plgc import (
    alignment,
    decorrelate,
    kernel_branch,
    residual,
    touched,
    trace,
)

__all__ = ["BALANCES", "Data", "Local", "Settings", "train"]

BALANCES = {"fixed": 0, "alignment": 1, "residual": 2, "trace": 3}

Settings = namedtuple(
    "Settings",
    "bce mean item_lr adam lr beta1 beta2 epsilon decay "
    "branch joint tau beta balance ema decorrelation",
)
"""What is computed.

``bce``: binary cross-entropy, or pairwise ranking. ``mean``: over the rows of a client's step, or
the sum. ``item_lr``: of the table. ``adam`` or SGD with ``lr``, ``beta1``, ``beta2``, ``epsilon``
for the users, ``decay`` their weight decay. ``branch``: whether there is a local branch;
``joint``: trained through; ``tau``, ``beta``: its scale and exponent; ``balance``: see `BALANCES`;
``ema``: weight of the old lambda. ``decorrelation``: its weight.
"""

Data = namedtuple(
    "Data",
    "n_items client_offsets offsets items negatives step table directions history_offsets history",
)
"""What is read.

``client_offsets`` int64 [c + 1]: the user rows of each client. ``offsets`` int64 [u + 1] and
``items`` int64 [p]: the positives of each user, sorted. ``negatives`` int32 [epochs, p, k].
``step`` int64 [epochs, p]: in which step a positive is used. ``table`` float [n_items, d].
``directions`` float [n_items, d]: its rows centred and normalised, empty without a branch.
``history_offsets`` int64 [u + 1], ``history``: the items of each user's kernel.
"""

Local = namedtuple("Local", "users first second steps share")
"""What is changed in place: vectors and moments float [u, d], steps and lambda float [u]."""


@compiled
def train(data, local, settings):
    """Train clients for a round.

    Args:
        data: `Data`.
        local: `Local`; changed.
        settings: `Settings`.

    Returns:
        Slot offsets int64 [c + 1], ids int64 [t], changes float [t, d], loss float64 [c].
    """
    epochs, _, k = data.negatives.shape
    n_clients, d = len(data.client_offsets) - 1, data.table.shape[1]
    bound, widest = 0, 0
    for c in range(n_clients):
        n = data.offsets[data.client_offsets[c + 1]] - data.offsets[data.client_offsets[c]]
        width = min(data.n_items, n * (1 + k * epochs))
        bound, widest = bound + width, max(widest, width)
    ids = np.empty(bound, np.int64)
    change = np.empty((bound, d), data.table.dtype)
    offsets = np.zeros(n_clients + 1, np.int64)
    losses = np.zeros(n_clients)
    slot_of = np.full(data.n_items, -1, np.int64)
    scratch = (
        np.empty((widest, d), data.table.dtype),
        np.empty(widest),
        np.empty(widest),
        np.zeros(widest, np.bool_),
        np.empty(widest, np.int64),
    )
    at = 0
    for c in range(n_clients):
        first, last = data.client_offsets[c], data.client_offsets[c + 1]
        count = _collect(data, first, last, slot_of, ids[at:])
        mine, work = ids[at : at + count], change[at : at + count]
        for t in range(count):
            work[t] = data.table[mine[t]]
        branch = np.zeros((last - first, count if settings.branch else 0), data.table.dtype)
        sizes = np.zeros(last - first)
        for epoch in range(epochs):
            if settings.branch:
                _branches(data, settings, epoch, first, last, slot_of, branch, sizes)
            losses[c] = 0.0
            most = -1
            for p in range(data.offsets[first], data.offsets[last]):
                most = max(most, data.step[epoch, p])
            for number in range(most + 1):
                losses[c] += _client_step(
                    data,
                    local,
                    settings,
                    epoch,
                    number,
                    first,
                    last,
                    slot_of,
                    branch,
                    work,
                    scratch,
                )
            if settings.branch and settings.balance > 0:
                for u in range(first, last):
                    if data.offsets[u + 1] > data.offsets[u]:
                        _weigh(data, local, settings, epoch, u, slot_of, work, sizes[u - first])
        for t in range(count):
            work[t] -= data.table[mine[t]]
            slot_of[mine[t]] = -1
        at += count
        offsets[c + 1] = at
    return offsets, ids[:at], change[:at], losses


@compiled
def _collect(data, first, last, slot_of, ids):
    """Give each item that a client touches in the round a slot, in order; return their number."""
    epochs, _, k = data.negatives.shape
    count = 0
    for p in range(data.offsets[first], data.offsets[last]):
        for j in range(-1, k * epochs):
            item = data.items[p] if j < 0 else data.negatives[j // k, p, j % k]
            if slot_of[item] < 0:
                slot_of[item] = 0
                ids[count] = item
                count += 1
    ids[:count].sort()
    for t in range(count):
        slot_of[ids[t]] = t
    return count


@compiled
def _branches(data, settings, epoch, first, last, slot_of, branch, sizes):
    """The local branch of each user of a client on its slots, and its size."""
    for u in range(first, last):
        low, high = data.offsets[u], data.offsets[u + 1]
        if high == low:
            continue
        items, positive = touched(data.items, data.negatives[epoch], low, high)
        values = np.empty(len(items), data.table.dtype)
        own = data.history[data.history_offsets[u] : data.history_offsets[u + 1]]
        _, sizes[u - first] = kernel_branch(
            data.directions, items, positive, own, settings.beta, settings.balance, values
        )
        for i in range(len(items)):
            branch[u - first, slot_of[items[i]]] = values[i]


@compiled
def _client_step(data, local, settings, epoch, number, first, last, slot_of, branch, work, scratch):
    """One step of a client: all its users against the same working copy; returns the loss."""
    gradient = scratch[0]
    k = data.negatives.shape[2]
    count = 0
    for p in range(data.offsets[first], data.offsets[last]):
        count += data.step[epoch, p] == number
    rows = count * (k + 1 if settings.bce else k)
    weight = 1.0 / rows if settings.mean else 1.0
    gradient[: len(work)] = 0.0
    loss = 0.0
    for u in range(first, last):
        loss += _user_gradient(
            data,
            local,
            settings,
            epoch,
            number,
            u,
            slot_of,
            branch[u - first],
            work,
            scratch,
            weight,
        )
    rate = work.dtype.type(settings.item_lr)
    for t in range(len(work)):
        for a in range(work.shape[1]):
            work[t, a] -= rate * gradient[t, a]
    return loss


@compiled
def _user_gradient(data, local, settings, epoch, number, u, slot_of, branch, work, scratch, weight):
    """Add a user's gradient of the rows, step the user's vector, return the loss."""
    gradient, score, slope, seen, listed = scratch
    low, high, k = data.offsets[u], data.offsets[u + 1], data.negatives.shape[2]
    used, positives, loss = 0, 0, 0.0
    for p in range(low, high):
        if data.step[epoch, p] == number:
            positives += 1
            for j in range(-1, k):
                t = slot_of[data.items[p] if j < 0 else data.negatives[epoch, p, j]]
                if not seen[t]:
                    seen[t] = True
                    listed[used] = t
                    used += 1
    if positives == 0:
        return 0.0
    pairs = listed[:used]
    pairs.sort()
    vector = local.users[u]
    for t in pairs:
        seen[t] = False
        slope[t] = 0.0
        score[t] = dot(vector, work[t])
        if settings.branch and settings.joint:
            score[t] += local.share[u] * (settings.tau * branch[t])
    for p in range(low, high):
        if data.step[epoch, p] != number:
            continue
        good = slot_of[data.items[p]]
        if settings.bce:
            slope[good] -= sigmoid(-score[good])
            loss += log1p_exp(-score[good])
        for j in range(k):
            bad = slot_of[data.negatives[epoch, p, j]]
            if settings.bce:
                slope[bad] += sigmoid(score[bad])
                loss += log1p_exp(score[bad])
            else:
                push = sigmoid(score[bad] - score[good])
                slope[good] -= push
                slope[bad] += push
                loss += log1p_exp(score[bad] - score[good])
    own = np.zeros(work.shape[1], work.dtype)
    for t in pairs:
        factor = work.dtype.type(weight * slope[t])
        for a in range(work.shape[1]):
            own[a] += factor * work[t, a]
            gradient[t, a] += factor * vector[a]
    pull = work.dtype.type(settings.decay * positives * weight)
    for a in range(work.shape[1]):
        own[a] += pull * vector[a]
    if settings.decorrelation > 0:
        decorrelate(work, settings.decorrelation, gradient, pairs)
    if settings.adam:
        local.steps[u] += 1
        user_step(
            vector,
            local.first[u],
            local.second[u],
            own,
            local.steps[u],
            True,
            settings.lr,
            settings.beta1,
            settings.beta2,
            settings.epsilon,
        )
    else:
        user_step(vector, own, own, own, 1.0, False, settings.lr, 0.0, 0.0, 1.0)
    return loss


@compiled
def _weigh(data, local, settings, epoch, u, slot_of, work, size):
    """A user's new lambda after a local epoch."""
    items, positive = touched(
        data.items, data.negatives[epoch], data.offsets[u], data.offsets[u + 1]
    )
    n = len(items)
    rows = np.empty((n, work.shape[1]), work.dtype)
    for i in range(n):
        rows[i] = data.table[items[i]]
    if settings.balance == 1:
        other = alignment(rows, positive)
    elif settings.balance == 3:
        other = trace(rows)
    else:
        error, values = np.empty(n), np.empty(n, work.dtype)
        own = data.history[data.history_offsets[u] : data.history_offsets[u + 1]]
        kappa, _ = kernel_branch(
            data.directions, items, positive, own, settings.beta, settings.balance, values
        )
        for i in range(n):
            score = dot(local.users[u], work[slot_of[items[i]]])
            if settings.joint:
                score += local.share[u] * (settings.tau * values[i])
            error[i] = sigmoid(score) - (1.0 if positive[i] else 0.0)
        size, other = residual(kappa, error), residual(rows, error)
    new = size / (size + other) if size + other > 0 else 0.5
    local.share[u] = settings.ema * local.share[u] + (1.0 - settings.ema) * new
