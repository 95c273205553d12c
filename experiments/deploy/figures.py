"""What a device of fedrec costs: installed size, import, memory, seconds of a round, recommending.

    python experiments/deploy/figures.py OUT [--rounds 5] [--config CONFIG]

One device with one user of MovieLens-100K. A round of fedrec is measured beside one of an app that
does nothing but answer, over the same SuperLink with TLS and node authentication: what that one
takes is Flower's polling and its process for each message. Prints one JSON object.
"""

import argparse
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil

from experiments.deploy.demo import CONFIG, HOST, Demo, end
from fedrec import load
from fedrec.flower import programs, superlink
from fedrec.flower.certificates import AUTHORITY, NODES
from fedrec.flower.processes import engine_variables
from fedrec.runs.device_run import DeviceRun

NAME = re.compile(r"[A-Za-z0-9._-]+")
EMPTY = """
import time
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    return Message(message.content, reply_to=message)

@server.main()
def main(grid, context):
    while not list(grid.get_node_ids()):
        time.sleep(0.5)
    with open(context.run_config["fleet"], "w") as file:
        for _ in range(int({rounds})):
            began = time.perf_counter()
            [node] = grid.get_node_ids()
            list(grid.send_and_receive([Message(RecordDict(), node, "train")]))
            file.write(f"{{time.perf_counter() - began}}\\n")
            file.flush()
"""
PLAIN = """
import sys
from importlib.metadata import entry_points
sys.argv = sys.argv[1:]
[program] = entry_points(group="console_scripts", name=sys.argv[0])
program.load()()
"""
PARTS = """
import sys, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--port", type=int, default=8443)
    args = parser.parse_args()
    out: Path = args.out.absolute()
    out.mkdir(parents=True)
    demo = Demo(out, args.config.absolute(), args.rounds, args.port)
    figures: dict[str, Any] = {
        "installed": installed(),
        "seconds to import": {
            module: round(median(seconds_to_import(module) for _ in range(3)), 2)
            for module in ("torch", "flwr.clientapp", "clients.app", "fedrec.flower.supernode")
        },
    }
    demo.run_serial()
    demo.write_files(load(out / "serial").split.n_users)
    figures |= rounds_of_fedrec(demo)
    figures["seconds of an empty round"] = rounds_of_nothing(demo, args.rounds)
    figures["recommending"] = recommending(out / "state-device-0", load(out / "serial"))
    print(json.dumps(figures, indent=2))


def installed() -> dict[str, float]:
    """Return the MB of what a device installs, beyond torch and all that torch needs, and of it."""
    torch = closure(["torch"])
    ours = closure(metadata.requires("fedrec") or _declared())
    own = Path(__file__).parents[2]
    sources = sum(
        path.stat().st_size
        for name in ("fedrec", "clients", "server", "strategies")
        for path in (own / name).rglob("*.py")
    )
    return {
        "beyond torch, MB": round((size(ours - torch) + sources) / 1e6, 1),
        "of it fedrec, MB": round(sources / 1e6, 1),
        "torch with what it needs, MB": round(size(torch) / 1e6, 1),
        "packages beyond torch": len(ours - torch) + 1,
    }


def _declared() -> list[str]:
    """Return the dependencies that pyproject.toml declares."""
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    return [str(each) for each in tomllib.loads(text)["project"]["dependencies"]]


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the names of installed distributions that some requirements lead to."""
    names, found = [*requirements], set[str]()
    while names:
        requirement = names.pop()
        match = NAME.match(requirement)
        name = "" if match is None else match[0].lower().replace("_", "-").replace(".", "-")
        if "extra ==" in requirement or name in found:
            continue
        try:
            names += metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another system or Python
            continue
        found.add(name)
    return found


def size(names: Iterable[str]) -> int:
    """Return the bytes of the files of some distributions."""
    files = (file for name in names for file in metadata.files(name) or [])
    paths = {Path(str(file.locate())) for file in files}
    return sum(path.stat().st_size for path in paths if path.is_file())


def seconds_to_import(module: str) -> float:
    """Return how long a fresh process needs to import a module."""
    code = PARTS.format(module=module)
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )


def rounds_of_fedrec(demo: Demo) -> dict[str, Any]:
    """Run the experiment with one device; return seconds of its rounds and memory."""
    demo.sets += ["rounds.cohort_size=all", "evaluate.every=1"]
    server, joined = demo.start(1)
    peaks: dict[str, float] = {}
    try:
        while server.poll() is None:
            for process in psutil.Process(joined[0].pid).children(recursive=True):
                watch(process, peaks)
            watch(psutil.Process(joined[0].pid), peaks)
            time.sleep(0.05)
        assert server.returncode == 0, demo.said("serve")
    finally:
        end([server, *joined])
    rounds = load(demo.out / "served").rounds()
    return {
        "seconds of training in a round": [round(each.seconds.train, 1) for each in rounds],
        "seconds of evaluation in a round": [round(each.seconds.evaluate, 1) for each in rounds],
        "peak memory of a device's processes, MB": peaks,
    }


def watch(process: psutil.Process, peaks: dict[str, float]) -> None:
    """Note the memory that a process has by itself, if it is the most so far."""
    try:
        line = process.cmdline()
        name = next((each for each in line if each.startswith(("flower-", "flwr-"))), "")
        name = name or ("fedrec join" if "join" in line else "")
        if name:
            used = round(process.memory_full_info().pss / 1e6, 1)
            peaks[name] = max(peaks.get(name, 0.0), used)
    except psutil.Error:  # it has ended
        return


def plain_programs(folder: Path) -> Path:
    """Write Flower's programs as they are, which run the app that is sent."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in programs.STARTED_BY_NAME:
        path, line = folder / name, shlex.join([sys.executable, "-P", "-c", PLAIN, name])
        path.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    return folder


def rounds_of_nothing(demo: Demo, rounds: int) -> list[float]:
    """Return the seconds of rounds of an app that only answers, over the same SuperLink."""
    vars(superlink)["write_programs"] = plain_programs
    superlink._APP = superlink._APP.replace("{server}", "empty_app:server")
    superlink._APP = superlink._APP.replace("{client}", "empty_app:client")
    # A deployment of its own: the SuperLink of the other counts its node as online for a while.
    deployment, times = demo.out / "empty", demo.out / "empty.txt"
    demo.done("certificates", deployment, "--nodes", 1, "--host", HOST)
    with superlink.SuperLink(deployment, "127.0.0.1", demo.port) as link:
        code = EMPTY.format(rounds=rounds)
        (deployment / "superlink" / "app" / "empty_app.py").write_text(code, encoding="utf-8")
        link.register()
        keys = ["--root-certificates", str(deployment / AUTHORITY)]
        keys += ["--auth-supernode-private-key", str(deployment / NODES / "node-000")]
        path = f"{plain_programs(demo.out / 'plain')}{os.pathsep}{os.environ.get('PATH', '')}"
        home = {"PATH": path, "FLWR_HOME": str(demo.out / "plain")}
        home[programs.PLACE] = str(demo.out / "plain")
        with (demo.out / "empty.log").open("wb") as log:
            node = subprocess.Popen(
                programs.command(programs.SUPERNODE, "--superlink", demo.address, *keys),
                env={**os.environ, **engine_variables(), **home},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            link.submit(times)
            while not times.exists() or times.read_bytes().count(b"\n") < rounds:
                time.sleep(1)
        finally:
            programs.end_all(demo.out / "plain")
            node.wait()
    return [round(float(each), 1) for each in times.read_text(encoding="utf-8").split()]


def recommending(state: Path, serial: Any) -> dict[str, float]:
    """Return the seconds until a device has recommended once, and the milliseconds of more."""
    began = time.perf_counter()
    device = DeviceRun(state)
    user = str(serial.split.user_ids[0])
    device.recommend(user)
    first, times = time.perf_counter() - began, []
    for _ in range(200):
        began = time.perf_counter()
        device.recommend(user)
        times.append(1e3 * (time.perf_counter() - began))
    return {
        "seconds to load and recommend once": round(first, 2),
        "milliseconds, median of 200": round(median(times), 2),
        "milliseconds, the slowest of 200": round(max(times), 2),
        "peak memory of this process, MB": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1
        ),
    }


if __name__ == "__main__":
    main()
