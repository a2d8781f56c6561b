"""What the model of times knows of GPUs: their datasheets, and the shares of them that kernels are assumed to reach."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """A GPU: bytes and bfloat16 operations a second of its datasheet, units, clock, and shares that are reached."""

    name: str
    memory: float
    """Bytes a second, of the datasheet."""
    products: float
    """Operations of dense bfloat16 products a second, of the datasheet."""
    units: int
    """Streaming multiprocessors or compute units; output tiles are worked on by one each."""
    clock: float
    """Cycles a second while memory is busy."""
    lanes: int
    """Lanes of instructions that a unit issues a cycle."""
    copy_share: float
    product_share: float
    launch: float
    """Seconds from the end of a kernel to the work of the next one that was queued behind it."""

    @property
    def bandwidth(self) -> float:
        """Bytes a second of a copy."""
        return self.memory * self.copy_share

    @property
    def operations(self) -> float:
        """Operations a second of large bfloat16 products."""
        return self.products * self.product_share

    @property
    def instructions(self) -> float:
        """Instructions of one lane a second."""
        return self.units * self.lanes * self.clock


SOURCES = """\
Bandwidth, dense bfloat16 operations, units and clock: datasheets of A100 SXM (80 GB), H100 SXM, H200, B200, MI300X.
An H200 is taken to reach 4.3 TB/s (copy) and 788 Tflop/s (products), the ceilings of the desk review; the others of
NVIDIA the same shares, 0.90 and 0.80. For an MI300X 0.81 and 0.5 are assumed, about what published products reach.
Assumed: a kernel queued behind another costs 3 µs (5 µs on AMD): its start, and units that idle at both ends."""

_COPY, _PRODUCT = 4.3 / 4.8, 788 / 989

CHIPS = (
    Chip("A100", 2.039e12, 312e12, 108, 1.41e9, 128, _COPY, _PRODUCT, 3e-6),
    Chip("H100", 3.35e12, 989e12, 132, 1.98e9, 128, _COPY, _PRODUCT, 3e-6),
    Chip("H200", 4.8e12, 989e12, 132, 1.98e9, 128, _COPY, _PRODUCT, 3e-6),
    Chip("B200", 8.0e12, 2250e12, 148, 1.96e9, 128, _COPY, _PRODUCT, 3e-6),
    Chip("MI300X", 5.3e12, 1307e12, 304, 2.1e9, 64, 0.81, 0.5, 5e-6),
)
