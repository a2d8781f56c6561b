"""Weights of tokens and labels of next tokens, held against plain loops; packed = unpacked = in micro-batches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import crossent.torch as F

MEANS = ["token", "sequence", "sequence-sum"]
LENGTHS = [[5, 1, 3], [1], [0, 4, 0, 2, 0], [7, 7, 1, 1, 2], [0], []]
V, D = 11, 4


def boundaries(lengths: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=dtype)


def by_hand(sequences: list[list[bool]], mean: str) -> list[list[float]]:
    """The formulas, one token after the other."""
    tokens = sum(map(sum, sequences))
    with_tokens = sum(any(each) for each in sequences)
    found = []
    for each in sequences:
        divisor = {"token": tokens, "sequence": with_tokens * sum(each), "sequence-sum": with_tokens}[mean]
        found.append([1 / divisor if counts else 0.0 for counts in each])
    return found


def drawn(lengths: list[int]) -> list[list[bool]]:
    return [(torch.rand(n) < 0.6).tolist() for n in lengths]


def padded(sequences: list[list[Any]], value: Any) -> list[list[Any]]:
    longest = max(map(len, sequences), default=0)
    return [each + [value] * (longest - len(each)) for each in sequences]


# Weights


def test_means_of_the_losses_in_verl_593() -> None:
    losses, packed = torch.tensor([2.0, 2, 2, 2, 2, 10]), torch.tensor([0, 5, 6])
    unpacked = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    for mean, value in (("token", 20 / 6), ("sequence", 6.0), ("sequence-sum", 10.0)):
        mean_: Any = mean
        assert (F.token_weights(cu_seqlens=packed, mean=mean_) * losses).sum().item() == pytest.approx(value, rel=1e-6)
        weights = F.token_weights(mask=unpacked, mean=mean_)
        assert weights.shape == unpacked.shape
        assert (weights[unpacked != 0] * losses).sum().item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("mean", MEANS)
def test_weights_are_those_of_the_formula(mean: Any, lengths: list[int]) -> None:
    sequences = drawn(lengths)
    wanted = by_hand(sequences, mean) if any(map(any, sequences)) else [[0.0] * n for n in lengths]
    flat = torch.tensor([x for each in wanted for x in each], dtype=torch.float64)
    mask = torch.tensor([x for each in sequences for x in each], dtype=torch.bool)
    packed = F.token_weights(mask=mask, cu_seqlens=boundaries(lengths), mean=mean)
    assert packed.dtype == torch.float32
    assert torch.equal(packed, flat.float())
    if lengths:
        unpacked = F.token_weights(mask=torch.tensor(padded(sequences, False), dtype=torch.bool), mean=mean)
        assert torch.equal(unpacked, torch.tensor(padded(wanted, 0.0), dtype=torch.float64).float())
    assert packed.sum().item() == pytest.approx(float(flat.sum()), rel=1e-6)


@pytest.mark.parametrize("mean", MEANS)
def test_all_tokens_count_without_a_mask(mean: Any) -> None:
    lengths = [3, 0, 2]
    for dtype in (torch.int32, torch.int64, torch.uint8):
        found = F.token_weights(cu_seqlens=boundaries(lengths, dtype), mean=mean)
        assert torch.equal(found, F.token_weights(mask=torch.ones(5), cu_seqlens=boundaries(lengths), mean=mean))
        assert found.tolist() == pytest.approx(
            [x for each in by_hand([[True] * n for n in lengths], mean) for x in each]
        )


def test_boundaries_may_be_a_strided_view() -> None:
    """As of pairs of sequences: `cu_seqlens[::2]`."""
    packed = boundaries([2, 1, 3, 4])
    found = F.token_weights(cu_seqlens=packed[::2], mean="sequence")
    assert torch.equal(found, F.token_weights(cu_seqlens=boundaries([3, 7]), mean="sequence"))
    ids = torch.arange(10)
    assert torch.equal(
        F.next_token_labels(ids, cu_seqlens=packed[::2]), F.next_token_labels(ids, cu_seqlens=boundaries([3, 7]))
    )


@pytest.mark.parametrize("mean", MEANS)
def test_one_row_of_packed_tokens_keeps_its_shape(mean: Any) -> None:
    mask, packed = torch.tensor([1, 0, 1, 1, 1]), boundaries([2, 3])
    flat = F.token_weights(mask=mask, cu_seqlens=packed, mean=mean)
    row = F.token_weights(mask=mask[None], cu_seqlens=packed, mean=mean)
    assert row.shape == (1, 5)
    assert torch.equal(row[0], flat)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.bfloat16, torch.float64], ids=str
)
def test_masks_of_any_dtype(dtype: torch.dtype) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).to(dtype)
    assert F.token_weights(mask=mask, mean="sequence").tolist() == [[0.25, 0.25, 0], [0.5, 0, 0]]


@pytest.mark.parametrize("mean", MEANS)
def test_where_no_token_counts_the_loss_and_its_gradient_are_0(mean: Any) -> None:
    z = torch.randn(4, V, requires_grad=True)
    weights = F.token_weights(mask=torch.zeros(4), cu_seqlens=boundaries([2, 2]), mean=mean, normalizer=torch.tensor(0))
    loss = F.cross_entropy(z, torch.arange(4), reduction="sum", sample_weight=weights)
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None
    assert not z.grad.any()


@pytest.mark.parametrize("mean", MEANS)
def test_a_normaliser_divides_in_place_of_the_number_of_tokens_or_sequences(mean: Any) -> None:
    mask, packed = torch.tensor([1, 1, 0, 1, 1, 1, 0, 0]), boundaries([3, 3, 2])
    own = 5 if mean == "token" else 2
    plain = F.token_weights(mask=mask, cu_seqlens=packed, mean=mean)
    for seven in (7, 7.0, torch.tensor(7), torch.tensor(7.0), torch.tensor(7, dtype=torch.bfloat16)):
        found = F.token_weights(mask=mask, cu_seqlens=packed, mean=mean, normalizer=seven)
        torch.testing.assert_close(found, plain * own / 7, rtol=1e-6, atol=0)


# Losses of sequences


class Batch:
    """Sequences of rows: features, head and labels in float64, with tokens that do not count."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.masks = [[True] * n for n in lengths]
        for each in self.masks[::2]:
            each[0] = False
        self.x = torch.randn(sum(lengths), D, dtype=torch.float64)
        self.head = torch.randn(V, D, dtype=torch.float64)
        self.labels = torch.randint(V, (sum(lengths),))

    def mean(self, mean: str, x: torch.Tensor) -> torch.Tensor:
        """The definition: losses of torch, one sequence after the other."""
        losses = torch.nn.functional.cross_entropy(x @ self.head.t(), self.labels, reduction="none")
        parts = losses.split(self.lengths)
        kept = [part[torch.tensor(mask)] for part, mask in zip(parts, self.masks, strict=True)]
        kept = [part for part in kept if len(part)]
        if mean == "token":
            return torch.cat(kept).mean()
        return torch.stack([part.mean() if mean == "sequence" else part.sum() for part in kept]).mean()

    def differentiated(self, mean: str) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.x.clone().requires_grad_()
        loss = self.mean(mean, x)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    @property
    def mask(self) -> torch.Tensor:
        return torch.tensor([x for each in self.masks for x in each])


@pytest.mark.parametrize("mean", MEANS)
def test_packed_unpacked_and_accumulated_losses_are_the_mean_that_is_meant(mean: Any) -> None:
    batch = Batch([5, 1, 4, 2])
    wanted, gradient = batch.differentiated(mean)
    cut = [0, 5, 6, 10, 12]

    def close(loss: torch.Tensor, x: torch.Tensor, to: torch.Tensor) -> None:
        # weights are float32: each is right to half an ulp
        torch.testing.assert_close(loss.detach(), wanted, rtol=2**-23, atol=0)
        torch.testing.assert_close(x.grad, to, rtol=2**-23, atol=2**-24 * float(gradient.abs().max()))

    # packed, with logits and without
    weights = F.token_weights(mask=batch.mask, cu_seqlens=torch.tensor(cut), mean=mean)
    for linear in (False, True):
        x = batch.x.clone().requires_grad_()
        if linear:
            loss = F.linear_cross_entropy(x, batch.head, batch.labels, reduction="sum", sample_weight=weights)
        else:
            loss = F.cross_entropy(x @ batch.head.t(), batch.labels, reduction="sum", sample_weight=weights)
        loss.backward()
        close(loss, x, gradient)

    # unpacked: rows of five tokens, NaN where they are padded
    at = torch.tensor(padded([list(range(b, e)) for b, e in itertools.pairwise(cut)], -1))
    x = torch.where((at >= 0)[..., None], batch.x[at], torch.nan).requires_grad_()
    mask = (at >= 0) & batch.mask[at]
    weights = F.token_weights(mask=mask, mean=mean)
    labels = torch.where(at >= 0, batch.labels[at], -100)
    loss = F.linear_cross_entropy(x, batch.head, labels, reduction="sum", sample_weight=weights)
    loss.backward()
    padding = torch.zeros(1, D, dtype=torch.float64)
    close(loss, x, torch.cat((gradient, padding))[at])

    # in micro-batches of two sequences, whose normaliser is that of the batch
    whole = batch.mask.sum() if mean == "token" else sum(any(each) for each in batch.masks)
    x, total = batch.x.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
    for first in (0, 2):
        begin, end = cut[first], cut[first + 2]
        weights = F.token_weights(
            mask=batch.mask[begin:end], cu_seqlens=torch.tensor(cut[first : first + 3]) - begin, mean=mean,
            normalizer=whole,
        )  # fmt: skip
        loss = F.linear_cross_entropy(
            x[begin:end], batch.head, batch.labels[begin:end], reduction="sum", sample_weight=weights
        )
        loss.backward()
        total += loss.detach()
    close(total, x, gradient)


# Labels


def labels_by_hand(ids: list[int], mask: list[int], cut: list[int], nothing: int) -> list[int]:
    found = []
    for t in range(len(ids)):
        last = any(t + 1 == end for end in cut[1:])
        found.append(ids[t + 1] if not last and t + 1 < len(ids) and mask[t + 1] else nothing)
    return found


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_labels_are_those_of_a_loop(lengths: list[int], masked: bool) -> None:
    N, cut = sum(lengths), boundaries(lengths)
    ids = torch.randint(100, (N,))
    mask = torch.rand(N) < 0.7 if masked else None
    counted = [1] * N if mask is None else mask.int().tolist()
    for nothing in (-100, -1):
        wanted = labels_by_hand(ids.tolist(), counted, cut.tolist(), nothing)
        found = F.next_token_labels(ids, mask=mask, cu_seqlens=cut, ignore_index=nothing)
        assert found.dtype == torch.int64
        assert found.tolist() == wanted
        row = F.next_token_labels(
            ids[None].int(), mask=None if mask is None else mask[None].int(), cu_seqlens=cut, ignore_index=nothing
        )
        assert row.tolist() == [wanted]
        alone = F.next_token_labels(ids, mask=mask, ignore_index=nothing)  # one sequence
        assert alone.tolist() == labels_by_hand(ids.tolist(), counted, [0, N], nothing)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (4, 1), (2, 0), (0, 3)])
def test_labels_of_rows_are_those_of_a_loop(shape: tuple[int, int]) -> None:
    B, T = shape
    ids, lengths = torch.randint(100, shape), torch.randint(1, T + 1, (B,)) if T else torch.zeros(B)
    mask = torch.arange(T) < lengths[:, None]  # padding on the right: it is never scored
    found = F.next_token_labels(ids, mask=mask)
    assert found.tolist() == [labels_by_hand(ids[b].tolist(), mask[b].tolist(), [0, T], -100) for b in range(B)]
    for b in range(B):
        assert (found[b] != -100).sum() == max(0, int(lengths[b]) - 1)


def test_a_prompt_is_not_scored_and_the_first_token_of_a_completion_is() -> None:
    ids, completion = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[0, 0, 1, 1, 0]])
    assert F.next_token_labels(ids, mask=completion).tolist() == [[-100, 3, 4, -100, -100]]


def test_the_first_token_after_left_padding_is_no_label_in_the_mask_that_the_docstring_recommends() -> None:
    ids = torch.tensor([[0, 0, 3, 4], [1, 2, 3, 4]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    labels = F.next_token_labels(ids, mask=mask & mask.roll(1, -1))
    assert labels.tolist() == [[-100, -100, 4, -100], [2, 3, 4, -100]]


def test_labels_and_weights_work_together() -> None:
    ids, cut = torch.randint(V, (9,)), boundaries([4, 1, 4])
    labels = F.next_token_labels(ids, cu_seqlens=cut)
    weights = F.token_weights(mask=labels != -100, cu_seqlens=cut, mean="sequence")
    z = torch.randn(9, V, dtype=torch.float64)
    losses = torch.nn.functional.cross_entropy(z, labels, reduction="none")
    wanted = (losses[0:3].mean() + losses[5:8].mean()) / 2  # a sequence of one token predicts nothing
    found = F.cross_entropy(z, labels, reduction="sum", sample_weight=weights)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=0)


# Where there are no numbers to look at


def test_nothing_waits_for_a_device() -> None:
    """Numbers of a meta tensor cannot be read: whatever waited for one would raise."""
    cut, mask, ids = (torch.empty(n, dtype=torch.int32, device="meta") for n in (3, 8, 8))
    for mean in MEANS:
        mean_: Any = mean
        for normalizer in (None, 3, torch.tensor(3), torch.empty((), device="meta")):
            found = F.token_weights(mask=mask, cu_seqlens=cut, mean=mean_, normalizer=normalizer)
            assert (found.shape, found.dtype, found.device.type) == ((8,), torch.float32, "meta")
        assert F.token_weights(mask=mask.view(2, 4), mean=mean_).shape == (2, 4)
    assert F.next_token_labels(ids, mask=mask, cu_seqlens=cut).shape == (8,)


# Mistakes

ONES = torch.ones(6)
WRONG_WEIGHTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "pass mask=, the tokens that count, or cu_seqlens="),
    ({"mask": ONES, "mean": "tokens"}, ValueError, "mean must be .*, got 'tokens'"),
    ({"mask": ONES, "mean": "sequence"}, ValueError, r"mask of shape \(6,\) .* pass cu_seqlens too"),
    ({"mask": torch.ones(1, 2, 3)}, ValueError, r"mask must have shape \(B, T\), or \(N\) .* got \(1, 2, 3\)"),
    ({"mask": [1, 1]}, TypeError, "mask must be a tensor, got list; use torch.as_tensor first"),
    ({"mask": torch.tensor([0, 1, 2])}, ValueError, "must hold 0 and 1, got 2; if it numbers the sequences"),
    ({"mask": torch.tensor([0.0, math.nan])}, ValueError, "mask must hold 0 and 1, got nan"),
    ({"mask": ONES.clone().requires_grad_()}, ValueError, "mask is a constant .* use mask.detach"),
    ({"cu_seqlens": torch.tensor([0.0, 3.0])}, TypeError, "must have an integer dtype, got torch.float32"),
    ({"cu_seqlens": torch.tensor([[0, 3]])}, ValueError, r"cu_seqlens must have shape \(S \+ 1\)"),
    ({"cu_seqlens": torch.tensor([], dtype=torch.int32)}, ValueError, r"got \(0,\); it holds their begins and ends"),
    ({"cu_seqlens": torch.tensor([3, 2])}, ValueError, "cu_seqlens must begin with 0, .* got 3"),
    ({"cu_seqlens": torch.tensor([0, 4, 2])}, ValueError, "not decrease, but entry 2 is 2 after 4; it holds places"),
    ({"mask": ONES, "cu_seqlens": torch.tensor([0, 5])}, ValueError, "end with the number of tokens, 6, got 5; pad"),
    ({"mask": torch.ones(2, 3), "cu_seqlens": torch.tensor([0, 6])}, ValueError, r"\(N\) or \(1, N\), got \(2, 3\)"),
    ({"mask": ONES, "normalizer": 0}, ValueError, "normalizer must be a positive number, got 0.0; it divides the sum"),
    ({"mask": ONES, "normalizer": -1.0}, ValueError, "normalizer must be a positive number, got -1.0"),
    ({"mask": ONES, "normalizer": math.nan}, ValueError, "normalizer must be a positive number, got nan"),
    ({"mask": ONES, "normalizer": "6"}, TypeError, "normalizer must be a number, got '6'"),
    ({"mask": ONES, "normalizer": True}, TypeError, "normalizer must be a number, got True"),
    ({"mask": ONES, "normalizer": torch.tensor(0)}, ValueError, "normalizer must be a positive number, got 0"),
    ({"mask": ONES, "normalizer": torch.tensor([6])}, ValueError, r"tensor of shape \(\) .* got one of shape \(1,\)"),
    ({"mask": ONES, "normalizer": torch.tensor(6.0, requires_grad=True)}, ValueError, "use normalizer.detach"),
    ({"mask": ONES, "group": "data"}, TypeError, "group must be a torch.distributed.ProcessGroup, got str"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "text"), WRONG_WEIGHTS, ids=lambda x: x if isinstance(x, str) else "")
def test_weights_of_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _ = F.token_weights(**arguments)


WRONG_LABELS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ids": ONES}, TypeError, "ids must have an integer dtype, got torch.float32; use ids.long"),
    ({"ids": torch.tensor(3)}, ValueError, r"ids must have shape \(B, T\), or \(N\) for packed sequences, got \(\)"),
    ({"ids": torch.arange(6), "mask": torch.ones(5)}, ValueError, r"mask of shape \(5,\) does not match ids of shape"),
    ({"ids": torch.arange(6), "cu_seqlens": torch.tensor([0, 7])}, ValueError, "the number of tokens, 6, got 7"),
    ({"ids": torch.arange(6).view(2, 3), "cu_seqlens": torch.tensor([0, 6])}, ValueError, "lie in one row"),
    ({"ids": torch.arange(6), "ignore_index": 0.5}, TypeError, "ignore_index must be a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "text"), WRONG_LABELS, ids=lambda x: x if isinstance(x, str) else "")
def test_labels_of_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _ = F.next_token_labels(**arguments)
