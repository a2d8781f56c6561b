"""Gradients times their cotangent, in one kernel that reads the cotangent where it is: on the device.

The launcher need not know the number. Where it is 1 and nothing has to be rounded, programs return at once.
"""

# No `from __future__ import annotations`: Triton reads the annotations "i64" and "i32" as the types of arguments.

from typing import Any

import triton
import triton.language as tl

_LANES, _WARPS = 512, 4
_PROGRAMS = 4096  # enough to fill any GPU; each has a part of the numbers


@triton.jit(do_not_specialize=["size", "blocks"], do_not_specialize_on_alignment=["factor"])
def scale(
    x, factor, out, size: "i64", blocks: "i32",
    T: tl.constexpr, M: tl.constexpr, U: tl.constexpr, IN_PLACE: tl.constexpr,
):  # fmt: skip
    """Write factor · x; a program has `blocks` blocks of M groups of U numbers, and the first one also the rest."""
    g, program = tl.load(factor).to(T), tl.program_id(0)
    begin = program.to(tl.int64) * blocks * (M * U)
    there = size
    if IN_PLACE:
        there = tl.where(g == 1, 0, size)
        blocks = tl.where(g == 1, 0, blocks)
    group = (tl.arange(0, M) * U)[:, None]
    for k in range(blocks):
        first = begin + k * (M * U) + group
        at, whole = first + tl.arange(0, U)[None, :], first + U <= there
        tl.store(out + at, (tl.load(x + at, mask=whole).to(T) * g).to(out.dtype.element_ty), mask=whole)
    at = there // U * U + tl.arange(0, U)
    left = (at < there) & (program == 0)
    tl.store(out + at, (tl.load(x + at, mask=left).to(T) * g).to(out.dtype.element_ty), mask=left)


def write_scaled(x: Any, factor: Any, out: Any) -> None:
    """Write factor · x into `out`, both contiguous and of one shape; it may be x itself."""
    if not (x.is_contiguous() and out.is_contiguous()):
        raise ValueError(f"gradients of strides {x.stride()} and {out.stride()} are not contiguous; this is a bug")
    size, least = x.numel(), min(x.element_size(), out.element_size())
    if size == 0:
        return
    groups = 16 // least
    block = _LANES * groups
    blocks = -(-size // (block * _PROGRAMS))
    kernel: Any = scale[(-(-size // (block * blocks)),)]
    kernel(
        x, factor, out, size, blocks, T=tl.float64 if 8 in (x.element_size(), factor.element_size()) else tl.float32,
        M=_LANES, U=groups, IN_PLACE=out is x, num_warps=_WARPS,
    )  # fmt: skip
