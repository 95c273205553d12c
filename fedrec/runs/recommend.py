"""What users are recommended, from a run folder or on a device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedrec.aggregation.mix import clients_alike, unpacked
from fedrec.baselines.base import Scorer
from fedrec.compute.device import to_array
from fedrec.errors import ConfigError, DataError, RunFolderError, did_you_mean
from fedrec.evaluation.ranking import mask_of, top_k
from fedrec.evaluation.rerank import FirstStage
from fedrec.evaluation.scorer import UserScorer
from fedrec.plugins import shown
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Split

# Users among whose ids one that is like a misspelt id is looked for.
NAMES_TO_COMPARE = 10_000
AXES = ("user", "client", "positive")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Args:
        item: Its raw id.
        title: Its title, where the data has one.
        score: The user's score for it.
    """

    item: str
    title: str | None
    score: float


def trained_scorer(
    task: ClientTask,
    split: Split,
    shared: Params,
    local: Mapping[str, Mapping[str, FloatArray]],
    where: str,
    first_stage: FirstStage | None = None,
) -> Scorer:
    """Return the scores of users by their index, as a run left model and private parameters.

    Args:
        task: What was trained.
        split: The users, each with its items.
        shared: What the clients received.
        local: Per axis, the private parameters of all owners, in their order.
        where: Where they lie, for errors.
        first_stage: Whose candidates are ranked; None: the whole catalogue.

    Raises:
        RunFolderError: If a private parameter is missing.
    """
    shard = split.shard(np.arange(split.n_clients, dtype=np.int64))
    private: dict[str, FloatArray] = {}
    for name in task.private():
        axis = task.stored_specs()[name].axis or ""
        if name not in local[axis]:
            raise RunFolderError(
                f"{where}: '{name}' of the best round is missing: the run broke off while it was "
                "kept, or nodes keep it elsewhere (flwr run, devices); run it again with an engine "
                "of fedrec's own, or ask the device"
            )
        values = local[axis][name]
        private[name] = values[shard.user_ids] if axis == "user" else values

    def scorer(params: Params) -> Scorer:
        with task.computing():
            score = UserScorer(task, shard, params, private, first_stage)

        def of_users(rows: IntArray) -> FloatArray:
            with task.computing():
                return to_array(score(rows)["mixed"])

        return of_users

    score = by_values(shared, shard.client_ids[shard.client_of_user()], scorer)
    row = np.argsort(shard.user_ids, kind="stable")  # of the shard, by user
    return lambda users: score(row[users])


def index_of(split: Split, user: str | float) -> int:
    """Return the index of a user.

    Args:
        split: Names the users.
        user: The raw id; a whole number may have a point, as in a column of a data frame.

    Raises:
        DataError: If the user is not in the data.
    """
    if isinstance(user, float | np.floating) and float(user).is_integer():
        user = int(user)
    users = np.flatnonzero(split.user_ids == str(user))
    if not len(users):
        few = split.n_users < NAMES_TO_COMPARE
        hint = did_you_mean(str(user), split.user_ids.tolist()) if few else ""
        if "did you mean" not in hint:
            hint = f"; its ids are such as '{split.user_ids[0]}' and '{split.user_ids[-1]}'"
        raise DataError(f"user '{user}' is not in the data{hint}")
    return int(users[0])


def best_items(
    split: Split, scorer: Scorer, users: IntArray, k: int, *, all_known: bool = False
) -> list[tuple[int, int, int, float]]:
    """Return user, rank, item and score of the k best items of some users.

    Args:
        split: The users, each with its items.
        scorer: Scores by index of the user.
        users: int64 [u].
        k: How many.
        all_known: Leave out test items too: whoever asks for recommendations has them already.

    Raises:
        ConfigError: If there are fewer items than k.
    """
    if not isinstance(k, int | np.integer) or not 1 <= k <= split.n_items:
        raise ConfigError(f"k: expected 1 to {split.n_items}, the number of items, got {shown(k)}")
    scores = scorer(users)
    excluded = mask_of("test", split.train.take(users), split.valid.take(users))
    if all_known:
        excluded = mask_of("test", excluded, split.test.take(users))
    return [
        (user, rank, item, float(of_user[item]))
        for user, items, of_user in zip(
            users.tolist(), top_k(scores, excluded, k).tolist(), scores, strict=True
        )
        for rank, item in enumerate(items, start=1)
        if item >= 0
    ]


def recommendations(
    split: Split, ranked: list[tuple[int, int, int, float]]
) -> list[Recommendation]:
    """Return raw ids and titles of what `best_items` ranked."""
    titles = split.item_columns.get("title")
    return [
        Recommendation(
            str(split.item_ids[item]), None if titles is None else str(titles[item]), score
        )
        for _, _, item, score in ranked
    ]


def by_values(
    model: Params,
    clients: IntArray,
    make: Callable[[Params], Callable[[IntArray], FloatArray]],
) -> Callable[[IntArray], FloatArray]:
    """Return a function of some rows, in which each row has the parameters of its client.

    Args:
        model: What a run leaves behind.
        clients: int64 [u], the client of each row.
        make: From parameters to such a function: of rows, int64 [b], at least one, to
            float [b, ...].
    """
    down = unpacked(model)
    if not down.own:
        return make(model)

    def score(rows: IntArray) -> FloatArray:
        scores, places = [], []
        for alike, params in clients_alike(down.take(clients[rows]), len(rows)):
            scores.append(make(params)(rows[alike]))
            places.append(alike)
        return np.concatenate(scores)[np.argsort(np.concatenate(places))]

    return score
