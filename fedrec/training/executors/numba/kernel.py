"""A round of some users: matrix factorisation or a linear head, alone or with PLGC."""

from collections import namedtuple

import numpy as np

from fedrec.compute.numba_compiler import compiled, inlined
from fedrec.training.executors.numba.arithmetic import (
    BLOCK,
    add_rows,
    decorrelation,
    dot,
    local_weight,
    logistic,
    optimizer_step,
    weighted_total,
)
from fedrec.training.executors.numba.draws import collect, shuffle
from fedrec.training.executors.numba.transforms import transform

Optimizer = namedtuple("Optimizer", "adam lr beta1 beta2 epsilon decay")
"""The private optimizer: Adam or SGD, its rates, and the weight decay."""

Settings = namedtuple(
    "Settings",
    "seed round epochs batch mean item_lr proximal bias optimizer "
    "similarity joint tau balanced ema cap decorrelation",
)
"""What is computed.

``batch``: positives per step, 0 for all. ``mean``: over the rows of a step, or the sum. ``bias``:
whether the last element of a user's vector is one. ``similarity``: PLGC's branch, or none;
``joint``: trained through; ``balanced``: whether its weight is set by alignment, or fixed; ``cap``:
of a user's history, 0 for none. Further as `fedrec.personalization.plgc.plgc.PLGC` names them.
"""

Data = namedtuple(
    "Data",
    "n_items n_drawn users offsets items excluded_offsets excluded k table per_client unit_vectors",
)
"""What is read.

``n_drawn``: how many items, the first ones, may be negatives. ``users`` int64 [u], their ids.
``offsets`` int64 [u + 1] and ``items`` int64 [p]: the positives of each user, sorted; likewise
``excluded``, what is never drawn. ``k``: negatives per positive.
``table`` float [n_items, d]; with ``per_client`` the rows that each client touches, in the order of
the clients.
``unit_vectors`` float [n_items, d]: the table's rows centred and normalised, empty without the
similarity branch.
"""

Local = namedtuple("Local", "users first second steps weight")
"""What is changed in place: vectors and moments float [u, h], steps and lambda float [u]."""

Sums = namedtuple("Sums", "factor weight total heavy counts peak uploaded")
"""Where the clients' changes are added up, exactly; without rows in ``total``: nowhere.

``factor`` float64 [c], what a client's changes are multiplied by before they are rounded;
``weight`` int64 [c]. ``total`` int64 [n_items, d], ``heavy`` int64 [n_items]: the sums and the
weights of who is in them; ``counts`` int64 [n_items]: how many are. ``peak`` int64 [d], the largest
absolute terms, by their bits: those of floats from 0, as whole numbers, have the order of the
floats; then comes inf, then NaN. ``uploaded`` int64 [c]: the bytes of each client's ids and values
in its payload.
"""

Pairs = namedtuple("Pairs", "rows up down")
"""The distinct items of some positives and their negatives, the positives first.

``rows`` int32 [s]: of the client's working copy. ``up``, ``down`` float64 [s]: how often an
item is a positive, a sampled negative.
"""

Scratch = namedtuple(
    "Scratch",
    "marks row_of shift negatives place branch every shuffled rows up down score chance price "
    "slope target factor items gradient vector z dz gram history left right kappa along squares",
)


@compiled
def _scratch_for(data, settings):
    """Return scratch for the largest client; see where it is used."""
    kind, d, k, n_items = data.table.dtype, data.table.shape[1], data.k, data.n_items
    most = 0
    for u in range(len(data.users)):
        most = max(most, data.offsets[u + 1] - data.offsets[u])
    n_rows, longest = min(n_items, most * (1 + k * settings.epochs)), min(n_items, most * (1 + k))
    history = 0
    if settings.similarity:
        history = min(most, settings.cap) if settings.cap > 0 else most
    repelled = longest if settings.decorrelation > 0 else 0
    moved = n_rows if settings.proximal > 0 else 0
    return Scratch(
        marks=np.zeros((n_items + 63) // 64, np.uint64),
        row_of=np.empty(n_items, np.int32),
        shift=np.empty(n_items, np.int32),
        negatives=np.empty(settings.epochs * most * k, np.int32),
        place=np.zeros(n_rows, np.int32),
        branch=np.zeros(n_rows, kind),
        every=np.arange(most),
        shuffled=np.empty(most, np.int64),
        rows=np.empty(longest, np.int32),
        up=np.empty(longest),
        down=np.empty(longest),
        score=np.empty(longest),
        chance=np.empty(longest),
        price=np.empty(longest),
        slope=np.empty(longest),
        target=np.empty(longest, kind),
        factor=np.empty(longest, kind),
        items=np.empty(longest, np.int32),
        gradient=np.empty((moved, d), kind),
        vector=np.empty(d + 1, kind),
        z=np.empty((repelled, d), kind),
        dz=np.empty((repelled, d), kind),
        gram=np.empty((2, d, d), kind),
        history=np.empty(history, np.int32),
        left=np.empty((BLOCK, d), kind),
        right=np.empty((history + 16, d), kind),
        kappa=np.empty(BLOCK * (history + 16), kind),
        along=np.empty(max(history + 16, d + 1), kind),
        squares=np.empty(history + 16, kind),
    )


@compiled
def touched(data, settings, ids, offsets):
    """Draw what clients train on; fill in the items that they touch, as `train` does."""
    scratch = _scratch_for(data, settings)
    for u in range(len(data.users)):
        offsets[u + 1] = offsets[u] + collect(data, settings, scratch, u, ids[offsets[u] :])


@compiled
def train(data, local, settings, sums, steps, ids, change, offsets, losses):
    """Train clients of one user each for a round.

    Args:
        data: `Data`.
        local: `Local`; changed.
        settings: `Settings`.
        sums: `Sums`; changed.
        steps: `fedrec.training.executors.numba.transforms.Steps`: what is done to the changes
            before they are summed.
        ids: int64, as many as the rows that the clients may touch; the first [t] are filled.
        change: float [as many, d], the first [t] are filled. Where the changes are summed, both
            are scratch for one client.
        offsets: int64 [c + 1], from 0, filled: where each client's rows begin.
        losses: float64 [c], filled.
    """
    d = data.table.shape[1]
    scratch, summing = _scratch_for(data, settings), len(sums.total) > 0
    at = first = 0
    for u in range(len(data.users)):
        count = collect(data, settings, scratch, u, ids[at:])
        items, work = ids[at : at + count], change[at : at + count]
        for t in range(count):
            now, frozen = work[t], data.table[first + t if data.per_client else items[t]]
            for a in range(d):
                now[a] = frozen[a]
        for epoch in range(settings.epochs):
            losses[u] = _epoch(data, local, settings, scratch, epoch, u, first, items, work)
        for t in range(count):
            now, frozen = work[t], data.table[first + t if data.per_client else items[t]]
            for a in range(d):
                now[a] -= frozen[a]
        if summing:
            transform(steps, u, work)
            _add_client(work, items, u, sums)
            size = work.size * steps.value_bytes + count * steps.row_bytes
            sums.uploaded[u] = _id_bytes(items) + size
        else:
            at += count
        first += count
        offsets[u + 1] = at


@inlined
def _epoch(data, local, settings, scratch, epoch, u, first, items, work):
    """Train a user for a local epoch; return its loss."""
    n = data.offsets[u + 1] - data.offsets[u]
    loss = 0.0
    if n > 0:
        pairs = _pairs_of(data, scratch, epoch, u, scratch.every[:n])
        weight = 0.0
        if settings.similarity:
            weight = local_weight(data, settings, scratch, pairs, u, items, n)
        if settings.batch == 0:
            loss = _step(data, local, settings, scratch, pairs, u, first, items, work, n)
        else:
            shuffled = scratch.shuffled[:n]
            shuffle(settings, epoch, data.users[u], shuffled)
            for start in range(0, n, settings.batch):
                chosen = np.sort(shuffled[start : start + settings.batch])
                pairs = _pairs_of(data, scratch, epoch, u, chosen)
                loss += _step(
                    data, local, settings, scratch, pairs, u, first, items, work, len(chosen)
                )
        if settings.similarity and settings.balanced:
            old = float(local.weight[u])
            local.weight[u] = settings.ema * old + (1.0 - settings.ema) * weight
    return loss


@compiled
def _pairs_of(data, scratch, epoch, u, chosen):
    """Return the pairs of some of a user's positives, int64 [m], and of their negatives."""
    low, k, used = data.offsets[u], data.k, 0
    total = (data.offsets[u + 1] - low) * k
    rows, up, down, place = scratch.rows, scratch.up, scratch.down, scratch.place
    for i in range(len(chosen)):
        t = scratch.row_of[data.items[low + chosen[i]]]
        place[t] = used
        rows[used], up[used], down[used] = t, 1.0, 0.0
        used += 1
    for i in range(len(chosen)):
        for j in range(k):
            t = scratch.row_of[scratch.negatives[epoch * total + chosen[i] * k + j]]
            at = place[t]
            if not (at < used and rows[at] == t):
                at = used
                place[t] = at
                rows[at], up[at], down[at] = t, 0.0, 0.0
                used += 1
            down[at] += 1.0
    return Pairs(rows[:used], up[:used], down[:used])


@compiled
def _step(data, local, settings, scratch, pairs, u, first, items, work, positives):
    """Step the vector of user row u and its copy of the items, float [t, d]; return the loss.

    ``first`` is the place of its first own row, ``positives`` the number of positives in this step.
    """
    kind, d, s = work.dtype, work.shape[1], len(pairs.rows)
    weight = 1.0 / (positives * (data.k + 1)) if settings.mean else 1.0
    vector, at = local.users[u], pairs.rows
    score, chance, price = scratch.score[:s], scratch.chance[:s], scratch.price[:s]
    for i in range(s):
        score[i] = dot(work[at[i]], vector)
    if settings.bias:
        score += vector[d]
    if settings.similarity and settings.joint:
        share = float(local.weight[u])
        for i in range(s):
            score[i] += share * (settings.tau * scratch.branch[at[i]])
    logistic(score, chance, price)
    factor, gradient = scratch.factor[:s], scratch.vector[: len(vector)]
    gradient[:] = 0.0
    for i in range(s):
        factor[i] = weight * ((pairs.up[i] + pairs.down[i]) * chance[i] - pairs.up[i])
    add_rows(work, at, factor, gradient)
    if settings.bias:
        for i in range(s):
            gradient[d] += factor[i]
    pull = kind.type(settings.optimizer.decay * positives * weight)
    for a in range(len(vector)):
        gradient[a] += pull * vector[a]
    repelled = False
    if settings.decorrelation > 0:
        repelled = decorrelation(
            work, at, settings.decorrelation, scratch.z[:s], scratch.dz[:s], scratch.gram
        )
    # Without a proximal term the rows move at once, because nobody else looks at them.
    direct = settings.proximal == 0
    target = work if direct else scratch.gradient
    if not direct:
        target[: len(work)] = 0.0
    rate = kind.type(-settings.item_lr if direct else 1.0)
    for i in range(s):
        row, f = target[at[i]], rate * factor[i]
        for a in range(d):
            row[a] += f * vector[a]
    if repelled:
        for i in range(s):
            row, away = target[at[i]], scratch.dz[i]
            for a in range(d):
                row[a] += rate * away[a]
    if not direct:
        rate, pull = kind.type(settings.item_lr), kind.type(settings.proximal)
        for i in range(len(work)):
            row, moved, start = (
                work[i],
                target[i],
                data.table[first + i if data.per_client else items[i]],
            )
            for a in range(d):
                row[a] -= rate * (moved[a] + pull * (row[a] - start[a]))
    if settings.optimizer.adam:
        local.steps[u] += 1
        first, second, steps = local.first[u], local.second[u], float(local.steps[u])
        optimizer_step(vector, first, second, gradient, steps, settings.optimizer)
    else:
        optimizer_step(vector, gradient, gradient, gradient, 1.0, settings.optimizer)
    return weighted_total(pairs.up, pairs.down, price, score)


@compiled
def _add_client(change, items, c, sums):
    """Add a client's changed rows to the sums, rounded to whole numbers.

    The innermost loop stands here and not in a function of its own, which would cost as much again.
    """
    factor, peak = sums.factor[c], sums.peak
    for p in range(len(items)):
        at = items[p]
        sums.counts[at] += 1
        sums.heavy[at] += sums.weight[c]
        row, into = change[p], sums.total[at]
        for a in range(change.shape[1]):
            x = np.rint(np.float64(row[a]) * factor)
            into[a] += np.int64(x)
            peak[a] = max(peak[a], np.float64(abs(x)).view(np.int64))


@compiled
def _id_bytes(items):
    """Return the bytes of a client's ids, sorted, as `fedrec.aggregation.positions` writes them."""
    if len(items) == 0:
        return 1
    bitmap = (items[-1] >> 3) + 1
    size = bitmap
    if len(items) < bitmap:
        gaps = len(items) + _more_bytes(items[0])
        for p in range(1, len(items)):
            gaps += _more_bytes(items[p] - items[p - 1] - 1)
        size = min(gaps, bitmap)
    return size + 1 + _more_bytes(size)


@inlined
def _more_bytes(number):
    """Return how many bytes a number takes beyond the first."""
    return (number >= 2**7) + (number >= 2**14) + (number >= 2**21) + (number >= 2**28)
