"""Matrix products into memory at hand, against float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from crossent.torch.sources import products
from crossent.torch.sources.products import add_rows, multiply, operand, operand_dtype
from tests.torch import plain
from tests.torch.test_linear_products import peak_of

PAIRS = [(torch.float32, torch.float32), (torch.float64, torch.float64)]
if products._HAS_UNITS:
    PAIRS.append((torch.bfloat16, torch.float32))
LAYOUTS = {
    "rows": lambda x: x.contiguous(),
    "columns": lambda x: x.t().contiguous().t(),
    "rows of a wider one": lambda x: torch.cat([x, x.new_full((len(x), 3), torch.nan)], 1)[:, : x.shape[1]],
    "columns of a longer one": lambda x: torch.cat([x.t(), x.new_full((x.shape[1], 3), torch.nan)], 1)[:, : len(x)].t(),
    "every other column": lambda x: torch.stack([x, x + 9], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize(("dtype", "wide"), PAIRS, ids=str)
@pytest.mark.parametrize("add", [False, True])
def test_products_are_those_of_float64(add, dtype, wide):
    for (m, k, n), (a_lay, b_lay) in itertools.product(
        ((5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (0, 7, 3), (5, 0, 3), (5, 7, 0)),
        itertools.product(LAYOUTS.values(), repeat=2),
    ):
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        if m == 0 or k == 0:
            a_lay = b_lay = LAYOUTS["rows"]  # noqa: PLW2901
        a, b = operand(a_lay(a), dtype), operand(b_lay(b), dtype)
        whole = torch.full((m, n + 2), 7.0, dtype=wide)
        out = whole[:, :n]
        before = out.double().clone()
        multiply(a, b, out, add=add)
        want = a.double() @ b.double() + (before if add else 0)
        plain.agree("product", out, want, None, plain.FLOOR[wide])
        assert (whole[:, n:] == 7).all()


@pytest.mark.parametrize(("dtype", "wide"), PAIRS, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_sums_of_rows_are_added_without_a_copy_of_the_matrix(rows, dtype, wide):
    matrix = torch.cat([torch.randn(rows, 4000), torch.full((rows, 3), torch.nan)], 1).to(dtype)[:, :4000]
    out = torch.randn(4000, dtype=wide)
    want = out.double() + matrix.double().sum(0)
    extra = peak_of(lambda: add_rows(matrix, out)) if rows else add_rows(matrix, out) or 0
    plain.agree("sum", out, want, None, plain.FLOOR[wide])
    assert extra <= 4000 * wide.itemsize + 4096  # torch's sum of all rows, where dtypes are equal


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_operands_are_matrices_that_blas_can_read(lay, dtype):
    x = lay(torch.randn(5, 4, dtype=torch.float64))
    for to in (dtype, operand_dtype(dtype)):
        got = operand(x, to)
        assert got.dtype == to
        assert torch.equal(got, x.to(to))
        down, across = got.stride()
        assert (across == 1 and down >= 4) or (down == 1 and across >= 5)
        assert not products._HAS_UNITS or to != torch.bfloat16 or got.is_contiguous() or got.t().is_contiguous()


def test_operands_are_not_copied_for_nothing():
    for x in (torch.randn(5, 4), torch.randn(4, 5).t(), torch.randn(5, 9)[:, :4]):
        assert operand(x, torch.float32).data_ptr() == x.data_ptr()


def test_products_are_float64_or_float32():
    for dtype in (torch.float32, torch.float64):
        assert operand_dtype(dtype) == dtype
        assert operand_dtype(dtype, torch.device("cuda")) == dtype
    assert operand_dtype(torch.float16) == torch.float32
    assert operand_dtype(torch.bfloat16) == (torch.bfloat16 if products._HAS_UNITS else torch.float32)


@pytest.mark.skipif(products._HAS_UNITS, reason="this processor multiplies bfloat16")
def test_the_blas_function_is_called_with_what_it_expects(monkeypatch):
    # where there are no matrix units the function is not called, but its arguments can be looked at
    calls = []
    monkeypatch.setattr(products, "_bfloat16_gemm", lambda *args: calls.append([x.value for x in args]))
    a, b = torch.ones(5, 7, dtype=torch.bfloat16), torch.ones(3, 7, dtype=torch.bfloat16)
    out = torch.empty(5, 4)[:, :3]
    multiply(a, b.t(), out, add=True)
    ((order, left, right, m, n, k, alpha, at_a, step_a, at_b, step_b, beta, at_out, step),) = calls
    assert (order, left, right) == (101, 111, 112)  # CblasRowMajor, CblasNoTrans, CblasTrans
    assert (m, n, k, alpha, beta) == (5, 3, 7, 1.0, 1.0)
    assert (at_a, step_a, at_b, step_b, at_out, step) == (a.data_ptr(), 7, b.data_ptr(), 7, out.data_ptr(), 4)
    multiply(a.t(), a, torch.empty(7, 7))
    assert calls[1][1:3] == [112, 111]
    assert calls[1][11] == 0.0


def test_matrices_that_blas_cannot_read_and_products_too_large_for_it(monkeypatch):
    a = torch.ones(6, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"\(3, 4\).*strides"):
        multiply(a[::2, ::2], a[:4], torch.empty(3, 8))
    monkeypatch.setattr(products, "_LARGEST", 5)
    with pytest.raises(ValueError, match=r"6 × 8 × 6.*chunk_bytes"):
        multiply(a, a.t(), torch.empty(6, 6))
