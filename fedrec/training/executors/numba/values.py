"""What the compiled kernel reads, changes and works in: named tuples of arrays."""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from fedrec.compute.numba_compiler import compiled

__all__ = ["BALANCES", "BLOCK", "Data", "Local", "Pairs", "Rule", "Settings", "Sums", "room_for"]

BALANCES = {"fixed": 0, "alignment": 1, "residual": 2, "trace": 3}

BLOCK = 128
"""Rows of a kernel matrix that are computed at a time."""

Rule = namedtuple("Rule", "adam lr beta1 beta2 epsilon decay")
"""The private optimiser: Adam or SGD, its rates, and the weight decay."""

Settings = namedtuple(
    "Settings",
    "seed round epochs batch bce mean item_lr proximal bias rule "
    "kernel table joint tau beta balance ema cap persistence decorrelation cross gamma",
)
"""What is computed.

``batch``: positives per step, 0 for all. ``bce``: binary cross-entropy, or pairwise ranking.
``mean``: over the rows of a client's step, or the sum. ``bias``: whether the last element of a
user's vector is one. ``kernel``, ``table``: the form of PLGC, neither without it; ``joint``:
trained through; ``balance``: see `BALANCES`; ``cap``: of a user's kernel, 0 for none; ``cross``:
the view of the decorrelation. Further as `fedrec.personalization.plgc.plgc.PLGC` names them.
"""

Data = namedtuple(
    "Data",
    "n_items client_offsets users offsets items excluded_offsets excluded given k extra "
    "table directions",
)
"""What is read.

``client_offsets`` int64 [c + 1]: the user rows of each client. ``users`` int64 [u], their ids.
``offsets`` int64 [u + 1] and ``items`` int64 [p]: the positives of each user, sorted; likewise
``excluded``, what is never drawn. ``given`` int32 [epochs, p, k]: negatives that were drawn
before; without rows: draw them here. ``extra``: random rows per user and epoch. ``table`` float
[n_items, d]. ``directions`` float [n_items, d]: its rows centred and normalised, empty without a
kernel.
"""

Local = namedtuple("Local", "users first second steps share residual")
"""What is changed in place: vectors and moments float [u, h], steps and lambda float [u],
``residual`` float [r, d], one row for each item of each client's train positives."""

Sums = namedtuple("Sums", "factor weight total heavy counts peak")
"""Where the clients' changes are added up, exactly; without rows in ``total``: nowhere.

``factor`` float64 [c], ``weight`` int64 [c]: see
`fedrec.aggregation.sums_numba.sum_rows`. ``total`` int64 [n_items, d],
``heavy`` int64 [n_items]: the sums and the weights of who is in them. ``counts`` int64 [n_items]:
how many are. ``peak`` int64 [d]: see
`fedrec.aggregation.sums_numba.add_client`.
"""

Pairs = namedtuple("Pairs", "slots up down branch drawn")
"""The distinct items of a user in an epoch or in one step of it, its positives first.

``slots`` int32 [s]: rows of the client's working copy. ``up``, ``down`` float64 [s]: how often an
item is a positive, a sampled negative. ``branch`` float [s]: the local branch. ``drawn`` int32
[n * k]: which of the items each negative is.
"""

Room = namedtuple("Room", "client epoch step rows kernel")
_Client = namedtuple("_Client", "marks own slot_of row_slots shift order negatives extras place")
_Epoch = namedtuple("_Epoch", "users_at slots up down branch drawn extra_at size")
_Step = namedtuple(
    "_Step", "of slots up down branch drawn score chance price slope target factor counted at own"
)
_Rows = namedtuple("_Rows", "gradient rest mixed z other dz gram")
_Kernel = namedtuple("_Kernel", "kept left right kappa along squares")


@compiled
def room_for(data, settings):
    """Scratch for the largest client; see where it is used."""
    kind, d, k = data.table.dtype, data.table.shape[1], data.k
    epochs, extra, n_items = settings.epochs, data.extra, data.n_items
    slots = pairs = positives = users = longest = most = 0
    several = False
    for c in range(len(data.client_offsets) - 1):
        first, last = data.client_offsets[c], data.client_offsets[c + 1]
        n = data.offsets[last] - data.offsets[first]
        of_users = last - first
        slots = max(slots, min(n_items, n * (1 + k * epochs) + of_users * extra * epochs))
        positives, users = max(positives, n), max(users, of_users)
        several = several or of_users > 1
        total = 0
        for u in range(first, last):
            mine = data.offsets[u + 1] - data.offsets[u]
            distinct = min(n_items, mine * (1 + k) + extra)
            total += distinct
            longest, most = max(longest, distinct), max(most, mine)
        pairs = max(pairs, total)
    wide = max(longest, most * k)
    history = 0
    if settings.kernel:
        history = min(most, settings.cap) if settings.cap > 0 else most
    away = longest if settings.decorrelation > 0 else 0
    steps = longest if settings.batch > 0 else 0
    mixed = longest if settings.table else 0
    counted = np.empty(wide, np.int32)
    for i in range(wide):
        counted[i] = i
    client = _Client(
        marks=np.zeros((n_items + 63) // 64, np.uint64),
        own=np.zeros((n_items + 63) // 64 if settings.table else 0, np.uint64),
        slot_of=np.empty(n_items, np.int32),
        row_slots=np.empty(positives if settings.table else 0, np.int32),
        shift=np.empty(n_items, np.int32),
        order=np.empty(positives if settings.batch > 0 else 0, np.int64),
        negatives=np.empty(epochs * positives * k, np.int32),
        extras=np.empty(epochs * users * extra, np.int32),
        place=np.zeros(slots, np.int32),
    )
    epoch = _Epoch(
        users_at=np.zeros(users + 1, np.int64),
        slots=np.empty(pairs, np.int32),
        up=np.empty(pairs),
        down=np.empty(pairs),
        branch=np.zeros(pairs, kind),
        drawn=np.empty(positives * k, np.int32),
        extra_at=np.empty(users * extra, np.int32),
        size=np.zeros(users),
    )
    step = _Step(
        of=np.zeros(steps, np.int32),
        slots=np.empty(steps, np.int32),
        up=np.empty(steps),
        down=np.empty(steps),
        branch=np.zeros(steps, kind),
        drawn=np.empty(most * k if settings.batch > 0 else 0, np.int32),
        score=np.empty(longest),
        chance=np.empty(wide),
        price=np.empty(wide),
        slope=np.empty(wide),
        target=np.empty(longest, kind),
        factor=np.empty(longest, kind),
        counted=counted,
        at=np.empty(longest, np.int32),
        own=np.empty(d + 1, kind),
    )
    rows = _Rows(
        gradient=np.empty((slots if several or settings.proximal > 0 else 0, d), kind),
        rest=np.empty((slots if settings.table else 0, d), kind),
        mixed=np.empty((mixed, d), kind),
        z=np.empty((away, d), kind),
        other=np.empty((away if settings.cross else 0, d), kind),
        dz=np.empty((away, d), kind),
        gram=np.empty((4, d, d), kind),
    )
    kernel = _Kernel(
        kept=np.empty(history, np.int32),
        left=np.empty((BLOCK, d), kind),
        right=np.empty((history + 16, d), kind),
        kappa=np.empty(BLOCK * (history + 16), kind),
        along=np.empty(max(history + 16, d + 1), kind),
        squares=np.empty(history + 16, kind),
    )
    return Room(client, epoch, step, rows, kernel)
