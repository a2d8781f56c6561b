"""A GPU that is not there: the stages run as on CUDA, real sizes and all, on tensors without memory.

`python -m tests.benchmarks.gpu.prove.pretend STAGE …` prints the records of stages, a line of JSON each. Tensors are
torch's meta tensors, which say that they are on a GPU. `torch.cuda` is played by stand-ins that complain where CUDA
would: of events that were not recorded or not waited for, of waiting while waiting is forbidden or a graph is captured.
Triton's launcher runs up to the driver, which launches nothing; kernels are not compiled (`make check-gpu-build` does).
Results mean nothing, so comparisons fail; nothing else may.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from importlib import import_module
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver

NAME = "Pretended GPU"


class Cuda:
    """The state of the device that is not there."""

    def __init__(self) -> None:
        self.waits = 0
        self.mode = "default"
        self.capturing = False
        self.launches: dict[str, int] = {}

    def wait(self, what: str) -> None:
        if self.capturing:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")
        if self.mode == "error":
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        self.waits += 1


CUDA = Cuda()


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.timing, self.time, self.waits = enable_timing, None, 0

    def record(self) -> None:
        self.time, self.waits = time.perf_counter(), CUDA.waits

    def elapsed_time(self, end: Event) -> float:
        if not (self.timing and end.timing) or self.time is None or end.time is None:
            raise RuntimeError("both events must be recorded, with timing enabled")
        if CUDA.waits <= max(self.waits, end.waits):
            raise RuntimeError("CUDA error: device not ready")
        return 1e3 * max(end.time - self.time, 1e-6)


class Generator(torch.Generator):
    """A generator of the host, whatever device it is for."""

    def __new__(cls, _device: Any = None) -> Generator:
        return super().__new__(cls)


class Stream:
    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


class CUDAGraph:
    captured = False

    def replay(self) -> None:
        assert self.captured


@contextlib.contextmanager
def graph(of: CUDAGraph) -> Any:
    CUDA.capturing = True
    yield
    CUDA.capturing, of.captured = False, True


def set_sync_debug_mode(mode: str) -> None:
    CUDA.mode = mode


class Profiler:
    """Writes a trace with two launches of a kernel for each call that is profiled."""

    def __init__(self, activities: Any) -> None:
        assert list(activities) == [torch.profiler.ProfilerActivity.CUDA]

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        CUDA.wait("the profiler")

    def export_chrome_trace(self, path: str) -> None:
        args = {"registers per thread": 40, "grid": [8192, 1, 1], "est. achieved occupancy %": 62}
        events = [{"cat": "kernel", "name": name, "ts": 1, "dur": 250.0, "args": args} for name in ("one", "two") * 5]
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump({"traceEvents": [*events, {"cat": "cpu_op", "name": "x", "ts": 1, "dur": 2}]}, file)


def play_cuda() -> None:
    """Put the stand-ins in the place of torch.cuda, and let meta tensors say that they are on a GPU."""
    about = SimpleNamespace(name=NAME, major=9, minor=0, multi_processor_count=132, total_memory=140 * 10**9)
    stand_ins = {
        "is_available": lambda: True, "get_device_properties": lambda *_: about, "Event": Event, "Stream": Stream,
        "stream": lambda _: contextlib.nullcontext(), "current_stream": Stream, "CUDAGraph": CUDAGraph, "graph": graph,
        "device": lambda _: contextlib.nullcontext(), "set_sync_debug_mode": set_sync_debug_mode,
        "synchronize": lambda: CUDA.wait("synchronize"), "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 10**9, "max_memory_allocated": lambda: 3 * 10**9, "empty_cache": lambda: None,
        "current_device": lambda: 0,
    }  # fmt: skip
    for name, stand_in in stand_ins.items():
        assert hasattr(torch.cuda, name)
        setattr(torch.cuda, name, stand_in)
    torch.Generator = Generator
    torch.profiler.profile = Profiler

    def waits(what: str, stand_in: Any) -> Any:
        real = getattr(torch.Tensor, what)

        def call(self: Any, *rest: Any) -> Any:
            if self.device.type != "meta":
                return real(self, *rest)
            CUDA.wait(what)
            return stand_in(torch.zeros(self.shape, dtype=self.dtype))

        return call

    results = {"item": lambda x: x.item(), "tolist": lambda x: x.tolist(), "cpu": lambda x: x}
    for what, stand_in in (results | {"__float__": float, "__bool__": bool}).items():
        setattr(torch.Tensor, what, waits(what, stand_in))
    torch.Tensor.is_cuda = property(lambda self: self.device.type == "meta")
    torch.equal = lambda *_: CUDA.wait("equal") or True


class Driver:
    """Triton's driver for an H100 that launches nothing."""

    utils = SimpleNamespace(
        get_device_properties=lambda _: {"max_shared_mem": 232448},
        load_binary=lambda *_: (object(), 1, 40, 0, 1024),  # module, function, registers, spills, threads
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def launcher_cls(self, source: Any, _metadata: Any) -> Any:
        def launch(*grid_and_arguments: Any) -> None:
            assert all(0 < n < 2**31 for n in grid_and_arguments[:3])
            name = source.fn.__name__
            CUDA.launches[name] = CUDA.launches.get(name, 0) + 1

        return launch


class Uncompiled(CompiledKernel):
    """A kernel of which only the signature is known."""

    def __init__(self, source: Any, options: Any) -> None:
        self.src, self.name, self.kernel, self.hash = source, source.fn.__name__, b"", "no hash"
        self.metadata = SimpleNamespace(shared=1024, num_warps=options["num_warps"], warp_size=32, tmem_size=None)
        self.metadata_group, self.packed_metadata, self.asm = {}, (), {}
        self.module = self.function = self._run = None


def play_triton() -> None:
    """Let Triton's launcher run, and nothing be compiled or launched."""
    driver.set_active(Driver())
    triton.compiler.compile = lambda source, *_, options, **__: Uncompiled(source, options)


def prepare() -> None:
    """Make this process one that has a GPU."""
    from benchmarks.gpu.prove import ceilings, heads, logits, machine
    from crossent.torch.base import backends
    from crossent.torch.sources import linear

    play_cuda()
    play_triton()
    torch.version.cuda = "13.0"  # else there is a reason not to use the Triton backend
    backends.BACKENDS["meta"] = "triton"
    linear.CPU = linear.GPU  # of what is fast where a tensor is
    ceilings.ROUNDS = heads.ROUNDS = logits.ROUNDS = 2
    for module in (linear, ceilings, machine):
        module.operand_dtype = lambda dtype, _device=None: dtype


def main(names: list[str]) -> None:
    """Run stages and print their records."""
    from benchmarks.gpu.device import Gpu
    from benchmarks.gpu.prove import lab
    from benchmarks.gpu.prove.compiled import Compiled

    prepare()
    gc.freeze()
    compiled = Compiled()
    for name in names:

        def emit(record: dict[str, Any], stage: str = name) -> None:
            print(json.dumps({"stage": stage, **record}), flush=True)

        # zeros stand for what comes back from the device; comparisons of real sizes would take minutes
        here = lab.Lab(Gpu("meta"), name == "correct", time.monotonic() + 600)
        lab.run(import_module(f"benchmarks.gpu.prove.{name}").items(here), here, emit)
        emit({"case": "launches", "status": "ok", "launches": CUDA.launches})
    for record in compiled.records():
        print(json.dumps({"stage": "all", "status": "ok", **record}))


if __name__ == "__main__":
    main(sys.argv[1:])
    gc.unfreeze()
