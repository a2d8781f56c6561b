"""Matrix products written into memory at hand, in the type that this processor multiplies best and exactly enough.

float32 and float64 products are torch's own. Half-precision operands give float32 products: on GPUs by torch's own
function for that; on processors with matrix units for bfloat16 by the BLAS function that torch itself is built with;
elsewhere as float32 numbers, which processors without such units multiply about twice as fast as bfloat16 ones.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.torch.base.libtorch import torch_function
from crossent.torch.sources.processor import THIS

_ROW_MAJOR, _AS_IS, _TRANSPOSED = 101, 111, 112
_LARGEST = 2**31 - 1


def _find_bfloat16_gemm() -> Any:
    # oneMKL's cblas_gemm_bf16bf16f32: https://www.intel.com/content/www/us/en/docs/onemkl/developer-reference-c
    return torch_function("cblas_gemm_bf16bf16f32") if THIS.matrix_units else None


_bfloat16_gemm = _find_bfloat16_gemm()
_HAS_UNITS = _bfloat16_gemm is not None  # known at import, because compilers read it


def operand_dtype(dtype: torch.dtype, device: torch.device | None = None) -> torch.dtype:
    """Return the dtype that operands of this dtype should be multiplied in; products are float64 or else float32."""
    if dtype in (torch.float32, torch.float64):
        return dtype
    if device is not None and device.type == "cuda":
        return dtype if _has_wide_products() else torch.float32
    return dtype if dtype == torch.bfloat16 and _HAS_UNITS else torch.float32


@functools.cache
def _has_wide_products() -> bool:
    """Return whether torch multiplies half-precision matrices on GPUs into float32 matrices, also adding to them."""
    half = torch.ones((16, 16), dtype=torch.bfloat16, device="cuda")
    wide = torch.zeros((16, 16), dtype=torch.float32, device="cuda")
    try:
        torch.mm(half, half, out_dtype=torch.float32, out=wide)
        torch.addmm(wide, half, half, out_dtype=torch.float32, out=wide)
    except (RuntimeError, TypeError):  # ROCm before torch 2.10, and other builds without the function
        return False
    return True


def operand(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a matrix in a dtype, and in memory that BLAS can read."""
    matrix = matrix.to(dtype)
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    readable = (across == 1 and down >= columns) or (down == 1 and across >= rows)
    if dtype == torch.bfloat16 and matrix.is_cpu:  # torch multiplies the gaps between rows by 0, and NaN stays NaN
        readable = matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if readable else matrix.contiguous()


def multiply(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> None:
    """Write a @ b into `out`, whose rows are contiguous, or add it; a and b are operands or transposed operands.

    `out` has the dtype of the operands, or float32.
    """
    if a.dtype != out.dtype and out.is_cuda:
        if add:
            torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
        else:
            torch.mm(a, b, out_dtype=out.dtype, out=out)
    elif a.dtype == torch.bfloat16 and out.dtype == torch.float32:
        _multiply_bfloat16(a, b, out, add)
    elif add:
        torch.addmm(out, a, b, out=out)
    else:
        torch.mm(a, b, out=out)


def add_rows(matrix: Tensor, out: Tensor) -> None:
    """Add the sum of all rows of a matrix to `out`, which has the dtype of the matrix, or float32."""
    if matrix.is_cpu and matrix.dtype != out.dtype:  # torch's sum would copy the matrix into the dtype of `out`
        multiply(matrix.t(), matrix.new_ones((len(matrix), 1)), out.unsqueeze(1), add=True)
    else:
        out += matrix.sum(0, dtype=out.dtype)


def _multiply_bfloat16(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    m, n, k = *out.shape, a.shape[1]
    if m == 0 or n == 0:
        return
    if k == 0:
        _ = out if add else out.zero_()
        return
    left, right = _layout(a), _layout(b)
    number, pointer, real = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    if max(m, n, k, left.step, right.step, out.stride(0)) > _LARGEST:
        raise ValueError(f"a matrix product of {m} × {k} × {n} is too large for the BLAS; use smaller chunk_bytes")
    _bfloat16_gemm(
        number(_ROW_MAJOR), number(left.order), number(right.order), number(m), number(n), number(k), real(1.0),
        pointer(a.data_ptr()), number(left.step), pointer(b.data_ptr()), number(right.step), real(1.0 if add else 0.0),
        pointer(out.data_ptr()), number(out.stride(0)),
    )  # fmt: skip


class _Layout(NamedTuple):
    """How BLAS reads a matrix: plain or transposed, and the stride of its rows (or columns)."""

    order: int
    step: int


def _layout(matrix: Tensor) -> _Layout:
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return _Layout(_AS_IS, max(down, columns))
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):
        return _Layout(_TRANSPOSED, max(across, rows))
    raise ValueError(f"BLAS cannot read a matrix of shape {(rows, columns)} with strides {(down, across)}")
