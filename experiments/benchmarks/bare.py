"""What training costs without a framework: loops and batches on prepared indices, deep copies.

Each candidate trains the clients of a plan and leaves each client's own change of its rows and of
its dense weights. Private values step by plain SGD here, which is less than fedrec's Adam.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.func import grad, vmap

from fedrec.types import IntArray

__all__ = ["RATE", "Client", "Network", "Plgc", "Step", "batched", "deep_copies", "flat", "loop"]

Tensor: TypeAlias = "torch.Tensor"
Weights: TypeAlias = dict[str, Tensor]
RATE = 0.01
"""Of all parameters: larger steps diverge in 5 epochs of batches, and nothing is summed then."""
CHUNK = 16


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a client, on its unique items.

    Args:
        at: int64 [n], where its items lie among the items that the client touches.
        items: int64 [n].
        positive: float32 [r], how often a score is a positive.
        negative: float32 [r], how often it is a negative.
        history: int64 [h], for a sequence: positions among the items, oldest first.
        asked: int64 [h, 1 + k], likewise: what is scored after each place.
    """

    at: Tensor
    items: Tensor
    positive: Tensor
    negative: Tensor
    history: Tensor
    asked: Tensor


@dataclass(frozen=True, slots=True)
class Client:
    """A client's round: its touched items, its train items, its steps."""

    touched: Tensor
    train: Tensor
    steps: list[Step]


@dataclass(frozen=True, slots=True)
class Plgc:
    """The similarity branch: unit vectors of all items, its scale, and the decorrelation."""

    unit: Tensor
    tau: float
    decorrelation: float


@dataclass(frozen=True, slots=True)
class Network:
    """A model as plain arithmetic.

    Args:
        scores: From weights, the user's vector, item rows [n, d] and the inputs of a step
            (``history``, ``asked``, ``content`` [n, f]), to the scores.
        weights: The dense weights.
        table: float [n_items, d].
        users: float [c, d].
        sequential: Whether steps have histories.
        content: float [n_items, f], frozen features.
    """

    scores: Callable[[Mapping[str, Tensor], Tensor, Tensor, Mapping[str, Tensor]], Tensor]
    weights: Weights
    table: Tensor
    users: Tensor
    sequential: bool = False
    content: "torch.Tensor | None" = None


def _loss(net: Network, plgc: Plgc | None) -> Callable[..., Tensor]:
    def loss(weights: Weights, user: Tensor, rows: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        score = net.scores(weights, user, rows, inputs)
        if plgc is not None:
            score = score + inputs["branch"]
        softplus = torch.nn.functional.softplus
        total = (inputs["positive"] * softplus(-score) + inputs["negative"] * softplus(score)).sum()
        if plgc is not None:
            total = total + plgc.decorrelation * _single_view(rows, inputs["present"])
        return total

    return loss


def _single_view(rows: Tensor, present: Tensor) -> Tensor:
    n, d = present.sum(), rows.shape[1]
    centred = (rows - (rows * present[:, None]).sum(0) / n) * present[:, None]
    scaled = centred / (centred.square().sum(0) / n + 1e-12).sqrt()
    correlation = scaled.T @ scaled / n
    off = correlation.square().sum() - torch.diagonal(correlation).square().sum()
    return off / (d * (d - 1))


def _branch(plgc: Plgc, items: Tensor, train: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarity branch of a client's items, and the size of its kernel."""
    kernel = (plgc.unit[items] @ plgc.unit[train].T).clamp_min_(0.0).square_()
    kernel[items[:, None] == train[None]] = 0.0
    kernel *= len(train) ** -0.5
    centred = labels - labels.mean()
    size = (kernel.T @ centred).square().sum() / kernel.square().sum().clamp_min(1e-12)
    return 0.5 * plgc.tau * kernel.sum(1), size


def _inputs(net: Network, step: Step, client: Client, plgc: Plgc | None) -> dict[str, Tensor]:
    inputs = {
        "positive": step.positive,
        "negative": step.negative,
        "history": step.history,
        "asked": step.asked,
    }
    if net.content is not None:
        inputs["content"] = net.content[step.items]
    if plgc is not None:
        branch, _ = _branch(plgc, step.items, client.train, step.positive)
        inputs |= {"branch": branch, "present": torch.ones(len(step.items))}
    return inputs


def _rebalance(plgc: Plgc | None, client: Client, rows: Tensor) -> None:
    """Compute the sizes of both branches after the epoch, as the balance by alignment does."""
    if plgc is None:
        return
    labels = torch.isin(client.touched, client.train).float()
    _branch(plgc, client.touched, client.train, labels)
    (rows.T @ (labels - labels.mean())).square().sum() / rows.square().sum()


def loop(net: Network, clients: list[Client], plgc: Plgc | None = None) -> list[Any]:
    """Train one client after the other on its touched rows."""
    results, loss = [], _loss(net, plgc)
    for number, client in enumerate(clients):
        table = net.table[client.touched]
        weights, user = dict(net.weights), net.users[number]
        for step in client.steps:
            leaves = [v.detach().requires_grad_() for v in (*weights.values(), user)]
            rows = table[step.at].requires_grad_()
            given = dict(zip(weights, leaves, strict=False))
            value = loss(given, leaves[-1], rows, _inputs(net, step, client, plgc))
            *gradients, of_rows = torch.autograd.grad(
                value, [*leaves, rows], allow_unused=True, materialize_grads=True
            )
            table.index_add_(0, step.at, of_rows, alpha=-RATE)
            moved = [v.detach() - RATE * g for v, g in zip(leaves, gradients, strict=True)]
            weights, user = dict(zip(weights, moved, strict=False)), moved[-1]
        _rebalance(plgc, client, table)
        results.append((table - net.table[client.touched], weights, user))
    return results


def _padded(values: list[Tensor], fill: float = 0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)


def batched(net: Network, clients: list[Client], plgc: Plgc | None = None) -> list[Any]:
    """Train clients of about the same length side by side, by vmap(grad) over each step."""
    order = np.argsort([sum(len(s.items) for s in client.steps) for client in clients])
    results, gradients = [], vmap(grad(_loss(net, plgc), argnums=(0, 1, 2)))
    for start in range(0, len(order), CHUNK):
        chosen = order[start : start + CHUNK]
        group = [clients[k] for k in chosen]
        table = net.table[_padded([client.touched for client in group])]
        weights = {n: v.expand(len(group), *v.shape).contiguous() for n, v in net.weights.items()}
        user = net.users[torch.from_numpy(chosen)]
        for number in range(max(len(client.steps) for client in group)):
            here = [k for k, client in enumerate(group) if len(client.steps) > number]
            every, at_here = len(here) == len(group), torch.tensor(here)
            steps = [group[k].steps[number] for k in here]
            single = [_inputs(net, s, group[k], plgc) for s, k in zip(steps, here, strict=True)]
            inputs = {name: _padded([one[name] for one in single]) for name in single[0]}
            at = _padded([step.at for step in steps])
            rows = table[at_here[:, None], at]
            now = weights if every else {n: v[at_here] for n, v in weights.items()}
            g_weights, g_user, g_rows = gradients(now, user[at_here], rows, inputs)
            real = _padded([torch.ones(len(step.at)) for step in steps])
            table.index_put_(
                (at_here[:, None].expand_as(at), at), -RATE * g_rows * real[..., None], True
            )
            for name, value in g_weights.items():
                weights[name] = weights[name].index_add(0, at_here, value, alpha=-RATE)
            user = user.index_add(0, at_here, g_user, alpha=-RATE)
        for k, client in enumerate(group):
            _rebalance(plgc, client, table[k, : len(client.touched)])
        results.append((table, weights, user))
    return results


def flat(net: Network, clients: list[Client], plgc: Plgc | None = None) -> list[Any]:
    """Train clients in one computation of elementwise operations; for one step."""
    results, loss = [], _loss(net, None)
    for start in range(0, len(clients), CHUNK):
        group = clients[start : start + CHUNK]
        steps = [client.steps[0] for client in group]
        owner = torch.repeat_interleave(torch.tensor([len(step.items) for step in steps]))
        leaves = {
            n: v.expand(len(group), *v.shape).contiguous().requires_grad_()
            for n, v in net.weights.items()
        }
        user = net.users[start : start + CHUNK].clone().requires_grad_()
        rows = net.table[torch.cat([step.items for step in steps])].requires_grad_()
        nothing = torch.zeros(0)
        inputs = {
            "positive": torch.cat([step.positive for step in steps]),
            "negative": torch.cat([step.negative for step in steps]),
            "history": nothing,
            "asked": nothing,
        }
        value = loss({n: v[owner] for n, v in leaves.items()}, user[owner], rows, inputs)
        results.append(torch.autograd.grad(value, [*leaves.values(), user, rows]))
    return results


class _Copy(torch.nn.Module):
    def __init__(self, net: Network) -> None:
        super().__init__()
        self.item = torch.nn.Parameter(net.table.clone())
        self.user = torch.nn.Parameter(net.users[0].clone())
        self.weights = torch.nn.ParameterDict({n: v.clone() for n, v in net.weights.items()})


def deep_copies(
    net: Network, clients: list[Client], draws: list[list[IntArray]], plgc: Plgc | None = None
) -> Weights:
    """Train a deep copy of the whole module per client, as published scripts do.

    Args:
        net: The model.
        clients: The clients.
        draws: Per client and step the items of its scores, positives first; not unique.
        plgc: The personalization.
    """
    server, loss = _Copy(net), _loss(net, plgc)
    before = {n: v.clone() for n, v in server.state_dict().items()}
    total = {n: torch.zeros_like(v) for n, v in before.items()}
    for client, of_steps in zip(clients, draws, strict=True):
        module = copy.deepcopy(server)
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
        for step, drawn in zip(client.steps, of_steps, strict=True):
            optimizer.zero_grad()
            if net.sequential:
                items, given = step.items, step
            else:
                items = torch.from_numpy(drawn)
                n = int(step.positive.sum())
                label = (torch.arange(len(items)) < n).float()
                given = Step(step.at, items, label, 1 - label, step.history, step.asked)
            inputs, rows = _inputs(net, given, client, plgc), module.item[items]
            loss(dict(module.weights.items()), module.user, rows, inputs).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        _rebalance(plgc, client, module.item.detach()[client.touched])
        with torch.no_grad():
            for name, value in module.state_dict().items():
                total[name] += value - before[name]
    return total
