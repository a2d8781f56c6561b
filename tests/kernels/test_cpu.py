"""The CPU backend beside its contract (tests/conformance): instruction sets, threads, errors, a core not built."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from crossent import kernels, reference
from crossent.kernels import cpu
from crossent.kernels.backend import BinaryOperands, Cotangents, RowOutputs
from crossent.spec import Scores, Target, class_error, element_error, probability_error
from tests.oracle import empty_record


def test_every_instruction_set_says_its_name():
    names = cpu.available_isas()
    assert names[0] == "baseline"
    for name in names:
        cpu.use_isa(name)
        assert cpu.isa() == name
    cpu.use_isa("")
    assert cpu.isa() == names[-1]
    with pytest.raises(ValueError, match="baseline"):
        cpu.use_isa("abacus")
    assert cpu.isa() == names[-1]


def test_a_forced_instruction_set_is_the_one_that_runs():
    code = "from crossent.kernels import cpu; print(cpu.isa())"
    run = subprocess.run(
        [sys.executable, "-c", code], env={"CROSSENT_ISA": "baseline"}, capture_output=True, text=True, check=True
    )
    assert run.stdout == "baseline\n"


def test_threads_say_where_they_come_from():
    assert any(words in cpu.threads() for words in ("lent by torch", "the core's own, up to"))


def test_a_core_that_is_not_built_is_a_reason_and_not_an_accident(monkeypatch):
    monkeypatch.setattr(cpu, "_core", None)
    monkeypatch.setattr(cpu, "_missing", "the C++ core is not built (no module)")
    assert cpu.why_not() == kernels.why_not("cpu") == "the C++ core is not built (no module)"
    for call in (cpu.isa, lambda: kernels.get("cpu"), lambda: cpu.sums(np.ones(1), None, None, -1)):
        with pytest.raises(NotImplementedError, match="not built"):
            call()


def test_errors_are_those_of_the_specification():
    z, record = np.zeros((2, 5, 3), np.float32), empty_record(6)
    index, prob = np.array([0, 1, 2, 9, 4, 0]), np.full((2, 5, 3), 0.5)
    with pytest.raises(IndexError) as caught:
        cpu.row_stats(z, Target(index), Scores(), record)
    assert str(caught.value) == str(class_error(9, 3, 6, Target(index), 5))
    prob[1, 4, 0] = -0.25
    with pytest.raises(ValueError, match="probability") as caught:
        cpu.row_stats(z, Target(prob=prob), Scores(), record)
    assert str(caught.value) == str(probability_error(-0.25, 3, 4))
    prob[0, 2, 1] = 1.5
    prob = abs(prob)
    for q, t, name in (
        (prob, np.zeros_like(prob), "input"),
        (np.zeros_like(prob), prob, "target"),
        (prob, prob, "target"),
    ):
        with pytest.raises(ValueError, match=name) as caught:
            _ = cpu.binary_loss("probabilities", BinaryOperands(q, t), None)
        assert str(caught.value) == str(element_error(name, 1.5, (0, 2, 1)))


def test_sums_are_numerator_and_denominator_of_a_mean():
    loss, index = np.array([1.0, 2.0, 4.0], np.float32), np.array([0, 1, -100])
    assert cpu.sums(loss, None, None, -100) == (7.0, 3.0)
    assert cpu.sums(loss, index, None, -100) == (7.0, 2.0)
    sums = cpu.sums(loss, index, np.array([0.25, 0.5]), -100)
    assert (sums.loss, sums.weight) == (7.0, 0.75)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_is_the_reduced_loss_and_its_gradient(dtype, mean):
    draw = np.random.default_rng(3)
    z, index = draw.normal(size=(7, 5)).astype(dtype), np.array([0, 4, -100, 1, 1, 2, 3])
    weight = np.linspace(0, 2, 5).astype(dtype)
    target = Target(index, weight=weight, smoothing=0.1, ignore_index=-100)
    eps = float(np.finfo(dtype).eps)
    for scores in (Scores(), Scores(0.5, 3.0)):
        grad = np.full_like(z, 9.0)
        options = cpu.StepOptions(mean, -100, 0.1, 0.0, scores.temperature, scores.softcap)
        loss = cpu.row_step(z, index, weight, options, grad)
        stats = reference.row_stats(z, target, scores)
        scale = 1 / weight[index[index != -100]].sum() if mean else 1.0
        assert loss == pytest.approx(stats.loss.sum() * scale, rel=8 * eps)
        want = reference.row_grad(z, target, scores, stats, Cotangents(np.full(7, scale), None, None))
        np.testing.assert_allclose(grad, want, rtol=0, atol=8 * eps)
        assert not grad[2].any()
        assert cpu.row_step(z, index, weight, options, None) == loss
    grad = np.full_like(z, 9.0)
    loss = cpu.row_step(z, np.full(7, 3), None, cpu.StepOptions(mean, 3, 0, 0, 1, None), grad)
    assert np.isnan(loss) if mean else loss == 0.0
    assert not grad.any()


def test_a_step_takes_the_axes_of_images_and_of_one_row():
    draw = np.random.default_rng(4)
    z, index, options = (
        draw.normal(size=(2, 5, 3, 4)),
        draw.integers(5, size=(2, 3, 4)),
        cpu.StepOptions(True, -1, 0, 0, 1, None),
    )
    rows, classes = np.moveaxis(z, 1, -1).reshape(-1, 5), index.reshape(-1)
    stats = reference.row_stats(rows, Target(classes), Scores())
    want = reference.row_grad(rows, Target(classes), Scores(), stats, Cotangents(np.full(24, 1 / 24), None, None))
    for order in ((0, 1, 2, 3), (2, 3, 0, 1), (0, 2, 3, 1)):
        logits, grad = (np.empty([z.shape[k] for k in order]).transpose(np.argsort(order)) for _ in range(2))
        logits[...] = z
        assert cpu.row_step(logits, index, None, options, grad) == pytest.approx(stats.loss.mean(), rel=1e-15)
        np.testing.assert_allclose(np.moveaxis(grad, 1, -1).reshape(-1, 5), want, rtol=0, atol=1e-16)
    one = np.empty(5)
    assert cpu.row_step(rows[0], classes[0:1].reshape(()), None, options, one) == pytest.approx(
        stats.loss[0], rel=1e-15
    )
    np.testing.assert_allclose(one, 24 * want[0], rtol=0, atol=4e-16)


@pytest.mark.parametrize("wrong", ["class", "shape", "strides", "gradient", "option"])
def test_a_step_leaves_to_others_what_is_wrong(wrong):
    z, index, grad, options = (
        np.zeros((4, 3, 2, 2)),
        np.zeros((4, 2, 2), int),
        np.zeros((4, 3, 2, 2)),
        [True, -1, 0, 0, 1, None],
    )
    if wrong == "class":
        index[3, 1, 1] = 3
    elif wrong == "shape":
        index = np.zeros((4, 4), int)
    elif wrong == "strides":
        index = np.zeros((4, 2, 4), int)[:, :, ::2]
        index = np.zeros((4, 4, 2), int)[:, ::2, :]
    elif wrong == "gradient":
        grad = np.zeros((4, 3, 2, 2), np.float32)
    else:
        options[2] = -0.5
    assert cpu.row_step(z, index, None, cpu.StepOptions(*options), grad) is None


def test_outputs_are_written_by_their_names():
    z, loss = np.zeros((2, 4)), np.full(2, np.nan)
    cpu.row_stats(z, Target(np.zeros(2, int)), Scores(), empty_record(2), RowOutputs(entropy=loss))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-15)


@pytest.mark.parametrize("V", [20, 50, 100, 128])
@pytest.mark.parametrize("entropic", [False, True])
def test_gradients_of_few_classes_may_take_the_place_of_their_logits(V, entropic):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(70, V)).astype(np.float32)
    target = Target(index=rng.integers(0, V, 70))
    g = [rng.random(70).astype(np.float32) for _ in range(2)]
    cotangents = Cotangents(g[0], None, g[1] if entropic else None)
    exact = logits.astype(np.float64)
    want = reference.row_grad(exact, target, Scores(), reference.row_stats(exact, target, Scores()), cotangents)
    cpu.row_grad(logits, target, Scores(), None, cotangents, logits)
    np.testing.assert_allclose(logits, want, rtol=0, atol=2e-6)
