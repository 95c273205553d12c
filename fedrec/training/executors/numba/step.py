"""One step of one user: score, slopes, its own gradient, its part of the rows' gradient."""

from __future__ import annotations

from fedrec.compute.numba_compiler import compiled
from fedrec.training.executors.numba.arithmetic import (
    add_rows,
    dot,
    logistic,
    optimizer_step,
    weighted_total,
)
from fedrec.training.executors.numba.decorrelation import cross_view, single_view

__all__ = ["scores", "see", "step_user"]


@compiled
def see(data, settings, room, counted, pairs, ids, work, share):
    """The item vectors that the model sees: rows, and which of them each pair has."""
    if not settings.table:
        return work, pairs.slots
    kind = work.dtype
    s, own, rest = len(pairs.slots), kind.type(share), kind.type(1.0 - share)
    for i in range(s):
        t = pairs.slots[i]
        mixed, now, kept, frozen = (
            room.mixed[i],
            work[t],
            room.rest[t],
            data.table[ids[t]],
        )
        for a in range(len(mixed)):
            mixed[a] = own * (now[a] + kept[a]) + rest * frozen[a]
    return room.mixed[:s], counted[:s]


@compiled
def scores(settings, rows, at, vector, share, branch, score):
    """The scores of some pairs, float64 [s], filled."""
    d = rows.shape[1]
    for i in range(len(at)):
        score[i] = dot(rows[at[i]], vector)
    if settings.bias:
        for i in range(len(at)):
            score[i] += vector[d]
    if settings.kernel and settings.joint:
        for i in range(len(at)):
            score[i] += share * (settings.tau * branch[i])


@compiled
def _slopes(settings, step, pairs, k):
    """The derivatives of a user's loss by its scores, float64 [s], filled; return the loss."""
    s, score, slope = len(pairs.slots), step.score, step.slope
    chance, price = step.chance, step.price
    if settings.bce:
        logistic(score[:s], chance[:s], price[:s])
        for i in range(s):
            slope[i] = (pairs.up[i] + pairs.down[i]) * chance[i] - pairs.up[i]
        return weighted_total(pairs.up, pairs.down, price[:s], score[:s])
    n = len(pairs.drawn)
    for j in range(n):
        slope[j] = score[pairs.drawn[j]] - score[j // k]
    logistic(slope[:n], chance[:n], price[:n])
    slope[:s] = 0.0
    loss = 0.0
    for j in range(n):
        slope[j // k] -= chance[j]
        slope[pairs.drawn[j]] += chance[j]
        loss += price[j]
    return loss


@compiled
def step_user(data, local, settings, room, step, pairs, u, ids, work, positives, weight, direct):
    """Step a user's vector; move the rows, or add to their gradient; return the loss.

    Args:
        data: `Data`.
        local: `Local`; changed.
        settings: `Settings`.
        room: `Room.rows`.
        step: `Room.step`.
        pairs: `Pairs` of the step.
        u: user row.
        ids: int64 [t], the items of the slots.
        work: float [t, d], the client's working copy.
        positives: of the user in this step.
        weight: of each row of the loss.
        direct: whether the rows move at once, because nobody else looks at them.
    """
    kind, d, s = work.dtype, work.shape[1], len(pairs.slots)
    vector = local.users[u]
    share = float(local.share[u]) if settings.kernel or settings.table else 1.0
    rows, at = see(data, settings, room, step.counted, pairs, ids, work, share)
    scores(settings, rows, at, vector, share, pairs.branch, step.score)
    loss = _slopes(settings, step, pairs, data.k)
    factor, own = step.factor[:s], step.own[: len(vector)]
    own[:] = 0.0
    for i in range(s):
        factor[i] = weight * step.slope[i]
    add_rows(rows, at, factor, own)
    if settings.bias and settings.bce:  # A ranking loss leaves it out.
        for i in range(s):
            own[d] += factor[i]
    pull = kind.type(settings.rule.decay * positives * weight)
    for a in range(len(vector)):
        own[a] += pull * vector[a]

    repelled = False
    if settings.decorrelation > 0 and settings.cross:
        for i in range(s):
            step.at[i] = ids[pairs.slots[i]]
        repelled = cross_view(
            rows,
            at,
            data.table,
            step.at[:s],
            settings.decorrelation * (share if settings.table else 1.0),
            settings.gamma,
            room.z[:s],
            room.other[:s],
            room.dz[:s],
            room.gram,
        )
    elif settings.decorrelation > 0:
        repelled = single_view(
            work,
            pairs.slots,
            settings.decorrelation,
            room.z[:s],
            room.dz[:s],
            room.gram,
        )

    rate = -settings.item_lr if direct else 1.0
    target = work if direct else room.gradient
    through = kind.type(rate * share if settings.table else rate)
    rate = kind.type(rate)
    for i in range(s):
        row, f = target[pairs.slots[i]], through * factor[i]
        for a in range(d):
            row[a] += f * vector[a]
    if repelled:
        for i in range(s):
            row, away = target[pairs.slots[i]], room.dz[i]
            for a in range(d):
                row[a] += rate * away[a]

    if settings.rule.adam:
        local.steps[u] += 1
        moments = local.first[u], local.second[u]
        optimizer_step(vector, moments[0], moments[1], own, float(local.steps[u]), settings.rule)
    else:
        optimizer_step(vector, own, own, own, 1.0, settings.rule)
    return loss
