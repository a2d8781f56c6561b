"""An examination of the installation: versions, instruction sets and backends, and whether their results are right.

`crossent doctor` prints it, and so does `python -m crossent.doctor`, which needs nothing but NumPy.
"""

from __future__ import annotations

import math
import platform
import sys
from importlib import import_module, metadata
from typing import Any, NamedTuple

import numpy as np

from crossent import kernels, reference, tried
from crossent.kernels import cpu, lock
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, Cotangents, RowStats
from crossent.version import __version__

EXTRAS = {
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
"""The extra of crossent that installs each optional package, empty if none does."""
_DTYPES = (np.float32, np.float64)
_CONFIDENT = 16.0  # a logit above zeros: the loss is that of a right answer that is nearly certain
_BOUND = 64  # units of the dtype's epsilon; rounding stays under 8, a wrong kernel is off by thousands


class Line(NamedTuple):
    """One line of the examination: a name, and its text."""

    name: str
    text: str


class Check(NamedTuple):
    """Whether results are right, and lines about them."""

    right: bool
    lines: list[Line]


def examine() -> bool:
    """Print the examination, and return whether the core exists and all results are right."""
    checks = core_check, torch_check, gpu_check = check_core(), check_torch(), check_gpus()
    print(f"crossent {__version__}")
    for heading, lines in (
        ("system", system()),
        ("packages", packages()),
        ("core", [*core(), *core_check.lines, *torch_check.lines]),
        ("backends", [*backends(), *gpu_check.lines]),
    ):
        print(f"\n{heading}")
        for line in lines:
            print(f"  {line.name:<21}  {line.text}")
    return all(check.right for check in checks)


def system() -> list[Line]:
    """Return the versions of Python and the system, and whether each was tried."""
    version = platform.python_version()
    free = f"; free-threaded: {lock.NEVER}" if lock.is_free_threaded() else ""
    found = f"{version} ({platform.python_implementation()}, {sys.executable})"
    return [
        Line("Python", f"{found}{tried.verdict('python', version)}{free}"),
        Line("platform", platform.platform()),
        Line("processor", f"{platform.machine()}{tried.system_verdict(tried.system())}"),
    ]


def packages() -> list[Line]:
    """Return the version of NumPy and of every optional package, whether it was tried, or how to install it."""
    lines = [Line("numpy", f"{np.__version__}{tried.verdict('numpy', np.__version__)}")]
    for name, extra in EXTRAS.items():
        try:
            version = metadata.version(name)
            lines.append(Line(name, f"{version}{tried.verdict(name, version)}"))
        except metadata.PackageNotFoundError:
            advice = f": pip install 'crossent[{extra}]'" if extra else ""
            lines.append(Line(name, f"not installed{advice}"))
    return lines


def core() -> list[Line]:
    """Return the instruction set and the number of threads of the CPU core."""
    if kernels.why_not("cpu") is not None:
        return []
    best_last = ", ".join(cpu.available_isas())
    return [
        Line(
            "instruction set",
            f"{cpu.isa()} (available: {best_last}; set the environment variable CROSSENT_ISA to choose)",
        ),
        Line("threads without torch", f"{cpu.own_threads()} (own)"),
    ]


def backends() -> list[Line]:
    """Return whether each backend can be used, or the reason why not."""
    return [Line(name, kernels.why_not(name) or "can be used") for name in kernels.names()]


def check_core() -> Check:
    """Compare the core with `crossent.reference` on every instruction set."""
    reason = kernels.why_not("cpu")
    if reason is not None:
        return Check(False, [Line("self-check", f"not done: {reason}")])
    right, lines, chosen = True, list[Line](), cpu.isa()
    try:
        for isa in cpu.available_isas():
            cpu.use_isa(isa)
            errors = [core_error(dtype) for dtype in _DTYPES]
            fine = all(e <= _BOUND * np.finfo(dtype).eps for e, dtype in zip(errors, _DTYPES, strict=True))
            shown = ", ".join(f"{e:.0e} in {np.dtype(dtype)}" for e, dtype in zip(errors, _DTYPES, strict=True))
            wrong = list(
                dict.fromkeys(name for dtype in _DTYPES for name in (*wrong_rows(dtype), *wrong_summaries(dtype)))
            )
            edges = f"; wrong results of {', '.join(wrong)}" if wrong else ""
            fine = fine and not wrong
            lines.append(Line(f"check {isa}", f"{'correct' if fine else 'WRONG'}: largest error {shown}{edges}"))
            right = right and fine
    finally:
        cpu.use_isa(chosen)
    return Check(right, lines)


def check_torch() -> Check:
    """Check that the loss of equal logits is log V in `crossent.torch`, if that can be imported."""
    if kernels.why_not("cpu") is not None:
        return Check(False, [])
    try:
        torch = import_module("torch")
        functional = import_module("crossent.torch")
    except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing
        return Check(True, [Line("check torch", f"not done: {error}")])
    loss = functional.cross_entropy(torch.zeros(3, 301, dtype=torch.float64), torch.tensor([0, 7, 300]))
    error = abs(loss.item() - math.log(301))
    fine = error <= _BOUND * np.finfo(np.float64).eps
    product = check_product(torch)
    with_torch = f"{cpu.own_threads()} (own)"
    if cpu.threads_are_lent():
        with_torch = f"{torch.get_num_threads()} (torch.set_num_threads changes it)"
    lines = [
        Line("check torch", f"{'correct' if fine else 'WRONG'}: error {error:.0e} in float64"),
        *product.lines,
        Line("threads with torch", with_torch),
    ]
    return Check(fine and product.right, lines)


def check_gpus() -> Check:
    """Check that the loss of equal logits is log V on every GPU that torch finds."""
    if kernels.why_not("triton") is not None:
        return Check(True, [])
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
        lines.append(
            Line(f"check {device}", f"{'correct' if fine else 'WRONG'}: error {error:.0e} in float32 on {name}")
        )
        right = right and fine
    return Check(right, lines)


def check_product(torch: Any) -> Check:
    """Check a product of two bfloat16 matrices as the linear loss computes it."""
    products = import_module("crossent.torch.sources.products")
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=random).bfloat16() for shape in ((33, 65), (65, 17)))
    dtype, exact, found = products.operand_dtype(torch.bfloat16), a.double() @ b.double(), torch.empty(33, 17)
    products.multiply(products.operand(a, dtype), products.operand(b, dtype), found)
    error = float((found - exact).norm() / exact.norm())
    fine = error <= _BOUND * float(np.finfo(np.float32).eps)
    where = "on matrix units" if dtype == torch.bfloat16 else "as float32 numbers; no matrix units, or no BLAS for them"
    return Check(
        fine, [Line("check bfloat16", f"{'correct' if fine else 'WRONG'}: error {error:.0e} of products {where}")]
    )


def core_error(dtype: type[np.float32 | np.float64]) -> float:
    """Return the largest error of the core's losses, entropies and gradients of 5 rows, relative to max(1, |value|)."""
    random = np.random.default_rng(0)
    logits = (5.0 * random.standard_normal((5, 301))).astype(dtype)
    target = Target(
        index=np.array([0, 7, 300, 150, 8]), weight=random.uniform(0.5, 2.0, 301), smoothing=0.1, ignore_index=7
    )
    scores = Scores(temperature=1.5, softcap=20.0)
    record, grad = np.full((len(FIELDS), 5), np.nan), np.full_like(logits, np.nan)
    cpu.row_stats(logits, target, scores, record)
    cotangents = Cotangents(np.full(5, 1.0, dtype), np.full(5, 0.5, dtype), np.full(5, 0.25, dtype))
    cpu.row_grad(logits, target, scores, record, cotangents, grad)

    expected = reference.row_stats(logits, target, scores)
    pairs = (
        (RowStats(*record).loss, expected.loss),
        (RowStats(*record).lse, expected.lse),
        (RowStats(*record).entropy, expected.entropy),
        (grad, reference.row_grad(logits, target, scores, expected, cotangents)),
    )
    return float(np.max([np.max(np.abs(found - value) / np.maximum(1.0, np.abs(value))) for found, value in pairs]))


def wrong_rows(dtype: type[np.float32 | np.float64]) -> list[str]:
    """Return the names of the rows of infinite, missing or extreme logits whose results the core gets wrong.

    What a miscompiled core loses first are these rows: errors of ordinary ones stay small. Short and long rows take
    different ways through the core.
    """
    wrong: list[str] = []
    for V in (7, 301):
        rows = extreme_rows(V, np.finfo(dtype))
        logits, N = np.array(list(rows.values()), dtype), len(rows)
        target, scores = Target(index=np.zeros(N, np.int64)), Scores()
        record, grad = np.full((len(FIELDS), N), np.nan), np.full_like(logits, np.nan)
        cpu.row_stats(logits, target, scores, record)
        cotangents = Cotangents(np.full(N, 1.0, dtype), np.full(N, 0.5, dtype), np.full(N, 0.25, dtype))
        cpu.row_grad(logits, target, scores, record, cotangents, grad)
        with np.errstate(all="ignore"):
            found, expected = RowStats(*record), reference.row_stats(logits, target, scores)
            loss = expected.loss.copy()
            loss[list(rows).index("a confident row")] = np.log1p((V - 1) * np.exp(-_CONFIDENT))
            fine = (
                _agree(found.loss, loss, dtype, relative=True)
                & _agree(found.lse, expected.lse, dtype)
                & _agree(found.entropy, expected.entropy, dtype)
                & _agree(grad, reference.row_grad(logits, target, scores, expected, cotangents), dtype).all(axis=1)
            )
        wrong += [name for name, right in zip(rows, fine, strict=True) if not right]
    return wrong


def extreme_rows(V: int, limits: np.finfo[Any]) -> dict[str, Any]:
    """Return rows of V logits by name: infinite, missing, confident and tiny ones."""
    ordinary, first = np.linspace(-3.0, 3.0, V), np.arange(V) == 0
    last = first[::-1]
    return {
        "a row of nothing but -inf": np.full(V, -np.inf),
        "a row with a NaN": np.where(last, np.nan, ordinary),
        "a row with +inf": np.where(last, np.inf, ordinary),
        "a row with -inf off its class": np.where(last, -np.inf, ordinary),
        "a row with -inf at its class": np.where(first, -np.inf, ordinary),
        "a confident row": np.where(first, _CONFIDENT, 0.0),
        "a row of denormal numbers": float(limits.smallest_subnormal) * np.arange(V),
        "a row of large numbers": np.where(first, 0.0, -float(limits.max) / 4),
    }


def wrong_summaries(dtype: type[np.float32 | np.float64]) -> list[str]:
    """Return the names of the rows of numbers whose statistics, which a score is made of, the core gets wrong."""
    wrong: list[str] = []
    for V in (7, 301):
        rows = {
            "the summary of probabilities": np.arange(1.0, V + 1) / V**2,
            "the summary of nothing but -inf": np.full(V, -np.inf),
            "the summary of nothing but inf": np.full(V, np.inf),
            "the summary of a row with a NaN": np.where(np.arange(V) == V // 2, np.nan, 0.25),
        }
        values, N = np.array(list(rows.values()), dtype), len(rows)
        result, place = np.full((5, N), np.nan), np.full(N, -1, np.int64)
        cpu.row_summary(values, np.full(N, V - 1), result, place, entropic=True)
        with np.errstate(all="ignore"):
            x = values.astype(np.float64)
            information = np.where(x > 0, -x * np.log(x), 0.0).sum(axis=1)
            expected = (x[:, -1], x.sum(axis=1), np.fmax.reduce(x, axis=1), np.fmin.reduce(x, axis=1), information)
            fine = place == np.where(np.isneginf(x).all(axis=1), 0, np.nanargmax(x, axis=1))
            for found, value in zip(result, expected, strict=True):
                fine &= _agree(found, value, dtype)
        wrong += [name for name, right in zip(rows, fine, strict=True) if not right]
    return wrong


def _agree(found: Any, expected: Any, dtype: type[np.float32 | np.float64], *, relative: bool = False) -> Any:
    """Return where two arrays have the same infinite and missing numbers, and others but for rounding."""
    scale = np.abs(expected) if relative else np.maximum(1.0, np.abs(expected))
    record = float(np.finfo(np.float64).eps)  # a total of nearly 1 is kept in float64
    near = np.abs(found - expected) <= _BOUND * np.finfo(dtype).eps * scale + record
    return (near & np.isfinite(expected)) | (found == expected) | (np.isnan(found) & np.isnan(expected))


if __name__ == "__main__":
    sys.exit(0 if examine() else 1)
