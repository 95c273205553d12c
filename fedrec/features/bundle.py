"""The bundle that a server's side gives its devices: the items of a run, and how data is split.

One file with the raw ids and columns of the items, their features, and the filters and the split
of the experiment. It holds nobody's interactions. Server and devices compare the hash of its
catalogue and its settings before a run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.base import DataSet
from fedrec.data.catalogue import Catalogue
from fedrec.data.device import items_alone
from fedrec.data.ids import index_ids
from fedrec.data.items import ItemFile
from fedrec.data.prepare import save_split
from fedrec.errors import ConfigError
from fedrec.features.base import Encoder
from fedrec.features.prepare import Report, no_report, open_catalogue, prepare_features
from fedrec.storage.files import cache_folder, map_arrays, read_arrays, write_arrays
from fedrec.types import Split

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a device carries.

    Args:
        items: The items, without users.
        catalogue: The same, with their features.
        settings: The fields that every data set has, as values of JSON.
    """

    items: Split
    catalogue: Catalogue
    settings: Mapping[str, Any]


def settings_of(data: DataSet) -> dict[str, Any]:
    """Return how data is filtered and split, as values of JSON."""
    return data.model_dump(mode="json", include={*DataSet.model_fields})


def items_in(file: ItemFile) -> Split:
    """Return the items of a file with a row for each, without users.

    Raises:
        DataError: As `ItemFile.columns`.
    """
    ids = file.ids()
    _, table = index_ids(np.arange(len(ids)), ids)
    return items_alone(table, file.columns(table), file.path.stem)


def write_bundle(
    path: Path,
    items: Split,
    data: DataSet,
    encoders: Mapping[str, Encoder],
    report: Report = no_report,
) -> Bundle:
    """Write the bundle of an experiment.

    Args:
        path: The file.
        items: The items of the run, without users.
        data: Its filters and split.
        encoders: Its features, by name.
        report: Is told how far the encoding of features is.

    Raises:
        ConfigError: If a feature is fitted on what users train on.
        FedRecError: If an encoder, its weights or its data are missing, or do not fit.
    """
    for name, encoder in encoders.items():
        if encoder.pca is not None or encoder.whiten or encoder.normalize == "mean":
            raise ConfigError(
                f"features.{name}: pca, whiten and normalize: mean are fitted on the items that "
                "users train on, which a server of devices does not see; leave them out, or apply "
                "them to a file of features"
            )
    prepared = cache_folder() / "prepared" / f"items-{Catalogue.of(items).hash[:32]}.safetensors"
    save_split(items, prepared)
    features = prepare_features(encoders, prepared, report=report)
    catalogue = open_catalogue(items, features)
    arrays, about = ({}, {"lines": "[]"}) if features is None else read_arrays(features)
    columns = {name: column.tolist() for name, column in items.item_columns.items()}
    texts = {"ids": items.item_ids.tolist(), "columns": columns, "name": items.name}
    about = {
        "lines": about["lines"],
        "catalogue": catalogue.hash,
        "items": json.dumps(texts),
        "settings": json.dumps(settings_of(data)),
        "bundle": str(FORMAT),
    }
    write_arrays(path, arrays, about)
    return open_bundle(path)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle; features stay on disk, mapped read-only.

    Raises:
        ConfigError: If it is no bundle of this version.
        RunFolderError: If it is missing or damaged.
    """
    _, about = map_arrays(path)
    if about.get("bundle") != str(FORMAT):
        raise ConfigError(f"{path}: is no bundle of this version; make it with fedrec bundle")
    texts = json.loads(about["items"])
    columns = {name: np.array(column, object) for name, column in texts["columns"].items()}
    items = items_alone(np.array(texts["ids"], object), columns, texts["name"])
    return Bundle(items, open_catalogue(items, path), json.loads(about["settings"]))
