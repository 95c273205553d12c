"""GPFedRec: each client's item table is a mean over the clients that are like it."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.mix import values_of
from fedrec.aggregation.reduce import (
    Summing,
    mean_update,
    reduce_sums,
    sorted_by_client,
    stepped,
)
from fedrec.aggregation.similarity import cosines
from fedrec.aggregation.sketch import count_sketch
from fedrec.aggregation.update import Aggregates, Down, Mix, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.plugins import Count, name_of
from fedrec.training.client_rule import ClientRule
from fedrec.types import FloatArray, IntArray, Params, State
from strategies.base import Payload, Strategy
from strategies.client_rules.plain import Plain
from strategies.client_rules.proximal import Proximal

_WEIGHT_BITS = 20


class GPFedRec(Strategy):
    r"""Graph-guided aggregation: a client's item table is a mean over its neighbours' tables.

    The server remembers the last table :math:`V_u` of each client: what it received plus its
    change. From the similarities of the clients it makes a graph, and client u receives

    .. math:: r_u = \frac{1}{|N_u|} \sum_{v \in N_u} V_v

    as its item table: it trains from there and ranks with it. A client that has not taken part yet
    receives the mean of all :math:`V_v`. Other shared parameters are averaged as by ``fedavg``. The
    server sees each client's update, and holds an item table of each client.

    In the published code, clients start from the mean of all :math:`r_u`, and :math:`r_u` only
    attracts them.

    Args:
        neighbours: How many clients are averaged, those most similar to u, u among them; or
            ``above_mean``: all that are more similar to u than ``threshold`` times the mean over
            all pairs, and u.
        threshold: See ``neighbours``.
        similarity: Of what the cosine is taken: ``tables``, the :math:`V_u`, as published; or
            ``changes``, sketches of what each client has changed in all rounds together, which is
            many times faster.
        buckets: Size of these sketches, in item rows; see `strategies.clustered.Clustered`.
        layers: How often the mean over neighbours is taken, each time of the last means.
        mu: Weight of the proximal term :math:`\tfrac{\mu}{2} \lVert V_u - r_u \rVert^2` of the
            clients' loss. Rows that a client does not touch stay at :math:`r_u`. Dense parameters
            are held near what was received likewise.
        distance: Take the cosine distance for the similarity, as the published code does by
            mistake: neighbours are those least alike, never u.

    Reference: zhang2024gpfedrec.
    """

    reference: ClassVar[str] = "zhang2024gpfedrec"
    needs: ClassVar[Literal["sums", "each"]] = "each"
    payload: ClassVar[Payload] = "client"

    neighbours: Count | Literal["above_mean"] = "above_mean"
    threshold: float = Field(1.0, ge=0)
    similarity: Literal["tables", "changes"] = "tables"
    buckets: int = Field(64, ge=1)
    layers: int = Field(1, ge=1)
    mu: float = Field(0.01, ge=0)
    distance: bool = False

    @property
    def client_rule(self) -> ClientRule:
        """The proximal term, if it has a weight."""
        return Proximal(mu=self.mu) if self.mu > 0 else Plain()

    def without_effect(self, run: Any) -> list[str]:
        """Say which settings do nothing; refuse a model without item table."""
        if "item" not in run.task.tables():
            raise ConfigError(
                f"strategy.{name_of('strategies', self)}: mixes the clients' item tables, and "
                f"{type(run.task.model).__name__} has none; take another strategy"
            )
        lines = self.client_rule.without_effect(run) if self.mu > 0 else []
        if self.similarity == "tables":
            lines += self.unused("similarity is that of tables", "buckets")
        if self.neighbours != "above_mean":
            lines += self.unused("neighbours is a number", "threshold")
            if self.neighbours == 1 and not self.distance:
                lines.append("neighbours: 1 makes no graph: each receives its own table; raise it")
            if self.neighbours >= run.split.n_clients:
                lines.append(
                    f"neighbours: {self.neighbours} makes no graph: there are "
                    f"{run.split.n_clients} clients, and each receives the mean of all; lower it"
                )
        return lines

    def state_bytes(self, shapes: Mapping[str, tuple[int, ...]], n_clients: int) -> int:
        """Return how large the state is once every client has taken part."""
        if "item" not in shapes:  # refused by `without_effect`
            return 0
        n_items, *shape = shapes["item"]
        rows = n_items + (self.buckets if self.similarity == "changes" else 0)
        return n_clients * (8 + 4 * (rows * prod(shape) + n_clients))

    def init(self, params: Params, context: RoundContext) -> State:
        """Return a state without clients.

        It has ``clients``, int64 [c], those that took part so far, sorted; ``tables``, float32
        [c, n_items, ...], their last item tables; ``weights``, float32 [c, c], of the tables in
        what each of them receives; and for ``changes`` their ``sketches``, float32 [c, b, ...].
        """
        shape = params["item"].shape
        arrays = {
            "clients": np.zeros(0, np.int64),
            "tables": np.zeros((0, *shape), np.float32),
            "weights": np.zeros((0, 0), np.float32),
        }
        if self.similarity == "changes":
            arrays["sketches"] = np.zeros((0, self.buckets, *shape[1:]), np.float32)
        return State(arrays)

    def broadcast(
        self, state: State, params: Params, client_ids: IntArray, context: RoundContext
    ) -> Down:
        """Return the mean over each client's neighbours; the mean of all for who is new."""
        clients, tables = state.arrays["clients"], state.arrays["tables"]
        if len(clients) == 0:
            return Down(params)
        at = np.searchsorted(clients, client_ids)
        is_new = np.append(clients, -1)[at] != client_ids
        weights = state.arrays["weights"][np.where(is_new, 0, at)]
        if is_new.any():
            tables = np.concatenate([tables, params["item"][None]])
            weights = np.pad(np.where(is_new[:, None], np.float32(0), weights), ((0, 0), (0, 1)))
            weights[is_new, -1] = 1
        shared = {name: value for name, value in params.items() if name != "item"}
        return Down(shared, {"item": Mix(tables, weights)})

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        """Replace the tables of the clients of the round, and make the graph anew."""
        batch = sorted_by_client([each.each for each in aggregates.values() if each.each])
        block, before = batch.tables["item"], state.arrays
        clients = np.union1d(before["clients"], batch.client_ids)
        old = np.searchsorted(clients, before["clients"])
        new = np.searchsorted(clients, batch.client_ids)
        tables = self._received(state, params, batch.client_ids, context)
        if len(new) < len(clients):
            received, tables = tables, np.empty((len(clients), *tables.shape[1:]), np.float32)
            tables[old], tables[new] = before["tables"], received
        tables[np.repeat(new, np.diff(block.offsets)), block.ids] += block.values
        arrays = {"tables": tables}
        compared = tables
        if self.similarity == "changes":
            compared = np.zeros((len(clients), *before["sketches"].shape[1:]), np.float32)
            compared[old] = before["sketches"]
            compared[new] += count_sketch(block, self.buckets)
            arrays["sketches"] = compared
        weights = self._weights(cosines(compared.reshape(len(clients), -1)))
        # In double precision, client after client.
        mean = tables.mean(0, dtype=np.float64).astype(np.float32)
        after = State({"clients": clients, "weights": weights, **arrays})
        return after, {**_averaged(params, batch), "item": mean}

    def _received(
        self, state: State, params: Params, client_ids: IntArray, context: RoundContext
    ) -> FloatArray:
        """Return a copy of the item tables that clients received, float32 [c, n_items, ...]."""
        sent = self.broadcast(state, params, client_ids, context)
        if "item" in sent.shared:
            return np.repeat(sent.shared["item"][None], len(client_ids), axis=0)
        return values_of(sent.own["item"], np.arange(len(client_ids)))

    def _weights(self, similarity: FloatArray) -> FloatArray:
        """Return the weight of each client's table for each client, float32 [c, c]."""
        n, itself = len(similarity), np.eye(len(similarity), dtype=bool)
        similarity = 1 - similarity if self.distance else similarity
        chosen = similarity > self.threshold * similarity.mean()
        if self.neighbours != "above_mean":
            ranked = similarity if self.distance else np.where(itself, np.inf, similarity)
            nearest = np.argsort(-ranked, axis=1, kind="stable")[:, : self.neighbours]
            chosen = np.zeros((n, n), bool)
            np.put_along_axis(chosen, nearest, True, axis=1)
        is_alone = ~chosen.any(1) if self.distance else np.ones(n, bool)
        chosen |= itself & is_alone[:, None]
        weights = first = chosen / chosen.sum(1, keepdims=True)
        for _ in range(1, self.layers):
            # Whole numbers, so that the product of matrices is exact in any order.
            rounded, rounded_first = (
                np.rint(each * 2.0**_WEIGHT_BITS) for each in (weights, first)
            )
            weights = rounded @ rounded_first
            weights /= weights.sum(1, keepdims=True)
        return np.asarray(weights, np.float32)


def _averaged(params: Params, batch: UpdateBatch) -> Params:
    """Return the shared parameters but the item table, moved by the mean change."""
    others = {name: value for name, value in params.items() if name != "item"}
    tables = {name: block for name, block in batch.tables.items() if name != "item"}
    aggregate = reduce_sums(replace(batch, tables=tables), Summing())
    return stepped(others, mean_update(others, aggregate, "per_row"), 1.0)
