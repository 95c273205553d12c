"""Make the features of a run on disk, where every process maps them into memory."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.prepare import open_split, version_of
from fedrec.errors import ConfigError, DataError, Fault, RunFolderError
from fedrec.features.base import Encoded, Encoder, check_encoded
from fedrec.features.transform import transform
from fedrec.plugins import name_of
from fedrec.storage.files import cache_folder, map_arrays, read_arrays, write_arrays, writing
from fedrec.types import Split

FORMAT = 1
LOG = logging.getLogger("fedrec")
P = ParamSpec("P")
T = TypeVar("T")
# Is called with the name of a feature, and how many of how many items are encoded.
Report: TypeAlias = Callable[[str, int, int], None]


def no_report(name: str, done: int, total: int) -> None:
    """Tell nobody how far an encoding is."""


def prepare_features(
    encoders: Mapping[str, Encoder],
    prepared: Path,
    run_copy: Path | None = None,
    report: Report = no_report,
) -> Path | None:
    """Make the features of the items of a split on disk, unless they were made before.

    Args:
        encoders: By name of the feature.
        prepared: The file of the split.
        run_copy: A file that this returned for the same run before, where there is one.
        report: Is told how far the encoding is.

    Returns:
        A file for `open_catalogue`; None where there are no features.

    Raises:
        FedRecError: If an encoder, its weights or its data are missing, damaged, or do not fit.
    """
    if not encoders:
        return None
    if (
        run_copy is not None
        and run_copy.exists()
        and not all(each.is_here() for each in encoders.values())
    ):
        _say(run_copy)
        LOG.info(f"features: what they are made of is gone; the run goes on with {run_copy}")
        return run_copy
    split = open_split(prepared)
    items = Catalogue.of(split)
    prints = {name: _named(name, each.fingerprint, items) for name, each in encoders.items()}
    key = _key(encoders, prints, prepared)
    path = cache_folder() / "prepared" / f"features-{key}.safetensors"
    for made in filter(None, (run_copy, path)):
        try:
            if read_arrays(made)[1]["key"] == key:  # it compares the checksum too
                _say(made)
                return made
        except RunFolderError:  # it is not there, or damaged
            continue
    trained = np.bincount(split.train.values, minlength=split.n_items) > 0
    made_of = {}
    for name, encoder in encoders.items():
        encoded = _encoded(name, encoder, prints[name], items, report)
        made_of[name] = _named(name, transform, encoded, encoder, items.item_ids, trained)
    with writing(path):
        _save(path, key, split, made_of)
    _say(path)
    return path


def open_catalogue(split: Split, features: Path | None) -> Catalogue:
    """Return what is known of the items of a split; features stay on disk, mapped read-only.

    Args:
        split: The split.
        features: A file of `prepare_features`, if there is one.

    Raises:
        RunFolderError: If the file is missing or damaged, or of other items.
    """
    if features is None:
        return Catalogue.of(split)
    arrays, about = map_arrays(features)
    by_kind: dict[str, dict[str, Any]] = {"features": {}, "present": {}}
    for label, array in arrays.items():
        kind, _, name = label.partition(".")
        if len(array) != split.n_items:
            raise RunFolderError(
                f"{features}: is of {len(array)} items, the data has {split.n_items}"
            )
        by_kind[kind][name] = array
    return Catalogue(split.item_ids, split.item_columns, **by_kind, hash=about["catalogue"])


def _encoded(
    name: str, encoder: Encoder, fingerprint: str, items: Catalogue, report: Report
) -> Encoded:
    """Return what an encoder makes of the items, from the cache if it is there."""
    path = cache_folder() / "features" / f"{fingerprint}.safetensors"
    try:
        arrays, about = read_arrays(path)
        notes = tuple(json.loads(about["notes"]))
        return Encoded(arrays["values"], arrays["present"], notes)
    except RunFolderError:  # it is not there, or damaged
        pass
    kind, began = name_of("features", encoder), time.perf_counter()
    LOG.info(f"features.{name}: {kind} encodes {items.n_items:,} items, once")
    encoded = _named(name, encoder.encode, items, partial(report, name))
    _named(name, check_encoded, encoded, items)
    seconds = time.perf_counter() - began
    arrays = {"values": encoded.values, "present": encoded.present}
    with writing(path):
        write_arrays(path, arrays, {"notes": json.dumps(encoded.notes)}, durable=False)
    LOG.info(f"features.{name}: that took {seconds:.1f} s")
    return encoded


def _save(path: Path, key: str, split: Split, encoded: Mapping[str, Encoded]) -> None:
    """Write the features of a split, with the hash of its catalogue and a line about each."""
    features = {name: each.values for name, each in encoded.items()}
    present = {name: each.present for name, each in encoded.items()}
    arrays = {f"features.{name}": values for name, values in features.items()}
    arrays |= {f"present.{name}": values for name, values in present.items()}
    lines = []
    for name, each in encoded.items():
        some = f"{each.present.sum():,} of {split.n_items:,} items have it"
        width = f"{'×'.join(map(str, each.values.shape[1:]))} numbers"
        lines.append(f"features.{name}: {'; '.join([some, width, *each.notes])}")
    without = int((~np.any([*present.values()], axis=0)).sum())
    if without and len(encoded) > 1:
        lines.append(f"features: {without:,} of {split.n_items:,} items have none of them")
    about = {
        "key": key,
        "catalogue": Catalogue.of(split, features, present).hash,
        "lines": json.dumps(lines),
    }
    write_arrays(path, arrays, about, durable=False)


def feature_lines(features: Path | None) -> list[str]:
    """Return a line about each feature of a file of `prepare_features`: what it has and lacks."""
    lines: list[str] = [] if features is None else json.loads(map_arrays(features)[1]["lines"])
    return lines


def _say(path: Path) -> None:
    for line in feature_lines(path):
        LOG.info(line)


def _key(encoders: Mapping[str, Encoder], prints: Mapping[str, str], prepared: Path) -> str:
    shared = set(Encoder.model_fields)
    made_of = {n: [prints[n], e.model_dump(include=shared)] for n, e in encoders.items()}
    values = [FORMAT, version_of(prepared), made_of]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _named(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function; what it says is wrong gets the name of the feature."""
    try:
        return function(*args, **kwargs)
    except ConfigError as error:
        faults = (Fault(f"features.{name}.{f.where}".rstrip("."), f.what) for f in error.faults)
        raise ConfigError(*faults) from error
    except DataError as error:
        raise DataError(f"features.{name}: {error}") from error
