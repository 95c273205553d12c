"""Runs of which a process is killed at a random moment, and that go on to the same bits.

    FEDREC_DATA=DATA python experiments/studies/kills.py OUT [--engine E] [--kills N] [--seed S]

Each trial runs PLGC over matrix factorisation on MovieLens-100K, kills a process with SIGKILL while
an exchange is under way, lets the run go on, and compares the digest, the metrics and the run log
with those of a run that nobody killed. On the engine ``serial`` the process is that of the run. On
``ray`` it is that of the run or a worker, which is replaced. A line of OUT/kills.jsonl says of each
trial which process was killed, in which round, what files say was under way, and whether the
outcome is the same. A trial whose process ended before it was killed is repeated with other draws.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil

from fedrec.runs.log import read_checkpoint, read_log
from fedrec.runs.reader import RunFolder

CONFIG = Path(__file__).parents[1] / "ml-100k" / "plgc-mf.yaml"
ROUNDS = 10
SETS = (f"rounds.count={ROUNDS}", "evaluate.every=2")
WORKER = "ray::FedrecWorker"


def command(*arguments: str) -> list[str]:
    """Return the command line of a run."""
    return [sys.executable, "-m", "fedrec", "run", *arguments]


def outcome(folder: Path) -> dict[str, Any]:
    """Return what two runs must have in common."""
    run, without = RunFolder(folder), {"seconds", "simulation"}
    log = [
        each.model_dump(mode="json", exclude=without) for each in read_log(folder / "rounds.jsonl")
    ]
    users = run.per_user().to_dict()
    return {key: run.result[key] for key in ("digest", "metrics", "status")} | {
        "log": log,
        "users": users,
    }


def under_way(folder: Path) -> tuple[int, str] | None:
    """Return which round is under way and what of it; None outside an exchange.

    The checkpoint is written between training and evaluation, the line of the log after both.
    """
    rounds, checkpoint = lines_of_log(folder), read_checkpoint(folder)
    applied = checkpoint.record.round if checkpoint else 0
    if rounds >= ROUNDS or not (folder / "state").exists():
        return None
    return rounds + 1, "training" if applied == rounds else "evaluation"


def lines_of_log(folder: Path) -> int:
    """Return how many rounds are complete."""
    log = folder / "rounds.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of Ray workers below a process."""
    workers = []
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                workers += [child.pid] if child.cmdline()[:1] == [WORKER] else []
    return sorted(workers)


def killed(
    folder: Path, config: Path, sets: tuple[str, ...], draws: random.Random
) -> Mapping[str, Any] | None:
    """Run, kill a process once, and go on to the end; None if the run ended before.

    Args:
        folder: The run folder.
        config: The experiment.
        sets: Overrides of it.
        draws: Decides which process dies, in which round and when.
    """
    arguments = [each for assignment in sets for each in ("--set", assignment)]
    output: dict[str, Any]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        output = {"stdout": log, "stderr": log}
        process = subprocess.Popen(command(str(config), "--out", str(folder), *arguments), **output)
        on_ray = "engine.name=ray" in sets
        victim = draws.choice(["run", "worker"]) if on_ray else "run"
        target, wait = draws.randrange(ROUNDS), draws.random()
        lines, seconds, last = 0, 0.5, time.monotonic()
        while process.poll() is None and (lines < target or not (folder / "state").exists()):
            time.sleep(0.002)
            if (now := lines_of_log(folder)) > lines:
                lines, seconds, last = now, time.monotonic() - last, time.monotonic()
        time.sleep(wait * min(seconds, 2.0))
        moment = under_way(folder)
        victims = [process.pid] if victim == "run" else workers_of(process)
        if process.poll() is not None or moment is None or not victims:
            process.kill()
            process.wait()
            return None
        os.kill(draws.choice(victims), signal.SIGKILL)
        if victim == "run":
            process.wait()
            process = subprocess.Popen(command("--resume", str(folder)), **output)
        code = process.wait()
    return {"victim": victim, "round": moment[0], "during": moment[1], "exit": code}


def trials(
    out: Path, config: Path, sets: tuple[str, ...], kills: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield what became of each kill.

    Args:
        out: Folder of the run folders.
        config: The experiment.
        sets: Overrides of it.
        kills: How many.
        seed: Of the draws.
    """
    reference, number = out / "reference", 0
    arguments = [each for assignment in sets for each in ("--set", assignment)]
    run = command(str(config), "--out", str(reference), *arguments)
    subprocess.run(run, check=True, capture_output=True)
    expected = outcome(reference)
    for trial in range(4 * kills):
        folder = out / f"trial-{trial}"
        came = killed(folder, config, sets, random.Random(f"{seed}/{trial}"))
        if came is not None:
            same = came["exit"] == 0 and outcome(folder) == expected
            digest = RunFolder(folder).result.get("digest") if came["exit"] == 0 else None
            yield {"seed": seed, "trial": trial, **came, "digest": digest, "same": same}
            number += 1
        if came is None or came["exit"] == 0:
            shutil.rmtree(folder, ignore_errors=True)
        if number == kills:
            return
    raise SystemExit(f"only {number} of {kills} kills hit a run: it is too short")


def main() -> None:
    """Run the trials, write a line for each, and say how many came to the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--engine", choices=["serial", "ray"], default="serial")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    engine = [f"engine.name={chosen.engine}", "engine.nodes=4"]
    engine += ["engine.workers=2"] if chosen.engine == "ray" else []
    lines = list[dict[str, Any]]()
    with (chosen.out / "kills.jsonl").open("a") as file:
        for line in trials(chosen.out, CONFIG, (*SETS, *engine), chosen.kills, chosen.seed):
            lines.append({"engine": chosen.engine, **line})
            file.write(json.dumps(lines[-1]) + "\n")
            file.flush()
    same = sum(line["same"] for line in lines)
    print(f"{chosen.engine}: {same} of {len(lines)} kills came to the reference digest")
    if same < len(lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
