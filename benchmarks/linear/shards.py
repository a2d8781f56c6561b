"""What a head costs each rank that holds a shard of its classes: a model on paper, and its table.

docs/guide/sharded-heads.md shows the table. tests/parallel holds the bytes against those that torch's profiler counts
at one to four ranks.
"""

from __future__ import annotations

import dataclasses

TFLOPS, GBYTES, LATENCY = 400e12, 200e9, 5e-6
"""What an H100 does in bfloat16 products, what it sends over NVLink in one direction, and what a message takes."""
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class Head:
    """Rows N, features D and classes V of a loss, and the bytes of each number of its operands."""

    rows: int
    features: int
    classes: int
    bytes_each: int = 2


LLAMA = Head(rows=16384, features=4096, classes=128256)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one rank does in a forward and a backward."""

    flops: float
    sent: float
    """Bytes that it sends, if collectives go round a ring."""
    weight: float
    """Bytes of its shard of the weight, and of the gradient."""
    messages: int
    """Messages that wait for each other, in trees and not in rings, as libraries do for short ones."""

    @property
    def seconds(self) -> tuple[float, float]:
        """Return how long it computes and how long it sends, on hardware as above."""
        return self.flops / TFLOPS, self.sent / GBYTES + self.messages * LATENCY


def cost(head: Head, ranks: int, *, sequence_parallel: bool = False) -> Cost:
    """Return the cost for each of so many ranks that share the classes evenly.

    Two sweeps multiply the logits twice, and each gradient once: 8 N D V operations in all. The forward adds up records
    of 40 N + 16 bytes, the backward the gradient of the input in float32 (float64), 4 N D bytes; sequence parallelism
    gathers the input's shares instead, and scatters that sum.
    """
    N, D, V = head.rows, head.features, head.classes
    ring = (ranks - 1) / ranks
    gradient = max(4, head.bytes_each) * N * D
    records = 2 * ring * (40 * N + 16)
    layer = ring * (head.bytes_each * N * D + gradient) if sequence_parallel else 2 * ring * gradient
    return Cost(
        flops=8 * N * D * V / ranks,
        sent=records + layer,
        weight=2 * head.bytes_each * V * D / ranks,
        messages=(4 if sequence_parallel else 3) * 2 * max(0, (ranks - 1).bit_length()),
    )


def table(head: Head = LLAMA) -> str:
    """Return the costs for each number of ranks as a table in Markdown."""
    lines = [
        "| ranks | Tflop | MB sent | MB sent, sequence parallel | MB of weight, gradient | ms computing | ms sending |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for ranks in RANKS:
        plain, sequence = cost(head, ranks), cost(head, ranks, sequence_parallel=True)
        computing, sending = plain.seconds
        weight = plain.weight / 1e6
        lines.append(
            f"| {ranks} | {plain.flops / 1e12:.3g} | {plain.sent / 1e6:.0f} | {sequence.sent / 1e6:.0f} | "
            f"{f'{weight:,.0f}' if weight >= 100 else f'{weight:.3g}'} | {1e3 * computing:.3g} | {1e3 * sending:.3g} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
