"""Benchmarks of speed and memory: ``python -m experiments.benchmarks --help``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedrec.errors import FedRecError

__all__ = ["app"]

app = typer.Typer(
    help="Measure speed and memory, beside other ways to do the same work.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

WIDTH = 140

Data = Annotated[
    Literal["ml-1m", "ml-100k", "gowalla", "tiny"], typer.Option(help="On which data.")
]
Personal = Annotated[Literal["none", "plgc"], typer.Option(help="How clients are personalised.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measured rounds; medians count.")]
Clients = Annotated[int | None, typer.Option(min=2, help="So many of the clients; default: all.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]


@app.command("engine")
def _engine(
    data: Data = "ml-1m",
    personalization: Personal = "none",
    workers: Annotated[int, typer.Option(min=1, help="Cores, for everybody alike.")] = 2,
    repeats: Repeats = 5,
    clients: Clients = None,
    flower_clients: Annotated[
        int, typer.Option(min=0, help="Clients, and nodes, of stock Flower; 0 leaves it out.")
    ] = 200,
    json: Json = None,
) -> None:
    """Train the same clients with fedrec, a PyTorch loop and stock Flower.

    Takes several minutes as it is; less with --data ml-100k, or fewer --clients or --repeats.
    """
    from experiments.benchmarks.engine import EngineBench, bench_engine
    from experiments.benchmarks.report import engine_table

    bench = EngineBench(
        data=data,
        personalization=personalization,
        workers=workers,
        repeats=repeats,
        clients=clients,
        flower_clients=flower_clients,
    )
    result = bench_engine(bench, _say)
    _show(result, json, engine_table(result))


@app.command("evaluate")
def _evaluate(
    data: Data = "ml-1m",
    personalization: Personal = "none",
    repeats: Repeats = 5,
    clients: Clients = None,
    json: Json = None,
) -> None:
    """Rank the whole catalogue for all users, beside a matrix product and a training round."""
    from experiments.benchmarks.evaluate import bench_evaluate
    from experiments.benchmarks.report import evaluate_table

    result = bench_evaluate(data, personalization, repeats=repeats, clients=clients, say=_say)
    _show(result, json, evaluate_table(result))


@app.command("scale")
def _scale(
    clients: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Numbers of clients; default: 1000, 10000 and 100000."),
    ] = None,
    items: Annotated[int, typer.Option(min=100, help="Size of the catalogue.")] = 50_000,
    personalization: Annotated[
        list[str] | None, typer.Option(help="none or plgc; default: both.")
    ] = None,
    workers: Annotated[
        list[int] | None, typer.Option(min=1, help="Numbers of workers; default: 1 and 2.")
    ] = None,
    repeats: Repeats = 3,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Rank after each round too, and count it in.")
    ] = False,
    json: Json = None,
) -> None:
    """Time and memory of a round with more and more made clients."""
    from experiments.benchmarks.report import scale_table
    from experiments.benchmarks.scale import ScaleBench, bench_scale

    standard = ScaleBench()
    bench = ScaleBench(
        sizes=tuple(sorted(clients)) if clients else standard.sizes,
        items=items,
        personalizations=tuple(personalization or standard.personalizations),
        workers=tuple(workers or standard.workers),
        repeats=repeats,
        evaluate=evaluate,
    )
    result = bench_scale(bench, _say)
    _show(result, json, scale_table(result))


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _show(result: Mapping[str, Any], json: Path | None, *tables: object) -> None:
    from rich.console import Console

    from experiments.benchmarks.report import write

    console = Console(width=WIDTH)
    for table in tables:
        console.print(table)
    if json is not None:
        write(result, json)
        _say(f"wrote {json}")


if __name__ == "__main__":
    try:
        app()
    except FedRecError as error:
        sys.exit(f"error: {error}")
