"""Compile every kernel that the Triton backend can launch for several GPUs, on a machine that needs to have none.

The launcher runs as it is, on tensors without memory and with a driver that only compiles. Fails on a register spill, on
more shared memory than the chip has, and on narrow loads of logits where the tile is made for wide ones.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
os.environ.pop("TRITON_INTERPRET", None)

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "sm_100": ("cuda", 100, 32), "gfx942": ("hip", "gfx942", 64)}  # fmt: skip
SHARED = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}


class Facts(NamedTuple):
    """What the compiler says of a kernel."""

    registers: int
    spilled: int
    shared: int
    load_bits: int
    store_bits: int
    seconds: float


class FakeDriver:
    """Stands in for a GPU's driver: Triton compiles for its target, and nothing runs."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


def calls(quick: bool) -> Any:
    """Yield a name and a function that calls the backend, for each combination that leads to other code."""
    import torch

    from crossent.kernels import triton as backend
    from crossent.spec import Scores, Target

    meta = torch.device("meta")
    real = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}
    # rows, columns, rows apart: each leads to another tile
    layouts = {
        "long": (4096, 50257),
        "middle": (4096, 1000),
        "short": (4096, 10),
        "beside": (2, 19, 4096),
        "apart": (64, 100),
    }
    kinds = ("index", "topk", "smoothed capped", "dense", "dense capped")

    def target(kind: str, shape: tuple[int, ...], dtype: Any) -> Any:
        rows = shape[0] * (shape[2] if len(shape) == 3 else 1)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        weight = torch.empty(shape[1], device=meta, dtype=wide)
        smoothing = 0.1 if "smoothed" in kind else 0.0
        if "dense" in kind:
            return Target(prob=torch.empty(shape, device=meta, dtype=dtype), weight=weight)
        if kind == "topk":
            return Target(
                torch.empty((rows, 32), device=meta, dtype=torch.int64), torch.empty((rows, 32), device=meta), weight
            )
        return Target(
            torch.empty(rows, device=meta, dtype=torch.int64), weight=weight, smoothing=smoothing, ignore_index=-100
        )

    for (layout, shape), (name, dtype), kind in itertools.product(layouts.items(), real.items(), kinds):
        if dtype == torch.float64 and layout in {"long"}:
            continue
        full = torch.empty((*shape[:1], shape[1] * 2, *shape[2:]), device=meta, dtype=dtype)
        logits = full[:, ::2] if layout == "apart" else torch.empty(shape, device=meta, dtype=dtype)
        scores = Scores(1.0, 30.0 if "capped" in kind else None)
        rows = shape[0] * (shape[2] if len(shape) == 3 else 1)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        record = torch.empty((5, rows), device=meta, dtype=torch.float64)
        vectors = [torch.empty(rows, device=meta, dtype=wide) for _ in range(3)]
        goal = target(kind, shape, dtype)
        label = f"{kind}, {layout}, {name}"
        yield f"stats {label}", lambda a=(logits, goal, scores, record, vectors): backend.row_stats(*a)
        yield f"grad {label}", lambda a=(logits, goal, scores, record, vectors, logits): backend.row_grad(*a)
        if dtype == torch.float32 and layout in {"long", "middle", "beside"}:
            narrow = torch.empty(shape, device=meta, dtype=torch.bfloat16)
            yield (
                f"grad {label} to bf16",
                lambda a=(logits, goal, scores, record, vectors, narrow): backend.row_grad(*a),
            )


def facts(kernel: Any, seconds: float) -> Facts:
    """Read what a compiled kernel needs off its machine code."""
    if "cubin" in kernel.asm:
        from triton.backends import nvidia

        tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            out = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", out.stdout)
        assert found is not None, out.stdout
        registers, stack, _, local = map(int, found.groups())
        ptx = kernel.asm["ptx"]
        bits = {op: max((int(n or 1) * int(w) for n, w in re.findall(rf"{op}\.global(?:\.[a-zA-Z0-9:_]+)*?(?:\.v(\d))?\.b(\d+)", ptx)), default=0) for op in ("ld", "st")}  # fmt: skip
        return Facts(registers, stack + local, kernel.metadata.shared, bits["ld"], bits["st"], seconds)
    asm = kernel.asm["amdgcn"]

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s*(\d+)", asm).group(1))  # type: ignore[union-attr]

    widths = {op: max((32 * int(n or 1) for n in re.findall(rf"(?:global|buffer)_{op}_dword(?:x(\d))?", asm)), default=0) for op in ("load", "store")}  # fmt: skip
    spilled = number("vgpr_spill_count") + number("private_segment_fixed_size")  # scalars spill into vector registers
    return Facts(number("vgpr_count"), spilled, kernel.metadata.shared, widths["load"], widths["store"], seconds)


def build(job: tuple[str, int, int, bool]) -> list[tuple[str, str, str, Facts]]:
    """Compile one share of all calls for one target."""
    target, share, shares, quick = job
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(FakeDriver(GPUTarget(*TARGETS[target])))
    torch.version.hip = "none" if TARGETS[target][0] == "hip" else None  # type: ignore[assignment]
    made: list[tuple[str, Any, float]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        made.append((self.fn.__name__, kernel, time.perf_counter() - begin))
        return kernel

    JITFunction.run = compile_only
    results, seen = [], set()
    for position, (name, call) in enumerate(calls(quick)):
        if position % shares != share:
            continue
        made.clear()
        call()
        for kernel_name, kernel, seconds in made:
            if kernel.hash in seen:
                continue
            seen.add(kernel.hash)
            results.append((target, kernel_name, name, facts(kernel, seconds)))
    return results


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    workers = os.cpu_count() or 1
    jobs = [(t, i, 4, args.quick) for t in args.targets for i in range(4)]
    begin, bad = time.time(), 0
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=1) as pool:
        for results in pool.imap(build, jobs):
            for target, kernel, name, f in results:
                wrong = []
                if f.spilled:
                    wrong.append("SPILLS")
                if f.shared > SHARED[target]:
                    wrong.append("TOO MUCH SHARED MEMORY")
                if (
                    ("long" in name or "middle" in name)
                    and "f64" not in name
                    and f.load_bits < 128
                    and kernel != "merge_parts"
                ):
                    wrong.append("NARROW")
                bad += bool(wrong)
                print(f"{target:7} {kernel:10} {name:38} {f.registers:4} regs {f.spilled:5} spilled {f.shared:6} shared {f.load_bits:4} ld {f.store_bits:4} st {f.seconds:5.2f} s {' '.join(wrong)}", flush=True)  # fmt: skip
    print(f"{bad} bad, {time.time() - begin:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
