"""From the command to the end of round 1: fedrec, serial and on Ray, and stock Flower on Ray.

    python -m experiments.benchmarks.start [--repeats 6]

Stock Flower simulates two nodes whose client does nothing, with FedAvg over a table of the same
shape; once as it is, once with a client that imports torch, as one that trains would. A first run
of fedrec, which may compile and prepare, does not count.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from fedrec.flower.processes import engine_variables

CONFIG = """
data: {name: ml-100k}
model: {name: mf, embedding_dim: 32}
rounds: {count: 3}
evaluate: {every: 3}
engine: {workers: 2}
"""

STOCK = """
import sys
from pathlib import Path
import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation

if sys.argv[2] == "torch":
    import torch

class Client(NumPyClient):
    def fit(self, parameters, config):
        return parameters, 1, {}

def client(context):
    if sys.argv[2] == "torch":
        import torch
    return Client().to_client()

class Marked(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        merged = super().aggregate_fit(server_round, results, failures)
        Path(sys.argv[1]).write_text("round 1")
        return merged

def server(context):
    table = ndarrays_to_parameters([np.zeros((1682, 32), np.float32)])
    strategy = Marked(
        fraction_evaluate=0.0,
        initial_parameters=table,
        min_fit_clients=2,
        min_available_clients=2,
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=1))

run_simulation(
    ServerApp(server_fn=server),
    ClientApp(client_fn=client),
    num_supernodes=2,
    backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=6)
    options = parser.parse_args()
    kinds = ("serial", "ray", "stock", "stock, torch")
    seconds_of: dict[str, list[float]] = {kind: [] for kind in kinds}
    fedrec("serial")
    for _ in range(options.repeats):
        for kind in kinds:
            took = stock(kind.endswith("torch")) if kind.startswith("stock") else fedrec(kind)
            seconds_of[kind].append(took)
    for kind, seconds in seconds_of.items():
        print(f"{kind:14}{median(seconds):6.2f} s   {min(seconds):.2f} to {max(seconds):.2f}")
    return 0


def fedrec(engine: str) -> float:
    """Seconds until fedrec has written its first round."""
    with TemporaryDirectory(prefix="fedrec-start-") as name:
        config, out = Path(name) / "start.yaml", Path(name) / "run"
        config.write_text(CONFIG, encoding="utf-8")
        run = ["run", str(config), "--engine", engine, "--out", str(out), "--quiet"]
        return until(out / "rounds.jsonl", [sys.executable, "-m", "fedrec", *run])


def stock(torch: bool) -> float:
    """Seconds until stock Flower has aggregated its first round."""
    with TemporaryDirectory(prefix="fedrec-start-") as name:
        script, mark = Path(name) / "stock.py", Path(name) / "mark"
        script.write_text(STOCK, encoding="utf-8")
        return until(mark, [sys.executable, str(script), str(mark), "torch" if torch else ""])


def until(path: Path, command: list[str]) -> float:
    """Seconds from the start of a command until a file has content; waits for its end.

    Raises:
        SystemExit: If it ends without.
    """
    environment = {**os.environ, **engine_variables()}
    quiet = subprocess.DEVNULL
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
        took = None
        while took is None and process.poll() is None:
            if path.exists() and path.stat().st_size > 0:
                took = time.perf_counter() - began
            time.sleep(0.01)
        process.wait()
    if took is None:
        raise SystemExit(f"ended without {path.name}: {' '.join(command)}")
    return took


if __name__ == "__main__":
    sys.exit(main())
