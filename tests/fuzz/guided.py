"""Fuzzes a decoder with atheris, which goes on from inputs that reach new branches.

    python -m tests.fuzz.guided trained FOLDER -runs=100000 -timeout=5

FOLDER, beside the kept corpus, is where such inputs are found and kept. The options are those of
libFuzzer. It needs the extra ``fuzz``.
"""

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["clients", "fedrec", "server"]):
    import torch

    from tests.fuzz.files import pack, unpack
    from tests.fuzz.mutate import mutated
    from tests.fuzz.session import CORPUS, quiet
    from tests.fuzz.targets import TARGETS

_LONGEST = "-max_len=65536"


def main() -> None:
    """Fuzz the target that the first argument names, with the options of libFuzzer."""
    name, *options = sys.argv[1:]
    quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name](Path(folder, "work"))
        started = Path(folder, "started")
        started.mkdir()
        for number, files in enumerate(target.seeds):
            (started / str(number)).write_bytes(pack(files))

        def changed(data: bytes, most: int, seed: int) -> bytes:
            """Return an input that is damaged by its form, or as libFuzzer does."""
            rng = Random(seed)
            files = unpack(data)
            if not files or rng.random() < 0.1:
                return bytes(atheris.Mutate(data, most))
            return pack(mutated(files, target.seeds, rng))[:most]

        def run(data: bytes) -> None:
            target.attempt(unpack(data))

        kept = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
        # What is new goes into the first folder.
        folders = [str(started), *kept]
        atheris.Setup([sys.argv[0], _LONGEST, *options, *folders], run, custom_mutator=changed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
