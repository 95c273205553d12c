"""The references of a run, from the bibliography that ships with fedrec."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from fedrec.errors import RunFolderError, did_you_mean

__all__ = ["Entry", "cited", "parse"]

HEAD = re.compile(r"@(\w+)\s*\{\s*([^,\s]+)\s*,")
FIELD = re.compile(r"(\w+)\s*=\s*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a bibliography.

    Args:
        key: Its key.
        fields: Values by lower-case name, braces removed.
        bibtex: The entry as it stands.
    """

    key: str
    fields: Mapping[str, str]
    bibtex: str

    def text(self) -> str:
        """Authors (year). Title. Where."""
        where = next(
            (self.fields[k] for k in ("booktitle", "journal", "howpublished") if k in self.fields),
            "",
        )
        authors = re.sub(r"\s+and\s+", "; ", self.fields.get("author", "?"))
        title = self.fields.get("title", "?").rstrip(".")
        parts = [f"{authors} ({self.fields.get('year', 'n.d.')})", title, where]
        return ". ".join(part for part in parts if part) + "."


def cited(keys: Iterable[str], bibliography: str | None = None) -> tuple[Entry, ...]:
    """The entries of some keys, each once, in the order given.

    Args:
        keys: Such as ``mcmahan2017communication``.
        bibliography: BibTeX text; None for the one that ships with fedrec.

    Raises:
        RunFolderError: If a key has no entry.
    """
    wanted = list(dict.fromkeys(keys))
    if not wanted:
        return ()
    if bibliography is None:
        bibliography = files("fedrec").joinpath("references.bib").read_text(encoding="utf-8")
    known = parse(bibliography)
    for key in wanted:
        if key not in known:
            raise RunFolderError(
                f"the run cites '{key}', which references.bib lacks{did_you_mean(key, known)}"
            )
    return tuple(known[key] for key in wanted)


def parse(bibliography: str) -> dict[str, Entry]:
    """The entries of BibTeX text by key. Values are in braces, in quotes or bare."""
    entries = {}
    for head in HEAD.finditer(bibliography):
        if head.group(1).lower() in ("comment", "string", "preamble"):
            continue
        end = _closing(bibliography, bibliography.index("{", head.start()))
        body = bibliography[head.end() : end]
        text = bibliography[head.start() : end + 1]
        entries[head.group(2)] = Entry(head.group(2), _fields(body), text)
    return entries


def _closing(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def _fields(body: str) -> dict[str, str]:
    fields = {}
    position = 0
    while (found := FIELD.search(body, position)) is not None:
        start = found.end()
        if body[start : start + 1] == "{":
            end = _closing(body, start) + 1
        elif body[start : start + 1] == '"':
            end = body.find('"', start + 1) + 1 or len(body)
        else:
            end = next((i for i in range(start, len(body)) if body[i] in ",\n"), len(body))
        value = re.sub(r"\s+", " ", body[start:end].strip().strip('"'))
        fields[found.group(1).lower()] = re.sub(r"[{}]", "", value).strip()
        position = end
    return fields
