"""Tests of the tests of adapters and of weights made when needed: code with one mistake must not pass them."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.torch.base import dequantized
from crossent.torch.base.dequantized import Dequantized
from crossent.torch.call import low_rank
from crossent.torch.call.low_rank import LowRank
from crossent.torch.operators.linear_call import LinearCall
from crossent.torch.sources.linear import LinearSource, LinearTiles
from tests.torch import adapted, plain
from tests.torch.linear import Shape

pytestmark = pytest.mark.slow

N, V = 256, 9
ONE_SWEEP, TWO_SWEEPS = 8 * V * 128, 8 * V * 20
"""Bytes of the logits of 128 rows, which one sweep takes on every processor, and of 20."""

adapter_of, inputs_of, counted_of = low_rank._adapter, LinearTiles.inputs, LinearTiles.counted_input
operands_of, padded_of, unpadded_of = LinearTiles.operands, LinearCall.padded, LinearCall.unpadded
gradient_of, features_of = LinearTiles.input_gradient, LinearSource.features.fget
whole_of, classes_of = Dequantized.dequantize, Dequantized.classes
first_blocks: dict[tuple[int, int], torch.Tensor] = {}


def of_other(**changes):
    """The adapter of another LowRank: changes are functions of the one that was passed."""

    def mutant(given, x, names):
        parts = {name: change(given) for name, change in changes.items()}
        held = {"scale": given.scale, "input": given.input, "a": given.a, "b": given.b} | parts
        other = LowRank(given.weight, held["a"], held["b"], held["scale"], input=held["input"])
        return adapter_of(other, x, names)

    return mutant


def scaled_where_it_has_no_gradient(given, x, names):
    """The gradient of A is that of u without the scale."""
    found, plainly = adapter_of(given, x, names), of_other(scale=lambda _: 1.0)(given, x, names)
    return found._replace(features=plainly.features + (found.features - plainly.features).detach())


def from_the_second_on(given, x, names):
    """Only the innermost adapter of several does anything."""
    found = adapter_of(given, x, names)
    return found._replace(features=0 * found.features) if isinstance(given.weight, LowRank) else found


def first_rows(self, rows):
    """The adapter's features are those of the first rows."""
    found = inputs_of(self, rows)
    return [found[0], *(inputs_of(self, type(rows)(0, rows.size))[k] for k in range(1, len(found)))]


def of_the_first_classes(self, classes):
    found, first = operands_of(self, classes), self.source.adapter
    if first is None:
        return found
    here = classes.size * self.source.positions
    return found._replace(weights=[found.weights[0], first[:here].to(self.dtype)])


def without_its_part_of_u(self, gradient, classes, to, *, add):
    """u gets no gradient: A learns nothing."""
    gradient_of(self, gradient, classes, to, add=add)
    D = self.source.weight.shape[1]
    to[:, D:] = 0


def with_what_it_holds(self, rows, counted, factor=0):
    """Rows that are gone reach the gradient of B."""
    return inputs_of(self, rows)[factor]


def with_padding(self):
    """The adapter keeps its padding, cut where it does not matter."""
    found = unpadded_of(self)
    if self.linear_adapter is None or found is self:
        return found
    return dataclasses.replace(found, linear_adapter=self.linear_adapter[-found.linear_weight.shape[0] :])


def twice(self, found):
    """As if two shards had added up what both of them have."""
    found = padded_of(self, found)
    return found._replace(linear_adapter=None if found.linear_adapter is None else 2 * found.linear_adapter)


def always_the_first(self):
    """The numbers of the first block that was made with this shape: a weight that is kept and stale."""
    found = whole_of(self)
    return first_blocks.setdefault(tuple(found.shape), found)


def from_its_own_begin(self, begin, end):
    """A part of a part counts its classes from that of the whole."""
    return self._made(self._function, begin, (end - begin, self.shape[1]), self.dtype, self.device)


MUTANTS = {
    "no scale": (low_rank, "_adapter", of_other(scale=lambda _: 1.0)),
    "scaled twice": (low_rank, "_adapter", of_other(scale=lambda given: given.scale**2)),
    "the scale of the other sign": (low_rank, "_adapter", of_other(scale=lambda given: -given.scale)),
    "the gradient of A has no scale": (low_rank, "_adapter", scaled_where_it_has_no_gradient),
    "the head's input in place of the adapter's own": (low_rank, "_adapter", of_other(input=lambda _: None)),
    "A learns nothing": (low_rank, "_adapter", of_other(a=lambda given: given.a.detach())),
    "B learns nothing": (low_rank, "_adapter", of_other(b=lambda given: given.b.detach())),
    "the adapter's own input learns nothing": (
        low_rank, "_adapter", of_other(input=lambda given: None if given.input is None else given.input.detach()),
    ),
    "only the innermost of several adapters": (low_rank, "_adapter", from_the_second_on),
    "rows that are gone reach the gradient of A": (low_rank, "_products", nnf.linear),
    "rows that are gone reach the gradient of B": (LinearTiles, "counted_input", with_what_it_holds),
    "every chunk has the u of the first rows": (LinearTiles, "inputs", first_rows),
    "every tile has the B of the first classes": (LinearTiles, "operands", of_the_first_classes),
    "u gets no gradient": (LinearTiles, "input_gradient", without_its_part_of_u),
    "B is padded in front": (LinearCall, "unpadded", with_padding),
    "the gradient of B twice": (LinearCall, "padded", twice),
    "a weight that is stale": (Dequantized, "dequantize", always_the_first),
    "a part of a part begins elsewhere": (Dequantized, "classes", from_its_own_begin),
}  # fmt: skip


def made(w):
    return F.Dequantized(lambda begin, end: w.detach()[begin:end], tuple(w.shape), w.dtype)


def check_adapters(chunk_bytes):
    """Losses and gradients, in tiles of few classes too, with padding and with rows that are gone."""
    for adapters, reduction, wide in itertools.product(("own input", "two"), ("mean", "none"), (False, True)):
        _ = torch.manual_seed(0)
        shape = Shape((6,), (), 3000, 4) if wide else Shape((N,), (), V, 5)
        args, options = adapted.draw(shape, "index", adapters=adapters, bias=True)
        gone = torch.arange(shape.lead[0]) % 3 == 1
        args = (*args[:2], torch.where(gone, -100, args[2]), *args[3:])
        options |= {"reduction": reduction}
        want, wants = adapted.outcome(adapted.exact, args, options)
        with torch.no_grad():
            for k, x in enumerate(args):
                if k == 0 or (k > 4 and (k - 5) % 3 == 2 and x is not None):
                    x[gone] = math.nan
        got, grads = adapted.outcome(adapted.ours, args, options | {"chunk_bytes": chunk_bytes})
        for a, b in zip((got, *grads), (want, *wants), strict=True):
            assert plain.off(a, b) <= 1e-10
        padded = [
            torch.cat([x.detach(), torch.full((2, *x.shape[1:]), math.nan).double()]).requires_grad_()
            if k in (1, 3) or (k > 4 and (k - 5) % 3 == 1) else x
            for k, x in enumerate(args)
        ]  # fmt: skip
        got, grads = adapted.outcome(
            adapted.ours, tuple(padded), options | {"chunk_bytes": chunk_bytes, "num_classes": shape.C}
        )
        for a, b in zip((got, *grads), (want, *wants), strict=True):
            a = a[: len(b)] if a.ndim else a  # noqa: PLW2901
            assert plain.off(a, b) <= 1e-10


def check_weights_of_zero(chunk_bytes):
    """Rows that a weight of zero takes away, of probabilities: no index says that they are gone."""
    for adapters, reduction in itertools.product(("own input", "two"), ("mean", "sum")):
        _ = torch.manual_seed(0)
        args, options = adapted.draw(Shape((N,), (), V, 5), "dense", adapters=adapters, bias=True, frozen=("prob",))
        weights = torch.rand(N, dtype=torch.float64)
        weights[1::3] = 0
        args, options = (*args[:4], weights, *args[5:]), options | {"reduction": reduction}
        want, wants = adapted.outcome(adapted.exact, args, options)
        with torch.no_grad():
            for k, x in enumerate(args):
                if k == 0 or (k > 4 and (k - 5) % 3 == 2 and x is not None):
                    x[1::3] = math.nan
        got, grads = adapted.outcome(adapted.ours, args, options | {"chunk_bytes": chunk_bytes})
        for a, b in zip((got, *grads), (want, *wants), strict=True):
            assert plain.off(a, b) <= 1e-10


def check_made(chunk_bytes):
    """A weight that is made when needed, in parts and in parts of parts, alone and beneath an adapter."""
    for adapters, classes in itertools.product((None, "one"), (V, 3000)):
        _ = torch.manual_seed(0)
        args, options = adapted.draw(
            Shape((12,), (), classes, 4), adapters=adapters or "one", bias=True, frozen=("linear_weight",)
        )
        args = args if adapters else args[:5]
        options = options if adapters else {"scales": ()}
        want, wants = adapted.outcome(adapted.exact, args, options)

        def call(x, w, *rest, **more):
            part = torch.cat([torch.full_like(w[:3], math.nan), w])
            whole = torch.cat([torch.full_like(w[:2], math.nan), part])
            return adapted.ours(x, made(whole)[2:][3:], *rest, **more)

        got, grads = adapted.outcome(call, args, options | {"chunk_bytes": chunk_bytes})
        for a, b in zip((got, *grads), (want, *wants), strict=True):
            assert plain.off(a, b) <= 1e-10


def check():
    first_blocks.clear()
    for chunk_bytes in (ONE_SWEEP, TWO_SWEEPS, None):
        check_adapters(chunk_bytes)
        check_weights_of_zero(chunk_bytes)
        check_made(chunk_bytes)


def passes():
    try:
        check()
    except (AssertionError, RuntimeError):  # gradients that are not there
        return False
    return True


def test_the_real_code_passes():
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_no_mutant_survives(name, monkeypatch):
    home, attribute, mutant = MUTANTS[name]
    monkeypatch.setattr(home, attribute, mutant)
    assert not passes()


def test_blocks_begin_where_they_are_asked_for():
    """What reads a weight block by block has mutants of its own."""
    w = torch.randn(7, 3)
    blocks = dequantized.blocks_of(made(w))
    torch.testing.assert_close(torch.cat([b.dequantize() for b in blocks]), w)
