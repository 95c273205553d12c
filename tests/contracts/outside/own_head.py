from two_layers import TwoLayers


class OwnHead(TwoLayers):
    def scope(self, name):
        return "private" if name.startswith("2.") else "shared"
