"""Contract tests for plug-ins: what every model, strategy, metric and the like must keep.

In a test file::

    from fedrec.testing import Contracts
    from mine import MyModel

    class TestMyModel(Contracts):
        plugin = MyModel

Or, on the command line: ``fedrec check mine:MyModel``.
"""

from fedrec.testing.check import Contracts, check, contracts_of, load_plugin

__all__ = ["Contracts", "check", "contracts_of", "load_plugin"]
