"""Run by the tests of `select_instructions` in processes of their own: chooses among made-up rows, and says what.

Arguments: the folder of the cache, a file that gets a line for every text that is encoded, the number of rows, and the
number of batches after which the process kills itself (0 = never). Prints the selection as JSON.
"""

import json
import os
import signal
import sys
import zlib
from pathlib import Path

import numpy as np

from rocket_hub.options import InstructionOptions
from rocket_hub.records import Example
from rocket_hub.selection import embeddings
from rocket_hub.selection.instructions import select_instructions
from rocket_hub.serialization import to_dict

embeddings.WINDOW, embeddings.BATCH, embeddings.PATIENCE = 64, 8, 20.0
THINGS = "apples pears coins songs trains".split()  # noqa: SIM905
SHOTS = [Example(f"count the {thing}", f"{thing} and {thing}", thing) for thing in THINGS[:3]]


class Encoder:
    """Vectors from a checksum of each word; kills its process in the middle of a batch if told to."""

    def __init__(self, log: Path, batches: int) -> None:
        self.log, self.batches = log, batches

    def encode(self, texts: list[str]) -> np.ndarray:
        with self.log.open("a") as file:
            file.writelines(f"{text!r}\n" for text in texts)
        self.batches -= 1
        if self.batches == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        vectors = np.zeros((len(texts), 32), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.split():
                vector += np.random.default_rng(zlib.crc32(word.encode())).normal(size=32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows(count: int) -> list[Example]:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice([*THINGS, "add", "take", "sing", "far"], rng.integers(2, 12))) for _ in range(count)]
    return [Example(text, f"{number % 7}", source=f"u/{number % 3}", index=number) for number, text in enumerate(words)]


def main() -> None:
    cache, log, count, batches = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    log = log.with_name(f"{log.name}-{os.environ.get('RANK', '0')}")
    selection = select_instructions(
        Encoder(log, batches), SHOTS, iter(rows(count)), InstructionOptions(max_rows=60), cache=cache
    )
    text = json.dumps(to_dict(selection))
    log.with_name(f"{log.name}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
