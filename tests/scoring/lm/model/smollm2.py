"""`crossent lm --model` on SmolLM2-135M beside a plain loop: the loss of every token, and the memory it takes.

    CROSSENT_TEXT_BYTES=100000 python -m tests.scoring.lm.model.smollm2

prints both for 100 KB of Python's documentation.
"""

from __future__ import annotations

import json
import math
import os
import pydoc_data.topics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from crossent.scoring.lm.model.loading import load
from tests.scoring.lm.model.tiny import plain_loop

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossent" / "smollm2"
WINDOW, STRIDE = 128, 96
ROOM = 200 << 20
"""Bytes that scoring may take beside the model."""
_ALL = 10**7
"""Number of costliest tokens to list: all of them."""
_COMMAND = """
import sys
from pathlib import Path
from crossent import cli
from crossent.scoring.lm.model import loading

def kilobytes(name):
    return int(next(line for line in open('/proc/self/status') if line.startswith(name)).split()[1])

own, held = loading.load, []

def load(*arguments, **options):
    found = own(*arguments, **options)
    Path('/proc/self/clear_refs').write_text('5')  # the peak of loading is not that of scoring
    held.append(kilobytes('VmRSS'))
    return found

loading.load = load
code = cli.run(sys.argv[1:])
print(held[0] << 10, kilobytes('VmHWM') << 10, file=sys.stderr)
sys.exit(code)
"""


class Ran(NamedTuple):
    """What the command says of texts: its JSON, the memory of the model alone, and the peak while it scores."""

    found: Any
    model: int
    peak: int

    def tokens(self) -> dict[tuple[str, int], float]:
        """Return the loss of each token by its text and place; a token scored twice is an error."""
        found: dict[tuple[str, int], float] = {}
        for token in self.found["worst_tokens"]:
            place = (Path(token["document"]).name, token["position"])
            assert place not in found
            found[place] = token["loss"]
        return found


def weights() -> Path | None:
    """Return the file of weights, None where it has not been fetched."""
    return next(iter(sorted(CACHE.glob("*.gguf"))), None)


def texts(size: int) -> dict[str, str]:
    """Return the first topics, `size` bytes in all."""
    found: dict[str, str] = {}
    left = size
    for name, text in sorted(pydoc_data.topics.topics.items()):
        part = text.encode()[: min(left, max(size // 3, 1))].decode(errors="ignore")
        left -= len(part.encode())
        if part:
            found[name] = part
    return found


def command(model: Path, size: int) -> Ran:
    """Run the command on so many bytes of text."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in texts(size)]
        for file, text in zip(files, texts(size).values(), strict=True):
            _ = file.write_bytes(text.encode())
        arguments = ["lm", "--model", model, *files, "--window", WINDOW, "--stride", STRIDE, "--worst", _ALL, "--json"]
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, *map(str, arguments)], capture_output=True, text=True, check=True
        )
    held, peak = map(int, done.stderr.split()[-2:])
    return Ran(json.loads(done.stdout), held, peak)


def plainly(model: Path, size: int) -> dict[tuple[str, int], float]:
    """Return the loss of each token by a forward a window with all logits, in the model's float32."""
    found = load(model)
    return {
        (name, place): -value
        for name, text in texts(size).items()
        for place, value in plain_loop(*found, text, WINDOW, STRIDE).items()
    }


def main() -> None:
    """Print the comparison."""
    model, size = weights(), int(os.environ.get("CROSSENT_TEXT_BYTES", "100000"))
    if model is None:
        raise SystemExit("SmolLM2 has not been fetched; python examples/finetune_lm.py fetches it")
    ran, plain = command(model, size), plainly(model, size)
    own = ran.tokens()
    loss = math.fsum(plain.values()) / len(plain)
    print(f"text {size:,} bytes, windows of {WINDOW} tokens with a stride of {STRIDE}")
    print(f"tokens {len(own):,}, those of the plain loop {len(plain):,}, the same places: {own.keys() == plain.keys()}")
    print(f"loss {ran.found['loss']:.10f}, plain loop {loss:.10f}, difference {ran.found['loss'] - loss:.1e}")
    print(f"largest difference of a token {max(abs(own[k] - plain[k]) for k in plain):.1e}")
    print(f"model {ran.model / 2**20:,.0f} MiB, scoring beside it {(ran.peak - ran.model) / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
