"""Every plug-in of the tables, and every kind of a user's own, keeps the contracts that ship."""

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import pytest

from fedrec.aggregation.reduce import Average
from fedrec.data import DATASETS
from fedrec.data.base import DataSet
from fedrec.devices import DEVICES
from fedrec.errors import ConfigError
from fedrec.evaluation.metrics import METRICS
from fedrec.features import ENCODERS
from fedrec.models import LLMPrompt, LLMText, NeuMF, SASRec
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.plugins import Plugin, table
from fedrec.testing import Contracts, check, contracts_of, load_plugin
from fedrec.testing.check import KINDS, checked_as
from strategies import STRATEGIES, Clustered
from strategies.aggregations import AGGREGATIONS
from strategies.aggregations.mean import Mean
from strategies.server_optimizers import SERVER_OPTIMIZERS
from strategies.server_optimizers.sgd import SGD
from tests.contracts import own_models
from tests.contracts.every_option import FITTING
from tests.contracts.own_encoders import Lengths
from tests.contracts.test_every_declaration import Added, Shifted, VmapShifted

FILES = ("csv", "frame", "inter", "lists", "parquet", "sqlite", "ml-100k")
NEED_FILES = {*FILES, "llm_prompt", *ENCODERS}
SIZES = {
    "sasrec": ["embedding_dim=16", "max_len=20"],
    "llm_text": ["embedding_dim=8"],
    "clip": ["norm=0.5"],
    "gaussian": ["std=0.1"],
    "low_rank": ["rank=4"],
    **{name: ["rows=8"] for name in ("fedrecattack", "random_shilling", "popular_shilling")},
}
AXES = ("user", "client", "positive")


def of_tables() -> Iterator[Plugin]:
    for kind in KINDS:
        for name in table(kind):
            if name not in NEED_FILES:
                yield load_plugin(f"{kind}/{name}", SIZES.get(name, ()))


def with_options() -> Iterator[Plugin]:
    """Means with each average and weighting, lazy moments, PLGC with each branch and balance."""
    for kind in (Mean, partial(Clustered, **FITTING["clustered"])):
        yield from (kind(average=each) for each in get_args(Average))
        yield kind(weighting="examples")
    yield from (of(moments="lazy") for of in SERVER_OPTIMIZERS.values())
    yield SGD(momentum=0.5)
    for branch, balance in (
        ("similarity", "residual"),
        ("similarity", "fixed"),
        ("table", "alignment"),
        ("table", "trace"),
    ):
        yield PLGC.model_validate({"branch": branch, "balance": balance, "decorrelation": 0.01})
    yield PLGC(branch="similarity", mode="decoupled", per="row", history_cap=1, extra_rows=2)
    yield PLGC(branch="table", view="single", decorrelation=0.1, persistence=1.0, extra_rows=2)
    yield NeuMF(head="private", layers=(5, 4), init_std=0.5)
    yield SASRec(embedding_dim=4, heads=2, max_len=5)
    yield LLMText(embedding_dim=5, pool="attention", id_rows=True, history=4, init_std=0.5)
    yield from (metric(k=None) for metric in METRICS.values() if not metric.needs_k)


def own() -> Iterator[Plugin]:
    yield Lengths()
    for name in sorted({*own_models.__all__} - {"Fussy", "Canary"}):
        yield getattr(own_models, name)()
    for axis in AXES:
        yield from (Shifted(axis=axis), VmapShifted(axis=axis), Added(axis=axis))


PLUGINS = [*of_tables(), *with_options(), *own()]


@pytest.mark.parametrize(
    ("plugin", "contract"),
    [
        pytest.param(plugin, contract, id=f"{type(plugin).__name__}{at}-{contract.__name__}")
        for at, plugin in enumerate(PLUGINS)
        for contract in contracts_of(plugin)
    ],
)
def test_a_plugin_keeps_its_contracts(plugin: Plugin, contract: Any) -> None:
    contract(checked_as(plugin, contract))


def test_every_table_is_covered() -> None:
    in_files = {**DATASETS, **ENCODERS, "llm_prompt": LLMPrompt}
    covered = {type(plugin) for plugin in PLUGINS} | {in_files[name] for name in NEED_FILES}
    covered.add(DEVICES["file"])
    assert covered >= {p for kind in KINDS for p in table(kind).values()}


def test_a_name_of_several_tables_is_a_strategy_unless_the_table_is_said() -> None:
    assert isinstance(load_plugin("median"), STRATEGIES["median"])
    assert isinstance(load_plugin("aggregations/median"), AGGREGATIONS["median"])
    with pytest.raises(ConfigError, match=r"'aggregations/medan' .*mean 'aggregations/median'"):
        load_plugin("aggregations/medan")


def test_a_data_set_in_files_keeps_them_too(ml100k: object) -> None:
    assert issubclass(table("data")["ml-100k"], DataSet)
    verdicts = [verdict for verdict, _, _ in check(load_plugin("ml-100k"))]
    assert verdicts == ["passed"] * 3


class TestAsAnAuthorWritesIt(Contracts):
    plugin = own_models.SmallNet
