"""Prompts as tokens, and the odds after them, against the model on whole prompts."""

from typing import Any

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.models.language.lora import Adapters, adapt
from fedrec.models.language.odds import YesNo
from fedrec.models.language.prompts import Prompts
from fedrec.models.language.template import Template
from fedrec.models.language.weights import load
from tests.planted import ragged
from tests.tiny_language_model import TITLES, catalogue_of, save_tiny_model

TEMPLATE = Template(text="A user watched:{history}\nWould the user watch {candidate}? Answer:")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    model, tokenizer = load(save_tiny_model(tmp_path_factory.mktemp("odds") / "tiny"), "float32")
    adapt(model, Adapters(layers="all"))
    torch.manual_seed(2)
    for value in model.parameters():
        if value.requires_grad:
            value.data.normal_()
    return model, tokenizer


def prompts_of(tokenizer: Any, max_tokens: int = 60, **options: Any) -> Prompts:
    template = TEMPLATE.model_copy(update=options)
    return Prompts.of(template, tokenizer, catalogue_of(), max_tokens)


def odds_of_text(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    """The definition: one whole prompt at a time, nothing filled up, nothing kept."""
    logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
    yes, no = tokenizer.convert_tokens_to_ids([" Yes", " No"])
    return torch.as_tensor(logits[yes] - logits[no])


def text_of(history: list[int], item: int) -> str:
    entries = "".join(f"\n- {TITLES[i]}" for i in history)
    return f"A user watched:{entries}\nWould the user watch {TITLES[item]}? Answer:"


def test_scores_and_gradients_are_those_of_whole_prompts(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    net = YesNo(model, prompts_of(tokenizer))
    histories = torch.tensor([[2, 0, 5], [1, 3, 0]])
    pairs = [(0, 0, 4), (0, 3, 2), (0, 3, 1), (1, 2, 2), (1, 1, 0), (0, 3, 4)]
    users, context, items = torch.tensor(pairs).T
    scores = net(histories, users, context, items)
    texts = [text_of(histories[u, :n].tolist(), i) for u, n, i in pairs]
    expected = torch.stack([odds_of_text(model, tokenizer, text) for text in texts])
    assert torch.allclose(scores, expected, atol=1e-5)
    weights = torch.linspace(-1, 1, len(pairs))
    trained = [value for value in model.parameters() if value.requires_grad]
    ours = torch.autograd.grad((weights * scores).sum(), trained)
    theirs = torch.autograd.grad((weights * expected).sum(), trained)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))
    assert sum(float(a.abs().sum()) for a in ours) > 1


def test_odds_order_other_than_differences_of_probabilities() -> None:
    """(.02, .01) against (.30, .25): odds prefer the first, the difference the second."""
    probability = torch.tensor([[0.02, 0.01, 0.97], [0.30, 0.25, 0.45]])
    odds = probability.log()[:, 0] - probability.log()[:, 1]
    assert torch.allclose(odds, torch.tensor([2.0, 1.2]).log())
    assert odds[0] > odds[1]
    difference = probability[:, 0] - probability[:, 1]
    assert difference[0] < difference[1]


def test_what_does_not_fit_loses_its_oldest_entries(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    prompts = prompts_of(tokenizer)
    history = np.array([2, 0, 5, 1])  # 3 + 3, 3 + 2, ... tokens with the line's "\n", "-", " x"
    assert prompts.entries.lengths[history].tolist() == [5, 4, 4, 4]
    fixed = len(prompts.before) + len(prompts.between) + len(prompts.after) + 3
    tight = prompts_of(tokenizer, max_tokens=fixed + 13)
    assert tight.room == 13
    assert tight.shown(history).tolist() == [0, 5, 1]
    assert len(tight.prefix(history)) + max(len(tight.suffix(i)) for i in range(6)) == fixed + 12
    assert tight.shown(history[:2]).tolist() == [2, 0]
    rows = ragged([history.tolist(), history[1:].tolist(), []])
    assert tight.cut(rows) == 1
    assert tight.cut(ragged([history[1:].tolist()])) == 0
    with pytest.raises(ConfigError, match="max_tokens: 10 are too few"):
        prompts_of(tokenizer, max_tokens=10)


def test_answers_are_single_tokens_of_the_tokenizer(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    after_space = prompts_of(tokenizer).answers
    assert list(after_space) == tokenizer.convert_tokens_to_ids([" Yes", " No"])
    with pytest.raises(ConfigError, match="'red sky' is 2 tokens of this model"):
        prompts_of(tokenizer, answers=("red sky", "No"))
    with pytest.raises(ConfigError, match="same token"):  # both are unknown to it
        prompts_of(tokenizer, answers=("perhaps", "never"))


def test_a_chat_is_asked_in_the_form_of_the_model(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    with pytest.raises(ConfigError, match="has no chat template"):
        prompts_of(tokenizer, chat=True)
    tokenizer.chat_template = (
        "{% for m in messages %}- {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}or{{ '\\n' }}{% endif %}"
    )
    prompts = prompts_of(tokenizer, chat=True)
    tokenizer.chat_template = None
    assert tokenizer.convert_ids_to_tokens(prompts.before[:3]) == ["-", " A", " user"]
    assert list(prompts.answers) == tokenizer.convert_tokens_to_ids(["Yes", "No"])
    assert prompts.after[-1] == tokenizer.convert_tokens_to_ids("\n")


def test_columns_of_items_are_the_fields_of_an_item(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    with pytest.raises(ConfigError, match=r"no column 'name' \(did you mean|no column 'name'"):
        prompts_of(tokenizer, item="{name}")
    titles = (*TITLES[:3], "", " ", *TITLES[3:])
    assert Prompts.of(TEMPLATE, tokenizer, catalogue_of(titles), 60).untitled == 2
