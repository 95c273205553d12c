"""The bibliography that ships with fedrec."""

from fedrec.report.citations import bibliography


def test_an_entry_is_read_as_it_stands() -> None:
    entry = bibliography()["rendle2009bpr"]
    assert entry["title"] == "BPR: Bayesian Personalized Ranking from Implicit Feedback"
    assert entry["pages"] == "452--461"
    assert entry["bibtex"].startswith("@inproceedings{rendle2009bpr,")
    assert entry["bibtex"].endswith("}") and "{BPR}" in entry["bibtex"]
