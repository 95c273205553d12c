"""Low-rank adapters of a frozen network, whose average over clients is exact."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import nn

from fedrec.errors import ConfigError, require
from fedrec.plugins import Count, Section


class Adapters(Section):
    r"""LoRA: a linear layer W becomes :math:`W + \frac{\alpha}{r} B A`, with B = 0 at the start.

    With A drawn once from the seed and only B trained, the average of the clients' B is that of
    their products B A. The average of both factors is not.

    Args:
        r: Rank: columns of B and rows of A.
        alpha: α; the product is scaled by α / r.
        targets: Names of the linear layers that are adapted.
        layers: How many of the last layers of the model are adapted, or ``all``.
        train: ``b`` (A stays as drawn) or ``both``.

    References: hu2022lora, sun2024ffalora.
    """

    r: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    targets: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    layers: Count | Literal["all"] = 4
    train: Literal["b", "both"] = "b"

    def without_effect(self, run: Any) -> list[str]:
        """Warn of an average that is not what was trained."""
        if self.train == "b":
            return []
        return [
            "train: both averages A and B each, which is not the average of the products B A that "
            "the clients trained; write b"
        ]


def adapt(model: Any, adapters: Adapters) -> None:
    """Add adapters to a frozen network, in place; only they are trainable afterwards.

    A is drawn by torch's generator.

    Args:
        model: A model of transformers.
        adapters: Where, and how large.

    Raises:
        ConfigError: If the model has fewer layers, or none of that name.
        MissingExtra: If peft is not installed.
    """
    require("peft", "for adapters", "llm")
    from peft import LoraConfig, inject_adapter_in_model

    n_layers = int(model.config.num_hidden_layers)
    if adapters.layers != "all" and adapters.layers > n_layers:
        raise ConfigError(
            f"model.adapters.layers: {adapters.layers} is more than the {n_layers} layers of the "
            "model; lower it or write 'all'"
        )
    last = n_layers if adapters.layers == "all" else adapters.layers
    names = _linear_layers(model)
    if missing := [name for name in adapters.targets if name not in names]:
        raise ConfigError(
            f"model.adapters.targets: the model has no linear layer '{missing[0]}' "
            f"(known: {', '.join(names)})"
        )
    options = LoraConfig(
        r=adapters.r,
        lora_alpha=adapters.alpha,
        target_modules=list(adapters.targets),
        layers_to_transform=list(range(n_layers - last, n_layers)),
        lora_dropout=0.0,
    )
    inject_adapter_in_model(options, model)
    for name, value in model.named_parameters():
        if "lora_" in name:  # trained and summed in float32, whatever the base has
            value.data = value.data.float()
        value.requires_grad_("lora_B" in name or ("lora_A" in name and adapters.train == "both"))


def _linear_layers(model: nn.Module) -> Sequence[str]:
    """Return the last parts of the names of linear layers that occur in every block."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    named = (
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if module is not head and type(module).__name__ in ("Linear", "Conv1D")
    )
    return sorted(set(named))
