import torch
from torch import nn

from fedrec.models.base import Model
from fedrec.types import ParamSpec


class TwoLayers(Model):
    execution = "vmap"
    width: int = 16

    def build(self, catalogue):
        return nn.Sequential(nn.Linear(2 * self.width, 32), nn.ReLU(), nn.Linear(32, 1))

    def params(self, catalogue):
        return {
            "item": ParamSpec("shared", "item", (self.width,), init_std=0.1),
            "user": ParamSpec("private", "user", (self.width,), init_std=0.1),
        }

    def score(self, params, batch, vectors):
        return params.module(torch.cat([params["user"], vectors], -1)).squeeze(-1)
