"""The only part of the library that knows Flower and Ray: the wire, the engines, the launchers."""
