"""Items with features, and models with chosen values, called without any training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams, Network
from fedrec.models.multimodal.base import Multimodal


def catalogue_of(
    features: Mapping[str, Any], present: Mapping[str, Any] | None = None
) -> Catalogue:
    """Return items with features, float [n_items, f]; those that are absent are 0."""
    arrays = {name: np.asarray(rows, np.float32) for name, rows in features.items()}
    has = {name: np.ones(len(rows), np.bool_) for name, rows in arrays.items()}
    has |= {name: np.asarray(values, np.bool_) for name, values in (present or {}).items()}
    arrays = {name: rows * has[name][:, None] for name, rows in arrays.items()}
    n_items = len(next(iter(arrays.values())))
    return Catalogue(np.arange(n_items).astype(str).astype(object), {}, arrays, has)


def random_catalogue(n_items: int = 7, widths: Mapping[str, int] | None = None) -> Catalogue:
    """Return items with text and image of other scales, some of which are missing."""
    rng = np.random.default_rng(0)
    widths = widths or {"text": 5, "image": 3}
    features = {n: rng.normal(0, 3.0**k, (n_items, f)) for k, (n, f) in enumerate(widths.items())}
    present = {n: np.arange(n_items) % 3 != k for k, n in enumerate(widths)}
    return catalogue_of(features, present)


def network_of(model: Multimodal, catalogue: Catalogue) -> Network:
    """Return what a model builds, with the same values each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = model.build(catalogue)
    assert module is not None
    return Network(module, catalogue, "model")


def params_of(
    model: Multimodal,
    catalogue: Catalogue,
    items: Any,
    values: Mapping[str, Any] | None = None,
    n_users: int = 0,
    network: Network | None = None,
) -> ModelParams:
    """Return the parameters of pairs of one user row each, drawn where none are given.

    Args:
        model: The model.
        catalogue: The items.
        items: int [q].
        values: Of some parameters: all rows of item tables, rows of users, dense ones.
        n_users: Rows of users; 0: one per item.
        network: What the model built.
    """
    network = network or network_of(model, catalogue)
    rng, at, given = np.random.default_rng(1), np.asarray(items), dict(values or {})
    params: dict[str, Tensor] = {}
    for name, spec in {**model.params(catalogue), **network.specs}.items():
        if spec.scope == "frozen":
            feature, _, flag = name.partition(".")
            rows = catalogue.present[feature] if flag else catalogue.features[feature]
            value = rows[at]
        elif name in given:
            value = np.asarray(given.pop(name))
            value = value[at] if spec.axis == "item" else value
        elif spec.axis == "item":
            value = rng.normal(size=(catalogue.n_items, *spec.shape))[at]
        elif spec.axis == "user":
            value = rng.normal(size=(n_users or len(at), *spec.shape))
        else:
            value = rng.normal(size=spec.shape) if spec.values is None else spec.values
        params[name] = torch.tensor(value, dtype=torch.float64)
    assert not given, f"{model} has no {list(given)}"
    return ModelParams(params, network)


def pairs_of(items: Any) -> Batch:
    """Return pairs with items, in which nothing says what was drawn."""
    at = torch.as_tensor(items)
    return Batch(torch.zeros_like(at), at)


def scores_of(model: Multimodal, params: ModelParams, items: Any) -> Tensor:
    """Return the scores of pairs, float64 [q]."""
    batch = pairs_of(items)
    return model.score(params, batch, model.item_vectors(params, batch.items))
