"""The Ray engine, on a real Ray with toy apps."""

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedrec.config.engine import Engine
from fedrec.errors import ClientFailure, EngineError
from fedrec.flower.launch import launch

pytest.importorskip("ray", reason="needs the extra 'sim'")
import ray

from fedrec.flower.placement import EXCHANGES
from fedrec.flower.ray_grid import INLINE_BYTES, RayGrid

pytestmark = pytest.mark.slow

TOYS = Path(__file__).parent / "engines"
CLIENT = "toy_apps:client"
NODES, WORKERS = 5, 2


@pytest.fixture(scope="module", autouse=True)
def toy_apps() -> Iterator[Any]:
    sys.path.insert(0, str(TOYS))
    yield importlib.import_module("toy_apps")
    sys.path.remove(str(TOYS))


@pytest.fixture(scope="module")
def grid(toy_apps: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayGrid]:
    plugins = tmp_path_factory.mktemp("cwd")
    (plugins / "own_plugin.py").write_text("VALUE = 42\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(plugins)
        patch.syspath_prepend("")
        with RayGrid(CLIENT, NODES, WORKERS, {"word": "hello"}) as opened:
            yield opened


def query(node: int, action: str = "query", **records: Any) -> Message:
    return Message(RecordDict(records), node, action, group_id="7")


def about(grid: RayGrid, action: str = "query", **records: Any) -> list[dict[str, Any]]:
    asked = [query(node, action, **records) for node in grid.nodes]
    return [dict(reply.content["about"]) for reply in grid.send_and_receive(asked)]


def test_the_result_has_the_same_bits_as_the_serial_engines(tmp_path: Path) -> None:
    seen: dict[str, list[Mapping[str, Any]]] = {"serial": [], "ray": []}
    for name, rounds in seen.items():
        config = {"out": str(tmp_path / name), "split": "3", "experiment": "toy"}
        engine = Engine(name=name, workers=2, nodes=3)
        launch(engine, config, rounds.append, server="toy_apps:server", client=CLIENT)
    digests = {(tmp_path / name / "digest").read_text(encoding="utf-8") for name in seen}
    assert len(digests) == 1
    assert seen["ray"] == seen["serial"]
    assert [record["round"] for record in seen["ray"]] == [1, 2, 3]


def test_replies_come_in_the_order_of_the_nodes(grid: RayGrid) -> None:
    replies = grid.send_and_receive(query(node) for node in (4, 2, 5, 1, 3))
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3, 4, 5]


def test_a_node_stays_with_its_worker(grid: RayGrid) -> None:
    first, second = about(grid), about(grid)
    assert [node["pid"] for node in first] == [node["pid"] for node in second]
    by_worker = {(node - 1) % WORKERS: first[node - 1]["pid"] for node in grid.nodes}
    assert [node["pid"] for node in first] == [by_worker[n % WORKERS] for n in range(NODES)]
    assert len(set(by_worker.values())) == WORKERS
    assert os.getpid() not in by_worker.values()


def test_what_a_node_knows_of_itself(grid: RayGrid) -> None:
    nodes = about(grid)
    assert [node["node"] for node in nodes] == list(range(NODES))
    assert {node["nodes"] for node in nodes} == {NODES}
    assert {node["word"] for node in nodes} == {"hello"}
    assert {node["omp"] for node in nodes} == {"1"}
    assert {node["threads"] for node in nodes} <= {0, 1}
    assert {node["telemetry"] for node in nodes} == {"0"}


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What has been put into the object store."""
    put, seen = ray.put, []

    def noted(value: Any) -> Any:
        seen.append(value)
        return put(value)

    monkeypatch.setattr(ray, "put", noted)
    return seen


def test_a_record_is_put_once_and_read_once_per_worker(grid: RayGrid, puts: list[Any]) -> None:
    shared = ArrayRecord({"table": Array(np.arange(100_000))})
    asked = [query(node, "query.same", down=shared) for node in grid.nodes]
    replies = [reply.content["about"] for reply in grid.send_and_receive(asked)]
    assert puts == [shared]
    assert len({(reply["pid"], reply["id"]) for reply in replies}) == WORKERS


def test_small_records_are_not_put_and_different_ones_each(grid: RayGrid, puts: list[Any]) -> None:
    small = ArrayRecord([np.zeros(INLINE_BYTES // 16)])
    grid.send_and_receive(query(node, "query.echo", a=small) for node in grid.nodes)
    assert puts == []
    grid.send_and_receive(
        query(node, "query.echo", a=ArrayRecord([np.full(100_000, node)])) for node in grid.nodes
    )
    assert len(puts) == NODES


def test_what_is_sent_comes_back_with_the_same_bits(grid: RayGrid) -> None:
    values = np.random.default_rng(0).normal(size=(300, 400))
    sent = RecordDict(
        {"big": ArrayRecord([values, values[:2]]), "ids": ConfigRecord({"ids": list(range(99))})}
    )
    (reply,) = grid.send_and_receive([Message(sent, 2, "query.echo")])
    assert reply.content == sent
    np.testing.assert_array_equal(reply.content.array_records["big"]["0"].numpy(), values)


def test_a_plugin_in_the_working_folder_is_importable(grid: RayGrid) -> None:
    answers = about(grid, "query.plugin", what=ConfigRecord({"module": "own_plugin"}))
    assert {answer["value"] for answer in answers} == {42}


def test_the_text_of_a_failing_client_reaches_the_caller(grid: RayGrid) -> None:
    def fail(how: str) -> None:
        what = ConfigRecord({"how": how})
        grid.send_and_receive(query(node, "query.fail", what=what) for node in grid.nodes)

    with pytest.raises(ClientFailure, match=r"^round 4, client 17, train: the toy broke"):
        fail("fedrec")
    with pytest.raises(EngineError, match=r"^node 2, query.fail, round 7: ZeroDiv.*by zero") as e:
        fail("other")
    assert 'raise ZeroDivisionError("the toy divided by zero")' in e.value.__notes__[0]
    assert len(about(grid)) == NODES  # the engine goes on


def test_a_second_run_shares_the_ray_of_the_first_and_waits_for_no_core(grid: RayGrid) -> None:
    with RayGrid(CLIENT, 1, WORKERS + 1) as second:
        replies = second.send_and_receive([query(1)])
        assert [reply.metadata.src_node_id for reply in replies] == [1]
    assert ray.is_initialized()
    assert len(about(grid)) == NODES


def test_nodes_go_to_the_faster_worker(toy_apps: Any) -> None:
    """Those of worker 1 are said to take thrice as long."""
    with RayGrid(CLIENT, 8, 2) as uneven:
        before = [node["pid"] for node in about(uneven)]
        for _ in range(EXCHANGES):
            uneven._placement.measure({node: 1.0 + 2 * (node % 2 == 0) for node in uneven.nodes})
        after = [node["pid"] for node in about(uneven)]
    assert before.count(before[0]) == 4
    assert after.count(before[0]) == 6 and after.count(before[1]) == 2


def test_too_few_gpus_are_named(grid: RayGrid) -> None:
    with pytest.raises(
        EngineError, match=r"gpus_per_worker: 2 workers need 100 GPUs, but Ray has \d"
    ):
        RayGrid(CLIENT, 2, 2, gpus_per_worker=50.0)


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = run_script(
        "try:\n"
        f"    RayGrid('toy_apps:client', 1, 1, address='127.0.0.1:{port}')\n"
        "except EngineError as error:\n"
        "    print(error)\n",
        tmp_path,
    )
    out, errors = process.communicate(timeout=30)
    assert out.startswith(f"Ray does not start at 127.0.0.1:{port}: "), errors
    assert "engine: serial" in out


def run_script(body: str, folder: Path) -> subprocess.Popen[str]:
    """A process of its own: these engines are meant to break."""
    script = folder / "script.py"
    script.write_text(
        "from fedrec.errors import EngineError\n"
        "from fedrec.flower.ray_grid import RayGrid\n"
        "from flwr.app import Message, RecordDict, ConfigRecord\n" + body,
        encoding="utf-8",
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(TOYS)])
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    process = run_script(
        "with RayGrid('toy_apps:client', 3, 2) as grid:\n"
        "    what = RecordDict({'what': ConfigRecord({'how': 'die'})})\n"
        "    try:\n"
        "        grid.send_and_receive([Message(what, 2, 'query.fail')])\n"
        "    except EngineError as error:\n"
        "        print(error)\n",
        tmp_path,
    )
    out, errors = process.communicate(timeout=120)
    ours = [line for line in out.splitlines() if line.startswith("worker 1 broke off")]
    assert len(ours) == 1, errors  # Ray says something of its own, before or after
    assert ours[0].startswith("worker 1 broke off (node 2, query.fail): The actor died")
    assert "it was replaced 3 times before" in ours[0]
    assert "lower engine.chunk or engine.workers" in ours[0]
    assert errors.count("it is replaced, and its clients are done again") == 3


@pytest.mark.parametrize(
    ("daemon", "named"),
    [("gcs_server", "Ray's head at "), ("raylet", "Ray's daemon on this machine")],
)
def test_a_ray_that_died_is_named_and_not_waited_for(
    daemon: str, named: str, tmp_path: Path
) -> None:
    """Before Ray ends the process; and long before a worker in the dead one would be given up."""
    process = run_script(
        "import psutil\n"
        "with RayGrid('toy_apps:client', 1, 1) as grid:\n"
        "    grid.send_and_receive([Message(RecordDict(), 1, 'query')])\n"
        "    for each in psutil.Process().children(recursive=True):\n"
        f"        if each.name() == {daemon!r}:\n"
        "            each.kill()\n"
        "            each.wait()\n"
        "    try:\n"
        "        while True:  # a worker may answer a last time\n"
        "            grid.send_and_receive([Message(RecordDict(), 1, 'query')])\n"
        "    except EngineError as error:\n"
        "        print(error)\n",
        tmp_path,
    )
    out, errors = process.communicate(timeout=120)
    ours = [line for line in out.splitlines() if line.startswith(named)]  # Ray says things too
    assert len(ours) == 1, errors
    assert "run --resume" in ours[0]


def test_an_app_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    process = run_script(
        "with RayGrid('no_such_module:client', 1, 1) as grid:\n"
        "    try:\n"
        "        grid.send_and_receive([Message(RecordDict(), 1, 'query')])\n"
        "    except EngineError as error:\n"
        "        print(error)\n",
        tmp_path,
    )
    out, errors = process.communicate(timeout=120)
    expected = "start of worker 0: ModuleNotFoundError: No module named 'no_such_module'"
    assert out.strip() == expected, errors


def test_an_interrupt_leaves_no_process_behind(tmp_path: Path) -> None:
    process = run_script(
        "import os, ray\n"
        "with RayGrid('toy_apps:client', 1, 1) as grid:\n"
        "    grid.send_and_receive([Message(RecordDict(), 1, 'query')])\n"
        "    print('ready', flush=True)\n"
        "    import time; time.sleep(60)\n",
        tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
