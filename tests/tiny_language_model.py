"""A Llama of random weights with a tokenizer of whole words, as a Hugging Face folder."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedrec.data.catalogue import Catalogue
from fedrec.models.language.llm_prompt import LLMPrompt
from fedrec.models.language.template import Template

WORDS = ("[PAD]", "[BOS]", " Yes", " No", "Yes", "No", "\n", "-", ":", " ", "?", ".")
TITLES = ("red sea", "blue sky", "green hill town", "white snow", "red sky", "blue hill")


def save_tiny_model(folder: Path, titles: tuple[str, ...] = TITLES, seed: int = 0) -> Path:
    """Write a model of 2 layers and width 64 with 512 places for words; return its folder."""
    texts = (Template().text, "A user or title", *titles)
    vocabulary = [*WORDS, *(word for text in texts for word in re.findall("[A-Za-z]+", text))]
    vocabulary += [f" {word}" for word in vocabulary[len(WORDS) :]]
    vocabulary += "0123456789"
    known = {word: number for number, word in enumerate(dict.fromkeys(vocabulary))}
    known["[UNK]"] = len(known)
    words = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\s|[^\sA-Za-z]"), "isolated")
    words.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", known["[BOS]"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", bos_token="[BOS]"
    )
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=256))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_llm_prompt(folder: Path, **options: Any) -> LLMPrompt:
    """Return the client model with adapters in all layers of a tiny model in a folder."""
    sizes = {"history": 3, "max_tokens": 96, "adapters": {"layers": "all", "r": 2}}
    return LLMPrompt.model_validate({"base": str(folder), **sizes, **options})


def catalogue_of(titles: tuple[str, ...] = TITLES) -> Catalogue:
    """Return items with these titles."""
    ids = np.array([f"i{n}" for n in range(len(titles))], object)
    return Catalogue(ids, {"title": np.array(titles, object)})
