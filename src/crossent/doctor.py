"""An examination of the installation: what is there, which code runs, and whether it computes rightly.

`crossent doctor` prints it, and so does `python -m crossent.doctor`, which needs nothing but NumPy.
"""

from __future__ import annotations

import math
import platform
import sys
from importlib import import_module, metadata
from typing import Any

import numpy as np

from crossent import kernels, reference
from crossent.kernels import cpu
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from crossent.version import __version__

Line = tuple[str, str]

_OPTIONAL = {
    "torch": "torch",
    "triton": "",
    "jax": "",
    "scikit-learn": "demo",
    "matplotlib": "score",
    "rich": "score",
    "typer": "score",
    "narwhals": "score",
    "scipy": "score",
    "pyarrow": "score",
}
_DTYPES = (np.float32, np.float64)
_BOUND = 64  # units of the dtype's epsilon; rounding stays under 8, a wrong kernel is off by thousands


def examine() -> bool:
    """Print the examination, and return whether the core was there and computed rightly."""
    found = core()  # before torch lends its threads
    (core_right, core_lines), (torch_right, torch_lines) = check_core(), check_torch()
    gpu_right, gpu_lines = check_gpus()
    print(f"crossent {__version__}")
    for heading, lines in (
        ("system", system()),
        ("packages", packages()),
        ("core", [*found, *core_lines, *torch_lines]),
        ("backends", [*backends(), *gpu_lines]),
    ):
        print(f"\n{heading}")
        for name, text in lines:
            print(f"  {name:<16}  {text}")
    return core_right and torch_right and gpu_right


def system() -> list[Line]:
    """Return the versions of Python and the system."""
    return [
        ("Python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"),
        ("platform", platform.platform()),
        ("processor", platform.machine()),
    ]


def packages() -> list[Line]:
    """Return the version of NumPy and of every optional package, or how to install it."""
    lines: list[Line] = [("numpy", np.__version__)]
    for name, extra in _OPTIONAL.items():
        try:
            lines.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            advice = f": pip install 'crossent[{extra}]'" if extra else ""
            lines.append((name, f"not installed{advice}"))
    return lines


def core() -> list[Line]:
    """Return the instruction set and the threads of the CPU core."""
    if kernels.why_not("cpu") is not None:
        return []
    best_last = ", ".join(cpu.available_isas())
    return [
        ("instruction set", f"{cpu.isa()} (available: {best_last}; the variable CROSSENT_ISA chooses)"),
        ("threads", cpu.threads()),
    ]


def backends() -> list[Line]:
    """Return for each backend that it can be used, or the reason why not."""
    return [(name, kernels.why_not(name) or "can be used") for name in kernels.names()]


def check_core() -> tuple[bool, list[Line]]:
    """Return whether the core agrees with `crossent.reference` on every instruction set, and lines with the errors."""
    reason = kernels.why_not("cpu")
    if reason is not None:
        return False, [("self-check", f"not done: {reason}")]
    right, lines, chosen = True, list[Line](), cpu.isa()
    try:
        for isa in cpu.available_isas():
            cpu.use_isa(isa)
            errors = [core_error(dtype) for dtype in _DTYPES]
            fine = all(e <= _BOUND * np.finfo(dtype).eps for e, dtype in zip(errors, _DTYPES, strict=True))
            shown = ", ".join(f"{e:.0e} in {np.dtype(dtype)}" for e, dtype in zip(errors, _DTYPES, strict=True))
            lines.append((f"check {isa}", f"{'right' if fine else 'WRONG'}: largest error {shown}"))
            right = right and fine
    finally:
        cpu.use_isa(chosen)
    return right, lines


def check_torch() -> tuple[bool, list[Line]]:
    """Return whether `crossent.torch`, if it can be imported, gives equal logits the loss log V, and lines about it."""
    if kernels.why_not("cpu") is not None:
        return False, []
    try:
        torch = import_module("torch")
        functional = import_module("crossent.torch")
    except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing
        return True, [("check torch", f"not done: {error}")]
    loss = functional.cross_entropy(torch.zeros(3, 301, dtype=torch.float64), torch.tensor([0, 7, 300]))
    error = abs(loss.item() - math.log(301))
    fine = error <= _BOUND * np.finfo(np.float64).eps
    product_fine, product = check_product(torch)
    return fine and product_fine, [
        ("check torch", f"{'right' if fine else 'WRONG'}: error {error:.0e} in float64"),
        ("check bfloat16", product),
        ("threads, torch", f"{cpu.threads()}, which has {torch.get_num_threads()} (torch.set_num_threads)"),
    ]


def check_gpus() -> tuple[bool, list[Line]]:
    """Return whether every GPU that torch finds gives equal logits the loss log V, and lines about each."""
    if kernels.why_not("triton") is not None:
        return True, []
    torch, functional = import_module("torch"), import_module("crossent.torch")
    right, lines = True, list[Line]()
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        logits = torch.zeros(3, 50257, device=device, dtype=torch.bfloat16, requires_grad=True)
        loss = functional.cross_entropy(logits, torch.tensor([0, 7, 50256], device=device))
        loss.backward()
        error = abs(loss.item() - math.log(50257))
        fine = error <= _BOUND * np.finfo(np.float32).eps and bool(logits.grad.isfinite().all())
        name = torch.cuda.get_device_name(device)
        lines.append((f"check {device}", f"{'right' if fine else 'WRONG'}: error {error:.0e} in float32 on {name}"))
        right = right and fine
    return right, lines


def check_product(torch: Any) -> tuple[bool, str]:
    """Return whether the product of two bfloat16 matrices that the linear loss takes is right, and how it is taken."""
    gemm = import_module("crossent.torch.sources.products")
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=random).bfloat16() for shape in ((33, 65), (65, 17)))
    dtype, exact, found = gemm.operand_dtype(torch.bfloat16), a.double() @ b.double(), torch.empty(33, 17)
    gemm.multiply(gemm.operand(a, dtype), gemm.operand(b, dtype), found)
    error = float((found - exact).norm() / exact.norm())
    fine = error <= _BOUND * float(np.finfo(np.float32).eps)
    where = "on matrix units" if dtype == torch.bfloat16 else "as float32 numbers; no matrix units, or no BLAS for them"
    return fine, f"{'right' if fine else 'WRONG'}: error {error:.0e} of products {where}"


def core_error(dtype: type[np.float32 | np.float64]) -> float:
    """Return the largest error of the core's losses, entropies and gradients of 5 rows, relative to max(1, |value|)."""
    random = np.random.default_rng(0)
    logits = (5.0 * random.standard_normal((5, 301))).astype(dtype)
    target = Target(
        index=np.array([0, 7, 300, 150, 8]), weight=random.uniform(0.5, 2.0, 301), smoothing=0.1, ignore_index=7
    )
    scores = Scores(temperature=1.5, softcap=20.0)
    record, grad = np.full((5, 5), np.nan), np.full_like(logits, np.nan)
    cpu.row_stats(logits, target, scores, record)
    cotangents = np.full(5, 1.0, dtype), np.full(5, 0.5, dtype), np.full(5, 0.25, dtype)
    cpu.row_grad(logits, target, scores, record, cotangents, grad)

    expected = reference.row_stats(logits, target, scores)
    pairs = (
        (RowStats(*record).loss, expected.loss),
        (RowStats(*record).lse, expected.lse),
        (RowStats(*record).entropy, expected.entropy),
        (grad, reference.row_grad(logits, target, scores, expected, cotangents)),
    )
    return float(np.max([np.max(np.abs(found - value) / np.maximum(1.0, np.abs(value))) for found, value in pairs]))


if __name__ == "__main__":
    sys.exit(0 if examine() else 1)
