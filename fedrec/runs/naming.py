"""Name the folder of a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["default_folder"]

MAX_LENGTH = 60


def default_folder(stem: str, sets: Sequence[str], seed: int | None) -> Path:
    """Return the folder of a run for which none was given.

    Args:
        stem: The name of the experiment.
        sets: Overrides ``dotted.key=value``. They become a part of the name, so that runs with
            other settings have other folders; those of ``engine`` change no result and are left
            out, as is ``seed``. What does not fit into a name is told apart by a hash.
        seed: The seed, or None for a folder of several seeds.

    Example:
        >>> default_folder("mf", ["rounds.count=5", "engine.workers=2"], 1).as_posix()
        'runs/mf-rounds.count=5-seed1'
    """
    values = {key.strip(): value.strip() for key, _, value in (s.partition("=") for s in sets)}
    changed = {key: value for key, value in values.items() if not _is_left_out(key)}
    text = ",".join(f"{key}={value}" for key, value in sorted(changed.items()))
    name = re.sub(r"[^\w.,=+-]+", "_", text, flags=re.ASCII)
    if name != text or len(name) > MAX_LENGTH:
        name = f"{name[:MAX_LENGTH]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    ending = "" if seed is None else f"seed{seed}"
    return Path("runs") / "-".join(filter(None, (stem, name, ending)))


def _is_left_out(key: str) -> bool:
    return key == "seed" or key.partition(".")[0] == "engine"
