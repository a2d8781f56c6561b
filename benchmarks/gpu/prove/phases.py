"""Times the parts of a head's loss on the device: its products, and the row functions between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from benchmarks.common.records import rounded
from benchmarks.gpu.device import Device
from crossent.torch.sources import driver, products

ROW_FUNCTIONS = ("row_stats", "row_grad", "row_fused")


class Span(NamedTuple):
    """A part of a loss, and the marks between which the device worked on it."""

    phase: str
    begin: Any
    end: Any


class Watched:
    """A backend whose row functions are marked."""

    def __init__(self, backend: Any, watch: Callable[..., Any]) -> None:
        self._backend, self._watch = backend, watch

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return partial(self._watch, "rows", found) if name in ROW_FUNCTIONS else found


@contextmanager
def marked(device: Device) -> Iterator[list[Span]]:
    """Put marks around the products and the row functions of heads, and give the list that they go to."""
    spans: list[Span] = []

    def watch(phase: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begin = device.mark()
        result = function(*arguments, **options)
        spans.append(Span(phase, begin, device.mark()))
        return result

    def product(a: Any, b: Any, out: Any, **options: Any) -> Any:
        # logits are x Wᵀ, and the gradients of the operands G W and Gᵀ x
        phase = "dW" if _is_transposed(a) else "logits" if _is_transposed(b) else "dX"
        return watch(phase, multiply, a, b, out, **options)

    multiply, backend = products.multiply, driver.backend
    products.multiply, driver.backend = product, lambda x: Watched(backend(x), watch)
    try:
        yield spans
    finally:
        products.multiply, driver.backend = multiply, backend


def seconds(device: Device, spans: list[Span]) -> dict[str, float]:
    """Return the seconds of each phase."""
    device.wait()
    found: dict[str, float] = {}
    for phase, begin, end in spans:
        found[phase] = found.get(phase, 0.0) + device.between(begin, end)
    return {phase: rounded(each) for phase, each in found.items()}


def _is_transposed(matrix: Any) -> bool:
    return matrix.stride(0) == 1 and matrix.stride(1) != 1
