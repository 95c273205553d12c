"""A server and a client app that need nothing of fedrec: sums of arrays, and echoes.

They are imported by the workers of every engine, so they stand in a module of their own.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedrec.errors import ClientFailure, ProtocolError

ROUNDS = 3
ROWS = 5_000

client = ClientApp()
server = ServerApp()


def calls_so_far(context: Context) -> int:
    """How often this node was called; kept in its own state."""
    record = context.state.config_records.get("calls")
    return int(str(record["n"])) if record else 0


@client.train()
def train(message: Message, context: Context) -> Message:
    """Add what this node knows to the table, and count the calls in the node's own state."""
    node = int(context.node_config["partition-id"])
    count = calls_so_far(context) + 1
    context.state["calls"] = ConfigRecord({"n": count})
    table = message.content.array_records["down"]["table"].numpy()
    update = np.random.default_rng(node).normal(size=table.shape).astype(np.float32)
    reply = RecordDict(
        {
            "up": ArrayRecord([np.sin(table) + update * count]),
            "about": MetricRecord({"calls": count, "pid": os.getpid(), "node": node}),
        }
    )
    return Message(reply, reply_to=message)


@client.query()
def describe(message: Message, context: Context) -> Message:
    """Say where this node runs."""
    torch: Any = sys.modules.get("torch")
    about: dict[str, Any] = {
        "pid": os.getpid(),
        "node": int(context.node_config["partition-id"]),
        "nodes": int(context.node_config["num-partitions"]),
        "threads": int(torch.get_num_threads()) if torch else 0,
        "telemetry": os.environ.get("FLWR_TELEMETRY_ENABLED", "unset"),
        "omp": os.environ.get("OMP_NUM_THREADS", "unset"),
        "word": str(context.run_config.get("word", "")),
    }
    return Message(RecordDict({"about": ConfigRecord(about)}), reply_to=message)


@client.query("echo")
def echo(message: Message, context: Context) -> Message:
    """Send back what came."""
    return Message(message.content, reply_to=message)


@client.query("same")
def same(message: Message, context: Context) -> Message:
    """The identity of the array object that came, to see whether nodes of a worker share it."""
    array = message.content.array_records["down"]["table"]
    about = ConfigRecord({"id": id(array), "pid": os.getpid()})
    return Message(RecordDict({"about": about}), reply_to=message)


@client.query("plugin")
def plugin(message: Message, context: Context) -> Message:
    """Import a module by name, as a user's plug-in would be."""
    name = str(message.content["what"]["module"])
    module = __import__(name)
    return Message(RecordDict({"about": ConfigRecord({"value": module.VALUE})}), reply_to=message)


@client.query("fail")
def fail(message: Message, context: Context) -> Message:
    """Fail in the way that is asked for."""
    how = str(message.content["what"]["how"])
    if context.node_config["partition-id"] != 1:
        return Message(RecordDict(), reply_to=message)
    if how == "fedrec":
        raise ClientFailure(4, "17", "train", "the toy broke")
    if how == "die":
        os._exit(3)
    raise ZeroDivisionError("the toy divided by zero")


def refuse_errors(replies: Iterable[Message]) -> None:
    """Flower's own runtime answers with an error where fedrec's engines raise."""
    for reply in replies:
        if reply.has_error():
            raise ProtocolError(reply.error.reason)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Three rounds of sums; the result is a digest in the run folder."""
    out = Path(str(context.run_config["out"]))
    out.mkdir(parents=True, exist_ok=True)
    expected = int(str(context.run_config.get("split") or "2"))
    while len(nodes := sorted(grid.get_node_ids())) < expected:
        pass
    if context.run_config.get("experiment") == "break":
        what = RecordDict({"what": ConfigRecord({"how": "other"})})
        refuse_errors(grid.send_and_receive(Message(what, node, "query.fail") for node in nodes))
    table = np.zeros((ROWS, 4), np.float32)
    for number in range(1, ROUNDS + 1):
        shared = ArrayRecord({"table": ArrayRecord([table])["0"]})
        replies = list(
            grid.send_and_receive(
                Message(RecordDict({"down": shared}), node, "train", group_id=str(number))
                for node in nodes
            )
        )
        refuse_errors(replies)
        by_node = {
            int(str(r.content.metric_records["about"]["node"])): r.content.array_records["up"]["0"]
            for r in replies
        }
        table = sum((by_node[node].numpy() for node in sorted(by_node)), np.zeros_like(table))
        record = {"round": number, "nodes": len(by_node), "mean": float(table.mean())}
        with (out / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        observer = getattr(grid, "observer", None)
        if observer is not None:
            observer(record)
    logging.getLogger("fedrec").warning("100% of the toy is done")
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    (out / "digest").write_text(digest, encoding="utf-8")
