"""Templates: what they say, and what is refused when they are declared."""

import pytest

from fedrec.errors import ConfigError
from fedrec.models.language.template import Template, fields_of, filled


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"text": "{history} {candidat}"}, r"text: unknown field {candidat} \(did you mean 'cand"),
        ({"text": "{candidate} after {history}"}, "{history} once and then {candidate} once"),
        ({"text": "{history} {history} {candidate}"}, "got {history} {history} {candidate}"),
        ({"text": "{history} {candidate} }"}, "Single '}'"),
        ({"text": "{history!r} {candidate}"}, "a field is a name in braces"),
        ({"entry": "x"}, "entry: expected {item} once"),
        ({"item": "a film"}, "item: expected a column of the items"),
        ({"answers": ["Yes", "Yes"]}, "two different words"),
        ({"texts": "x"}, r"texts: unknown key \(did you mean 'text'"),
    ],
)
def test_a_wrong_template_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Template.model_validate(options)


def test_fields_are_filled_and_braces_stay() -> None:
    text = "{{{title}}} of {year}"
    assert fields_of(text) == ["title", "year"]
    assert filled(text, {"title": "Heat {1}", "year": "1995"}) == "{Heat {1}} of 1995"
    assert Template(text="a{history}b{{c}}{candidate}d").parts() == ("a", "b{c}", "d")
