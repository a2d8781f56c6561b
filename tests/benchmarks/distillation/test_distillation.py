"""Distillation through two heads: everyone computes the same, errors are those beside float64, floors and tables."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import proof, run
from benchmarks.distillation import contenders, errors, report
from benchmarks.distillation.cases import CASES, LARGER, SMOLLM2, DistillationCase

N, D, V = 40, 8, 70
TINY: dict[str, dict[str, Any]] = {
    "forward": {"fresh": True},
    "reverse": {"kind": "reverse"},
    "js": {"kind": "js"},
    "larger": {"teacher_features": 12, "kind": "js"},
    "labels": {"labels": True},
    "close": {"gap": 0.02},
    "bf16": {"dtype": "bfloat16"},
    "unjudged": {"judged": False},
}
names = pytest.mark.parametrize("name", TINY)


def tiny(name: str) -> DistillationCase:
    return DistillationCase("tiny", "none", N, D, V, **TINY[name])


def heads(case: DistillationCase) -> list[Tensor]:
    data = case.make()
    return [x.detach().double() for x in (*data.leaves, *data.options.values())]


@names
def test_the_truth_is_that_of_autograd(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(errors, "PART", 8 * V * 7)  # parts of 7 rows
    case = tiny(name)
    x, w, tx, tw = heads(case)
    for leaf in (x, w):
        _ = leaf.requires_grad_()
    tau = contenders.TAU if case.labels else 1.0
    student, teacher = (torch.distributions.Categorical(logits=z / tau) for z in (x @ w.T, tx @ tw.T))
    p, q = teacher.probs, student.probs
    m = torch.distributions.Categorical(probs=(p + q) / 2)
    kl = torch.distributions.kl_divergence
    loss = {
        "forward": lambda: kl(teacher, student),
        "reverse": lambda: kl(student, teacher),
        "js": lambda: (kl(teacher, m) + kl(student, m)) / 2,
    }[case.kind]()
    if case.labels:
        loss = 0.9 * 4 * loss - 0.1 * student.log_prob(case.make().target)
    loss.mean().backward()
    exact = errors.reference(case, case.make())
    torch.testing.assert_close(
        (exact.loss, *exact.gradients), (loss.mean().item(), x.grad, w.grad), rtol=1e-9, atol=1e-14
    )


@names
def test_a_case_is_measured_and_reported(name: str):
    case = tiny(name)
    found = run.measure(case, 4, warmup=1, compiled=False)
    assert [record["measure"] for record in found] == ["both"]
    both = json.loads(json.dumps(found[0]))
    assert both["flops"] == 2 * N * V * (3 * D + (case.teacher_features or D))
    floors = {"products"} | ({"products fresh"} if case.fresh else set())
    floors |= {"products float32"} if case.dtype == "bfloat16" else set()
    assert both["times_limit"].keys() == floors
    there = {"eager"} | ({"trl"} if find_spec("trl") and not case.labels else set())
    assert both["speedup_over"].keys() == there
    assert both["missing"] == ({} if case.labels or find_spec("trl") else {"trl": "it is not installed"})
    assert both["rounds_of"] == dict.fromkeys(there, 1)

    error = errors.measure(case, both["missing"])
    assert error["errors"].keys() == (there | {"crossent"} if case.judged else set())
    record = {**found[0], **error}
    grid = report.grids({"tiny": {"both": found[0], "error": record}})
    assert sum(line.startswith("tiny") for line in grid) == 1 + len(error["errors"])
    records = [found[0], record]
    ((cells,),) = report.times(records).values()
    assert len(cells) == len(report.TIMES)
    assert [line[1] for lines in report.errors(records).values() for line in lines] == list(error["errors"])


@pytest.mark.parametrize("name", ["larger", "bf16"])
def test_floors_are_the_four_products(name: str):
    case = tiny(name)
    floors = contenders.floors(case.make())
    x, w, tx, tw = heads(case)
    z = x @ w.T
    for floor, call in floors.items():
        found: Any = call()
        again: Any = call()
        assert len(found) == 4
        for a, b in zip(found, (z, tx @ tw.T, z @ w, z.T @ x), strict=True):
            # the logits are rounded before they are multiplied again, and each sum once
            assert (a.double() - b).norm() <= 2 * torch.finfo(a.dtype).eps * b.norm()
        assert all(
            a.dtype == (torch.float32 if "float32" in floor else x_.dtype)
            for a, x_ in zip(found, case.make().leaves * 2, strict=True)
        )
        same = [a.data_ptr() == b.data_ptr() for a, b in zip(found, again, strict=True)]
        assert same == [floor != "products fresh"] * 4


def test_who_is_left_out_has_no_error():
    assert errors.measure(tiny("js"), {"eager", "trl"})["errors"].keys() == {"crossent"}


def test_the_cases_are_those_of_the_bar():
    by_name = {case.name: case for case in CASES}
    assert {(case.N, case.D, case.V) for case in CASES if case.judged and case.N > 128} == {SMOLLM2}
    assert {case.kind for case in CASES if case.judged} == {"forward", "reverse", "js"}
    assert by_name["distill-larger"].describe()["teacher_features"] == LARGER
    assert [(case.N, case.D, case.V) for case in CASES if case.weighed] == [(2048, 128, 65536)]
    assert {case.threads for case in CASES} == {None, 1}


def test_the_tables_name_what_is_special_in_a_case():
    about = {name: {"case": name, "threads": 2, **tiny(name).describe()} for name in TINY}
    words = {name: proof.words(record).removesuffix(f" ({name})") for name, record in about.items()}
    assert words["larger"] == f"{N} × {D} × {V}, js, teacher of 12 features"
    assert words["labels"] == f"{N} × {D} × {V}, forward, labels"
    assert words["close"] == f"{N} × {D} × {V}, forward, gap 0.02"
