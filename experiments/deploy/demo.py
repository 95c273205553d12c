"""Devices over TLS give the digest and the scores of one place: docs/devices.md, checked.

    python experiments/deploy/demo.py OUT [--devices 8] [--rounds 3] [--config CONFIG]

Runs an experiment in one process, and then on devices, with the commands of docs/devices.md: a
SuperLink over TLS with node authentication, and a SuperNode for each device, which has a file of
its own users and nothing else. Compares digest, chosen round and each user's scores. Meanwhile
three strangers try to join: one with a key that the server does not know, one with a known key that
it cannot sign for, one that trusts another authority. Prints a line for each check; exits with 1
if one failed.
"""

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd

from fedrec import load
from fedrec.config.experiment import load_experiment
from fedrec.data.prepare import open_split
from fedrec.flower.certificates import AUTHORITY, NODES
from fedrec.types import Interactions, TextArray

Process: TypeAlias = "subprocess.Popen[bytes]"
CONFIG = Path(__file__).parents[1] / "ml-100k" / "plgc-mf.yaml"
HOST = "localhost"
COLUMNS = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time"}
START_SECONDS = 90.0
# Signs with one key and says that it is another: how a thief of public keys would try.
FORGERY = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.supernode.fleet_http_connection import http_request_response
address, authority, private, public = sys.argv[1:]
keys = load_ssh_private_key(Path(private).read_bytes(), None)
keys = keys, load_ssh_public_key(Path(public).read_bytes())
with http_request_response(address, False, authority, keys, 0, 10.0) as connection:
    print("connected as", connection[0])
"""


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--port", type=int, default=8443)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    demo = Demo(args.out.absolute(), args.config.absolute(), args.rounds, args.port)
    demo.run_serial()
    demo.write_files(args.devices)
    demo.run_devices(args.devices)
    demo.compare()
    sys.exit(int(not all(demo.passed)))


class Demo:
    """The demonstration in a folder.

    Args:
        out: The folder.
        config: The experiment.
        rounds: How many.
        port: Of the server.
    """

    def __init__(self, out: Path, config: Path, rounds: int, port: int) -> None:
        self.out, self.config, self.address = out, config, f"{HOST}:{port}"
        self.port = port
        self.sets = ["train.backend=torch", f"rounds.count={rounds}", f"evaluate.every={rounds}"]
        self.passed: list[bool] = []

    def check(self, what: str, holds: bool) -> None:
        """Print whether something holds."""
        self.passed.append(holds)
        print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)

    def fedrec(self, *arguments: object, log: str = "") -> Process:
        """Start a command in the folder, with its output in a log."""
        command = [sys.executable, "-m", "fedrec", *map(str, arguments)]
        print("$ fedrec " + " ".join(map(str, arguments)), flush=True)
        with (self.out / (log or "commands.log")).open("ab") as file:
            return subprocess.Popen(command, cwd=self.out, stdout=file, stderr=file)

    def done(self, *arguments: object) -> None:
        """Run a command to its end."""
        if self.fedrec(*arguments).wait():
            sys.exit(f"failed; see {self.out / 'commands.log'}")

    @property
    def given(self) -> list[str]:
        """The experiment and its changes, as arguments."""
        return [str(self.config), *(part for each in self.sets for part in ("--set", each))]

    def run_serial(self) -> None:
        """Run the experiment in one place that has all data."""
        self.done("run", *self.given, "--engine", "serial", "--out", "serial", "--quiet")

    def write_files(self, devices: int) -> None:
        """Write the items, and for each device a file of its users: SQLite, Parquet or text."""
        split = open_split(self.out / "serial" / "split.safetensors")
        items = pd.DataFrame({"item": split.item_ids, **split.item_columns})
        items.to_csv(self.out / "items.csv", index=False)
        data = load_experiment(self.config, self.sets).data.load()
        for number, users in enumerate(np.array_split(split.user_ids, devices)):
            folder = self.out / f"device-{number}"
            folder.mkdir()
            write_rows(folder, number, rows_of(data, users))

    def run_devices(self, devices: int) -> None:
        """Serve the experiment and let devices, and strangers, join."""
        server, joined = self.start(devices)
        ours, theirs = Path("deployment"), Path("strangers")
        self.done("certificates", theirs, "--nodes", 1, "--host", HOST)
        joined += [
            self.join("unregistered", 0, ours / AUTHORITY, theirs / key_of(0)),
            self.join("other-authority", 0, theirs / AUTHORITY, ours / key_of(0)),
        ]
        try:
            self.check_forgery(ours, theirs)
            self.check("the run on devices came to its end", server.wait() == 0)
        finally:
            end([server, *joined])
        said = {name: self.said(name) for name in ("unregistered", "other-authority")}
        self.check(
            "a node with a key that is not registered is refused",
            "refuses the key" in said["unregistered"] and "connected" not in said["unregistered"],
        )
        self.check(
            "a device trusts no server of another authority",
            "not signed by" in said["other-authority"]
            and "connected" not in said["other-authority"],
        )

    def start(
        self, devices: int
    ) -> "tuple[subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]":
        """Make a deployment, serve the experiment and let devices join."""
        deployment = Path("deployment")
        self.done("certificates", deployment, "--nodes", devices, "--host", HOST)
        self.done("bundle", *self.given, "--items", "items.csv", "--out", "bundle")
        place = ("--bundle", "bundle", "--deployment", deployment, "--out", "served")
        server = self.fedrec("serve", *self.given, *place, "--port", self.port, log="serve.log")
        return server, [
            self.join(f"device-{n}", n, deployment / AUTHORITY, deployment / key_of(n))
            for n in range(devices)
        ]

    def join(self, name: str, number: int, authority: Path, key: Path) -> Process:
        """Start a device."""
        folder = Path(f"device-{number}")
        [file] = (self.out / folder).glob("log.*")
        columns = [f"data.columns.{field}={column}" for field, column in COLUMNS.items()]
        columns += ["data.table=interactions"] if file.suffix == ".db" else []
        return self.fedrec(
            *("join", "--data", folder / file.name, "--server", self.address),
            *("--ca", authority, "--key", key, "--bundle", "bundle", "--state", f"state-{name}"),
            *(part for each in columns for part in ("--set", each)),
            log=f"{name}.log",
        )

    def check_forgery(self, ours: Path, theirs: Path) -> None:
        """Try to connect with a known public key and another private key."""
        deadline = time.monotonic() + START_SECONDS
        while "listening" not in self.said("serve") and time.monotonic() < deadline:
            time.sleep(1)
        files = (ours / AUTHORITY, theirs / key_of(0), ours / f"{key_of(0)}.pub")
        command = [sys.executable, "-c", FORGERY, self.address, *map(str, files)]
        tried = subprocess.run(command, cwd=self.out, capture_output=True, text=True, check=False)
        refused = tried.returncode != 0 and "connected" not in tried.stdout
        self.check(
            "a known key that signs with another is refused",
            refused and any(sign in tried.stderr for sign in ("401", "Unauthorized", "403")),
        )

    def said(self, name: str) -> str:
        """Return what a command has printed."""
        path = self.out / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def compare(self) -> None:
        """Compare the run on devices with the one in one place."""
        serial, served = load(self.out / "serial"), load(self.out / "served")
        for fact in ("digest", "best_round", "rounds"):
            ours, theirs = served.result[fact], serial.result[fact]
            self.check(f"{fact} {ours!s:.16} is that of one place", ours == theirs)
        scores, expected = served.per_user(), serial.per_user()
        columns = [c for c in expected.columns if c.startswith(("valid.", "test."))]
        same = all(scores[c].equals(expected[c]) for c in columns)
        self.check(f"the {len(columns)} scores of {len(scores)} users are those of one place", same)
        absent = {"coverage", "gini"}
        measured = {label.partition("@")[0] for label in served.result["metrics"]["test"]}
        said = " ".join(served.result["warnings"])
        wanted = {m for m in absent if any(m in each for each in serial.result["metrics"]["test"])}
        self.check(
            "coverage and Gini are absent, and the result says so",
            not measured & absent and all(each in said for each in wanted),
        )
        print(json.dumps(times(served.rounds())), flush=True)


def end(processes: Sequence[Process]) -> None:
    """End processes, and wait until they have ended what they have started."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()


def key_of(number: int) -> str:
    """Return the place of a node's key in a deployment."""
    return f"{NODES}/node-{number:03d}"


def rows_of(data: Interactions, users: TextArray) -> pd.DataFrame:
    """Return the interactions of some users as a table."""
    rows = np.flatnonzero(np.isin(data.user_ids[data.users], users))
    columns: dict[str, Any] = {
        "user": data.user_ids[data.users[rows]],
        "item": data.item_ids[data.items[rows]],
        "rating": 1.0 if data.ratings is None else data.ratings[rows],
        "time": 0.0 if data.timestamps is None else data.timestamps[rows],
    }
    return pd.DataFrame(columns)


def write_rows(folder: Path, number: int, rows: pd.DataFrame) -> None:
    """Write a device's file: SQLite for the first, Parquet for the second, text for the others."""
    if number == 0:
        with closing(sqlite3.connect(folder / "log.db")) as database:
            rows.to_sql("interactions", database, index=False)
    elif number == 1:
        rows.to_parquet(folder / "log.parquet", index=False)
    else:
        rows.to_csv(folder / "log.csv", index=False)


def times(rounds: Sequence[Any]) -> dict[str, Any]:
    """Return the mean seconds and bytes of a round."""
    n = max(len(rounds), 1)
    return {
        "seconds of training a round": round(sum(each.seconds.train for each in rounds) / n, 1),
        "seconds of evaluation": [round(each.seconds.evaluate, 1) for each in rounds],
        "bytes up a round": sum(each.bytes.up for each in rounds) // n,
        "processors": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
