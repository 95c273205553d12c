"""Low-rank adapters of a language model on many clients: speed and memory.

    python experiments/benchmarks/adapters.py --json adapters.json

Speed: fedrec, with one resident base whose adapters are handed in, against a loop that builds a
peft model for each client from the same base, loads the global adapters, trains on the same
prompts, reads the adapters and removes them. Both train the same model of random weights on the
same clients in one thread, take turns, and give the same sum of updates; the best time counts.

Memory: the peak of one process that trains and sums 400 clients whose adapters have the 460,800
numbers of SmolLM2-135M (A and B of rank 8 of q and v in all 30 layers; the other parts of the
model are narrower).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedrec.aggregation.reduce import Summing, reduce_sums
from fedrec.aggregation.update import Down
from fedrec.data.catalogue import Catalogue
from fedrec.models import LLMPrompt
from fedrec.models.language.lora import Adapters
from fedrec.models.language.prompts import Prompts
from fedrec.models.language.template import Template
from fedrec.models.language.weights import load
from fedrec.personalization.base import NoPersonalization
from fedrec.ragged import Ragged, offsets_of
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.types import Params, Shard

WORDS = [f"w{number}" for number in range(400)]
TEMPLATE = Template(text="seen {history} next {candidate} answer", entry=" {item}")
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
DEEP = {"hidden_size": 576, "intermediate_size": 64, "num_hidden_layers": 30}
DEEP |= {"num_attention_heads": 9, "num_key_value_heads": 3}
RATE, N_ITEMS, TAKEN = 0.5, 200, 5


def save_base(folder: Path, sizes: dict[str, int]) -> None:
    """Write a model of random weights and a tokenizer of whole words."""
    words = ["[UNK]", "Yes", "No", "seen", "next", "answer", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=512)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)


def items() -> Catalogue:
    """Return items with titles of three words."""
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(WORDS, 3)) for _ in range(N_ITEMS)]
    ids = np.arange(N_ITEMS).astype(str).astype(object)
    return Catalogue(ids, {"title": np.array(titles, object)}, hash="benchmark")


def clients(count: int) -> Shard:
    """Return clients of one user each, with the same number of items, in a random order."""
    rng = np.random.default_rng(1)
    rows = [np.sort(rng.permutation(N_ITEMS)[:TAKEN]) for _ in range(count)]
    train = Ragged(offsets_of(np.full(count, TAKEN)), np.concatenate(rows))
    nothing = Ragged(np.zeros(count + 1, np.int64), np.zeros(0, np.int64))
    ids = np.arange(count)
    times = rng.permutation(count * TAKEN).astype(float)
    return Shard(N_ITEMS, ids, np.arange(count + 1), ids, train, nothing, nothing, times)


def task_of(base: Path, adapters: Adapters) -> ClientTask:
    """Return the training: one step of plain SGD on each positive and a negative."""
    options = {"template": TEMPLATE, "adapters": adapters, "history": TAKEN - 1}
    model = LLMPrompt(base=str(base), max_tokens=64, **options)
    train = Train.model_validate({"negatives": 1, "optimizers": {"shared": {"lr": RATE}}})
    return ClientTask(model, NoPersonalization(), train, 0, catalogue=items())


def peft_loop(base: Path, task: ClientTask, shard: Shard, params: Params) -> Callable[[], Params]:
    """Return the competitor, with its base loaded and its prompts made."""
    from peft import (
        LoraConfig,
        get_peft_model,
        get_peft_model_state_dict,
        set_peft_model_state_dict,
    )

    assert isinstance(task.model, LLMPrompt) and task.network is not None
    model, tokenizer = load(base, "float32")
    prompts = Prompts.of(TEMPLATE, tokenizer, task.catalogue, 64)
    prefix = "base_model.model."
    ours = {name.removeprefix("model."): value for name, value in params.items()}
    frozen = task.network.module.state_dict()
    a_rows = {n.removeprefix("model."): v for n, v in frozen.items() if "lora_A" in n}
    start = {
        f"{prefix}{name.replace('.default', '')}": torch.as_tensor(value)
        for name, value in {**ours, **a_rows}.items()
    }
    batches = []
    for row in range(shard.n_clients):
        plan = plan_training(task, shard.take(np.array([row])), 1)
        (step,) = plan.epochs[0].steps
        assert step.scored is not None and step.context is not None
        assert step.pairs.history is not None
        past = step.pairs.history.items
        texts = [
            np.concatenate([prompts.prefix(past[:n]), prompts.suffix(item)])
            for n, item in zip(
                step.context.tolist(), step.pairs.items[step.scored].tolist(), strict=True
            )
        ]
        longest = max(map(len, texts))
        ids, mask = np.zeros((2, len(texts), longest), np.int64)
        for place, text in enumerate(texts):
            ids[place, longest - len(text) :] = text
            mask[place, longest - len(text) :] = 1
        counts = torch.stack([step.is_positive, step.n_negative]).float()
        batches.append((torch.as_tensor(ids), torch.as_tensor(mask), counts))
    adapters = task.model.adapters
    options = LoraConfig(
        r=adapters.r, lora_alpha=adapters.alpha, target_modules=list(adapters.targets)
    )

    def run() -> Params:
        total: dict[str, Any] = {}
        for ids, mask, (positive, negative) in batches:
            adapted = get_peft_model(model, options)
            set_peft_model_state_dict(adapted, start)
            for name, value in adapted.named_parameters():
                value.requires_grad_("lora_B" in name)
            trained = [value for value in adapted.parameters() if value.requires_grad]
            optimizer = torch.optim.SGD(trained, RATE)
            places = (mask.cumsum(1) - 1).clamp(min=0)
            out = adapted(
                input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=1
            ).logits[:, -1]
            odds = out[:, prompts.answers[0]] - out[:, prompts.answers[1]]
            softplus = torch.nn.functional.softplus
            (positive * softplus(-odds) + negative * softplus(odds)).sum().backward()
            optimizer.step()
            for name, value in get_peft_model_state_dict(adapted).items():
                if "lora_B" in name:
                    total[name] = total.get(name, 0) + value - start[name]
            adapted.unload()
        return {
            f"model.{n.removeprefix(prefix).replace('.weight', '.default.weight')}": v.numpy()
            for n, v in total.items()
        }

    return run


def measure_speed(count: int, repeats: int) -> dict[str, Any]:
    """Return clients per CPU second of both, and how far their sums are apart."""
    with tempfile.TemporaryDirectory() as folder:
        save_base(Path(folder), TINY)
        task, shard = task_of(Path(folder), Adapters(layers="all")), clients(count)
        params = task.initial_globals(N_ITEMS)
        loop = peft_loop(Path(folder), task, shard, params)

        def fedrec() -> Params:
            update, _ = train_clients(task, shard, params, {}, 1, 1)
            reduce_sums(update, Summing())
            return {name: change.sum(0) for name, change in update.dense.items()}

        best = dict.fromkeys(("fedrec", "peft model per client"), float("inf"))
        for _ in range(repeats):
            results = []
            for label, run in zip(best, (fedrec, loop), strict=True):
                began = time.process_time()
                results.append(run())
                best[label] = min(best[label], time.process_time() - began)
        ours, theirs = results
        assert ours.keys() == theirs.keys()
        apart = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
        scale = max(float(np.abs(value).max()) for value in ours.values())
    speed = {label: round(count / seconds, 1) for label, seconds in best.items()}
    return {
        "clients": count,
        "clients_per_cpu_second": speed,
        "times_as_fast": round(speed["fedrec"] / speed["peft model per client"], 2),
        "largest_difference": apart,
        "largest_change": scale,
    }


def train_many(count: int) -> dict[str, Any]:
    """Train and sum clients with large adapters as a node does; return the peak of the process."""
    from clients.node import Node
    from clients.shard_source import NodeData
    from fedrec.config.experiment import Experiment
    from fedrec.flower.records import RoundRequest

    with tempfile.TemporaryDirectory() as folder:
        save_base(Path(folder) / "base", DEEP)
        adapters = Adapters(layers="all", train="both")
        task, shard = task_of(Path(folder) / "base", adapters), clients(count)
        numbers = task.size(*task.dense())
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        experiment = Experiment(
            data={"name": "synthetic", "users": count, "items": N_ITEMS},
            model=task.model,
            train=task.train,
            strategy="fedavg",
            engine={"chunk": 1},
        )
        node = Node(experiment, task, NodeData(shard, count), Path(folder) / "run", 0)
        down, everybody = Down(task.initial_globals(N_ITEMS)), np.arange(count)
        groups = np.zeros(count, np.int64)
        request = RoundRequest("run", "", 1, clients=everybody, groups=groups)
        began = time.process_time()
        trained = node.train(request, down)
        seconds = time.process_time() - began
    assert trained.aggregates[0].clients == count
    return {
        "clients": count,
        "numbers": numbers,
        "mib_of_updates": round(count * numbers * 4 / 2**20),
        "mib_with_the_base_loaded": round(loaded),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=100, help="whose speed is measured")
    parser.add_argument("--many", type=int, default=400, help="whose memory is; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=5, help="turns of both candidates")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory_only:
        print(json.dumps(train_many(given.many)))
        return
    result: dict[str, Any] = {"torch": torch.__version__}
    result["speed"] = measure_speed(given.clients, given.repeats)
    print(json.dumps(result["speed"], indent=2), flush=True)
    if given.many:
        command = [sys.executable, __file__, "--memory-only", "--many", str(given.many)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result["memory"] = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(result["memory"], indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
