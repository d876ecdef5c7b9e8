"""One target under libFuzzer: `python -m fuzz.guided TARGET FLAG... CORPUS...`; the process ends within it."""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["phaul", "pycriu"]):
    from fuzz.targets import TABLE


def main() -> None:
    target = TABLE[sys.argv[1]]
    mutate = target.mutate

    def mutator(data: bytes, longest: int, seed: int) -> bytes:
        chance = random.Random(seed)

        def plain(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, longest))

        if mutate is None or chance.random() < 0.3:
            return plain(data)[:longest]
        return mutate(data, chance, plain)[:longest]

    with target.stage():
        options = {} if mutate is None else {"custom_mutator": mutator}
        atheris.Setup([sys.argv[0], *sys.argv[2:]], target.once, **options)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
