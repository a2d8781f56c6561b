"""One case on a device: who fails is recorded, and ratios are those of the recorded times."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional

from benchmarks.gpu import device, trial
from tests.benchmarks.gpu.small import tiny


@pytest.mark.slow
def test_who_fails_is_recorded_and_who_overwrites_is_undone(monkeypatch: pytest.MonkeyPatch):
    case, right = tiny("llama2-f32"), functional.cross_entropy

    def overwriting(logits: Any, target: Any) -> Any:
        loss = right(logits.clone(), target)
        _ = logits.data.zero_()
        return loss if logits.requires_grad else overwritten.append(float(loss))

    def full(_logits: Any, _target: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has less")

    overwritten: list[float] = []
    losses = {"crossent": right, "eager": right, "liger": overwriting, "full": full, "wrong": lambda *a: 2 * right(*a)}
    monkeypatch.setattr(trial, "losses", lambda _case, **_: (losses, {"gone": "not there"}))
    records = {r["contender"]: r for r in trial.measure(case, device.Host(), 3)}
    assert records.keys() == {*losses, "copy", "gone"}
    assert {name for name, r in records.items() if r["status"] == "ok"} == {"crossent", "eager", "liger", "copy"}
    assert records["full"]["reason"] == "out of memory: CUDA out of memory. Tried to allocate 9 GiB"
    assert records["wrong"]["reason"].startswith(
        "ArithmeticError: loss and gradients differ from those of eager by 1, 1;"
    )
    assert records["gone"]["status"] == "missing"
    assert len(set(overwritten)) == 1


def test_a_gradient_alone_is_that_of_the_loss_and_can_be_had_again():
    entries = trial.Trial(tiny("llama3"), device.Host(), compiled=False).entries
    for name in trial.BACKWARD:
        _, exact = entries[name].both()
        for _ in range(2):
            (found,) = entries[name].backward()
            assert torch.equal(found, exact)


def test_calls_with_gradients_are_made_within_their_context():
    inside: list[str] = []

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        inside.append("begin")
        yield
        inside.append("end")

    def loss(*arguments: Any) -> torch.Tensor:
        inside.append("loss")
        return functional.cross_entropy(*arguments)

    data = trial.Trial(tiny("llama3"), device.Host(), compiled=False).data
    _ = trial.Entry(loss, data, around=around).both()
    assert inside == ["begin", "loss", "end"]


@pytest.mark.parametrize(("name", "floor"), [("llama3", "copy"), ("gpt2-head", "gemms")])
def test_ratios_are_those_of_the_recorded_times(name: str, floor: str):
    records = trial.measure(tiny(name), device.Host(), 3, compiled=False)
    assert json.loads(json.dumps(records)) == records
    by = {r["contender"]: r for r in records if r["status"] == "ok"}
    ours, theirs, limit = by["crossent"]["seconds"], by["eager"]["seconds"], by[floor]["seconds"]["floor"]
    measures = {"forward": 1, "both": 3, **({"backward": 2} if floor == "copy" else {})}
    assert by["crossent"]["rounds"] == dict.fromkeys(measures, 3)
    for measure, moved in measures.items():
        ratio = statistics.median(a / b for a, b in zip(theirs[measure], ours[measure], strict=True))
        assert by["eager"]["over_crossent"][measure] == pytest.approx(ratio, rel=1e-4)
        share = statistics.median(moved / 2 * a / b for a, b in zip(limit, ours[measure], strict=True))
        assert floor == "gemms" or by["crossent"]["share_of_copy"][measure] == pytest.approx(share, rel=1e-4)
    over = statistics.median(b / a for a, b in zip(limit, ours["both"], strict=True))
    assert floor == "copy" or by["crossent"]["over_floor"] == pytest.approx(over, rel=1e-4)
