"""Sequences of tokens: weights that make a sum of row losses a mean over tokens or sequences, and next-token labels.

Losses do not handle sequences. Each of these means is Σ w l with weights w that are known before the losses l, so a
loss of sequences is a sum with sample weights, in one sweep like any other.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from crossent.numbers import real, shown
from crossent.torch.base.transforms import look_at
from crossent.torch.base.values import INTEGER, is_dtensor
from crossent.torch.call.checks import check_constant, check_tensor, ignore_index_of
from crossent.torch.ranks.collectives import sum_over
from crossent.torch.ranks.shards import check_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Mean = Literal["token", "sequence", "sequence-sum"]


class _Packing(NamedTuple):
    """Where packed sequences lie."""

    number: int
    """Number S of sequences, empty ones included."""
    of_token: Tensor
    """Number of the sequence of each token, (N,)."""
    fits: Tensor
    """Whether the boundaries begin with 0, do not decrease and end with N, shape (): known only to the device."""


class _Lengths(NamedTuple):
    """How many tokens count: in each sequence, and for each token in its own sequence."""

    of_sequences: Tensor
    of_tokens: Tensor


def token_weights(
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    mean: Mean = "token",
    normalizer: float | Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    r"""Weight of each token that turns the sum of losses into a mean over tokens or over sequences.

    With m = 1 for a token that counts and 0 for another, S the number of sequences that have a token that counts, and
    len = Σ m the number of counted tokens in the token's own sequence,

        "token"          w = m / Σ m            mean over all tokens
        "sequence"       w = m / (S · len)      mean over sequences of the means over their tokens
        "sequence-sum"   w = m / S              mean over sequences of the sums over their tokens

    Pass them as `sample_weight=` with `reduction="sum"` to `cross_entropy` or `linear_cross_entropy`.

    Parameters
    ----------
    mask
        Tokens that count, shape (B, T), each row a sequence, or (N) or (1, N) beside `cu_seqlens`; bool, or numbers 0
        and 1 of any dtype. By default all N tokens of `cu_seqlens` count.
    cu_seqlens
        Where packed sequences begin and end, as flash-attention takes them: integers, shape (S + 1), which begin with
        0, do not decrease and end with N. Sequences may be empty.
    mean
        "token", "sequence" or "sequence-sum".
    normalizer
        A positive number, or a tensor of shape (), in place of Σ m (of S for the means over sequences). For
        accumulation over micro-batches it is the number of tokens (sequences) of all of them. A constant.
    group
        Ranks with other sequences: the normaliser is summed over them, also `normalizer`. Under "token" they may hold
        other tokens of the same sequences.

    Returns
    -------
    Tensor
        Weights, float32, in the shape of the mask, or (N). Where no token counts, all are 0.

    Raises
    ------
    ValueError
        If neither mask nor cu_seqlens is passed, or they do not fit each other or the mean; and on a CPU if the mask
        holds other numbers than 0 and 1, the boundaries are wrong, or the normaliser is not positive.
    TypeError
        If an argument is not the tensor, group or number it should be.

    Notes
    -----
    With a `group`, one SUM of one float64 number is sent; without it, and in a group of one rank, nothing. The weights
    of a group add up to 1, so the losses of the ranks are to be added: where gradients are averaged over R ranks, as
    DDP and FSDP do, multiply the loss by R.

    Ranks that share the tokens of a sequence (context parallelism) send nothing: each computes the weights of all
    tokens, and takes its part.

    Nothing waits for a GPU if a mask is passed: without one the number N of tokens is read from `cu_seqlens`, which
    also breaks a graph of `torch.compile`. Values are not checked on a GPU or in a graph: there wrong boundaries make
    all weights NaN, and every nonzero number in the mask counts.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import token_weights
    >>> losses = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 10.0])
    >>> packed = torch.tensor([0, 5, 6])
    >>> round((token_weights(cu_seqlens=packed) * losses).sum().item(), 3)
    3.333
    >>> round((token_weights(cu_seqlens=packed, mean="sequence") * losses).sum().item(), 3)
    6.0

    References
    ----------
    Means over sequences and tokens: Shao et al. (2024), https://arxiv.org/abs/2402.03300, and Yu et al. (2025),
    https://arxiv.org/abs/2503.14476; division by a constant: Liu et al. (2025), https://arxiv.org/abs/2503.20783.
    """
    if mean not in get_args(Mean):
        raise ValueError(f'mean must be "token", "sequence" or "sequence-sum", got {shown(mean)}')
    counts = _counted(mask, cu_seqlens)
    packing = None if cu_seqlens is None else _packing(cu_seqlens, counts)
    if packing is None and mean != "token" and counts.ndim != 2:
        raise ValueError(
            f'mean="{mean}" needs the sequences, and a mask of shape {tuple(counts.shape)} does not show where they '
            "begin: pass cu_seqlens too, or mask.unsqueeze(0) for a single sequence"
        )
    if mean == "token":
        divisor = _normalizer(counts.sum(), normalizer, counts, group)
    else:
        lengths = _lengths(counts, packing)
        divisor = _normalizer((lengths.of_sequences > 0).sum(), normalizer, counts, group)
        divisor = divisor * lengths.of_tokens if mean == "sequence" else divisor
    weights = torch.where(counts, divisor.reciprocal(), 0.0)
    if packing is not None and (torch.compiler.is_compiling() or not weights.is_cpu):
        weights = torch.where(packing.fits, weights, torch.nan)
    return weights.to(torch.float32)


def next_token_labels(
    ids: Tensor, *, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, ignore_index: int = -100
) -> Tensor:
    """Label of each position: the next token of its sequence, or `ignore_index` if there is none.

    The label of position t is ids[t + 1], unless t is the last position of its sequence, or token t + 1 is masked.

    Parameters
    ----------
    ids
        Tokens, any integer dtype, shape (B, T), each row a sequence, or (N) for one sequence; or (N) or (1, N) beside
        `cu_seqlens`.
    mask
        Tokens that may be a label, in the shape of `ids`; bool, or numbers 0 and 1 of any dtype. False for padding, and
        for prompts to score only completions. By default all.
    cu_seqlens
        Where packed sequences begin and end, as in `token_weights`.
    ignore_index
        The label of positions that predict nothing.

    Returns
    -------
    Tensor
        Labels, int64, in the shape of `ids`.

    Raises
    ------
    ValueError
        If shapes do not fit; and on a CPU if the mask holds other numbers than 0 and 1, or the boundaries are wrong.
    TypeError
        If an argument is not a tensor, or has the wrong dtype.

    Notes
    -----
    Under left padding the first token of a sequence follows padding, and an attention mask calls it a label. Leave it
    out: `mask=mask & mask.roll(1, -1)`, for a mask of bool.

    Ranks that share the tokens of a sequence (context parallelism) compute the labels of all tokens and take their
    part: a part alone lacks the token after its last one.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import next_token_labels
    >>> next_token_labels(torch.tensor([5, 6, 7, 8, 9]), cu_seqlens=torch.tensor([0, 3, 5]))
    tensor([   6,    7, -100,    9, -100])
    >>> next_token_labels(torch.tensor([[5, 6, 7, 0]]), mask=torch.tensor([[1, 1, 1, 0]]))
    tensor([[   6,    7, -100, -100]])
    """
    _check("ids", ids)
    if ids.dtype not in INTEGER:
        raise TypeError(f"ids must have an integer dtype, got {ids.dtype}; use ids.long()")
    ignore_index = ignore_index_of(ignore_index)
    if ids.ndim not in (1, 2):
        raise ValueError(f"ids must have shape (B, T), or (N) for packed sequences, got {tuple(ids.shape)}")
    labels, follows = ids.long(), torch.ones_like(ids[..., 1:], dtype=torch.bool)
    if mask is not None:
        _check("mask", mask, ids)
        if mask.shape != ids.shape:
            raise ValueError(f"mask of shape {tuple(mask.shape)} does not match ids of shape {tuple(ids.shape)}")
        follows = _as_bool(mask)[..., 1:]
    if cu_seqlens is not None:
        of_token = _packing(cu_seqlens, ids).of_token.view_as(ids)
        follows = follows & (of_token[..., 1:] == of_token[..., :-1])
    after = torch.where(follows, labels[..., 1:], ignore_index)
    return torch.cat((after, torch.full_like(labels[..., :1], ignore_index)), -1)


# Arguments ---------------------------------------------------------------------------------------------------------


def _check(name: str, tensor: Tensor, like: Tensor | None = None) -> None:
    """Raise unless this is a tensor, not a DTensor, on the device of the other one."""
    check_tensor(name, tensor)
    if is_dtensor(tensor):
        raise TypeError(
            f"{name} is a DTensor; use {name}.full_tensor(): every rank then has the weights and labels of all tokens, "
            "and the losses take them as they are"
        )
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, and the tokens on {like.device}; use {name}.to(device)")


def _as_bool(mask: Tensor) -> Tensor:
    """Return a mask as bool; raise where numbers can be looked at and are neither 0 nor 1."""
    if mask.dtype == torch.bool:
        return mask
    check_constant("mask", mask)
    look_at(_check_mask, mask)
    return mask != 0


def _check_mask(mask: Tensor | None) -> None:
    wrong = None if mask is None else (mask != 0) & (mask != 1)
    if mask is not None and wrong is not None and wrong.any():
        raise ValueError(
            f"mask must hold 0 and 1, got {mask[wrong][0].item()}; if it numbers the sequences, pass mask != 0, and "
            "the places where the number changes as cu_seqlens"
        )


def _counted(mask: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    """Return which tokens count."""
    if mask is None and cu_seqlens is None:
        raise ValueError("pass mask=, the tokens that count, or cu_seqlens=, where packed sequences begin and end")
    if mask is not None:
        _check("mask", mask)
        if mask.ndim not in (1, 2):
            raise ValueError(f"mask must have shape (B, T), or (N) for packed sequences, got {tuple(mask.shape)}")
        return _as_bool(mask)
    boundaries = _boundaries(cu_seqlens)
    return torch.ones(int(boundaries[-1]), dtype=torch.bool, device=boundaries.device)


def _boundaries(cu_seqlens: Any) -> Tensor:
    """Return where sequences begin and end as int64; raise unless it is a vector of integers."""
    _check("cu_seqlens", cu_seqlens)
    if cu_seqlens.dtype not in INTEGER:
        raise TypeError(f"cu_seqlens must have an integer dtype, got {cu_seqlens.dtype}; use cu_seqlens.int()")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] == 0:
        raise ValueError(
            f"cu_seqlens must have shape (S + 1), for S sequences, got {tuple(cu_seqlens.shape)}; it holds their "
            "begins and ends: torch.nn.functional.pad(lengths.cumsum(0), (1, 0))"
        )
    look_at(_check_boundaries, cu_seqlens)
    return cu_seqlens.long().contiguous()  # of a strided view, searchsorted would warn


def _check_boundaries(cu_seqlens: Tensor | None) -> None:
    for places in () if cu_seqlens is None else cu_seqlens.reshape(-1, cu_seqlens.shape[-1]).tolist():
        if places[0] != 0:
            raise ValueError(
                f"cu_seqlens must begin with 0, the place of the first token, got {places[0]}; it holds the begins and "
                "ends of sequences: torch.nn.functional.pad(lengths.cumsum(0), (1, 0))"
            )
        for at, (one, other) in enumerate(itertools.pairwise(places)):
            if other < one:
                raise ValueError(
                    f"cu_seqlens must not decrease, but entry {at + 1} is {other} after {one}; it holds places, not "
                    "lengths: torch.nn.functional.pad(lengths.cumsum(0), (1, 0))"
                )


def _packing(cu_seqlens: Tensor, tokens: Tensor) -> _Packing:
    """Return where packed sequences lie among tokens (N,) or (1, N)."""
    boundaries = _boundaries(cu_seqlens)
    if boundaries.device != tokens.device:
        raise ValueError(
            f"cu_seqlens is on {boundaries.device}, and the tokens on {tokens.device}; use cu_seqlens.to(device)"
        )
    if tokens.ndim == 2 and tokens.shape[0] != 1:
        raise ValueError(
            f"cu_seqlens divides tokens that lie in one row, shape (N) or (1, N), got {tuple(tokens.shape)}; without "
            "it each of these rows is a sequence"
        )
    number = tokens.numel()

    def check_end(end: Tensor | None) -> None:
        for place in () if end is None else end.reshape(-1).tolist():
            if place != number:
                raise ValueError(
                    f"cu_seqlens must end with the number of tokens, {number}, got {place}; padding at the end is a "
                    "sequence too, of masked tokens: append the number of tokens"
                )

    look_at(check_end, boundaries[-1:])
    ends, places = boundaries[1:], torch.arange(number, device=tokens.device)
    fits = (boundaries[0] == 0) & (boundaries[-1] == number) & (boundaries[1:] >= boundaries[:-1]).all()
    return _Packing(ends.shape[0], torch.searchsorted(ends, places, right=True), fits)


def _lengths(counts: Tensor, packing: _Packing | None) -> _Lengths:
    """Return how many tokens count in each sequence."""
    if packing is None:
        lengths = counts.sum(1, keepdim=True)
        return _Lengths(lengths, lengths)
    lengths = torch.zeros(packing.number + 1, dtype=torch.int64, device=counts.device)  # the last: of no sequence
    lengths = lengths.index_add(0, packing.of_token, counts.reshape(-1).long())
    return _Lengths(lengths, lengths[packing.of_token].view_as(counts))


def _normalizer(found: Tensor, normalizer: Any, counts: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the normaliser of all ranks of a group in float64, from this rank's number of tokens or sequences."""
    if isinstance(normalizer, Tensor):
        _check("normalizer", normalizer)
        check_constant("normalizer", normalizer)
        if normalizer.ndim or not (normalizer.is_cpu or normalizer.device == counts.device):
            raise ValueError(
                "normalizer must be a number, or a tensor of shape () on the device of the tokens, got one of shape "
                f"{tuple(normalizer.shape)} on {normalizer.device}"
            )
        look_at(_check_normalizer, normalizer.reshape(1), counts)
    elif normalizer is not None:
        normalizer = real("normalizer", normalizer)
        if not 0.0 < normalizer < float("inf"):
            raise ValueError(f"normalizer must be a positive number, got {normalizer}; {_NORMALIZER}")
    own = found.double() if normalizer is None else torch.ones_like(found, dtype=torch.float64) * normalizer
    groups = () if group is None else check_group("group", group)
    return sum_over(own.reshape(1), groups).reshape(())


_NORMALIZER = "it divides the sum of the losses, as the number of tokens (or sequences) of all micro-batches does"


def _check_normalizer(normalizer: Tensor | None, counts: Tensor | None) -> None:
    for number in () if normalizer is None else normalizer.reshape(-1).tolist():
        needless = number == 0 and (counts is None or not counts.any())  # no micro-batch has a token
        if not (0 < number < float("inf") or needless):
            raise ValueError(f"normalizer must be a positive number, got {number}; {_NORMALIZER}")
