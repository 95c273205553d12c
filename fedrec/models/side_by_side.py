"""Clients side by side, by `torch.func.vmap`; whether each gets what it gets alone."""

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedrec.errors import ConfigError
from fedrec.models.base import Model
from fedrec.models.module import ModelParams, Network
from fedrec.models.pairs import TrialPairs, gradients
from fedrec.types import ParamSpec

_TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-3}
"""Of values of order 1, by what they are computed with."""


def side_by_side(of_client: Callable[..., Tensor], *inputs: Mapping[str, Tensor]) -> Tensor:
    """Compute many clients at once.

    Args:
        of_client: The computation of one client.
        inputs: Its arguments, each value with a row per client.

    Returns:
        float [c, ...].

    Raises:
        ConfigError: If it does what `torch.func.vmap` cannot.
    """
    try:
        # Of torch's kernels for attention, torch.func maps this one.
        with sdpa_kernel(SDPBackend.MATH):
            results: Tensor = torch.func.vmap(of_client)(*inputs)
    except (RuntimeError, UserWarning) as error:
        if not any(sign in str(error) for sign in ("vmap", "atching rule", "functorch")):
            raise
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise ConfigError(
            f"torch.func.vmap cannot compute it ({reason}); declare execution = 'loop'"
        ) from error
    return results


def check_side_by_side(
    source: str,
    model: Model,
    method: str,
    specs: Mapping[str, ParamSpec],
    network: Network | None,
) -> None:
    """Check that a client of two pairs and one of one get side by side what each gets alone.

    Args:
        source: Names the model in errors.
        model: The model.
        method: What is trained, ``score`` or ``loss``.
        specs: All its parameters, by name.
        network: What it built.

    Raises:
        ConfigError: If not.
    """
    layers = [] if network is None else network.module.named_modules()
    for name, layer in layers:
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
            raise ConfigError(
                f"{source}: torch.func.vmap trains the padding of '{name}' too; leave padding_idx "
                "out, or declare execution = 'loop'"
            )
    two, one = (TrialPairs(model, specs, network, n) for n in (2, 1))

    def of_client(values: Mapping[str, Tensor], where: Mapping[str, Tensor]) -> Tensor:
        given = two if len(where["items"]) == 2 else one
        with ModelParams(values, network, torch.tensor(1)) as params:
            vectors = model.item_vectors(params, where["items"])
            result: Tensor = getattr(model, method)(params, given.batch(vectors, **where), vectors)
        return result

    trained = [n for n, spec in specs.items() if spec.scope != "frozen" and spec.trainable]
    first, filled = (_drawn(two.params, seed) for seed in (0, 1))
    for name in two.rows:
        filled[name] = filled[name][:1].expand(2, *filled[name].shape[1:])
    second = {n: v[:1].clone() if n in two.rows else v.clone() for n, v in filled.items()}
    both = {n: torch.stack([first[n], filled[n]]) for n in first}
    for values in (first, second, both):
        for name in trained:
            values[name].requires_grad_()
    items, real = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[True, True], [True, False]])
    try:
        alone = [
            of_client(first, {"items": items[0], "real": real[0]}),
            of_client(second, {"items": items[1, :1], "real": real[1, :1]}),
        ]
        of_first, of_second = (
            gradients(each.sum(), v) for each, v in zip(alone, (first, second), strict=True)
        )
    except Exception:  # the values may not suit it; the client that meets the error reports it
        return
    with warnings.catch_warnings():
        # Else it goes on, one client after the other, and slower than a loop.
        warnings.filterwarnings("error", "There is a performance drop", UserWarning)
        try:
            together = side_by_side(of_client, both, {"items": items, "real": real})
            together = together.flatten()[:3]
            results = gradients(together.sum(), both)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    pairs = {f"its {method}": (torch.cat(alone), together)}
    for name, gradient in results.items():
        wanted = torch.zeros_like(both[name], requires_grad=False)
        of_one = wanted[1, :1] if name in two.rows else wanted[1]  # without the filling
        for place, by_name in ((wanted[0], of_first), (of_one, of_second)):
            if (value := by_name[name]) is not None:
                place.copy_(value)
        came = torch.zeros_like(wanted) if gradient is None else gradient
        pairs[f"the gradient of '{name}'"] = wanted, came
    constants = {} if network is None else network.constants()
    limit = max(_TOLERANCE.get(v.dtype, 0.0) for v in (together, *constants.values()))
    for what, (wanted, came) in pairs.items():
        difference = float((wanted - came).detach().abs().max())
        if difference > limit * max(1.0, float(wanted.detach().abs().max())):
            raise ConfigError(
                f"{source}: {what} differs by {difference:.2g} where clients are computed side by "
                "side; let the score of a pair use no other pair, or declare execution = 'loop'"
            )


def _drawn(values: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return values of other numbers, so that nothing is equal by chance."""
    draw = torch.Generator().manual_seed(seed)
    noise = {n: torch.randn(v.shape, generator=draw, device="cpu") for n, v in values.items()}
    return {
        n: v + 0.3 * noise[n].to(v) if v.is_floating_point() else v.clone()
        for n, v in values.items()
    }
