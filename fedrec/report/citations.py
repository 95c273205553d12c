"""The bibliography that ships with fedrec."""

import re
from importlib.resources import files


def bibliography() -> dict[str, dict[str, str]]:
    """Return the fields of each entry of ``references.bib`` by key, braces removed.

    Every field stands in a line of its own. One more, ``bibtex``, is the entry as it stands.
    """
    text = files("fedrec").joinpath("references.bib").read_text(encoding="utf-8")
    entries = {}
    for entry in re.finditer(r"^@\w+\{(\S+),\n(.*?)^\}", text, re.DOTALL | re.MULTILINE):
        fields = re.findall(r"^ *(\w+) *= \{(.*)\},?$", entry[2], re.MULTILINE)
        plain = {name: re.sub("[{}]", "", value) for name, value in fields}
        entries[entry[1]] = plain | {"bibtex": entry[0]}
    return entries
