"""Checks of targets as torch tensors: the first wrong entry raises what the core raises for it."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.kernels import cpu
from crossent.kernels.backend import BinaryOperands
from crossent.spec import NO_CLASS, Scores, Target
from tests.oracle import empty_record

torch = pytest.importorskip("torch")
checks = pytest.importorskip("crossent.kernels.checks")


def same_error(target, shape):
    """The check and the core raise the same, or neither raises."""
    texts = []
    rows = shape[0] * (shape[2] if len(shape) == 3 else 1)
    for call in (
        lambda: checks.check_target(target, shape),
        lambda: cpu.row_stats(np.zeros(shape, np.float32), target, Scores(), empty_record(rows)),
    ):
        try:
            call()
        except (IndexError, ValueError) as error:
            texts.append(f"{type(error).__name__}: {error}")
        else:
            texts.append("")
    assert texts[0] == texts[1]
    return texts[0]


@pytest.mark.parametrize("wrong", [5, -1, 2**40, -100])
def test_classes(wrong):
    index = torch.tensor([3, 1, wrong, 0, 2, 7])
    assert f"class {wrong} (row 2 of 6)" in same_error(Target(index), (6, 5))
    assert f"class {wrong} (row 2 of 6)" in same_error(Target(index), (2, 5, 3))
    assert "class 7 (row 5" in same_error(Target(index, ignore_index=wrong), (6, 5))
    several = index.view(6, 1).expand(6, 2)
    assert f"class {wrong} (row 2" in same_error(Target(several, torch.ones(6, 2), ignore_index=wrong), (6, 5))


def test_classes_of_other_shards_and_of_narrow_dtypes():
    assert same_error(Target(torch.tensor([0, 99, 12]), first_class=10, num_classes=100), (3, 5)) == ""
    assert "class 100" in same_error(Target(torch.tensor([0, 100, 12]), first_class=10, num_classes=100), (3, 5))
    assert "class 255" in same_error(Target(torch.tensor([0, 255], dtype=torch.uint8)), (2, 5))


@pytest.mark.parametrize("wrong", [2**63, 2**64 - 100, 2**64 - 1])
def test_classes_beyond_int64_are_no_ignored_ones(wrong):
    index = torch.tensor([3, wrong, 1], dtype=torch.uint64)
    for ignore_index in (-100, wrong - 2**64, NO_CLASS):
        text = same_error(Target(index, ignore_index=ignore_index), (3, 5))
        assert "class 9223372036854775807 or more (row 1 of 3) is not one of the 5 classes" in text
        assert "ignore_index" not in text
    assert "or more" in same_error(Target(index[:, None], torch.ones(3, 1)), (3, 5))
    for ignore_index in (-100, 2**63 - 1, NO_CLASS):
        assert ignore_index not in checks.as_int64(index, ignore_index).tolist()


@pytest.mark.parametrize("wrong", [0.0, -1.0, 9e-16, 2e15, float("inf"), float("nan")])
def test_temperatures(wrong):
    T, record = torch.ones(6, dtype=torch.float64), empty_record(6)
    targets = Target(torch.zeros(6, dtype=torch.long)), Target(prob=torch.full((6, 200), 0.2))
    for target in targets:
        checks.check_temperatures(None, target)
        checks.check_temperatures(T, target)
    T[3] = T[4] = wrong
    for target in targets:
        with pytest.raises(ValueError, match=r"temperature must be between .*\(row 3\)") as ours:
            checks.check_temperatures(T, target)
        with pytest.raises(ValueError, match="temperature") as theirs:
            cpu.row_stats(np.zeros((6, 200), np.float32), target, Scores(1.0, None, T), record)
        assert str(ours.value) == str(theirs.value)
    checks.check_temperatures(T, Target(torch.tensor([0, 1, 2, -7, -7, 3]), ignore_index=-7))


def test_class_indices_as_int64():
    for dtype in (torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.int64, torch.uint64):
        found = checks.as_int64(torch.tensor([3, 127], dtype=dtype))
        assert found.tolist() == [3, 127]
        assert found.dtype == torch.int64


@pytest.mark.parametrize("wrong", [-0.25, float("nan"), float("inf"), -float("inf")])
def test_probabilities(wrong):
    dense, picked = torch.full((2, 5, 3), 0.2), torch.full((6, 2), 0.5)
    dense[1, 4, 0] = dense[1, 4, 2] = wrong
    picked[4, 1] = picked[5, 0] = wrong
    assert "(row 3, column 4)" in same_error(Target(prob=dense), (2, 5, 3))
    assert "(row 4, column 1)" in same_error(Target(torch.zeros(6, 2, dtype=torch.long), picked), (6, 5))


def test_probabilities_are_looked_at_in_parts(monkeypatch):
    monkeypatch.setattr(checks, "_AT_ONCE", 12)
    dense = torch.full((7, 5), 0.2)
    assert same_error(Target(prob=dense), (7, 5)) == ""
    dense[6, 1] = -1
    assert "(row 6, column 1)" in same_error(Target(prob=dense), (7, 5))


def test_nothing_is_wrong_with_nothing():
    assert same_error(Target(prob=torch.zeros(0, 5)), (0, 5)) == ""
    assert same_error(Target(torch.zeros(0, dtype=torch.long)), (0, 5)) == ""


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("name", ["input", "target"])
@pytest.mark.parametrize("wrong", [-1e-6, 1.001, float("nan"), float("inf")])
def test_elements_of_binary_cross_entropy(wrong, name, kind):
    x, t, weight = (torch.full((3, 4), 0.5) for _ in range(3))
    operands = BinaryOperands(x, t, weight)
    checks.check_elements(kind, operands)
    at_fault = x if name == "input" else t
    at_fault[1, 2] = at_fault[2, 0] = wrong
    if kind == "logits" and name == "input":
        checks.check_elements(kind, operands)
        return
    with pytest.raises(ValueError, match=rf"{name} must be between 0 and 1.*\(1, 2\)") as ours:
        checks.check_elements(kind, operands)
    with pytest.raises(ValueError, match=name) as theirs:
        _ = cpu.binary_loss(kind, operands, None)
    assert str(ours.value) == str(theirs.value)
    weight[1, 2] = weight[2, 0] = 0
    checks.check_elements(kind, operands)
    assert cpu.binary_loss(kind, operands, None) > 0
