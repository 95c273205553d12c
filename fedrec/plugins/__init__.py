"""Sections of the configuration, plug-ins, and the tables in which they are found."""

from fedrec.plugins.paths import expand_path
from fedrec.plugins.section import Defaults, Plugin, Section
from fedrec.plugins.tables import (
    CORE_TABLES,
    find_beside,
    find_references,
    lookup,
    name_of,
    table,
)

__all__ = [
    "CORE_TABLES",
    "Defaults",
    "Plugin",
    "Section",
    "expand_path",
    "find_beside",
    "find_references",
    "lookup",
    "name_of",
    "table",
]
