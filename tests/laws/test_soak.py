"""The soak finds nothing in a few hundred calls, and finds a loss that is wrong by little; the program runs."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import crossent.torch as F
from tests.laws.soak import call_of, checked, soak

pytestmark = pytest.mark.slow

NAMES = ("cross_entropy", "linear_cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits")
WITHIN = 1000


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_are_right(seed):
    result = soak(seed, 150)
    assert result.off == {}, [call_of(seed, number).text() for number in result.off]
    assert max(result.largest.values()) > 0.2  # the bounds are not far from what is measured


def changed(change):
    """The four losses, with a change of what they are called with or of what they return."""

    def wrapped(name):
        def loss(*arguments, **options):
            return change(getattr(F, name), name, arguments, options)

        return loss

    return SimpleNamespace(**{name: wrapped(name) for name in NAMES})


def with_options(**changes):
    """A change of options that are there: each is a function of the old value."""

    def change(loss, name, arguments, options):
        return loss(*arguments, **{key: changes.get(key, lambda x: x)(value) for key, value in options.items()})

    return changed(change)


class Steeper(torch.autograd.Function):
    """The identity, with a gradient that is off by a ten-thousandth."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return g * (1 + 1e-4)


def steeper(loss, name, arguments, options):
    found = loss(*arguments, **options)
    return (Steeper.apply(found[0]), *found[1:]) if isinstance(found, tuple) else Steeper.apply(found)


def wide_cotangents(loss, name, arguments, options):
    """The loss is right, and takes its cotangents for equal ones."""
    found = loss(*arguments, **options)
    if isinstance(found, tuple) or found.ndim == 0:
        return found
    return found.detach() + (found - found.detach()).mean()


MUTANTS = {
    "a smoothing off by a thousandth": with_options(label_smoothing=lambda x: x + 1e-3 if 0 < x < 0.9 else x),
    "no z-loss": with_options(z_loss=lambda x: 0.0),
    "a gradient off by a ten-thousandth": changed(steeper),
    "a temperature off by a ten-thousandth": with_options(temperature=lambda x: x * (1 + 1e-4)),
    "a softcap off by a hundredth": with_options(softcap=lambda x: x * 1.01),
    "no class weights": with_options(weight=lambda x: None),
    "no positive weights": with_options(pos_weight=lambda x: None),
    "no sample weights": with_options(sample_weight=lambda x: None),
    "equal cotangents": changed(wide_cotangents),
    "a mean that is a sum": with_options(reduction=lambda x: "sum" if x == "mean" else x),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_loss_is_found(mutant):
    def off(number, losses=F):
        return any(x.ratio > 1 for x in checked(call_of(1, number), losses))

    assert any(off(number, MUTANTS[mutant]) and not off(number) for number in range(WITHIN))


def test_the_program_says_what_it_found():
    command = [sys.executable, "-m", "tests.laws.soak", "--calls", "20", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "20 calls, 0 off" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
