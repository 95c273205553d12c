from torch import nn
from two_layers import TwoLayers


class WithDropout(TwoLayers):
    p: float = 0.2

    def build(self, catalogue):
        first, activation, last = super().build(catalogue)
        return nn.Sequential(first, activation, nn.Dropout(self.p), last)
