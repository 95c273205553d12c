"""A small reader of BibTeX."""

from __future__ import annotations

import pytest

from fedrec.errors import RunFolderError
from fedrec.report.citations import cited, parse


def test_braces_quotes_and_bare_values_are_read(bibliography: str) -> None:
    entries = parse(bibliography)
    assert list(entries) == ["mcmahan2017communication", "harper2015movielens"]
    first, second = entries.values()
    assert first.fields["title"].endswith("from Decentralized Data")
    assert second.fields["title"] == "The MovieLens Datasets"
    assert second.fields["year"] == "2015"
    assert second.text() == (
        "Harper, F. Maxwell; Konstan, Joseph A. (2015). The MovieLens Datasets. ACM TiiS."
    )


def test_the_entry_itself_is_kept(bibliography: str) -> None:
    for entry in parse(bibliography).values():
        assert entry.bibtex in bibliography
        assert entry.bibtex.count("{") == entry.bibtex.count("}")


def test_order_and_once(bibliography: str) -> None:
    keys = ["harper2015movielens", "mcmahan2017communication", "harper2015movielens"]
    assert [entry.key for entry in cited(keys, bibliography)] == keys[:2]
    assert cited([]) == ()


def test_a_missing_key_is_an_error_that_names_the_nearest(bibliography: str) -> None:
    with pytest.raises(RunFolderError, match="did you mean 'harper2015movielens'"):
        cited(["harper2015movielense"], bibliography)
