"""Try a client model on a few pairs, so that a fault is named before the first round."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from fedrec.errors import ConfigError, did_you_mean
from fedrec.models.base import Batch, Execution, History, Model
from fedrec.models.module import ModelParams, Network
from fedrec.types import ParamSpec

UNTRAINED = (
    "depends on no parameter by operations of torch, so nothing can be trained; leave out "
    "detach(), item(), numpy() and tensors that are made of values"
)
_N_ITEMS = 3


class _Trial:
    """What a model is given for one or two pairs, and for as many users with 3 items.

    Args:
        model: The model.
        specs: All its parameters, by name.
        network: What it built.
        n: Pairs, and users.
        trained: Whether gradients are wanted.
    """

    def __init__(
        self,
        model: Model,
        specs: Mapping[str, ParamSpec],
        network: Network | None,
        n: int,
        trained: bool = False,
    ) -> None:
        place, values, ranked = torch.zeros(n, dtype=torch.int64), {}, {}
        user_rows = set[str]()
        for name, spec in specs.items():
            value = torch.full(spec.shape, 0.5, dtype=getattr(torch, spec.dtype))
            if spec.values is not None:
                value = torch.as_tensor(spec.values.copy())
            is_row = model.execution == "flat" or spec.axis not in (None, "client")
            # Of either sign, for a model that takes its ways by the values.
            values[name] = torch.stack([value, -value][:n]) if is_row else value
            ranked[name] = values[name].clone()
            if spec.axis == "item":
                ranked[name] = torch.stack([value] * _N_ITEMS)
            elif is_row:
                user_rows.add(name)
            if trained and spec.trainable and spec.scope != "frozen":
                values[name].requires_grad_()
        item_rows = [name for name, spec in specs.items() if spec.axis == "item"]
        # Ranking drops nothing; a key stands for training.
        self.params = ModelParams(values, network, torch.tensor(1))
        self.ranked = ModelParams(ranked, network, None, item_rows, user_rows)
        self.items, self.all_items = torch.arange(n), torch.arange(_N_ITEMS)
        self.model, self.place = model, place

    def batch(self, vectors: Tensor) -> Batch:
        """Return the pairs, for some item vectors, float [n, d]."""
        labels, counts = (self.items == 0).float(), (self.items != 0).float()
        context = None if self.model.window is None else self.place
        history = self.history(vectors)
        return Batch(self.place, self.items, labels, counts, None, context, history)

    def history(self, vectors: Tensor) -> History | None:
        """Return a history of one item for each user."""
        if self.model.window is None:
            return None
        n, one = len(self.items), self.place[:, None]
        like = torch.full((n, 1, vectors.shape[-1]), 0.5, dtype=vectors.dtype)
        times = one.double()
        return History(like, self.place + 1, one, times, times)


def check_model(model: Model, specs: Mapping[str, ParamSpec], network: Network | None) -> int:
    """Check on a few pairs that a model uses what it declares and returns what it is to.

    Args:
        model: The model.
        specs: All its parameters, by name.
        network: What it built.

    Returns:
        The length of its item vectors.

    Raises:
        ConfigError: If not. What else the model raises is left to the client that meets it.
    """
    source = f"model {type(model).__name__}"
    if model.execution not in get_args(Execution):
        hint = did_you_mean(str(model.execution), get_args(Execution))
        raise ConfigError(f"{source}: execution {model.execution!r} is unknown{hint}")
    if network is not None and model.execution == "flat":
        raise ConfigError(
            f"{source}: it builds a module, but is 'flat'; declare execution = 'vmap' or 'loop'"
        )
    width = 0
    for n in (2, 1):
        trial = _Trial(model, specs, network, n)
        vectors = _called(source, model, "item_vectors", (trial.params, trial.items), (n, "width"))
        if vectors is None:
            return specs["item"].shape[0] if "item" in specs and specs["item"].shape else 0
        width, batch = vectors.shape[1], trial.batch(vectors)
        arguments = (trial.params, batch, vectors)
        method = "loss" if model.overrides("loss") else "score"
        _called(source, model, "features", arguments, (n, "width"))
        for each in dict.fromkeys(("score", method)):
            result = _called(source, model, each, arguments, (n,))
            if result is None or each != method:
                continue
            result = _trained(model, method, _Trial(model, specs, network, n, trained=True))
            if result is None or not result.requires_grad:
                raise ConfigError(f"{source}: {method} {UNTRAINED}")
        users = Batch(trial.items, trial.all_items, history=trial.history(vectors))
        encoded = vectors[:1].repeat(_N_ITEMS, 1)
        _called(source, model, "rank", (trial.ranked, users, encoded), ("users", _N_ITEMS))
    return int(width)


def untrained(model: Model, specs: Mapping[str, ParamSpec], network: Network | None) -> list[str]:
    """Name the trainable parameters that no score, or loss, depends on."""
    used = used_by(model, specs, network, "loss" if model.overrides("loss") else "score")
    return [
        f"params: '{name}' has no effect: no score depends on it, so it is never trained"
        for name, spec in specs.items()
        if used and spec.trainable and spec.scope != "frozen" and name not in used
    ]


def used_by(
    model: Model, specs: Mapping[str, ParamSpec], network: Network | None, method: str
) -> frozenset[str]:
    """Return the names of the trainable parameters that what a method returns depends on.

    None where that fails: the client that trains meets the error, and names it.

    Args:
        model: The model.
        specs: All its parameters, by name.
        network: What it built.
        method: ``item_vectors``, ``features``, ``score`` or ``loss``.
    """
    given = _Trial(model, specs, network, 2, trained=True)
    result = _trained(model, method, given)
    if result is None or not result.requires_grad:
        return frozenset()
    leaves = {name: value for name, value in given.params.items() if value.requires_grad}
    gradients = torch.autograd.grad(result.sum(), [*leaves.values()], allow_unused=True)
    named = zip(leaves, gradients, strict=True)
    return frozenset(name for name, gradient in named if gradient is not None)


def _trained(model: Model, method: str, given: _Trial) -> Tensor | None:
    """Return what is trained, made of parameters that are.

    None if that fails: the client that trains meets the error, and names it.
    """
    try:
        with given.params as params:
            result: Tensor = model.item_vectors(params, given.items)
            if method != "item_vectors":
                result = getattr(model, method)(params, given.batch(result), result)
    except Exception:
        return None
    return result


def _called(
    source: str,
    model: Model,
    method: str,
    arguments: Sequence[Any],
    shape: tuple[int | str, ...],
) -> Tensor | None:
    """Return what a method returns; None if it cannot be called with these values.

    Raises:
        ConfigError: If it does what a model must not.
    """
    values = [each for each in arguments if isinstance(each, Tensor)]
    values += [v for given in arguments if isinstance(given, dict) for v in given.values()]
    versions, random = [value._version for value in values], torch.get_rng_state()

    def refused(problem: str) -> ConfigError:
        return ConfigError(f"{source}: {method} {problem}")

    try:
        with torch.no_grad(), arguments[0]:
            result = getattr(model, method)(*arguments)
    except ConfigError as error:
        raise refused(str(error)) from None
    except Exception:  # these values may not suit it; the client that meets the error reports it
        return None
    if versions != [value._version for value in values]:
        raise refused("changes what it is given; work on a copy")
    if not torch.equal(random, torch.get_rng_state()):
        raise refused(
            "uses torch's random numbers, which no seed of a run sets; leave them out, or drop "
            "with a torch.nn.Dropout of the module"
        )
    came = type(result).__name__
    if isinstance(result, Tensor):
        came = f"{str(result.dtype).removeprefix('torch.')} of the shape {tuple(result.shape)}"
        sizes = zip(shape, result.shape, strict=False)
        fits = all(isinstance(wanted, str) or wanted == size for wanted, size in sizes)
        if fits and result.dim() == len(shape) and result.dtype == torch.float32:
            return result
    wanted = str(shape).replace("'", "")
    raise refused(f"returns {came}; expected float32 of the shape {wanted}")
