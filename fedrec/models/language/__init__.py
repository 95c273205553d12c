"""Language models as client models: the base, its adapters, prompts and the odds of an answer."""
