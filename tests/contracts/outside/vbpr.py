import torch

from fedrec.models.base import Model
from fedrec.types import ParamSpec


class VBPR(Model):
    """Visual Bayesian personalised ranking: factors beside those that content gives."""

    execution = "vmap"
    feature: str = "content"
    width: int = 8

    def params(self, catalogue):
        d, f = self.width, catalogue.width(self.feature)
        return {
            "item": ParamSpec("shared", "item", (d,), init_std=0.1),
            "bias": ParamSpec("shared", "item", ()),
            self.feature: ParamSpec("frozen", "item", (f,)),
            "projection": ParamSpec("shared", None, (d, f), init_std=f**-0.5),
            "user": ParamSpec("private", "user", (2 * d,), init_std=0.1),
        }

    def item_vectors(self, params, items):
        content = params[self.feature] @ params["projection"].T
        return torch.cat([params["item"], content], -1)

    def score(self, params, batch, vectors):
        return (params["user"] * vectors).sum(-1) + params["bias"]

    def rank(self, params, batch, encoded):
        return params["user"] @ encoded.T + params["bias"]
