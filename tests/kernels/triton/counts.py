"""Counts of the Triton backend without a GPU: compile keys of the conformance suite, launches and host time of a loss.

    python -m tests.kernels.triton.counts keys | launches | remembered | time

Each prints a line of JSON. It needs a process of its own, because `launches.install` changes Triton for good.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # read when kernels are imported
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import pytest
import torch

import crossent.torch as F
from crossent.kernels import cpu
from crossent.kernels.triton import arguments, launch
from tests.conformance import adapters
from tests.kernels.triton.launches import LOG, counted, install, tensors

LOSSES: dict[str, tuple[int, int, torch.dtype, dict[str, Any]]] = {  # rows, classes, dtype and options of mean losses
    "logits": (600, 128256, torch.bfloat16, {}),
    "logits in float32": (600, 50257, torch.float32, {}),
    "weighted": (600, 50257, torch.bfloat16, {"weight": torch.ones(50257)}),
    "softcap": (600, 128000, torch.bfloat16, {"softcap": 30.0}),
    "smoothed": (600, 50257, torch.bfloat16, {"label_smoothing": 0.1}),
    "rows of one step of decoding": (32, 128256, torch.bfloat16, {}),
    "few classes": (4096, 10, torch.float32, {}),
}
CALLS = 50
PAIRS = "tests/conformance/test_pair.py"
WITHOUT_PAIRS = ("tests/conformance", f"--ignore={PAIRS}")
"""The suite, but for two heads: kernels for each pair of dtypes are counted by themselves."""


# Compile keys


class Counted(adapters.Triton):
    """The Triton backend as the conformance suite calls it on a GPU; results are the CPU's, so that tests go on."""

    slow, raises = False, True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.results = adapters.Cpu("cpu")

    @contextmanager
    def lending(self) -> Iterator[adapters.Loan]:
        yield adapters.Tensors("cpu", copied=True)


def _launched_first(name: str) -> Callable[..., Any]:
    def call(self: Counted, *args: Any, **options: Any) -> Any:
        _ = getattr(adapters.Triton, name)(self, *args, **options)
        return getattr(self.results, name)(*args, **options)

    return call


for _name in vars(adapters.Adapter).keys() & vars(cpu).keys() - {"use_isa"}:  # the contract's functions
    if not _name.startswith("_"):
        setattr(Counted, _name, _launched_first(_name))


class _Outcomes:
    """A plugin that counts how tests end."""

    def __init__(self) -> None:
        self.ended = Counter[str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.ended[report.outcome] += 1


def compile_keys(*arguments: str) -> dict[str, Any]:
    """Return how many compile keys the conformance suite has, in all and by kernel, and how its tests ended.

    A test that fails, because the CPU's results are not what it expects of a GPU, has been counted up to there.
    """
    adapters.ADAPTERS["triton"] = Counted
    outcomes = _Outcomes()
    options = ["-q", "-k", "triton", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-header", "--tb=line"]
    _ = pytest.main([*options, *(arguments or WITHOUT_PAIRS)], plugins=[outcomes])
    keys = set(LOG.keys)
    kernels = Counter(key.kernel for key in keys)
    return {"keys": len(keys), "kernels": kernels, "tests": outcomes.ended, "launches": len(LOG.launched)}


# Launches and host time of a mean loss


def launches() -> dict[str, dict[str, list[str]]]:
    """Return the kernels that forward and backward of mean losses launch, those of torch too."""
    found = {}
    for name, (rows, classes, dtype, options) in LOSSES.items():
        z, y = tensors(rows, classes, dtype)
        g = torch.ones((), dtype=torch.float32)
        with counted() as launched:
            loss = F.cross_entropy(z, y, **options)
            forward = list(launched)
            LOG.launched.clear()
            _ = torch.autograd.grad(loss, z, g)
            found[name] = {"forward": forward, "backward": list(launched)}
    return found


def remembered() -> dict[str, int]:
    """Return how many kernels calls led to that differ in strides, offsets and sizes, and how many were passed over.

    The calls are made twice, the second time without the memory of `launch`: what Triton compiles then, it was not
    asked for at first, and another kernel was started in its place.
    """
    shapes = (1, 16), (3, 17), (40, 64), (40, 1000), (33, 5003)
    found = {}
    for what in ("compiled", "passed over"):
        LOG.clear()
        for dtype, (rows, columns), pad, offset in itertools.product(
            (torch.float32, torch.bfloat16), shapes, (0, 1, 16), (0, 1, 8)
        ):
            if what == "passed over":
                launch._compiled.clear()
                arguments.forget()
            memory = torch.zeros(offset + rows * (columns + pad), dtype=dtype)
            z = memory[offset:].view(rows, columns + pad)[:, :columns].requires_grad_()
            F.cross_entropy(z, torch.zeros(rows, dtype=torch.long)).backward()
            F.binary_cross_entropy_with_logits(z, torch.zeros(rows, columns, dtype=dtype)).backward()
        found[what] = len(LOG.keys)
    return found


def host_time(rounds: str = "60") -> dict[str, dict[str, float]]:
    """Return the host time of a mean loss, in µs and in times that of three kernels of torch, medians of many rounds.

    It is the processor time of the process, with a driver that starts nothing. What a driver takes for each kernel, and
    what torch takes on a GPU to choose the device, is not in it: on either side of the ratio.
    """
    _ = torch.set_num_threads(1)
    vector = torch.zeros(600)
    found = {}
    for name, (rows, classes, dtype, options) in LOSSES.items():
        z, y = tensors(rows, classes, dtype)
        g = torch.ones((), dtype=torch.float32)

        def forward(z: Any = z, y: Any = y, options: Any = options) -> None:
            _ = F.cross_entropy(z, y, **options)

        def both(z: Any = z, y: Any = y, g: Any = g, options: Any = options) -> None:
            _ = torch.autograd.grad(F.cross_entropy(z, y, **options), z, g)

        found[name] = _ratios(
            {"forward": forward, "both": both, "three kernels": lambda: _three_kernels(vector)}, int(rounds)
        )
    return found


def _three_kernels(x: Any) -> None:
    _ = x + x
    _ = x * x
    _ = x - x


def _ratios(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    for call in contenders.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    gc.disable()
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            begin = time.process_time()
            for _ in range(CALLS):
                contenders[name]()
            times[name].append((time.process_time() - begin) / CALLS)
        LOG.clear()
    gc.enable()
    of = {name: median(seconds) for name, seconds in times.items()}
    rival = of["three kernels"]
    return {f"{name}, µs": 1e6 * seconds for name, seconds in of.items()} | {
        f"{name}, times three kernels": seconds / rival for name, seconds in of.items() if name != "three kernels"
    }


def main() -> None:
    """Count what the command line asks for."""
    what, *arguments = sys.argv[1:]
    install()
    counts: dict[str, Callable[..., Any]] = {
        "keys": compile_keys,
        "launches": launches,
        "remembered": remembered,
        "time": host_time,
    }
    print(json.dumps(counts[what](*arguments)))


if __name__ == "__main__":
    main()
