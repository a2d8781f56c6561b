"""The stage of the longest kernels: what torch's profiler says of each launch, and the hardware's counters."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.records import Record, rounded
from benchmarks.gpu.prove.lab import Item, Lab
from crossent.torch import cross_entropy

SHAPES = {"llama3": ((8192, 128256), (3, 4608)), "gpt2": ((8192, 50257), (3, 4103))}
CALLS, SMALL = 5, 1
COUNTERS = {
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory, % of peak",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "resident warps, % of most",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots, % used",
    "sm__inst_executed.sum": "instructions",
    "launch__registers_per_thread": "registers",
    "gpu__time_duration.sum": "ns",
}
"""Metrics of Nsight Compute, and their names in a record."""


def items(lab: Lab) -> Iterator[Item]:
    """Yield the parts of the stage."""
    longest: list[str] = []
    for case in SHAPES:
        yield Item(case, partial(profile, lab, case, longest))
    yield Item("counters", partial(counters, lab, longest))


def step(case: str, device: torch.device, *, small: bool) -> Any:
    """Return a call of forward and backward for the logits of a case."""
    shape = SHAPES[case][small]
    random = torch.Generator(device).manual_seed(0)
    logits = torch.randn(shape, generator=random, device=device, dtype=torch.bfloat16).requires_grad_()
    label = torch.randint(shape[1], shape[:1], generator=random, device=device)
    return lambda: torch.autograd.grad(cross_entropy(logits, label), logits)


def profile(lab: Lab, case: str, longest: list[str]) -> Iterator[Record]:
    """Yield every kernel of a step: how often it is launched, how long it takes, and what the profiler knows of it.

    The names of the two that take longest are added to a list.
    """
    call, calls = step(case, lab.device.device, small=lab.small), lab.pick(CALLS, SMALL)
    _ = call()
    lab.device.wait()
    with torch.profiler.profile(activities=[lab.device.activity]) as profiler:
        for _ in range(calls):
            _ = call()
        lab.device.wait()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    if not any(event.get("cat") == lab.device.launched for event in events):
        yield {"status": "failed", "reason": "the profiler saw nothing that was launched"}
    found = by_name(events, lab.device.launched)
    longest += list(found)[:2]
    for name, of_name in found.items():
        micros = [event["dur"] for event in of_name]
        about = {
            key: value for key, value in of_name[0].get("args", {}).items() if isinstance(value, (int, float, list))
        }
        yield {
            "shape": list(SHAPES[case][lab.small]),
            "launched": name,
            "launches_a_call": len(of_name) / calls,
            "seconds_a_call": rounded(sum(micros) / calls / 1e6),
            "profiler": about,
        }


def by_name(events: list[dict[str, Any]], category: str, most: int = 8) -> dict[str, list[dict[str, Any]]]:
    """Return the events of a category by name, those that take longest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == category and "dur" in event:
            found.setdefault(event["name"], []).append(event)
    longest = sorted(found, key=lambda name: -sum(event["dur"] for event in found[name]))
    return {name: found[name] for name in longest[:most]}


def counters(lab: Lab, longest: list[str]) -> Iterator[Record]:
    """Yield the hardware's counters of the longest kernels, where Nsight Compute is installed and may read them."""
    tool = shutil.which("ncu")
    if tool is None:
        yield {"status": "missing", "reason": "there is no ncu here"}
        return
    command = [
        tool, "--csv", "--page", "raw", "--clock-control", "none", "--metrics", ",".join(COUNTERS),
        "--kernel-name", f"regex:^({'|'.join(map(re.escape, longest))})$", "--launch-skip", "2", "--launch-count", "2",
        sys.executable, "-c", f"from benchmarks.gpu.prove.hot import once; once({lab.small})",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, lab.left), check=False)
    except subprocess.TimeoutExpired:
        yield {"status": "missing", "reason": "the stage had used up its seconds before ncu was done"}
        return
    found = list(of_ncu(done.stdout))
    if not found:
        words = " ".join((done.stdout + done.stderr).split())[-200:]
        yield {"status": "missing", "reason": f"ncu counted nothing: {words}"}
    for name, values in found:
        yield {"launched": name, "counters": values}


def once(small: bool) -> None:
    """Run the step that is counted, twice: the first call compiles."""
    call = step("llama3", torch.device("cuda"), small=small)
    for _ in range(3):
        _ = call()
    torch.cuda.synchronize()


def of_ncu(text: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name and the counters of each kernel in a page of comma-separated values that ncu printed."""
    import csv

    lines = [line for line in text.splitlines() if line.startswith('"')]
    if len(lines) < 3:
        return
    heads, _, *kernels = list(csv.reader(lines))  # the second line holds units
    for cells in kernels:
        row = dict(zip(heads, cells, strict=False))
        values = {COUNTERS[key]: float(re.sub(r",", "", row[key])) for key in COUNTERS if row.get(key)}
        yield row.get("Kernel Name", "?"), values
