"""The Triton backend: the row functions on NVIDIA and AMD GPUs, for torch tensors. No call waits for the device.

Here are the functions of the contract (`crossent.kernels.backend`); behind them `functions` and `pairs` (which kernels
run), `arguments`, `task`, `elements` (a call as kernels take it), `launch`; the kernels: `rows`, `cached`, `finish`,
`few`, `pair_sums`, `pair_gradient` over `lanes`, `record`, `gradient`, `heads`, `gap`, `tiles`, `scores`; `binary`,
`scaling`. The package itself imports neither torch nor Triton, so that `why_not` can report a missing one.

Differences from the CPU: a class that does not exist, a target probability that is negative or not finite, or a
temperature of a row that is out of range makes loss and gradient of its row NaN, because to raise is to wait for the
device. With CROSSENT_VALIDATE=1 in the environment they are errors here too, and every call waits.
"""

from __future__ import annotations

import functools
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from crossent.kernels.backend import (
    NO_OUTPUTS,
    BinaryKind,
    BinaryOperands,
    Cotangents,
    LossScale,
    PairCotangents,
    Reduced,
    RowOutputs,
    Scalar,
    Teacher,
)
from crossent.spec import Scores, Target

FEW_CLASSES = 64
ADDS_BIAS = True
_OLDEST = (3, 6)


def why_not() -> str | None:
    """Return None if there are Triton and a GPU for it, else the reason."""
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f"{package} is not installed; the CUDA and ROCm builds of torch bring Triton with them"
    triton, torch = import_module("triton"), import_module("torch")
    if tuple(int(x) for x in triton.__version__.split(".")[:2]) < _OLDEST:
        return f"Triton {triton.__version__} is older than 3.6; use torch 2.10 or later"
    if interpreted():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA and ROCm; get another at https://pytorch.org"
    return None if torch.cuda.is_available() else "torch finds no GPU; look at `nvidia-smi` or `rocm-smi`"


def interpreted() -> bool:
    """Return whether Triton runs its kernels in NumPy, on CPU tensors (TRITON_INTERPRET=1): slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _functions() -> Any:
    """Return the functions that import torch and Triton, which this module does not."""
    return import_module("crossent.kernels.triton.functions")


@functools.cache
def _pairs() -> Any:
    """Return those of a row and its teacher's."""
    return import_module("crossent.kernels.triton.pairs")


def row_stats(
    logits: Any,
    target: Target,
    scores: Scores,
    record: Any,
    outputs: RowOutputs = NO_OUTPUTS,
    *,
    extend: bool = False,
) -> None:
    """Write the record of each row, and loss, lse and entropy where wanted: `Backend.row_stats`."""
    _functions().row_stats(logits, target, scores, record, outputs, extend=extend)


def row_loss(logits: Any, target: Target, scores: Scores, record: Any, losses: Any, *, mean: bool) -> Reduced:
    """Return sum or mean of the losses and its derivative by each, as tensors of shape (): `Backend.row_loss`.

    The mean is made in the same order every time, so that it has the same bits.
    """
    return _functions().row_loss(logits, target, scores, record, mean=mean)


def row_grad(logits: Any, target: Target, scores: Scores, record: Any, cotangents: Cotangents, grad: Any) -> None:
    """Write the gradient of each row, in half precision for float32 logits if `grad` is: `Backend.row_grad`."""
    _functions().row_grad(logits, target, scores, record, cotangents, grad)


def row_fused(
    logits: Any,
    target: Target,
    scores: Scores,
    scale: LossScale,
    record: Any,
    grad: Any,
    outputs: RowOutputs = NO_OUTPUTS,
) -> None:
    """Write the record of each row and the gradient of a weighted sum of losses: `Backend.row_fused`.

    Rows of at most 8 thousand contiguous columns are read once, longer ones and those under a softcap twice: by two
    kernels, or with CROSSENT_GPU_ONE_KERNEL=1 in the environment by one, if they are longer.
    """
    _functions().row_fused(logits, target, scores, scale, record, grad, outputs)


def pair_stats(
    logits: Any,
    scores: Scores,
    record: Any,
    teacher: Teacher,
    beta: float | None,
    sums: Any,
    *,
    extend: bool = False,
) -> None:
    """Write the sums of each row beside its teacher's, those of a mixture if there is β: `Backend.pair_stats`."""
    _pairs().pair_stats(logits, scores, record, teacher, beta, sums, extend=extend)


def pair_grad(
    logits: Any,
    target: Target,
    scores: Scores,
    record: Any,
    teacher: Teacher,
    beta: float | None,
    sums: Any,
    cotangents: PairCotangents,
    grad: Any,
) -> None:
    """Write the gradient of each row by all that it has with its teacher's: `Backend.pair_grad`."""
    _pairs().pair_grad((logits, target, scores), record, teacher, beta, sums, cotangents, grad)


def binary_loss(kind: BinaryKind, operands: BinaryOperands, out: Any) -> Scalar:
    """Write the binary cross-entropy of each element and return the sum, as a tensor (): `Backend.binary_loss`.

    An element whose target is not in [0, 1] has loss and gradient NaN, and so has one of an input of probabilities.
    """
    return _functions().binary_loss(kind, BinaryOperands(*operands), out)


def binary_grad(kind: BinaryKind, operands: BinaryOperands, cotangent: Any, out: Any) -> None:
    """Write the derivative of each element's loss, times its cotangent: `Backend.binary_grad`."""
    _functions().binary_grad(kind, BinaryOperands(*operands), cotangent, out)


def scale(x: Any, factor: Any, out: Any) -> None:
    """Write factor · x into `out`, rounded once to its dtype, without waiting for the factor; only GPUs have this.

    Both are contiguous, and `out` may be x itself: it is then left alone where the factor, a tensor (), is 1.
    """
    _functions().scale(x, factor, out)
