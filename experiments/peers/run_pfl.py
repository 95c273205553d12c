"""pfl's part of compare.py; runs in an environment of its own: run_pfl.py WORK.npz RESULT.npz

The model is one `torch.nn.Module`, `SimulatedBackend` runs `FederatedAveraging`; each user's head
lies in pfl's in-memory store of user states and is put into the model before it trains.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.data.user_state import InMemoryUserStateStorage
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

PRIVATE = ("head", "bias")


class Recommender(torch.nn.Module):
    """An item table, and the head of the user at hand; a row is a positive and its negatives."""

    def __init__(self, item):
        super().__init__()
        self.item = torch.nn.Parameter(torch.from_numpy(item))
        self.head = torch.nn.Parameter(torch.zeros(item.shape[1]))
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def loss(self, rows, eval=False):
        logits = torch.nn.functional.embedding(rows, self.item) @ self.head + self.bias
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1.0
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="sum"
        )

    @torch.no_grad()
    def metrics(self, rows, eval=False):
        return {"loss": Weighted(self.loss(rows).item(), len(rows))}


class PrivateHeads(FederatedAveraging):
    """Averages the table; the heads stay with the users."""

    def __init__(self, states):
        super().__init__()
        self.states = states

    def train_one_user(self, initial_model_state, model, user_dataset, central_context):
        state = self.states.load_state(user_dataset.user_id, "head")
        module = model.pytorch_model
        with torch.no_grad():
            for name in PRIVATE:
                getattr(module, name).copy_(state[name])
        statistics, metrics = super().train_one_user(
            initial_model_state, model, user_dataset, central_context
        )
        state = {name: getattr(module, name).detach().clone() for name in PRIVATE}
        self.states.save_state(state, user_dataset.user_id, "head")
        for name in PRIVATE:
            statistics[name].zero_()
        return statistics, metrics


class Clock(TrainingProcessCallback):
    """Notes when each round ended."""

    def __init__(self):
        self.round = 0
        self.laps = []
        self.start()

    def start(self):
        self.began = time.perf_counter(), time.process_time()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        wall, cpu = self.began
        self.laps.append((time.perf_counter() - wall, time.process_time() - cpu))
        self.round += 1
        self.start()
        return False, Metrics()


def main(source, target):
    torch.set_num_threads(1)
    work = np.load(source)
    offsets, examples = work["offsets"], torch.from_numpy(work["examples"])
    clients = len(offsets) - 1
    rounds, batch, rate = int(work["rounds"]), int(work["batch"]), float(work["lr"])
    clock, states = Clock(), InMemoryUserStateStorage()
    for user in range(clients):
        head = torch.from_numpy(work["head"][user].copy())
        states.save_state({"head": head, "bias": torch.tensor(work["bias"][user])}, user, "head")

    def dataset_of(user):
        rows = examples[clock.round, offsets[user] : offsets[user + 1]]
        return Dataset(raw_data=[rows], user_id=user)

    users = list(range(clients))
    data = FederatedDataset(dataset_of, get_user_sampler("minimize_reuse", users))
    module = Recommender(work["item"].copy())
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    algorithm = PrivateHeads(states)
    clock.start()
    algorithm.run(
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=clients,
            val_cohort_size=None,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=rate, local_batch_size=batch
        ),
        model_eval_params=None,
        callbacks=[clock],
    )
    heads = [states.load_state(user, "head")["head"].numpy() for user in users]
    laps = np.array(clock.laps)
    item = module.item.detach().numpy()
    np.savez(target, laps=laps, item=item, head=np.stack(heads))


if __name__ == "__main__":
    main(*sys.argv[1:])
