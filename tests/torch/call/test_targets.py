"""Targets in the form of the kernels, and the most probable of K classes."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import pytest
import torch

import crossent.torch as F
from crossent.torch.call.layout import LayerOperands, layout_of, layout_of_layer
from crossent.torch.call.targets import TargetKind, TargetRows, TopK, is_soft, most_probable_of_topk, target_rows

SHAPES = ((7,), (4, 7), (4, 7, 3), (2, 7, 3, 2))


def rows_of(x, axis):
    """Rows with the class axis last, in the order of the losses."""
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_targets_have_the_rows_of_the_logits(shape):
    layout = layout_of(torch.zeros(shape))
    index = torch.randint(7, layout.rows)
    found = target_rows(index, layout, -100)
    assert torch.equal(found.index, index.reshape(-1))
    assert found.prob is None
    prob = torch.rand(shape)
    found = target_rows(prob, layout, -100)
    assert found.index is None
    flat = found.prob if found.prob.ndim == 2 else found.prob.movedim(1, -1).flatten(0, 1)
    assert torch.equal(flat, rows_of(prob, layout.axis))
    picks = [*shape]
    picks[layout.axis] = 2
    top = TopK(torch.randint(7, picks), torch.rand(picks))
    found = target_rows(top, layout, -100)
    assert torch.equal(found.index, rows_of(top.index, layout.axis))
    assert torch.equal(found.prob, rows_of(top.prob, layout.axis))


def test_targets_of_a_layer_of_tokens_and_positions():
    layout = layout_of_layer(LayerOperands(torch.zeros(2, 3, 4), torch.zeros(7, 5, 4), None))
    index = torch.randint(7, (2, 3, 5))
    assert torch.equal(target_rows(index, layout, -100).index, index.flatten())
    top = TopK(torch.randint(7, (2, 3, 2, 5)), torch.rand(2, 3, 2, 5))
    assert torch.equal(target_rows(top, layout, -100).prob, rows_of(top.prob, 2))


def test_a_vector_of_classes_is_not_copied():
    index = torch.tensor([0, 1, 2, 3])
    assert target_rows(index, layout_of(torch.zeros(4, 7)), -100).index is index


@pytest.mark.parametrize(
    ("target", "soft"),
    [
        (torch.zeros(4).long(), False),
        (torch.zeros(4, 7), True),
        (TopK(torch.zeros(4, 1).long(), torch.zeros(4, 1)), True),
        ([0, 1, 2, 3], False),
    ],
)
def test_which_targets_are_soft(target, soft):
    assert is_soft(target, layout_of(torch.zeros(4, 7))) == soft


Y, P = torch.tensor([0, 1, 2, 3]), torch.full((4, 7), 0.2)
WRONG = {
    "rows": (ValueError, ["(3,)", "input of shape (4, 7)", "(4,)"], Y[:3], -100),
    "float classes": (TypeError, ["integer", "float32"], Y.float(), -100),
    "whole probabilities": (TypeError, ["floating-point", "int64", "(4,)"], P.long(), -100),
    "ignored probabilities": (ValueError, ["ignore_index", "sample_weight=0"], P, 0),
    "ignored picks": (ValueError, ["ignore_index"], TopK(Y[:, None], P[:, :1]), 3),
    "picks in a row": (ValueError, ["TopK", "an input of shape (4, 7)", "(4, K)", "(4,)"], TopK(Y, P[:, 0]), -100),
    "other picks": (ValueError, ["(4, 1)", "(4, 2)"], TopK(Y[:, None], P[:, :2]), -100),
    "float picks": (TypeError, ["TopK.index", "float32"], TopK(P[:, :2], P[:, :2]), -100),
    "whole picked probabilities": (TypeError, ["TopK.prob", "int64"], TopK(Y[:, None], Y[:, None]), -100),
    "a list of picks": (TypeError, ["TopK.index", "list"], TopK([[0]], P[:, :1]), -100),
    "elsewhere": (ValueError, ["target is on meta", "cpu"], Y.to("meta"), -100),
}


@pytest.mark.parametrize("name", WRONG)
def test_targets_that_do_not_fit(name):
    error, words, target, ignore = WRONG[name]
    with pytest.raises(error) as caught:
        _ = target_rows(target, layout_of(torch.zeros(4, 7)), ignore)
    for word in words:
        assert word in str(caught.value)


def test_errors_of_a_layer_speak_of_logits():
    layout = layout_of_layer(LayerOperands(torch.zeros(4, 3), torch.zeros(7, 3), None))
    with pytest.raises(ValueError, match=r"no logits of shape \(4, 7\)"):
        _ = target_rows(Y[:3], layout, -100)
    with pytest.raises(ValueError, match=r"beside logits of shape \(4, 7\)"):
        _ = target_rows(TopK(Y, P[:, 0]), layout, -100)


@pytest.mark.parametrize("K", [1, 2, 5])
def test_the_most_probable_of_k_classes_counts_a_class_as_often_as_it_is_picked(K):
    index = torch.randint(4, (200, K))
    prob = torch.randint(4, (200, K)) / 4
    want = []
    for classes, shares in zip(index.tolist(), prob.tolist(), strict=True):
        sums = defaultdict(float)
        for k, p in zip(classes, shares, strict=True):
            sums[k] += p
        want.append(min(sums, key=lambda k: (-sums[k], k)))  # the first of equal ones
    assert most_probable_of_topk(index, prob).tolist() == want


# A kind of target is one class


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Mixture(TargetKind):
    """Of two classes, the first with probability `share` and the second with the rest."""

    first: torch.Tensor
    second: torch.Tensor
    share: float

    def rows(self, layout):
        index = torch.stack([self.first.reshape(-1), self.second.reshape(-1)], 1)
        return TargetRows(index, torch.tensor([self.share, 1 - self.share]).expand(len(index), 2))


def dense(mixture, classes):
    one_hot = torch.nn.functional.one_hot
    p = mixture.share * one_hot(mixture.first, classes) + (1 - mixture.share) * one_hot(mixture.second, classes)
    return p.movedim(-1, 1).double()


@pytest.mark.parametrize("shape", [(6,), (3, 4)], ids=str)
def test_a_kind_of_target_is_one_class_and_works_in_every_loss(shape):
    mixture = Mixture(torch.randint(7, shape), torch.randint(7, shape), 0.3)
    z = torch.randn(shape[0], 7, *shape[1:], dtype=torch.float64, requires_grad=True)
    rival = torch.nn.functional.cross_entropy(z, dense(mixture, 7), label_smoothing=0.1)
    loss = F.cross_entropy(z, mixture, label_smoothing=0.1)
    torch.testing.assert_close(loss, rival, rtol=1e-6, atol=0)  # the shares are float32
    torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (loss, rival)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_kind_of_target_meets_a_linear_layer(lazy):
    head = torch.nn.Linear(5, 7, dtype=torch.float64)
    x = torch.randn(6, 5, dtype=torch.float64)
    mixture = Mixture(torch.randint(7, (6,)), torch.randint(7, (6,)), 0.3)
    rival = torch.nn.functional.cross_entropy(head(x), dense(mixture, 7))
    (want,) = torch.autograd.grad(rival, head.weight)
    if lazy:
        loss = F.cross_entropy(F.fuse_lm_head(head)(x), mixture)
    else:
        loss = F.linear_cross_entropy(x, head.weight, mixture, linear_bias=head.bias)
    torch.testing.assert_close(loss, rival, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, head.weight)[0], want, rtol=1e-5, atol=1e-9)


def test_a_kind_says_its_tensors_and_maps_them():
    mixture = Mixture(torch.tensor([1]), torch.tensor([2]), 0.25)
    twice = mixture.map(lambda x: 2 * x)
    assert [x.tolist() for x in twice.tensors()] == [[2], [4]]
    assert twice.share == 0.25
    with pytest.raises(NotImplementedError, match="TargetKind"):
        _ = TargetKind().rows(layout_of(torch.zeros(1, 3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_picks_of_a_class_add_up_without_rounding(dtype):
    few = torch.finfo(dtype).eps / 8  # lost beside a half in this dtype
    index, prob = torch.tensor([[5, 5, 3]]), torch.tensor([[0.5, few, 0.5]], dtype=dtype)
    assert most_probable_of_topk(index, prob).tolist() == [5]
