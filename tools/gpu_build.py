"""Compile every kernel that the Triton backend can launch for several GPUs, on a machine that need not have one.

The launcher runs as it is, on tensors without memory and with a driver that only compiles. It fails where a kernel
spills registers, needs more shared memory than the chip has, or accesses less than 16 bytes at once where rows are
contiguous.

Results are kept outside the checkout, in $XDG_CACHE_HOME/crossent/gpu-build, under a digest of everything that they
depend on: a target is compiled again only if kernels, launcher, this check or the compiler have changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what all versions did before 3.10
os.environ.pop("TRITON_INTERPRET", None)

import torch
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from crossent.kernels import triton as backend
from crossent.kernels.backend import BinaryOperands, Cotangents, LossScale, RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import FIELDS

ROOT = Path(__file__).resolve().parents[1]

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_MEMORY = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
SHARES = 4
"""Processes that share the work for one target, one after the other on each processor."""
WIDE = ("long", "even", "middle", "one read")
"""Layouts whose tiles are made for accesses of 16 bytes."""
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}
KINDS = ("index", "topk", "smoothed capped", "dense", "dense capped")
FEWER_KINDS = {"f16": ("index",), "f64": ("index", "smoothed capped")}
"""float16 differs from bfloat16 in a conversion; float64 may be slow."""
EVEN = (("bf16", "index"), ("f32", "index"))
LAYOUTS = {
    "long": (4096, 50257),  # GPT-2: rows that begin anywhere
    "even": (4096, 128256),  # Llama 3; Qwen's 151936 is even too
    "middle": (4096, 1000),
    "short": (4096, 10),
    "beside": (2, 19, 4096),  # classes in the middle, as for segmentation
    "apart": (64, 100),  # columns apart
}
ONE_READ = (1500, 8000)

Call = Callable[[], Any]
DAYS_KEPT = 30


class Facts(NamedTuple):
    """Registers, spilled bytes and shared memory of a kernel, and its widest accesses to global memory in bits."""

    registers: int
    spilled: int
    shared: int
    load: int
    store: int


class Built(NamedTuple):
    """A kernel as it was compiled for a target, and the first call that led to it."""

    target: str
    kernel: str
    layout: str
    call: str
    facts: Facts
    seconds: float

    def faults(self) -> list[str]:
        """Return what is wrong with it."""
        f = self.facts
        found = [f"{f.spilled} bytes spilled"] if f.spilled else []
        if f.shared > SHARED_MEMORY[self.target]:
            found.append(f"{f.shared} bytes of shared memory, more than {SHARED_MEMORY[self.target]}")
        narrow = f.load < 128 or ("grad" in self.kernel and f.store < (64 if "to bf16" in self.call else 128))
        if self.layout in WIDE and self.kernel != "merge_parts" and narrow:
            found.append(f"narrow: loads of {f.load} bits, stores of {f.store}")
        return found


class Job(NamedTuple):
    """One share of all calls for one target, compiled in a process of its own."""

    target: str
    share: int


class NoGpu:
    """Stands in for a GPU's driver: Triton compiles for its target, and nothing runs."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


# Calls of the backend, one for each variant of a kernel


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    """Return a tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def target_of(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Target:
    """Return a target of this kind for logits of this shape."""
    rows, wide = shape[0] * (shape[2] if len(shape) == 3 else 1), computed(dtype)
    weight, smoothing = empty(shape[1], dtype=wide), 0.1 if "smoothed" in kind else 0.0
    if "dense" in kind:
        return Target(prob=empty(*shape, dtype=dtype), weight=weight)
    if kind == "topk":
        return Target(empty(rows, 32, dtype=torch.int64), empty(rows, 32, dtype=wide), weight)
    return Target(empty(rows, dtype=torch.int64), weight=weight, smoothing=smoothing, ignore_index=-100)


def computed(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that the kernels compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def calls() -> Iterator[tuple[str, str, Call]]:
    """Yield layout, description and call of the backend for every combination that leads to other code."""
    for (layout, shape), name, kind in itertools.product(LAYOUTS.items(), DTYPES, KINDS):
        known = (name, kind) in EVEN if layout == "even" else kind in FEWER_KINDS.get(name, KINDS)
        if known and not (name == "f64" and layout in WIDE):  # which has no wide tiles
            yield from row_calls(layout, shape, name, kind)
    for V, name, kind in itertools.product(ONE_READ, ("bf16", "f32"), ("index", "topk", "dense")):
        yield from row_calls("one read", (4096, V), name, kind)
    yield from row_calls("one read", (4096, ONE_READ[0]), "f16", "index")
    yield from row_calls("even", (32, 128256), "bf16", "index")  # few rows: records of parts, merged
    for name, kind, weighted in itertools.product(("bf16", "f32", "f64"), ("logits", "probabilities"), (False, True)):
        yield from binary_calls(name, kind, weighted)


def row_calls(layout: str, shape: tuple[int, ...], name: str, kind: str) -> Iterator[tuple[str, str, Call]]:
    """Yield the calls of the row functions for one kind of target and one layout."""
    dtype, rows = DTYPES[name], shape[0] * (shape[2] if len(shape) == 3 else 1)
    logits = empty(shape[0], 2 * shape[1], dtype=dtype)[:, ::2] if layout == "apart" else empty(*shape, dtype=dtype)
    scores, target = Scores(1.0, 30.0 if "capped" in kind else None), target_of(kind, shape, dtype)
    record = empty(len(FIELDS), rows, dtype=torch.float64)
    vectors: Any = tuple(empty(rows, dtype=computed(dtype)) for _ in range(3))
    label = f"{kind}, {tuple(shape)}, {name}"
    to = {"": logits}
    if name == "f32" and layout not in {"short", "apart"}:  # what the linear loss asks for
        to[" to bf16"] = empty(*shape, dtype=torch.bfloat16)
    if layout == "one read":
        for suffix, grad in to.items():
            arguments = (logits, target, scores, LossScale(*vectors[:2]), record, grad, RowOutputs(*vectors))
            yield layout, label + suffix, lambda a=arguments: backend.row_fused(*a)
        return
    yield layout, label, lambda: backend.row_stats(logits, target, scores, record, RowOutputs(*vectors))
    g = Cotangents(*vectors)
    for suffix, grad in to.items():
        yield layout, label + suffix, lambda to=grad: backend.row_grad(logits, target, scores, record, g, to)


def binary_calls(name: str, kind: str, weighted: bool) -> Iterator[tuple[str, str, Call]]:
    """Yield the calls of binary cross-entropy."""
    x, weight = empty(512, 512, dtype=DTYPES[name]), empty(512).expand(512, 512) if weighted else None
    label, operands = f"{kind}, {name}, {weighted=}", BinaryOperands(x, x, weight, weight)
    yield "elements", label, lambda: backend.binary_loss(kind, operands, None)
    yield "elements", f"{label}, stored", lambda: backend.binary_loss(kind, operands, empty(512, 512))
    yield "elements", label, lambda: backend.binary_grad(kind, operands, empty(512, 512), x)


# Facts about machine code


def facts(kernel: Any) -> Facts:
    """Read off machine code and assembly what a compiled kernel needs."""
    return of_nvidia(kernel) if "cubin" in kernel.asm else of_amd(kernel)


def of_nvidia(kernel: Any) -> Facts:
    """Read the facts of a kernel for NVIDIA."""
    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        _ = file.write(kernel.asm["cubin"])
        file.flush()
        shown = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", shown)[1]) for key in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    widest = {}
    for op in ("ld", "st"):
        found = re.findall(rf"\b{op}\.global[.\w:]*?(?:\.v(\d))?\.b(\d+) ", kernel.asm["ptx"])
        widest[op] = max((int(lanes or 1) * int(bits) for lanes, bits in found), default=0)
    return Facts(registers, stack + local, kernel.metadata.shared, widest["ld"], widest["st"])


def of_amd(kernel: Any) -> Facts:
    """Read the facts of a kernel for AMD; scalar registers that spill into vector registers cost no memory."""
    asm = kernel.asm["amdgcn"]
    number = {
        key: int(re.search(rf"\.{key}:\s*(\d+)", asm)[1])  # type: ignore[index]
        for key in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    }
    widest = {}
    for op in ("load", "store"):
        found = re.findall(rf"(?:global|buffer|flat)_{op}_dword(?:x(\d))?\b", asm)
        widest[op] = max((32 * int(lanes or 1) for lanes in found), default=0)
    spilled = 4 * number["vgpr_spill_count"] + number["private_segment_fixed_size"]
    return Facts(number["vgpr_count"], spilled, kernel.metadata.shared, widest["load"], widest["store"])


def build(job: Job) -> list[Built]:
    """Compile one share of all calls for one target, in a process of its own."""
    target, share = job
    driver.set_active(NoGpu(TARGETS[target]))
    torch.version.hip = "compiled" if TARGETS[target].backend == "hip" else None  # type: ignore[assignment]
    made: list[tuple[str, Any, float]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, warmup: bool, **options: Any) -> Any:
        begin = time.perf_counter()
        kernel = run(self, *args, warmup=True, **options)
        made.append((self.fn.__name__, kernel, time.perf_counter() - begin))
        return kernel

    JITFunction.run = compile_only
    results: dict[str, Built] = {}
    for position, (layout, name, call) in enumerate(calls()):
        if position % SHARES == share:
            made.clear()
            _ = call()
            for kernel, code, seconds in made:
                if code.hash not in results:
                    results[code.hash] = Built(target, kernel, layout, name, facts(code), seconds)
    return list(results.values())


def show(built: list[Built]) -> None:
    """Print what the variants of each kernel need at most, and how wide their widest accesses are at least."""
    print(f"{'target':8}{'kernel':13}{'layout':10}{'variants':>8}{'registers':>10}{'shared':>8}{'load':>6}{'store':>6}")
    groups = sorted({(b.target, b.kernel, b.layout) for b in built})
    for group in groups:
        of_group = [b.facts for b in built if (b.target, b.kernel, b.layout) == group]
        most = [max(f[k] for f in of_group) for k in (0, 2)]
        least = [min(f[k] for f in of_group) for k in (3, 4)]
        target, kernel, layout = group
        print(f"{target:8}{kernel:13}{layout:10}{len(of_group):8}{most[0]:10}{most[1]:8}{least[0]:6}{least[1]:6}")


# The cache of results


def cache_folder() -> Path:
    """Return the folder of results, the same for all checkouts of a user."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "crossent" / "gpu-build"


def sources(root: Path) -> list[Path]:
    """Return the files that results depend on: kernels, launcher and this check."""
    package = root / "src" / "crossent"
    kernels = [package / "spec.py", package / "stats.py", package / "kernels" / "backend.py"]
    return [*kernels, *sorted((package / "kernels" / "triton").glob("*.py")), root / "tools" / "gpu_build.py"]


def digest(root: Path) -> str:
    """Return a digest of everything that results depend on: sources, versions, variables that the compiler reads."""
    settings = {name: value for name, value in os.environ.items() if name.startswith(("TRITON_", "LLVM_"))}
    settings |= {name: version(name) for name in ("torch", "triton")} | {"python": sys.version, "shares": str(SHARES)}
    settings.pop("TRITON_CACHE_DIR", None)
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sources(root):
        whole.update(f"\0{path.relative_to(root).as_posix()}\0{code_of(path.read_text('utf-8'))}".encode())
    return whole.hexdigest()[:32]


def code_of(text: str) -> str:
    """Return what a module does, without comments, docstrings and layout, which no machine code depends on."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))]
    return ast.dump(tree)


def kept(file: Path) -> list[Built] | None:
    """Return the results in a file, or None if there is no such file or it is not as it was written."""
    try:
        text = file.read_text()
        rows, check = json.loads(text)
        if check != hashlib.sha256(json.dumps(rows).encode()).hexdigest():
            return None
        os.utime(file)
        return [Built(*row[:4], Facts(*row[4]), row[5]) for row in rows]
    except (OSError, ValueError, TypeError):
        return None


def keep(file: Path, built: list[Built]) -> None:
    """Write results to a file, as a whole or not at all."""
    rows = json.loads(json.dumps(built))
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as part:
        json.dump([rows, hashlib.sha256(json.dumps(rows).encode()).hexdigest()], part)
    _ = Path(part.name).replace(file)


def forget(folder: Path) -> None:
    """Remove files that were not used for a month."""
    for file in folder.glob("*"):
        if time.time() - file.stat().st_mtime > DAYS_KEPT * 86400:
            file.unlink(missing_ok=True)


def compiled(jobs: list[Job]) -> Iterator[tuple[Job, list[Built]]]:
    """Do the jobs on all processors."""
    if jobs:
        with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
            yield from zip(jobs, pool.imap(build, jobs), strict=True)


def collect(
    jobs: list[Job],
    folder: Path,
    key: str,
    compile_jobs: Callable[[list[Job]], Iterable[tuple[Job, list[Built]]]] = compiled,
) -> dict[Job, list[Built]]:
    """Return the results of all jobs: those that the folder holds under the key, and the others compiled."""
    files = {job: folder / f"{key}-{job.target}-{job.share}.json" for job in jobs}
    results = {job: found for job, file in files.items() if (found := kept(file)) is not None}
    print(f"{len(results)} of {len(jobs)} shares of the work have not changed", flush=True)
    for job, built in compile_jobs([job for job in jobs if job not in results]):
        results[job] = built
        keep(files[job], built)
    forget(folder)
    return results


def main() -> int:
    """Build for all targets, print the table, and return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--targets", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    _ = parser.add_argument("--all", action="store_true", help="print every variant")
    args = parser.parse_args()
    begin = time.time()
    jobs = [Job(target, share) for target in args.targets for share in range(SHARES)]
    results = collect(jobs, cache_folder(), digest(ROOT))
    built = [b for job in jobs for b in results[job]]
    if args.all:
        for b in built:
            print(b.target, b.kernel, b.call, *b.facts, f"{b.seconds:.2f} s")
    show(built)
    print(f"{len(built)} kernels for {len(args.targets)} targets in {time.time() - begin:.0f} s")
    return verdict(built)


def verdict(built: list[Built]) -> int:
    """Print what is wrong, and return 1 if anything is."""
    wrong = [b for b in built if b.faults()]
    for b in wrong:
        print(f"{b.target} {b.kernel}, {b.call}: {'; '.join(b.faults())}")
    print(f"{len(wrong)} of {len(built)} wrong")
    return 1 if wrong or not built else 0


if __name__ == "__main__":
    sys.exit(main())
