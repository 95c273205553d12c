"""Seconds and bytes of a secure sum of one item table, for each step, of clients and of the server.

    python experiments/benchmarks/secure_sum.py [--clients 100 1000] [--computed 1000 10000]

Each client is a node of its own, so nothing is saved by adding up on nodes; some drop out after
they have shared their secrets, and their masks are recovered. All run in one process, one after the
other. A client's seconds and bytes are means over those that took the step; the server's seconds
are those of all clients together. Bytes are those of the encoded messages, without the training
itself: the parameters that the server sends, and what is sent beside the vector.

For the numbers of ``--computed`` four times as many clients run as each has neighbours, with as
many neighbours and shares as in the whole round; bytes and a client's seconds are measured so, and
the server's seconds are multiplied. A number that was also measured shows how near that comes.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from fedrec.aggregation.reduce import Summing, reduce_sums
from fedrec.aggregation.update import Aggregate, RowBlock, UpdateBatch
from fedrec.flower import records
from fedrec.runs.provenance import hardware
from fedrec.secure_sum import client, server
from fedrec.secure_sum.graph import degree_of, shares_of, threshold_of
from fedrec.secure_sum.session import Session
from fedrec.secure_sum.vector import VectorLayout

ROWS, DIM, TOUCHED = 3_706, 32, 165
"""Items of ML-1M, length of an item vector, and how many rows a client touches."""
STEPS = ("keys", "shares", "masked vector", "revealed shares")


@dataclass(frozen=True, slots=True)
class Costs:
    """What the steps of a secure sum cost, by step.

    Args:
        took: How many clients took each.
        on_clients: Seconds, of all clients together.
        on_server: Seconds.
        up: Bytes that all clients send.
        down: Bytes that they receive.
    """

    took: Counter[str] = field(default_factory=Counter)
    on_clients: Counter[str] = field(default_factory=Counter)
    on_server: Counter[str] = field(default_factory=Counter)
    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)


@contextmanager
def stopwatch(seconds: Any, step: str) -> Iterator[None]:
    """Add what it takes to the seconds of a step."""
    began = time.perf_counter()
    yield
    seconds[step] += time.perf_counter() - began


def size(message: Any) -> int:
    """Return the bytes of a message."""
    return sum(record.count_bytes() for record in records.encode(message).values())


def update(number: int) -> Aggregate:
    """Return the update of a client: random values of random rows."""
    rng = np.random.default_rng(number)
    ids = np.sort(rng.choice(ROWS, TOUCHED, replace=False))
    values = rng.standard_normal((TOUCHED, DIM), np.float32)
    rows = RowBlock(np.array([0, TOUCHED]), ids, values)
    metrics = {"loss": np.ones(1), "examples": np.ones(1)}
    batch = UpdateBatch(1, np.array([number]), np.ones(1), {"item": rows}, {}, metrics)
    return reduce_sums(batch, Summing())


def run(cohort: int, clients: int, drop: float) -> Costs:
    """Run a secure sum, and compare it with the plain sum.

    Args:
        cohort: How many clients the round has: their neighbours and shares follow from it.
        clients: How many of them take part.
        drop: Fraction of these that drops out after it has shared its secrets.
    """
    costs, session = Costs(), Session("benchmark", cohort)
    layout = VectorLayout.of(update(0), {"item": (ROWS, DIM)})
    ids = [np.array([number]) for number in range(clients)]
    keys, shares, masked, revealed = STEPS

    secrets, public = [], []
    for each in ids:
        with stopwatch(costs.on_clients, keys):
            secret, sent = client.advertise(session, each)
        costs.up[keys] += size(sent)
        secrets.append(secret)
        public.append(sent)
    with stopwatch(costs.on_server, keys):
        with_keys = server.collect_keys(session, np.arange(cohort), public)

    shared, sealed = [], []
    for each, secret in zip(ids, secrets, strict=True):
        with stopwatch(costs.on_server, shares):
            neighbours = with_keys.request(each)
        with stopwatch(costs.on_clients, shares):
            state, sent_shares = client.share(secret, neighbours)
        costs.down[shares] += size(neighbours)
        costs.up[shares] += size(sent_shares)
        shared.append(state)
        sealed.append(sent_shares)
    with stopwatch(costs.on_server, shares):
        with_shares = server.collect_shares(with_keys, sealed)

    dropped, plain = int(drop * clients), np.zeros(layout.size, np.uint64)
    masking, vectors = [], []
    for each, state in [*zip(ids, shared, strict=True)][dropped:]:
        vector = layout.pack(update(int(each[0])), cohort)
        plain += vector
        with stopwatch(costs.on_server, masked):
            for_client = with_shares.request(each)
        with stopwatch(costs.on_clients, masked):
            after, sent_vector = client.mask(client.receive(state, for_client), each, vector)
        costs.down[masked] += size(for_client)
        costs.up[masked] += size(sent_vector)
        masking.append(after)
        vectors.append(sent_vector)
    with stopwatch(costs.on_server, masked):
        with_sums = server.collect_sums(with_shares, vectors)

    replies = []
    for each, after in zip(ids[dropped:], masking, strict=True):
        with stopwatch(costs.on_server, revealed):
            survivors = with_sums.request(each)
        with stopwatch(costs.on_clients, revealed):
            _, reply = client.reveal(after, survivors)
        costs.down[revealed] += size(survivors)
        costs.up[revealed] += size(reply)
        replies.append(reply)
    with stopwatch(costs.on_server, revealed):
        words = server.unmasked(with_sums, replies)
    assert np.array_equal(words, plain), "the secure sum is not the plain sum"
    costs.took.update({keys: clients, shares: clients})
    costs.took.update({masked: len(vectors), revealed: len(vectors)})
    return costs


def print_costs(costs: Costs, cohort: int) -> None:
    """Print the rows of one number of clients.

    Args:
        costs: What was measured.
        cohort: If more clients than took part, the server's seconds are multiplied.
    """
    factor = cohort / costs.took[STEPS[0]]
    label = f"{cohort:,}" if factor == 1 else f"{cohort:,}, computed"
    for step in (*STEPS, "all"):
        steps = STEPS if step == "all" else (step,)
        seconds, up, down = (
            sum(counted[each] / costs.took[each] for each in steps)
            for counted in (costs.on_clients, costs.up, costs.down)
        )
        on_server = factor * sum(costs.on_server[each] for each in steps)
        print(
            f"| {label} | {step} | {1e3 * seconds:.2f} | {on_server:.2f} | {up:,.0f} | "
            f"{down:,.0f} |"
        )


def main() -> None:
    """Run all, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--computed", type=int, nargs="+", default=[1000, 10_000], metavar="N")
    parser.add_argument("--drop", type=float, default=0.05, help="fraction that drops out")
    chosen = parser.parse_args()
    print(f"{hardware()}, {datetime.now(UTC):%Y-%m-%d}; {ROWS:,} x {DIM}, drop {chosen.drop:g}")
    cohorts = {*chosen.clients, *chosen.computed}
    for cohort in sorted(cohorts):
        n_shares = shares_of(cohort, degree_of(cohort))
        print(f"{cohort:,} clients: {threshold_of(n_shares, 0.5)} of {n_shares} shares")
    print(
        "| clients | step | client ms | server s | bytes up | bytes down |\n"
        "|---|---|---:|---:|---:|---:|"
    )
    for cohort in chosen.clients:
        print_costs(run(cohort, cohort, chosen.drop), cohort)
    for cohort in chosen.computed:
        few = min(cohort, 4 * degree_of(cohort))
        print_costs(run(cohort, few, chosen.drop), cohort)


if __name__ == "__main__":
    main()
