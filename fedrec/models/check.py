"""Try a client model on a few pairs, so that a fault is named before the first round."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, get_args

import torch
from torch import Tensor

from fedrec.errors import ConfigError, did_you_mean
from fedrec.models.base import Batch, Execution, Model
from fedrec.models.module import ModelParams, Network
from fedrec.models.pairs import N_ITEMS, TrialPairs, gradients
from fedrec.models.side_by_side import check_side_by_side
from fedrec.types import ParamSpec

UNTRAINED = (
    "depends on no parameter by operations of torch, so nothing can be trained; leave out "
    "detach(), item(), numpy() and tensors that are made of values"
)
_COMPARED = 2**20
"""Numbers of a constant of a module that is compared before and after a call, at most."""


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
    width, method = 0, "loss" if model.overrides("loss") else "score"
    private = [name for name, spec in specs.items() if spec.scope == "private"]
    for n in (2, 1):
        trial = TrialPairs(model, specs, network, n)
        shared = trial.params.of_items(private)
        vectors = _called(source, model, "item_vectors", (shared, trial.items), (n, "width"))
        if vectors is None:
            return specs["item"].shape[0] if "item" in specs and specs["item"].shape else 0
        width, batch = vectors.shape[1], trial.batch(vectors)
        arguments = (trial.params, batch, vectors)
        _called(source, model, "features", arguments, (n, "width"))
        for each in dict.fromkeys(("score", method)):
            result = _called(source, model, each, arguments, (n,))
            if result is not None and each == method:
                _check_gradients(source, model, method, TrialPairs(model, specs, network, n, True))
        users = Batch(trial.items, trial.all_items, history=trial.history(vectors))
        encoded = vectors[:1].repeat(N_ITEMS, 1)
        _called(source, model, "rank", (trial.ranked, users, encoded), ("users", N_ITEMS))
    if model.execution == "vmap":
        check_side_by_side(source, model, method, specs, network)
    return int(width)


def untrained(model: Model, specs: Mapping[str, ParamSpec], network: Network | None) -> list[str]:
    """Name the trainable parameters that no score, or loss, depends on."""
    used = used_by(model, specs, network, "loss" if model.overrides("loss") else "score")
    return [
        f"params: '{name}' has no effect: no score depends on it, so it is never trained"
        for name, spec in specs.items()
        if used is not None and spec.trainable and spec.scope != "frozen" and name not in used
    ]


def used_by(
    model: Model, specs: Mapping[str, ParamSpec], network: Network | None, method: str
) -> frozenset[str] | None:
    """Return the names of the trainable parameters that what a method returns depends on.

    Returns None where the method fails on made-up pairs.

    Args:
        model: The model.
        specs: All its parameters, by name.
        network: What it built.
        method: ``item_vectors``, ``features``, ``score`` or ``loss``.
    """
    given = TrialPairs(model, specs, network, 2, trained=True)
    result = _trained(model, method, given)
    if isinstance(result, Exception):
        return None
    if not result.requires_grad:
        return frozenset()
    by_name = gradients(result.sum(), given.params)
    return frozenset(name for name, gradient in by_name.items() if gradient is not None)


def _check_gradients(source: str, model: Model, method: str, given: TrialPairs) -> None:
    """Check that what is trained has gradients that clients can send."""
    result, network = _trained(model, method, given), given.params.network
    if isinstance(result, Exception):
        reason = f"{type(result).__name__}: {result}"
        raise ConfigError(f"{source}: {method} fails where gradients are wanted ({reason})") from (
            result
        )
    if not result.requires_grad:
        raise ConfigError(f"{source}: {method} {UNTRAINED}")
    try:
        with nullcontext() if network is None else network.closed():
            by_name = gradients(result.sum(), given.params)
    except ConfigError as error:
        raise ConfigError(f"{source}: {method} {error}") from None
    for name, gradient in by_name.items():
        if gradient is not None and gradient.is_sparse:
            raise ConfigError(
                f"{source}: the gradient of '{name}' is sparse, which is not summed over clients; "
                "leave out sparse=True"
            )


def _trained(model: Model, method: str, given: TrialPairs) -> Tensor | Exception:
    """Return what is trained, made of parameters that are; or why that fails."""
    try:
        with given.params as params:
            result: Tensor = model.item_vectors(params, given.items)
            if method != "item_vectors":
                result = getattr(model, method)(params, given.batch(result), result)
    except Exception as error:  # the values are made up; callers say what follows
        return error
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
    constants = _copies(arguments[0])

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
    for name, value in _copies(arguments[0]).items():
        if name not in constants or not torch.equal(value, constants[name]):
            raise refused(
                f"changes '{name}' of the module, which is not sent and not kept; leave that out"
            )
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


def _copies(params: ModelParams) -> dict[str, Tensor]:
    """Return the buffers and frozen parameters of the module, if they are not large."""
    constants = {} if params.network is None else params.network.constants()
    return {name: v.clone() for name, v in constants.items() if v.numel() <= _COMPARED}
