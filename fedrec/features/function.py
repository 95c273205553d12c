"""Features that a function of the user's makes."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import field_validator

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, DataError, FedRecError
from fedrec.features.base import Encoded, Encoder, Report
from fedrec.imports import find_reference


class Function(Encoder):
    """Calls a function with the raw ids and the columns of the items: it encodes all at once.

    ``function(ids, columns)`` gets a list of texts, and a mapping of names to lists of texts as
    long. It returns an array with a row of numbers for each item; a row of NaN says that the item
    has no feature. What it returned is kept until its file, the ids, the columns or ``version``
    change.

    Args:
        function: ``package.module:function``; the module may lie beside the experiment.
        version: whatever else the function depends on, such as the name of a file that it reads;
            change it to have the function called again.
    """

    function: str
    version: str = ""

    @field_validator("function")
    @classmethod
    def _is_found(cls, reference: str) -> str:
        if not callable(find_reference(reference)):
            raise ValueError(f"expected a function, got {reference}")
        return reference

    def modules(self) -> tuple[str, ...]:
        """Return the module of the function."""
        return (self.function.partition(":")[0],)

    def content(self, items: Catalogue) -> str:
        """Hash the file of the function, and what it is called with."""
        file = getattr(sys.modules[self.modules()[0]], "__file__", None)
        source = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
        return json.dumps([source, *_arguments(items)], sort_keys=True)

    def encode(self, items: Catalogue, report: Report) -> Encoded:
        """Return what the function returns.

        Raises:
            DataError: If it raises an error, or returns something else than expected.
        """
        function: Callable[..., Any] = find_reference(self.function)
        try:
            values = np.asarray(function(*_arguments(items)), np.float32)
        except FedRecError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise DataError(f"{self.function}: {type(error).__name__}: {error}") from error
        if values.ndim < 2 or len(values) != items.n_items:
            raise ConfigError(
                f"{self.function}: returned an array {list(values.shape)}, expected "
                f"[{items.n_items}, ...]: a row of numbers for each item"
            )
        present = np.asarray(~np.isnan(values).reshape(len(values), -1).all(axis=1))
        encoded = np.zeros_like(values)
        encoded[present] = values[present]
        return Encoded(encoded, present)


def _arguments(items: Catalogue) -> tuple[Sequence[str], Mapping[str, Sequence[str]]]:
    columns = {name: texts.tolist() for name, texts in items.item_columns.items()}
    return items.item_ids.tolist(), columns
