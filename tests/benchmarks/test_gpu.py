"""What the benchmarks of a GPU do that needs none: data, agreement of contenders, records, tables, and the command."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

CPU = torch.device("cpu")
LOGITS = ("llama3", "gpt2", "llama2-f32", "decode", "cityscapes", "tags")
HEADS = ("llama3-head", "gemma2-head", "qwen-head", "gpt2-head", "errors-1k", "errors-16k")


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        names = ("contenders", "device", "report", "trial")
        modules = {name: import_module(f"benchmarks.gpu_{name}") for name in names}
        yield SimpleNamespace(command=import_module("benchmarks.gpu"), **modules)


def tiny(gpu: Any, name: str) -> Any:
    return gpu.contenders.scaled(next(case for case in gpu.contenders.CASES if case.name == name))


@pytest.mark.parametrize("name", LOGITS + HEADS)
def test_cases_make_what_they_say_and_all_contenders_agree(gpu: Any, name: str):
    assert tuple(case.name for case in gpu.contenders.CASES) == LOGITS + HEADS
    case, head = tiny(gpu, name), name in HEADS
    data, shape = gpu.contenders.make(case, CPU), case.describe()["shape"]
    N, V = (shape[0], shape[-1]) if head else (shape[0], 2) if name == "tags" else shape[:2]
    assert [list(x.shape) for x in data.leaves] == ([[N, shape[1]], [V, shape[1]]] if head else [shape])
    assert {x.dtype for x in data.leaves} == {getattr(torch, case.dtype)}
    assert list(data.target.shape) == [N, *([] if head else shape[2:])]
    assert 0 <= data.target.min() <= data.target.max() < V
    found, missing = gpu.contenders.losses(case, compiled=False)
    everyone = {"crossent", "eager", "compile", "liger", *({"cce", "torch chunked", *case.sizes} if head else ())}
    assert sorted([*found, *missing]) == sorted(everyone)
    first = gpu.contenders.gradients(found["eager"], gpu.contenders.make(case, CPU))
    for loss in [loss for contender, loss in found.items() if contender not in {"liger", "cce"}]:  # these need a GPU
        for a, b in zip(gpu.contenders.gradients(loss, data), first, strict=True):
            assert gpu.contenders.distance(a, b) <= gpu.trial.SAME


@pytest.mark.parametrize("name", ["llama3-head", "gemma2-head"])
def test_the_reference_is_autograd_in_float64(gpu: Any, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu.contenders, "PIECE", 7 * 70)  # 7 rows
    data = gpu.contenders.make(tiny(gpu, name), CPU)
    leaves = [x.detach().double().requires_grad_() for x in data.leaves]
    loss = gpu.contenders.eager(*leaves, data.target, **data.options)
    exact = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    torch.testing.assert_close(gpu.contenders.reference(data), exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("memory", "chunks"), [(None, 1), (4 * 2 * 70 * 9, 5)])  # 40 rows, 9 at a time
def test_the_floor_is_three_products_in_as_many_chunks_as_must_be(gpu: Any, memory: int | None, chunks: int):
    case = tiny(gpu, "llama3-head")
    data = gpu.contenders.make(case, CPU)
    call, work = gpu.contenders.floor(case, data, memory)
    assert work == {"chunks": chunks}
    x, w = (leaf.detach().double() for leaf in data.leaves)
    for found, exact in zip(call(), (x @ w.t() @ w, w @ x.t() @ x), strict=True):
        # logits are rounded, and so are sums, once for each chunk
        assert gpu.contenders.distance(found, exact) <= chunks * torch.finfo(torch.bfloat16).eps


def test_who_fails_is_recorded_and_who_overwrites_is_undone(gpu: Any, monkeypatch: pytest.MonkeyPatch):
    case, right = tiny(gpu, "llama2-f32"), functional.cross_entropy

    def overwriting(logits: Any, target: Any) -> Any:
        loss = right(logits.clone(), target)
        _ = logits.data.zero_()
        return loss if logits.requires_grad else overwritten.append(float(loss))

    def full(_logits: Any, _target: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has less")

    overwritten: list[float] = []
    losses = {"crossent": right, "eager": right, "liger": overwriting, "full": full, "wrong": lambda *a: 2 * right(*a)}
    monkeypatch.setattr(gpu.trial, "losses", lambda _case, **_: (losses, {"gone": "not there"}))
    records = {r["contender"]: r for r in gpu.trial.measure(case, gpu.device.Host(), 3)}
    assert records.keys() == {*losses, "copy", "gone"}
    assert {name for name, r in records.items() if r["status"] == "ok"} == {"crossent", "eager", "liger", "copy"}
    assert records["full"]["reason"] == "out of memory: CUDA out of memory. Tried to allocate 9 GiB"
    assert records["wrong"]["reason"].startswith(
        "ArithmeticError: loss and gradients differ from those of eager by 1, 1;"
    )
    assert records["gone"]["status"] == "missing"
    assert len(set(overwritten)) == 1


@pytest.mark.parametrize(("name", "floor"), [("llama3", "copy"), ("gpt2-head", "gemms")])
def test_ratios_are_those_of_the_recorded_times(gpu: Any, name: str, floor: str):
    records = gpu.trial.measure(tiny(gpu, name), gpu.device.Host(), 3, compiled=False)
    assert json.loads(json.dumps(records)) == records
    by = {r["contender"]: r for r in records if r["status"] == "ok"}
    ours, theirs, limit = by["crossent"]["seconds"], by["eager"]["seconds"], by[floor]["seconds"]["floor"]
    assert by["crossent"]["rounds"] == {"forward": 3, "both": 3}
    for measure, moved in (("forward", 1), ("both", 3)):
        ratio = statistics.median(a / b for a, b in zip(theirs[measure], ours[measure], strict=True))
        assert by["eager"]["over_crossent"][measure] == pytest.approx(ratio, rel=1e-4)
        share = statistics.median(moved / 2 * a / b for a, b in zip(limit, ours[measure], strict=True))
        assert floor == "gemms" or by["crossent"]["share_of_copy"][measure] == pytest.approx(share, rel=1e-4)
    over = statistics.median(b / a for a, b in zip(limit, ours["both"], strict=True))
    assert floor == "copy" or by["crossent"]["over_floor"] == pytest.approx(over, rel=1e-4)


def test_the_command_writes_and_reports(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "lines"
    gpu.command.main(["--dry", "--only", "k", "--rounds", "2", "--out", str(path), "--commit", "abc"])
    printed = capsys.readouterr().out
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {(r["case"], r["run"]["commit"]) for r in records} == {("errors-1k", "abc"), ("errors-16k", "abc")}
    gpu.command.main(["--report", str(path)])
    assert capsys.readouterr().out == printed
    gpu.command.main(["--dry", "--seconds", "-1"])
    assert f"all not started (-1 s had passed): {', '.join(LOGITS + HEADS)}" in capsys.readouterr().out


def test_without_a_gpu_the_command_says_so(gpu: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^benchmarks\.gpu: torch .* finds no GPU; .*--dry$"):  # a text: status 1
        gpu.command.main([])


def test_a_table_shows_times_shares_memory_and_reasons(gpu: Any):
    run = {"machine": dict.fromkeys(("gpu", "driver", "cpu", "platform")), "versions": {}, "commit": "", "date": ""}
    common = {"suite": "gpu-logits", "case": "c", "shape": [2, 3], "dtype": "float32", "run": run, "status": "ok"}
    medians = {"forward": 0.001, "both": 0.0025}
    ours = {"contender": "crossent", "median_seconds": medians, "host_seconds": medians, "rounds": {"both": 25}}
    ours |= {"share_of_copy": {"forward": 0.9, "both": 0.85}, "over_crossent": {"forward": 1.0, "both": 1.0}}
    ours |= {"peak_bytes": 5_000_000, "extra_bytes": -2_000_000, "difference": {"from": "eager", "largest": 3e-4}}
    gone = {"contender": "liger", "status": "missing", "reason": "not there"}
    lines = gpu.report.tables([{**common, **ours}, {**common, **gone}]).splitlines()
    (row,) = [line for line in lines if line.startswith("c 2×3 float32")]
    cells = ["1.00 ms  2.50 ms   2.50 ms", "90    85", "1.00  1.00", "5.00  -2.00", "3e-04      25"]
    assert [cell.strip() for cell in row.split("│")][1:] == cells
    assert "liger missing (not there): c" in lines


def test_the_pages_show_what_was_measured(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pages, proof = import_module("benchmarks.pages"), import_module("benchmarks.proof")
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    written = tmp_path / "lines"
    gpu.command.main(["--dry", "--only", "gpt2", "--rounds", "2", "--out", str(written), "--commit", "abc"])
    records = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    _ = written.rename(gpu.command._default(records[0]["run"], ""))  # where a run on a GPU writes
    for name, case in (("gpu-logits", "gpt2"), ("gpu-linear", "gpt2-head")):
        table, _, origin = proof.table(name).partition("\n\n")
        measured = [line for line in table.splitlines()[2:] if proof.NOT_MEASURED not in line]
        assert [case in line for line in measured] == [True]
        ours = next(r for r in records if (r["case"], r["contender"]) == (case, "crossent"))
        shown = ours.get("over_floor") or 100 * ours["share_of_copy"]["both"]
        assert f"| {shown:.0f} %" in measured[0] or f"| {gpu.report.number(shown)} |" in measured[0]
        assert "commit abc; none (dry run)" in origin
        assert pages.COMMANDS["gpu"] in origin
