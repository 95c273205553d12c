from torch import nn

from fedrec.models.base import Model
from fedrec.types import ParamSpec


class ContentOnly(Model):
    execution = "vmap"
    width: int = 8

    def build(self, catalogue):
        return nn.Linear(catalogue.width("content"), self.width, bias=False)

    def params(self, catalogue):
        return {
            "content": ParamSpec("frozen", "item", (catalogue.width("content"),)),
            "user": ParamSpec("private", "user", (self.width,), init_std=0.1),
        }

    def item_vectors(self, params, items):
        return params.module(params["content"])

    def score(self, params, batch, vectors):
        return (params["user"] * vectors).sum(-1)
