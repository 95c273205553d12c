from torch import nn
from two_layers import TwoLayers


class WithBatchNorm(TwoLayers):
    def build(self, catalogue):
        return nn.Sequential(nn.BatchNorm1d(32), *super().build(catalogue))
