"""`python -m benchmarks.gpu.model` predicts what the cases take on GPUs, and shows each term of the sum.

The plan of a head is asked of `crossent.torch.sources.plan`, and is the one that a GPU carries out. Nothing here was
measured: the chips are those of `chips`, and kernels are assumed to be as this says:

* A product takes the time of its operations on the units that have an output tile of 128 × 256, or that of its bytes if
  this is longer; K is split among units where that is faster. Float32 sums that it reads and writes are a term of their
  own, as if nothing were multiplied meanwhile. "Hidden" is the sum if they were hidden behind their product.
* Row kernels move their bytes at 93.5 % of a copy (between 92 and 95 %), or issue 10 instructions a column forward and
  20 backward, under a softcap 25 and 35, if this takes longer.
* Floor: the three products of the whole with half-precision results, or a copy of as many bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from benchmarks.common.grid import draw, number
from benchmarks.gpu.cases import CASES, ErrorCase, HeadCase
from benchmarks.gpu.chips import CHIPS, SOURCES, Chip
from benchmarks.logits.cases import LogitsCase
from crossent.torch.sources.plan import (
    CHUNK_KERNELS,
    GPU,
    PRODUCT_KERNELS,
    Rest,
    SourceCosts,
    Sweep,
    TileShape,
    default_chunk_bytes,
    one_sweep,
    tile_shape,
    weight_adds_up,
)

ROWS_SHARE = 0.935
FORWARD, BACKWARD, CAPPED_FORWARD, CAPPED_BACKWARD = 10, 20, 25, 35
"""Instructions of a lane for each column."""
TILES = ((128, 256), (256, 128))
SPLITS = range(1, 17)
LAUNCHES_OF_LOGITS = 5
LAUNCHES_OF_CALL = 25
"""Of a loss of logits: three forward and two backward. Of a head, beside those of chunks and products (`plan`)."""

DECODE = (
    HeadCase("llama3-decode", "Llama 3 8B head, a batch of 32 tokens", 32, 4096, 128256, "bfloat16"),
    HeadCase("gemma2-decode", "Gemma 2 2B head, a batch of 32 tokens", 32, 2304, 256000, "bfloat16", softcap=30.0),
    HeadCase("qwen-decode", "Qwen 2.5 0.5B head, a batch of 32 tokens", 32, 896, 151936, "bfloat16"),
)
MODELLED = (*(case for case in CASES if not isinstance(case, ErrorCase)), *DECODE)


class Product(NamedTuple):
    """A product (m, k) @ (k, n) that is made `number` times; `out` bytes an element are written, 0 if counted apart."""

    m: int
    n: int
    k: int
    number: float = 1
    out: int = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What the linear loss does with a head, counted."""

    case: HeadCase
    costs: SourceCosts
    sweep: Sweep | None
    tile: TileShape

    @property
    def rest(self) -> Rest:
        """The logits that are multiplied again."""
        return (self.sweep and self.sweep.rest) or Rest(0, 1)

    @property
    def chunks(self) -> int:
        """Number of chunks of rows, or of tiles."""
        if self.sweep is None:
            return -(-self.case.N // self.tile.rows) * -(-self.case.V // self.tile.classes)
        return -(-self.case.N // self.sweep.rows)

    @property
    def group(self) -> int:
        """Number of rows that one product of gradients takes."""
        return self.case.N if self.sweep is None else min(self.case.N, max(self.sweep.rows, self.sweep.kept))

    @property
    def adds_up(self) -> bool:
        """Whether the gradient of the weight is summed in float32."""
        return self.sweep is not None and weight_adds_up(self.costs, self.sweep)

    @property
    def flops(self) -> int:
        """Operations of all products."""
        N, D, V = self.case.N, self.case.D, self.case.V
        return 6 * N * D * V + 2 * N * D * (V if self.sweep is None else self.rest.logits)

    def logits(self) -> list[Product]:
        """The products that make logits, float32."""
        N, D, V = self.case.N, self.case.D, self.case.V
        if self.sweep is None:
            return [Product(min(N, self.tile.rows), self.tile.classes, D, 2 * self._tiles(self.tile), 4)]
        again = Product(N, self.rest.at_once, D, self.rest.logits / self.rest.at_once, 4)
        rows = min(N, self.sweep.rows)
        return [Product(rows, V, D, N / rows, 4), *([again] if self.rest.logits else [])]

    def input(self) -> list[Product]:
        """The products that make the gradient of the input; sums over classes are counted apart."""
        N, D, V = self.case.N, self.case.D, self.case.V
        if self.sweep is None:
            return [Product(min(N, self.tile.rows), D, self.tile.classes, self._tiles(self.tile), 0)]
        again = Product(N, D, self.rest.at_once, self.rest.logits / self.rest.at_once, 0)
        first = Product(self.group, D, V - self.rest.logits, N / self.group, 4)
        return [first, *([again] if self.rest.logits else [])]

    def weight(self) -> list[Product]:
        """The products that make the gradient of the weight; float32 sums are counted apart."""
        N, D, V = self.case.N, self.case.D, self.case.V
        if self.sweep is None:
            return [Product(self.tile.classes, D, min(N, self.tile.rows), self._tiles(self.tile), 2)]
        return [Product(V, D, self.group, N / self.group, 0 if self.adds_up else 2)]

    def _tiles(self, tile: TileShape) -> float:
        return self.case.N / min(self.case.N, tile.rows) * self.case.V / tile.classes

    @property
    def sums(self) -> int:
        """Bytes of float32 sums that are written, or read and written again."""
        N, D, V = self.case.N, self.case.D, self.case.V
        if self.sweep is None:
            down, across = -(-N // self.tile.rows), -(-V // self.tile.classes)
            return 4 * N * D * (2 * across - 1) + (4 * V * D * (2 * down - 1) if down > 1 else 0)
        again = 8 * N * D * -(-self.rest.logits // self.rest.at_once)
        return again + (4 * V * D * (2 * -(-N // self.group) - 1) if self.adds_up else 0)

    @property
    def casts(self) -> int:
        """Bytes of float32 gradients that are read and rounded."""
        return 6 * self.case.N * self.case.D + (6 * self.case.V * self.case.D if self.adds_up else 0)

    @property
    def launches(self) -> int:
        """Number of kernels."""
        groups = self.chunks if self.sweep is None else -(-self.case.N // self.group)
        again = -(-self.rest.logits // self.rest.at_once)
        chunks = 2 * self.chunks if self.sweep is None else self.chunks + again
        return LAUNCHES_OF_CALL + CHUNK_KERNELS * chunks + PRODUCT_KERNELS * (groups + again)

    @property
    def held(self) -> int:
        """Bytes of logits, of their gradients and of float32 sums of the weight, when there are most of them."""
        N, D, V = self.case.N, self.case.D, self.case.V
        if self.sweep is None:
            one = self.tile.rows * self.tile.classes * self.costs.logit_bytes
            return one + (4 * self.tile.classes * D if self.tile.rows < N else 0)
        chunk = 4 * min(N, self.sweep.rows) * V + 2 * self.group * (V - self.rest.logits)
        return max(chunk, 6 * N * self.rest.at_once) + (4 * V * D if self.adds_up else 0)

    @property
    def peak(self) -> int:
        """Bytes beyond the inputs when there are most of them, the gradients of input and weight among them."""
        N, D, V = self.case.N, self.case.D, self.case.V
        own = 2 * V * D  # the gradient of the weight, when it is there
        forward = self.held + 4 * N * D + (0 if self.adds_up else own)
        return max(forward, 6 * N * D + own + (4 * V * D if self.adds_up else 0))

    @property
    def extra(self) -> int:
        """Bytes of the peak beyond the inputs and the gradients."""
        return self.peak - 2 * self.case.D * (self.case.N + self.case.V)


class Prediction(NamedTuple):
    """Seconds of a case on a chip by their causes, and of the least that could be done."""

    terms: dict[str, float]
    floor: float
    hidden: float = 0.0
    """Seconds of float32 sums that could be moved while their product is made."""

    @property
    def total(self) -> float:
        """The sum of all terms."""
        return sum(self.terms.values())

    @property
    def over_floor(self) -> float:
        """The sum, in floors."""
        return self.total / self.floor

    @property
    def over_floor_if_hidden(self) -> float:
        """The sum in floors if float32 sums were moved while their product is made."""
        return (self.total - self.hidden) / self.floor


def plan_of(case: HeadCase, chunk_bytes: int | None = None) -> Plan:
    """Return the plan that a GPU carries out for a head of half-precision operands."""
    dtype = getattr(torch, case.dtype)
    costs = SourceCosts(case.N, case.V, case.D, dtype, dtype, GPU)
    chunk_bytes = default_chunk_bytes(costs) if chunk_bytes is None else chunk_bytes
    return Plan(case, costs, one_sweep(costs, chunk_bytes), tile_shape(costs, 1, chunk_bytes))


def waves(product: Product, chip: Chip) -> float:
    """Return the output tiles of a product for each unit: how often all units take one, the last time maybe not all."""
    return min(-(-product.m // a) * -(-product.n // b) for a, b in TILES) / chip.units


def seconds_of(product: Product, chip: Chip) -> float:
    """Return the time of a product, made as often as it says."""
    m, n, k, times, out = product
    moved = (2 * (m * k + n * k) + out * m * n) / chip.bandwidth
    best = math.inf
    for tall, wide in TILES:
        tiles = -(-m // tall) * -(-n // wide)
        for split in SPLITS:
            rounds = -(-tiles * split // chip.units)
            multiplied = rounds * chip.units * 2 * tall * wide * k / split / chip.operations
            parts = 0 if split == 1 else 8 * split * m * n / chip.bandwidth
            best = min(best, multiplied + parts)
    return times * max(best, moved)


def rows_seconds(columns: int, size: int, instructions: int, chip: Chip) -> float:
    """Return the time of a pass over rows that moves `size` bytes a column."""
    return columns * max(size / (chip.bandwidth * ROWS_SHARE), instructions / chip.instructions)


def predict_head(plan: Plan, chip: Chip) -> Prediction:
    """Return the time of the loss and gradients of a head, from its plan."""
    case = plan.case
    N, D, V = case.N, case.D, case.V
    capped = case.softcap is not None
    terms = {
        "logits": sum(seconds_of(p, chip) for p in plan.logits()),
        "dX": sum(seconds_of(p, chip) for p in plan.input()),
        "dW": sum(seconds_of(p, chip) for p in plan.weight()),
        "rows forward": rows_seconds(N * V, 4, CAPPED_FORWARD if capped else FORWARD, chip),
        "rows backward": rows_seconds(N * V, 6, CAPPED_BACKWARD if capped else BACKWARD, chip),
        "sums": plan.sums / chip.bandwidth,
        "casts": plan.casts / chip.bandwidth,
        "launches": plan.launches * chip.launch,
    }
    floor = sum(seconds_of(p, chip) for p in (Product(N, V, D), Product(N, D, V), Product(V, D, N)))
    return Prediction(terms, floor, min(terms["sums"], terms["dW"] if plan.adds_up else terms["dX"]))


def predict_logits(case: LogitsCase, chip: Chip) -> Prediction:
    """Return the time of the loss and gradient of logits."""
    columns, size = math.prod(case.shape), getattr(torch, case.dtype).itemsize
    labels = columns * size if case.target == "binary" else 8 * case.rows
    terms = {
        "rows forward": rows_seconds(columns, size, FORWARD, chip) + labels / chip.bandwidth,
        "rows backward": rows_seconds(columns, 2 * size, BACKWARD, chip) + labels / chip.bandwidth,
        "launches": LAUNCHES_OF_LOGITS * chip.launch,
    }
    return Prediction(terms, (3 * columns * size + 2 * labels) / chip.bandwidth)


def predict(case: HeadCase | LogitsCase, chip: Chip) -> Prediction:
    """Return the time of the loss and gradients of a case by default."""
    return predict_head(plan_of(case), chip) if isinstance(case, HeadCase) else predict_logits(case, chip)


# What is printed


def words(plan: Plan) -> list[str]:
    """Return the plan of a head in words."""
    case, sweep = plan.case, plan.sweep
    if sweep is None:
        how = f"two sweeps over tiles of {plan.tile.rows} × {plan.tile.classes}"
    else:
        kept = "all" if plan.group == case.N else str(plan.group)
        how = f"one sweep, {plan.chunks} chunks of {min(sweep.rows, case.N)} rows, gradients of {kept} rows kept"
        if sweep.rest is not None:
            share = sweep.rest.logits / case.V
            how += f" but for {share:.0%} of the classes, multiplied again {sweep.rest.at_once} at once"
    sums = ", float32 sums" if plan.adds_up else ""
    promise = 2**29 + 4 * case.V * case.D
    flops = f"{plan.flops / 1e12:.2f} Tflop ({plan.flops / (case.N * case.D * case.V):.2f} N D V)"
    held = f"logits, their gradients and sums {plan.held / 1e9:.2f} of {promise / 1e9:.2f} GB"
    peak = f"peak {plan.peak / 1e9:.2f} GB, {plan.extra / 1e9:.2f} of it beyond the gradients"
    return [f"{case.model}, {case.N} × {case.D} × {case.V}: {how}{sums}", f"{flops}; {held}; {peak}"]


def table(case: HeadCase | LogitsCase) -> str:
    """Return the predictions of a case on all chips."""
    found = {chip: predict(case, chip) for chip in CHIPS}
    names = list(found[CHIPS[0]].terms)
    head = isinstance(case, HeadCase)
    lines = [
        [
            *(chip.name, ""),
            *(number(1e3 * seconds) for seconds in (*(p.terms[name] for name in names), p.total, p.floor)),
            *([f"{p.over_floor:.2f}", f"{p.over_floor_if_hidden:.2f}"] if head else [f"{100 / p.over_floor:.0f}"]),
        ]
        for chip, p in found.items()
    ]
    last = ("× floor", ("sum", "hidden")) if head else ("", ("% of copy",))
    groups = (("", ("", "")), ("milliseconds", (*names, "sum", "floor")), last)
    about = [f"{case.model}, {case.shape} {case.dtype}"] if isinstance(case, LogitsCase) else words(plan_of(case))
    if isinstance(case, HeadCase):
        plan = plan_of(case)
        parts = {"logits": plan.logits(), "dX": plan.input(), "dW": plan.weight()}
        each = (
            f"{chip.name} " + ", ".join(f"{k} {number(waves(p[0], chip))}" for k, p in parts.items()) for chip in CHIPS
        )
        about.append(f"output tiles for each unit: {'; '.join(each)}")
    return "\n".join([*about, *draw(groups, lines)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the predictions that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.model", description=__doc__)
    _ = parser.add_argument("--only", default="", metavar="NAME", help="only cases with this in their name")
    options = parser.parse_args(arguments)
    cases = [case for case in MODELLED if options.only in case.name]
    if not cases:
        parser.error(f"no case has {options.only!r} in its name; there are {', '.join(c.name for c in MODELLED)}")
    print("\n\n".join([f"Predicted, not measured.\n{SOURCES}", *map(table, cases)]))


if __name__ == "__main__":
    main()
