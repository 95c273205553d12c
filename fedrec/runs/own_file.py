"""A device's own file, and what the device carries of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic_core import from_json

from fedrec.data.device import device_file, device_split
from fedrec.errors import ConfigError
from fedrec.features.bundle import Bundle, open_bundle, settings_of
from fedrec.storage.files import reading, write_json
from fedrec.types import Split

_DATA, _BUNDLE = "data", "bundle"


@dataclass(frozen=True, eq=False)
class OwnFile:
    """The file of a device's users.

    Args:
        data: A section ``data`` that reads it, see `fedrec.data.device.device_file`.
        path: The bundle that the device carries.
    """

    data: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, data: Mapping[str, Any], bundle: Path) -> Self:
        """Return a device's file.

        Args:
            data: Its section, which may have paths relative to the working folder.
            bundle: The bundle.

        Raises:
            ConfigError: If a key is wrong, or says what the experiment says.
        """
        described = device_file(data)
        named = settings_of(described)
        if given := sorted(set(data) & set(named)):
            raise ConfigError(
                f"data.{given[0]}: is said by the experiment, for all devices; leave it out"
            )
        section = described.model_dump(mode="json", exclude={*named})
        section |= {"name": data["name"], "path": str(Path(data["path"]).absolute())}
        return cls(section, bundle.absolute())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `write` wrote.

        Raises:
            RunFolderError: If it is missing or damaged.
        """
        with reading(path):
            about = from_json(path.read_bytes())
            return cls(dict(about[_DATA]), Path(about[_BUNDLE]))

    def write(self, path: Path) -> None:
        """Write where it lies, for ``own-file`` of a node's configuration; the folder is made."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, {_DATA: self.data, _BUNDLE: str(self.path)})

    @cached_property
    def bundle(self) -> Bundle:
        """What the device carries.

        Raises:
            FedRecError: If it is missing or damaged.
        """
        return open_bundle(self.path)

    def split(self) -> Split:
        """Return the device's users with their items, as the file has them now.

        Raises:
            DataError: If the file is missing or damaged, or nothing of it can be trained on.
        """
        data = device_file({**self.bundle.settings, **self.data})
        return device_split(data.load(), self.bundle.catalogue.item_ids, data)
