"""Sections of the configuration, plug-ins, and the tables in which they are found."""

from fedrec.plugins.section import (
    Count,
    Defaults,
    Plugin,
    Section,
    as_mapping,
    expand_path,
    shown,
)
from fedrec.plugins.tables import CORE_TABLES, lookup, name_of, searching, table

__all__ = [
    "CORE_TABLES",
    "Count",
    "Defaults",
    "Plugin",
    "Section",
    "as_mapping",
    "expand_path",
    "lookup",
    "name_of",
    "searching",
    "shown",
    "table",
]
