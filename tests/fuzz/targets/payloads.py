"""The payloads of clients, as bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import ClassVar

import numpy as np

from fedrec.aggregation import codec, lengths, payload_reader, payload_sections, positions
from fedrec.aggregation.lengths import of_rows, scaled, squared_lengths, squared_rows
from fedrec.errors import ProtocolError
from fedrec.testing.trial import as_bytes
from tests.fuzz.files import Files
from tests.fuzz.mutate_array import loaded, saved
from tests.fuzz.targets.base import Target
from tests.fuzz.targets.updates import batches

_FORM, _OFFSETS, _CLIENTS, _CONTENT = "form", "offsets.npy", "clients.npy", "content"


class PayloadTarget(Target):
    """Payloads of a layout that the server knows, of which everything else may be damaged."""

    name = "payloads"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        codec: (),
        lengths: (),
        payload_reader: (),
        payload_sections: (),
        positions: (),
    }

    def valid(self) -> Sequence[Files]:
        """Return the payloads of updates in every form."""
        encoded = [codec.encode(batch) for batch in batches()]
        return [
            {
                _FORM: bytes([form]),
                _OFFSETS: saved(payloads.offsets),
                _CLIENTS: saved(payloads.client_ids),
                _CONTENT: payloads.content.tobytes(),
            }
            for form, payloads in enumerate(encoded)
        ]

    def run(self, files: Files) -> None:
        """Decode payloads; what is read can be encoded, with as many bytes as are counted."""
        forms = batches()
        form = forms[files.get(_FORM, b"\0")[:1].ljust(1, b"\0")[0] % len(forms)]
        clients = _whole_numbers(files, _CLIENTS)
        payloads = replace(
            codec.encode(form),
            offsets=_whole_numbers(files, _OFFSETS),
            content=np.frombuffer(files.get(_CONTENT, b""), np.uint8),
            client_ids=clients,
            weight=np.ones(len(clients)),
            metrics={},
        )
        batch = codec.decode(payloads)
        again = codec.encode(batch)
        assert np.array_equal(codec.payload_bytes(batch), np.diff(again.offsets))
        assert as_bytes(codec.decode(again)) == as_bytes(batch)
        plain = batch.decoded()
        with np.errstate(all="ignore"):
            scaled(plain, of_rows(plain, squared_lengths(plain)))
            scaled(plain, {name: np.ones(len(each)) for name, each in squared_rows(plain).items()})


def _whole_numbers(files: Files, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return whole numbers as a message holds them.

    Raises:
        ProtocolError: As their declared type does.
    """
    array = loaded(files.get(name, b""))
    if array is None or array.dtype.kind != "i":
        raise ProtocolError(f"{name} holds no whole numbers")
    return array.astype(np.int64).reshape(-1)
