"""Clients per second, tokens per second and memory on a CPU and a GPU.

The data is synthetic, in the shape of MovieLens-1M; language models have random weights, in the
shape of SmolLM2-135M. Nothing is fetched. What is timed is `fedrec.training.clients.train_clients`
in one process: no transport, no ranking. A part that fails is named, and the others go on::

    python -m experiments.benchmarks.gpu --out gpu
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.device import Precision, Resources
from fedrec.data.catalogue import Catalogue
from fedrec.data.clients import Clients
from fedrec.data.prepare import split_of
from fedrec.data.synthetic import Synthetic
from fedrec.models import MODELS
from fedrec.models.base import Model
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.training.draws import Layout
from fedrec.training.initial_values import initial_local
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, Params, Split

GIB = 2**30
LAYERS, WIDTH, VOCABULARY = 30, 576, 49_152
"""Of SmolLM2-135M."""


@dataclass(frozen=True)
class Federation:
    """Some clients and the items that they choose from.

    Args:
        users: Clients, of one user each.
        items: The size of the catalogue.
        mean: Interactions of a user.
    """

    users: int = 6_040
    items: int = 3_706
    mean: float = 165.0

    @cached_property
    def split(self) -> Split:
        """The data, with a time for each interaction."""
        data = Synthetic(users=self.users, items=self.items, interactions_per_user=self.mean)
        return split_of(data, Clients())

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items: two features of 64 numbers, and a title of some words."""
        rng, n = np.random.default_rng(0), self.split.n_items
        features = {
            name: rng.normal(0, 0.125, (n, 64)).astype(np.float32) for name in ("text", "image")
        }
        words = rng.integers(0, 500, (n, 4))
        titles = np.array([" ".join(f"w{word}" for word in row) for row in words], object)
        split = replace(self.split, item_columns={"title": titles})
        return Catalogue.of(split, features)

    def task(
        self,
        model: Model,
        resources: Resources,
        personalization: Personalization | None = None,
        **train: Any,
    ) -> ClientTask:
        """What a client trains: by default a step on all that it has."""
        settings = Train.model_validate(
            {"backend": "torch", "optimizers": {"shared": {"lr": 0.01}}, **train}
        )
        return ClientTask(
            model,
            personalization or NoPersonalization(),
            settings,
            0,
            catalogue=self.catalogue,
            resources=resources,
        )

    def train(self, task: ClientTask, clients: int, round: int, chunk: int) -> UpdateBatch:
        """Train the first clients for a round, from the initial values."""
        shard = self.split.shard(np.arange(clients))
        owners = Layout.of(task, shard).owner_ids()
        private = {
            name: initial_local(task.seed, name, spec, owners[spec.axis or ""])
            for name, spec in task.stored_specs().items()
        }
        update, _ = train_clients(task, shard, self.shared(task), private, round, chunk)
        return update

    def shared(self, task: ClientTask) -> Params:
        """The shared parameters before the first round."""
        return task.initial_globals(self.split.n_items)


def seconds_of(call: Callable[[], object], device: str, limit: float) -> float:
    """Return the least seconds of some calls after one that is not counted."""
    best, began = float("inf"), time.perf_counter()
    for number in range(4):
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        best = best if number == 0 else min(best, took)
        if number > 0 and time.perf_counter() - began + took > limit:
            break
    return best


def speed(
    federation: Federation, name: str, device: str, precision: Precision, quick: bool
) -> Iterator[dict[str, Any]]:
    """Clients per second of a model by the number of clients computed together."""
    model = MODELS[name]()
    memory = None if device == "cpu" else 16 * GIB
    chunks = (64,) if device == "cpu" else (64, 512, 2048)
    for chunk in chunks[:1] if quick else chunks:
        clients = min(chunk if quick else max(chunk, 128), federation.users)
        task = federation.task(model, Resources(device, precision, memory))
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(partial(federation.train, task, clients, 1, chunk), device, 15)
        yield {
            "what": name,
            "device": device,
            "precision": precision,
            "chunk": chunk,
            "clients/s": round(clients / seconds, 1),
            **_memory(device),
        }


def _memory(device: str) -> dict[str, float]:
    if device == "cpu":
        return {}
    return {"GiB": round(torch.cuda.max_memory_allocated() / GIB, 3)}


def flat_memory(federation: Federation, device: str) -> Iterator[dict[str, Any]]:
    """The GPU memory after each of ten rounds."""
    task = federation.task(MODELS["sasrec"](), Resources(device, memory=16 * GIB))
    held = []
    for number in range(1, 11):
        federation.train(task, min(256, federation.users), number, 256)
        held.append(torch.cuda.memory_allocated() if device != "cpu" else 0)
    yield {"what": "memory", "device": device, "MiB of rounds": [each >> 20 for each in held]}


def agreement(federation: Federation, device: str) -> Iterator[dict[str, Any]]:
    """The largest difference of an update between the CPU and a device."""
    methods: dict[str, tuple[Model, Personalization]] = {
        name: (MODELS[name](), NoPersonalization()) for name in ("mf", "neumf", "sasrec", "metammf")
    }
    methods["mf + plgc"] = MODELS["mf"](), PLGC()
    methods["metammf + plgc (table)"] = MODELS["metammf"](), PLGC(branch="table")
    for name, (model, personalization) in methods.items():
        updates = [
            federation.train(
                federation.task(model, Resources(each), personalization, batch_size=64), 24, 1, 24
            )
            for each in ("cpu", device)
        ]
        expected, came = (arrays_of(update) for update in updates)
        yield {
            "what": f"cpu = {device}: {name}",
            "relative difference": float(f"{difference(expected, came):.3g}"),
        }


def arrays_of(update: UpdateBatch) -> dict[str, FloatArray]:
    """Return all that an update holds, by name."""
    tables = {name: block.values for name, block in update.tables.items()}
    return {**tables, **update.dense}


def difference(expected: Params, came: Params) -> float:
    """Return the norm of the difference over that of what is expected, of all parameters.

    Not of each: the gradient of some is 0 but for rounding, such as of the bias of keys.
    """
    flat = [
        np.concatenate([each[name].ravel().astype(np.float64) for name in expected])
        for each in (expected, came)
    ]
    return float(np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0]))


def language(
    federation: Federation, folder: Path, device: str, precision: Precision, quick: bool
) -> Iterator[dict[str, Any]]:
    """Clients and tokens per second of a language model with adapters."""
    if not (folder / "config.json").exists():
        write_model(folder, layers=4 if quick else LAYERS, width=64 if quick else WIDTH)
    model = MODELS["llm_prompt"].model_validate({"base": str(folder), "history": 8})
    clients = 2 if device == "cpu" else 16
    train: dict[str, Any] = {
        "negatives": 1,
        "batch_size": 16,
        "reduction": "mean",
        "optimizers": {"shared": {"name": "adamw", "lr": 1e-3}},
    }
    task = federation.task(model, Resources(device, precision), **train)
    assert task.network is not None
    tokens = [0]

    def count(_: Any, arguments: Any, options: Any) -> None:
        ids = options.get("input_ids", arguments[0] if arguments else None)
        tokens[0] += 0 if ids is None else ids.numel()

    module: Any = task.network.module
    handle = module.model.register_forward_pre_hook(count, with_kwargs=True)
    federation.train(task, clients, 1, 1)
    handle.remove()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(lambda: federation.train(task, clients, 1, 1), device, 40)
    yield {
        "what": "llm_prompt",
        "device": device,
        "precision": precision,
        "clients/s": round(clients / seconds, 2),
        "tokens/s": round(tokens[0] / seconds),
        "tokens of a client": tokens[0] // clients,
        **_memory(device),
    }


def write_model(folder: Path, layers: int, width: int) -> None:
    """Write a language model with random weights, and a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<s>", "</s>", "Yes", "No", " Yes", " No"]
    words += [f"w{number}" for number in range(500)]
    tokenizer = Tokenizer(models.WordLevel({w: at for at, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    torch.manual_seed(0)
    heads = max(width // 64, 1)
    config = LlamaConfig(
        vocab_size=VOCABULARY if width == WIDTH else len(words),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 3, 1),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def main() -> None:
    """Measure, print a line for each result as it comes, and write all into ``gpu.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    device, quick = chosen.device, chosen.quick
    federation = Federation(60, 300, 30.0) if quick else Federation()
    on_gpu = device != "cpu"
    card = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "CPU"
    machine = {
        "card": card,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(machine), flush=True)
    rows: list[dict[str, Any]] = [machine]
    with TemporaryDirectory() as temporary:
        base = Path(temporary) / "model"
        devices = ("cpu", device) if on_gpu else ("cpu",)
        parts: list[Callable[[], Iterator[dict[str, Any]]]] = [
            lambda: agreement(federation, device),
            lambda: flat_memory(federation, device),
        ]
        for name in ("sasrec", "metammf"):
            for each in devices:
                parts.append(lambda n=name, d=each: speed(federation, n, d, "float32", quick))  # type: ignore[misc]
            if on_gpu:
                parts.append(lambda n=name: speed(federation, n, device, "bf16", quick))  # type: ignore[misc]
        for each in devices:
            parts.append(lambda d=each: language(federation, base, d, "float32", quick))  # type: ignore[misc]
        if on_gpu:
            parts.append(lambda: language(federation, base, device, "bf16", quick))
        for part in parts:
            began = time.perf_counter()
            try:
                for row in part():
                    rows.append(row)
                    print(json.dumps(row), f"({time.perf_counter() - began:.0f} s)", flush=True)
            except Exception as error:  # one part must not cost the others
                last = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
                rows.append({"failed": last})
                print("FAILED", last, flush=True)
                sys.excepthook(type(error), error, error.__traceback__)
    (chosen.out / "gpu.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
