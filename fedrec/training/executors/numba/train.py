"""Matrix factorisation or a linear head, alone or with PLGC: a round of some clients."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.sums_numba import add_client
from fedrec.compute.numba_compiler import compiled, inlined
from fedrec.training.executors.numba.arithmetic import logistic
from fedrec.training.executors.numba.balance import aim, branch_of, size_of_rows
from fedrec.training.executors.numba.draws import shuffle
from fedrec.training.executors.numba.pairs import (
    collect,
    pairs_of_epoch,
    pairs_of_step,
    pairs_of_user,
)
from fedrec.training.executors.numba.step import scores, see, step_user
from fedrec.training.executors.numba.values import room_for

__all__ = ["train"]


@compiled
def train(data, local, settings, sums, ids, change, offsets, losses):
    """Train clients for a round.

    Args:
        data: `fedrec.training.executors.numba.values.Data`.
        local: `fedrec.training.executors.numba.values.Local`; changed.
        settings: `fedrec.training.executors.numba.values.Settings`.
        sums: `fedrec.training.executors.numba.values.Sums`; changed.
        ids: int64, as many as the rows that the clients may touch; the first [t] are filled.
        change: float [as many, d], the first [t] are filled. Where the changes are summed, both
            are scratch for one client.
        offsets: int64 [c + 1], from 0, filled: where each client's rows begin.
        losses: float64 [c], filled.
    """
    n_clients, d = len(data.client_offsets) - 1, data.table.shape[1]
    room, summing = room_for(data, settings), len(sums.total) > 0
    at = rows = 0
    for c in range(n_clients):
        first, last = data.client_offsets[c], data.client_offsets[c + 1]
        count, distinct = collect(data, settings, room.client, first, last, ids[at:])
        mine, work = ids[at : at + count], change[at : at + count]
        for t in range(count):
            now, frozen = work[t], data.table[mine[t]]
            for a in range(d):
                now[a] = frozen[a]
        if settings.table:
            room.rows.rest[:count] = 0.0
            for r in range(distinct):
                room.rows.rest[room.client.row_slots[r]] = local.residual[rows + r]
        for epoch in range(settings.epochs):
            losses[c] = _epoch(data, local, settings, room, epoch, first, last, mine, work)
        for t in range(count):
            now, frozen = work[t], data.table[mine[t]]
            for a in range(d):
                now[a] -= frozen[a]
        if settings.table:
            keep = work.dtype.type(settings.persistence)
            for r in range(distinct):
                t = room.client.row_slots[r]
                for a in range(d):
                    local.residual[rows + r, a] = keep * (room.rows.rest[t, a] + work[t, a])
        if summing:
            add_client(
                work,
                mine,
                sums.factor[c],
                sums.weight[c],
                sums.total,
                sums.heavy,
                sums.counts,
                sums.peak,
            )
        else:
            at += count
        rows += distinct
        offsets[c + 1] = at


@inlined
def _epoch(data, local, settings, room, epoch, first, last, ids, work):
    """A local epoch of a client; return its loss."""
    low = data.offsets[first]
    n = data.offsets[last] - low
    pairs_of_epoch(data, room.client, room.epoch, epoch, first, last)
    if settings.kernel:
        for u in range(first, last):
            positives = data.offsets[u + 1] - data.offsets[u]
            if positives > 0:
                pairs = pairs_of_user(data, room.epoch, first, u)
                sized = settings.balance == 1 or settings.balance == 3
                if sized:
                    aim(
                        len(pairs.slots),
                        positives,
                        settings.balance,
                        room.step.chance,
                        room.step.target,
                    )
                room.epoch.size[u - first] = branch_of(
                    data.directions,
                    settings,
                    room.kernel,
                    room.step.target,
                    ids,
                    pairs,
                    data.users[u],
                    positives,
                    sized,
                )
    direct = last - first == 1 and settings.proximal == 0
    per_row = data.k + 1 if settings.bce else data.k
    loss = 0.0
    if settings.batch == 0:
        weight = 1.0 / (n * per_row) if settings.mean and n > 0 else 1.0
        if not direct:
            room.rows.gradient[: len(work)] = 0.0
        for u in range(first, last):
            positives = data.offsets[u + 1] - data.offsets[u]
            if positives > 0:
                pairs = pairs_of_user(data, room.epoch, first, u)
                loss += step_user(
                    data,
                    local,
                    settings,
                    room.rows,
                    room.step,
                    pairs,
                    u,
                    ids,
                    work,
                    positives,
                    weight,
                    direct,
                )
        if not direct:
            _descend(data.table, settings, room.rows.gradient, ids, work)
    else:
        order = room.client.order[:n]
        users = data.users[first:last]
        shuffle(settings.seed, settings.round, epoch, users, data.offsets[first : last + 1], order)
        for start in range(0, n, settings.batch):
            chosen = np.sort(order[start : start + settings.batch])
            weight = 1.0 / (len(chosen) * per_row) if settings.mean else 1.0
            if not direct:
                room.rows.gradient[: len(work)] = 0.0
            a = 0
            for u in range(first, last):
                b, end = a, data.offsets[u + 1] - low
                while b < len(chosen) and chosen[b] < end:
                    b += 1
                if b > a:
                    whole = pairs_of_user(data, room.epoch, first, u)
                    pairs = pairs_of_step(
                        data,
                        room.client.place,
                        room.epoch.extra_at,
                        room.step,
                        whole,
                        first,
                        u,
                        chosen[a:b],
                    )
                    loss += step_user(
                        data,
                        local,
                        settings,
                        room.rows,
                        room.step,
                        pairs,
                        u,
                        ids,
                        work,
                        b - a,
                        weight,
                        direct,
                    )
                a = b
            if not direct:
                _descend(data.table, settings, room.rows.gradient, ids, work)
    if settings.balance > 0:
        for u in range(first, last):
            if data.offsets[u + 1] > data.offsets[u]:
                _weigh(data, local, settings, room, first, u, ids, work)
    return loss


@compiled
def _descend(table, settings, gradients, ids, work):
    """A step along the gradient that the users of a client have added up."""
    rate, pull = work.dtype.type(settings.item_lr), work.dtype.type(settings.proximal)
    for t in range(len(work)):
        row, gradient, start = work[t], gradients[t], table[ids[t]]
        for a in range(len(row)):
            row[a] -= rate * (gradient[a] + pull * (row[a] - start[a]))


@inlined
def _weigh(data, local, settings, room, first, u, ids, work):
    """A user's new lambda after a local epoch."""
    pairs = pairs_of_user(data, room.epoch, first, u)
    s, share = len(pairs.slots), float(local.share[u])
    target, balance = room.step.target[:s], settings.balance
    if balance == 2:
        rows, at = see(data, settings, room.rows, room.step.counted, pairs, ids, work, share)
        scores(settings, rows, at, local.users[u], share, pairs.branch, room.step.score)
        logistic(room.step.score[:s], room.step.chance[:s], room.step.price[:s])
    positives = data.offsets[u + 1] - data.offsets[u]
    aim(s, positives, balance, room.step.chance, target)
    for i in range(s):
        room.step.at[i] = ids[pairs.slots[i]]
    other = size_of_rows(
        data.table, room.step.at[:s], target, balance, settings.bias, room.kernel.along
    )
    if settings.table:
        for i in range(s):
            t = pairs.slots[i]
            for a in range(work.shape[1]):
                room.rows.mixed[i, a] = work[t, a] + room.rows.rest[t, a]
        mixed, at = room.rows.mixed[:s], room.step.counted[:s]
        size = size_of_rows(mixed, at, target, balance, settings.bias, room.kernel.along)
    elif balance == 2:
        size = branch_of(
            data.directions,
            settings,
            room.kernel,
            room.step.target,
            ids,
            pairs,
            data.users[u],
            positives,
            True,
        )
    else:
        size = room.epoch.size[u - first]
    new = size / (size + other) if size + other > 0 else 0.5
    local.share[u] = settings.ema * share + (1.0 - settings.ema) * new
