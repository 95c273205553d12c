from vbpr import VBPR


class SquaredErrors(VBPR):
    def loss(self, params, batch, vectors):
        weights = 0.1 * (batch.labels + batch.counts)
        return weights * (self.score(params, batch, vectors) - batch.labels) ** 2
