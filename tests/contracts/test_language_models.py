"""The language model as a client model keeps the contracts, with a tiny base."""

from typing import Any

import pytest

from fedrec.models import LLMPrompt
from fedrec.testing import contracts_of
from tests.tiny_language_model import save_tiny_model, tiny_llm_prompt


@pytest.fixture(scope="module", params=["b", "both"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> LLMPrompt:
    folder = save_tiny_model(tmp_path_factory.mktemp("base") / "tiny")
    return tiny_llm_prompt(folder, adapters={"layers": "all", "r": 2, "train": request.param})


@pytest.mark.parametrize("contract", contracts_of(LLMPrompt()), ids=lambda each: each.__name__)
def test_a_language_model_keeps_its_contracts(model: LLMPrompt, contract: Any) -> None:
    contract(model)
