"""The language model as a client model: what travels, what is scored, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.evaluation.rerank import FirstStage
from fedrec.evaluation.scorer import UserScorer
from fedrec.models import LLMPrompt
from fedrec.training.clients import train_clients
from fedrec.training.task import ClientTask
from fedrec.types import Params
from tests.planted import method_of, shard_of
from tests.tiny_language_model import catalogue_of, save_tiny_model, tiny_llm_prompt

SHARD = replace(
    shard_of(6, [[0, 1, 4], [2, 3], [5]], [1, 1, 1]),
    timestamps=np.array([5.0, 3.0, 4.0, 1.0, 0.0, 2.0]),
)
B_OF_A_LAYER = (64 + 32) * 2  # q and v of rank 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llm") / "tiny")


def task_of(model: LLMPrompt) -> ClientTask:
    return method_of(model=model, catalogue=catalogue_of())


def test_only_b_travels(folder: Path) -> None:
    task = task_of(tiny_llm_prompt(folder))
    assert task.private() == ()
    assert set(task.travels()) == set(task.dense())
    assert all(".lora_B." in name for name in task.travels())
    assert task.size(*task.dense()) == 2 * B_OF_A_LAYER
    assert not any(np.any(value) for value in task.initial_globals(6).values())


def test_training_prefers_what_is_taken_and_changes_nothing_but_b(folder: Path) -> None:
    shard = replace(shard_of(6, [[0, 1, 2]] * 4, [1] * 4), timestamps=np.arange(12.0))
    options = {"optimizers": {"shared": {"name": "adam", "lr": 0.03}}, "negatives": 1}
    model = tiny_llm_prompt(folder)
    task = method_of(options, model=model, catalogue=catalogue_of())
    assert task.network is not None
    before = {name: value.clone() for name, value in task.network.module.state_dict().items()}

    def margin(params: Params) -> float:
        scores = UserScorer(task, shard, params, {})(np.arange(4))["mixed"]
        return float(scores[:, :3].mean() - scores[:, 3:].mean())

    first = params = task.initial_globals(6)
    for number in range(1, 26):
        update, _ = train_clients(task, shard, params, {}, number, 1)
        params = {name: params[name] + update.dense[name].mean(0) for name in params}
    assert update.tables == {}
    assert margin(params) > margin(first) + 0.05
    after = task.network.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_ranking_scores_histories_and_candidates(folder: Path) -> None:
    """From the latest items, oldest first, with the parameters that were sent."""
    task = task_of(tiny_llm_prompt(folder, history=2))
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=v.shape).astype("f") for n, v in task.initial_globals(6).items()}
    users = np.array([0, 2])
    scores = UserScorer(task, SHARD, params, {})(users)["mixed"]
    assert task.network is not None
    net = task.network.module
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name in params:
                value.copy_(torch.from_numpy(params[name]))
        for row, history in enumerate(([4, 0], [5])):
            past, zero = torch.tensor([history]), torch.zeros(6, dtype=torch.int64)
            expected = net(past, zero, zero + len(history), torch.arange(6))
            assert torch.allclose(scores[row], expected, atol=1e-5)
            assert expected.std() > 0.01
    stage = FirstStage(lambda users: np.tile(np.arange(6.0, dtype=np.float32), (len(users), 1)), 2)
    reranked = UserScorer(task, SHARD, params, {}, stage)(users)["mixed"]
    assert (reranked[0] >= 0).nonzero().ravel().tolist() == [3, 5]
    assert bool(reranked[0, 5] > reranked[0, 3]) == bool(scores[0, 5] > scores[0, 3])


def test_the_seed_draws_a(folder: Path) -> None:
    def a_of(task: ClientTask) -> torch.Tensor:
        assert task.network is not None
        state = task.network.module.state_dict()
        return torch.as_tensor(next(v for n, v in state.items() if "lora_A" in n))

    task = task_of(tiny_llm_prompt(folder))
    other = replace(task, seed=1)
    assert torch.equal(a_of(task), a_of(replace(task)))
    assert not torch.equal(a_of(task), a_of(other))


def test_more_tokens_than_the_base_takes_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens: 257 are more than the 256 that"):
        task_of(tiny_llm_prompt(folder, max_tokens=257))
