"""Weights as libraries quantise them: dequantisation of some rows, without the others.

Nothing here imports a library: a program with such a weight has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class QuantisedRows(NamedTuple):
    """The function for rows [begin, end) of a weight, the shape (V, D) of the whole, and the dtype of its numbers."""

    make: Callable[[int, int], Tensor]
    shape: tuple[int, ...]
    dtype: torch.dtype


def rows_of(weight: Any, scales: Tensor | None = None) -> QuantisedRows:
    """Return how rows of a quantised weight become numbers.

    `scales` are the largest absolute values of the rows of an 8-bit weight of bitsandbytes, where its layer has taken
    them from it.

    Raises
    ------
    TypeError
        If nothing is known of tensors like this one.
    """
    if is_4bit(weight):
        return _of_4bit(weight)
    if is_8bit(weight):
        return _of_8bit(weight, scales)
    if is_dequantised_by_rows(weight):
        return QuantisedRows(lambda begin, end: weight[begin:end].dequantize(), tuple(weight.shape), weight.dtype)
    what = f"{type(weight).__module__}.{type(weight).__qualname__}"
    raise TypeError(
        f"a {what} is not a quantised weight of torchao or bitsandbytes; pass Dequantized(function, shape, dtype) with "
        "a function that returns a range of its rows"
    )


def is_4bit(weight: Any) -> bool:
    """Return whether this is a 4-bit weight of bitsandbytes that has been quantised."""
    return type(weight).__name__ == "Params4bit" and getattr(weight, "quant_state", None) is not None


def is_8bit(weight: Any) -> bool:
    """Return whether this is an 8-bit weight of bitsandbytes that has been quantised."""
    return type(weight).__name__ == "Int8Params" and weight.dtype == torch.int8


def is_dequantised_by_rows(weight: Any) -> bool:
    """Return whether this is a tensor of two axes with numbers of its own, as torchao's are."""
    own = isinstance(weight, Tensor) and type(weight) not in (Tensor, torch.nn.Parameter)
    return own and type(weight).dequantize is not Tensor.dequantize and weight.ndim == 2


def _of_4bit(weight: Any) -> QuantisedRows:
    """Return rows of blocks of numbers that share a scale; blocks may begin within a row."""
    functional, state = sys.modules["bitsandbytes.functional"], weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        raise TypeError(
            "this 4-bit weight lies in the order of bitsandbytes' products on CPUs, since its layer has run in eval "
            "mode; layer.state_dict() puts it back"
        )
    (V, D), block, codes = state.shape, state.blocksize, weight.data.reshape(-1)

    def make(begin: int, end: int) -> Tensor:
        first, last = begin * D // block, -(-end * D // block)
        stop = min(last * block, V * D)
        part = functional.QuantState(
            absmax=_block_scales(functional, state)[first:last],
            shape=(1, stop - first * block),
            code=state.code,
            blocksize=block,
            quant_type=state.quant_type,
            dtype=state.dtype,
        )
        numbers = functional.dequantize_4bit(codes[first * block // 2 : -(-stop // 2)], quant_state=part)
        before = begin * D - first * block
        return numbers.reshape(-1)[before : before + (end - begin) * D].view(end - begin, D)

    return QuantisedRows(make, (V, D), state.dtype)


def _block_scales(functional: Any, state: Any) -> Tensor:
    """Return the scale of each block, which may be quantised itself."""
    if not state.nested:
        return state.absmax
    return (functional.dequantize_blockwise(state.absmax, state.state2) + state.offset).float()


def _of_8bit(weight: Any, scales: Tensor | None) -> QuantisedRows:
    largest: Any = scales if getattr(weight, "SCB", None) is None else weight.SCB
    if largest is None:
        raise TypeError(
            "this 8-bit weight has no scales: its layer holds them; pass Dequantized(function, shape, dtype) with a "
            "function that reads layer.state.SCB"
        )

    def make(begin: int, end: int) -> Tensor:
        return weight.data[begin:end].float() * (largest[begin:end, None].float() / 127.0)

    return QuantisedRows(make, tuple(weight.shape), torch.float32)
