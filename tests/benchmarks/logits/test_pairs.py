"""Divergences of logits that exist: who takes part, floors, errors and the table of the pages."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import proof, report, run
from benchmarks.common.divergences import KINDS
from benchmarks.logits import contenders, errors
from benchmarks.logits.pairs import CASES, PairCase


def tiny(kind: str, dtype: str = "float32") -> PairCase:
    return PairCase("tiny", "none", (6, 11), dtype, target=kind)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_case_is_measured_and_reported(kind: str, dtype: str):
    found = run.measure(tiny(kind, dtype), 3, warmup=1, compiled=False)
    assert [record["measure"] for record in found] == ["forward", "both"]
    both = json.loads(json.dumps(found[1]))
    assert (both["suite"], both["target"], both["times_limit"].keys()) == ("divergence", kind, {"limit"})
    assert both["seconds"].keys() == {"crossent", "eager", "read", "clone"}
    one = 6 * 11 * (4 if dtype == "float32" else 2)
    assert both["bytes"] == 5 * one  # both logits twice, and the gradient
    (row,) = report.LAYOUTS["divergence"].grids({"tiny": {r["measure"]: r for r in found}})[2:]
    assert f"6×11 {dtype}" in row
    ((cells,),) = proof.divergence(found).values()
    assert cells[0].startswith(f"6 × 11, {kind}")
    assert len(cells) == len(proof.DIVERGENCE)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_beside_the_definition_in_float64(kind: str):
    case = tiny(kind)
    data = case.make()
    p, z = data.target.double().softmax(1), data.logits.detach().double().requires_grad_()
    q = z.softmax(1)
    m = (p + q) / 2
    kl = {
        "forward": p * (p / q).log(),
        "reverse": q * (q / p).log(),
        "js": (p * (p / m).log() + q * (q / m).log()) / 2,
    }[kind]
    value = kl.sum() / len(z)
    (exact,) = torch.autograd.grad(value, z)
    found = errors.measure(case)["errors"]
    for who, loss in contenders.losses(case, compiled=False).items():
        own = loss(data.logits, data.target, **data.options)
        (g,) = torch.autograd.grad(own, data.logits)
        expected = {
            "loss": abs(own.item() - value.item()) / value.item(),
            "dlogits": ((g - exact).norm() / exact.norm()),
        }
        assert found[who] == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-3, abs=1e-12)


def test_the_floor_reads_both_logits_and_writes_one():
    data = tiny("js").make()
    floors = contenders.floors(data)
    reads = floors["read"]()
    torch.testing.assert_close(reads, [data.logits.detach().sum(), data.target.sum()])
    copy, read = floors["clone"]()  # pyright: ignore
    torch.testing.assert_close((copy, read), (data.logits.detach(), data.target.sum()))


def test_the_teacher_is_another_than_the_student():
    data = CASES[2].make()
    assert not data.target.requires_grad
    assert not torch.equal(data.logits.detach(), data.target)
