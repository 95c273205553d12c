"""fedrec beside pfl 0.6 and FedJAX 0.0.17 on the same ragged clients, in one run.

    python experiments/peers/compare.py [--data ml-100k] [--json FILE]

The model is fedrec's ``pfedrec``: a shared item table, a private linear head with bias; d = 32, 4
negatives, one local epoch of plain SGD, batches of 256 rows (a positive and its 4 negatives are 5,
and stay together, so 51 positives make 255), all clients in a round, plain averaging of the tables.
All three get one core, the same initial values, the same negatives and the same minibatches; the
peers are not charged for drawing them, fedrec draws its own. Each peer lives in a virtual environment of its own, made on first use. After the last round
all three must have the same table and heads, to rounding.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.benchmarks.competitor import Task, negatives_of, open_task
from experiments.benchmarks.timing import THREADS
from experiments.benchmarks.meter import metered
from experiments.benchmarks.report import about_run, write
from experiments.benchmarks.rounds import run_rounds
from experiments.benchmarks.workload import Workload, workload
from fedrec.storage.files import cache_folder
from fedrec.training.draws import batch_steps
from fedrec.training.clients import train_clients
from fedrec.types import FloatArray

HERE = Path(__file__).resolve().parent
PEERS = ("pfl", "fedjax")
NEGATIVES = 4
WARM = 2
TOLERANCE = 1e-3
"""Of the largest change of a value in all rounds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="ml-100k", choices=["ml-100k", "ml-1m", "tiny"])
    parser.add_argument("--clients", type=int, help="so many of the clients; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; medians count")
    parser.add_argument("--batch", type=int, default=256, help="rows in a step, at most")
    parser.add_argument("--lr", type=float, default=0.01, help="step size of all parameters")
    parser.add_argument("--envs", type=Path, default=cache_folder() / "peers")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    result = compare(options)
    print(result["data"])
    print(f"{'':10}{'clients/s':>12}{'per CPU s':>12}{'fedrec is':>12}{'difference':>14}")
    for name, row in result["rows"].items():
        ratio = result["ratios"].get(f"fedrec/{name}")
        print(
            f"{name:10}{row['clients_per_second']:12,.0f}{row['clients_per_cpu_second']:12,.0f}"
            + (f"{ratio:10.1f} x{row['difference']:14.1e}" if ratio else "")
        )
    if options.json:
        write(result, options.json)
    different = [n for n, row in result["rows"].items() if row.get("difference", 0.0) > TOLERANCE]
    if different:
        print(f"not the same work: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


def compare(options: argparse.Namespace) -> dict[str, Any]:
    if hasattr(os, "sched_setaffinity"):  # one core for all three
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ.update(dict.fromkeys(THREADS, "1"))
    positives = options.batch // (1 + NEGATIVES)
    rate = {"lr": options.lr}
    rates = {"optimizers": {"item": rate, "private": {"name": "sgd", **rate}}}
    work = workload(
        options.data,
        clients=options.clients,
        model={"name": "pfedrec", "embedding_dim": 32},
        train={"batch_size": positives, "weight_decay": 0.0, **rates},
        negatives=NEGATIVES,
    )
    averaging = {"name": "fedavg", "aggregation": {"average": "cohort"}}
    experiment = work.experiment.model_validate(
        {**dict(work.experiment), "strategy": averaging, "rounds": {"count": 1}}
    )
    work = Workload(work.about, experiment, work.split)
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="fedrec-peers-") as name:
        folder = Path(name)
        rounds = WARM + options.rounds
        with metered() as meter:
            measured = run_rounds(
                work, folder / "run", meter, {"name": "serial"}, rounds=options.rounds, warm=WARM
            )
        rows["fedrec"] = {"kernel": work.task.executor(), **measured.times.to_json()}
        whole = open_task(folder / "run", np.arange(work.split.n_clients, dtype=np.int64))
        hand_out(whole, rounds, folder / "work.npz")
        expected = averaged(whole, rounds)
        start = {"item": whole.params["item"], "head": whole.local["head"]}
        for peer in PEERS:
            result = run_peer(peer, options.envs, folder)
            times = result["times"][WARM:]
            seconds, cpu = (median(column) for column in times.T.tolist())
            rows[peer] = {
                "clients": whole.shard.n_clients,
                "clients_per_second": whole.shard.n_clients / seconds,
                "clients_per_cpu_second": whole.shard.n_clients / cpu,
                "raw_seconds": times[:, 0].tolist(),
                "raw_cpu_seconds": times[:, 1].tolist(),
                "difference": max(
                    relative(result[name], expected[name], start[name]) for name in expected
                ),
            }
    ours = rows["fedrec"]["clients_per_cpu_second"]
    return {
        "bench": "peers",
        "data": f"{work.about}; pfedrec, d = 32, one core",
        "batch": options.batch,
        "ratios": {f"fedrec/{p}": ours / rows[p]["clients_per_cpu_second"] for p in PEERS},
        "rows": rows,
        **about_run(),
    }


def hand_out(work: Task, rounds: int, path: Path) -> None:
    """Write the clients: per round and positive, in the order of its step, it and its negatives."""
    shard, k, batch = work.shard, work.task.train.negatives, work.task.train.batch_size
    examples = np.empty((rounds, len(shard.train.values), 1 + k), np.int64)
    for number in range(1, rounds + 1):
        rows = np.column_stack([shard.train.values, negatives_of(work, number).reshape(-1, k)])
        step = batch_steps(shard, shard.train, batch, work.task.seed, number, 0)
        examples[number - 1] = rows[np.lexsort((step, shard.train.owners()))]
    np.savez(
        path,
        offsets=shard.train.offsets,
        examples=examples,
        item=work.params["item"],
        head=work.local["head"],
        bias=work.local["bias"],
        rounds=rounds,
        batch=batch,
        lr=work.task.train.optimizers.item.lr,
    )


def averaged(work: Task, rounds: int) -> dict[str, FloatArray]:
    """The table and the heads after the rounds, by fedrec's training and plain averages."""
    item, local = np.asarray(work.params["item"], np.float64), dict(work.local)
    for number in range(1, rounds + 1):
        params = {"item": item.astype(np.float32)}
        update, after = train_clients(work.task, work.shard, params, local, number)
        total = np.zeros_like(item)
        np.add.at(total, update.tables["item"].ids, update.tables["item"].values)
        item, local = item + total / work.shard.n_clients, after
    return {"item": item, "head": local["head"]}


def relative(params: FloatArray, expected: FloatArray, start: FloatArray) -> float:
    """The largest difference, as a share of the largest change since the start."""
    return float(np.abs(params - expected).max() / np.abs(expected - start).max())


def run_peer(peer: str, envs: Path, folder: Path) -> dict[str, FloatArray]:
    """Let a peer train in its own environment, which is made if it is not there."""
    python = environment(peer, envs)
    result = folder / f"{peer}.npz"
    variables = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    script = HERE / f"run_{peer}.py"
    command = [str(python), str(script), str(folder / "work.npz"), str(result)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script.name} failed:\n{done.stderr[-3000:]}")
    with np.load(result) as arrays:
        return {name: arrays[name] for name in arrays.files}


def environment(peer: str, envs: Path) -> Path:
    """The interpreter of a peer's virtual environment."""
    folder, requirements = envs / peer, HERE / f"requirements-{peer}.txt"
    python, mark = folder / "bin" / "python", folder / requirements.name
    if not mark.exists() or mark.read_bytes() != requirements.read_bytes():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        subprocess.run(install, check=True)
        mark.write_bytes(requirements.read_bytes())
    return python


if __name__ == "__main__":
    sys.exit(main())
