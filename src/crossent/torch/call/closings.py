"""Closings that callers write: functions of the rows' outputs that return a loss for each row.

A closing sees rows as `ClosingRows`. It is called with all rows, or in a sweep with the rows of each chunk.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import Target
from crossent.stats import RowStats
from crossent.torch.base.transforms import is_watched
from crossent.torch.base.values import INTEGER, RowResults
from crossent.torch.call.checks import check_companion, check_constant
from crossent.torch.call.layout import LogitsLayout
from crossent.torch.call.targets import most_probable_of_topk
from crossent.torch.ranks.records import most_probable
from crossent.torch.ranks.shards import NO_RANKS, Ranks, held

VALIDATED_ROWS = 64
"""So many rows, or sequences, of the first chunk are evaluated one by one with CROSSENT_VALIDATE=1."""


class RowView:
    """Rows as seen by a closing: their results, and values from these or from another target of the same logits.

    `again` returns the results of the same logits for another target.
    """

    def __init__(
        self,
        target: Target,
        results: RowResults,
        again: Callable[[Target], RowResults],
        ranks: Ranks | None = None,  # torch 2.10 compiles no default that is an object
    ) -> None:
        self.target, self.results, self.ranks = target, results, NO_RANKS if ranks is None else ranks
        self._again = again
        self._plain: RowResults | None = None

    @property
    def plain(self) -> RowResults:
        """Results for the target without class weights and smoothing."""
        target = self.target
        if target.weight is None and target.smoothing == 0.0:
            return self.results
        if self._plain is None:
            self._plain = self._again(dataclasses.replace(target, weight=None, smoothing=0.0))
        return self._plain

    @property
    def logprob(self) -> Tensor:
        """Log-probability of the target class; for soft targets its expectation."""
        self.check_target("logprob")
        return -self.plain.loss

    @property
    def confidence(self) -> Tensor:
        """Probability of the most probable class; 0 in ignored rows."""
        found = self.results.record[1].reciprocal().to(self.results.loss.dtype)
        valid = self.valid
        return found if valid is None else torch.where(valid, found, 0.0)

    @property
    def correct(self) -> Tensor:
        """Whether no class has a higher score than the target's, or than the most probable one of a soft target."""
        self.check_target("correct")
        of_best = self.plain.record
        if self.target.kind != "index":
            with torch.no_grad():
                best = _most_probable(self.target, self.ranks.groups)
                hard = dataclasses.replace(self.target, index=best, prob=None, weight=None, smoothing=0.0)
                of_best = self._again(hard).record
        stats = RowStats(*of_best)
        return (stats.target_score >= 0) & (stats.mass > 0)

    @property
    def loss(self) -> Tensor:
        """Cross-entropy of each row."""
        self.check_target("loss")
        return self.results.loss

    def check_target(self, name: str) -> None:
        """Raise for an attribute that needs a target where there is none; rows of a loss have one."""

    def of_teacher(self, name: str) -> Tensor:
        """Return an attribute of the teacher for a closing."""
        raise AttributeError(
            f"rows.{name} needs a teacher; call divergence(logits, teacher_logits, …) with this closing"
        )

    @property
    def valid(self) -> Tensor | None:
        """Which rows have a target; None if all have."""
        if self.target.kind != "index":
            return None
        index: Any = self.target.index
        return index.long() != self.target.ignore_index


def _most_probable(target: Target, groups: tuple[str, ...]) -> Tensor:
    """Return the most probable class of each row of a soft target."""
    index: Any = target.index
    prob: Any = target.prob
    if index is not None:
        best = most_probable_of_topk(index.long(), prob)
        return torch.where((prob != 0).any(1), best, target.ignore_index)  # the classes of padding are none
    here = held(prob.shape[1], target.first_class, target.num_classes)
    return most_probable(prob[:, :here], target, groups)


class ClosingRows:
    """The rows passed to a closing; each attribute is a vector (n,), in nats.

    Ignored rows and rows with a sample weight of 0 are left out; one of several ranks may have no row left. (Function
    transforms and compilers cannot leave rows out: these rows then hold zeros, and their results are discarded.)

    Attributes
    ----------
    logprob
        Log-probability of the target class; for soft targets its expectation Σ base · log q. Class weights and
        smoothing do not enter.
    loss
        Cross-entropy of the row, with class weights and smoothing.
    lse
        Log of the normaliser, log Σ e^s.
    entropy
        Entropy of the prediction, −Σ q log q.
    confidence
        Probability of the most probable class; a constant.
    correct
        Whether no class has a higher score than the target's; a constant.
    segments
        The sequence number of each row, as passed in `segments`, else None.
    kl, reverse_kl, js, teacher_entropy, teacher_lse
        In `divergence` only: KL(teacher‖student), KL(student‖teacher), their Jensen–Shannon divergence, and entropy and
        log-normaliser of the teacher. Without a `target` its rows have neither `logprob`, `loss` nor `correct`.
    """

    def __init__(self, view: RowView, segments: Tensor | None, taken: Callable[[Tensor], Tensor]) -> None:
        self._view, self._taken, self.segments = view, taken, segments

    @property
    def logprob(self) -> Tensor:
        """Log-probability of the target class."""
        return self._taken(self._view.logprob)

    @property
    def loss(self) -> Tensor:
        """Cross-entropy of each row."""
        return self._taken(self._view.loss)

    @property
    def lse(self) -> Tensor:
        """Log of the normaliser."""
        return self._taken(self._view.results.lse)

    @property
    def entropy(self) -> Tensor:
        """Entropy of the prediction."""
        return self._taken(self._view.results.entropy)

    @property
    def confidence(self) -> Tensor:
        """Probability of the most probable class."""
        return self._taken(self._view.confidence)

    @property
    def correct(self) -> Tensor:
        """Whether no class has a higher score than the target's."""
        return self._taken(self._view.correct)

    @property
    def kl(self) -> Tensor:
        """KL(teacher‖student)."""
        return self._taken(self._view.of_teacher("kl"))

    @property
    def reverse_kl(self) -> Tensor:
        """KL(student‖teacher)."""
        return self._taken(self._view.of_teacher("reverse_kl"))

    @property
    def js(self) -> Tensor:
        """Jensen–Shannon divergence of teacher and student."""
        return self._taken(self._view.of_teacher("js"))

    @property
    def teacher_entropy(self) -> Tensor:
        """Entropy of the teacher."""
        return self._taken(self._view.of_teacher("teacher_entropy"))

    @property
    def teacher_lse(self) -> Tensor:
        """Log of the teacher's normaliser."""
        return self._taken(self._view.of_teacher("teacher_lse"))


class RowFunction(NamedTuple):
    """A closing, its constants for each row, (N, …), and the number of each row's sequence, (N,)."""

    function: Callable[..., Tensor]
    operands: tuple[Tensor, ...] = ()
    segments: Tensor | None = None

    def take(self, rows: Any) -> RowFunction:
        """Return the closing with the constants of some rows."""
        segments = None if self.segments is None else self.segments[rows]
        return self._replace(operands=tuple(x[rows] for x in self.operands), segments=segments)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The constants and the numbers of the sequences."""
        return self.operands if self.segments is None else (*self.operands, self.segments)

    def map(self, change: Callable[[Tensor], Any]) -> RowFunction:
        """Return the closing with a function applied to each of its tensors."""
        segments = None if self.segments is None else change(self.segments)
        return self._replace(operands=tuple(map(change, self.operands)), segments=segments)


def row_function_of(closing: Any, operands: Any, segments: Any) -> RowFunction | None:
    """Return the closing of a call, None if there is none.

    Raises
    ------
    TypeError
        If the closing cannot be called with rows and operands, or the operands are not a tuple of tensors.
    ValueError
        If operands or segments are passed without a closing.
    """
    if closing is None:
        if segments is not None or not (isinstance(operands, (tuple, list)) and not operands):
            name = "segments" if segments is not None else "operands"
            raise ValueError(f"{name} have no effect without a closing; pass closing=, or leave them out")
        return None
    if not callable(closing):
        raise TypeError(f"closing must be a function of (rows, *operands), got {type(closing).__name__}")
    if isinstance(operands, Tensor) or not isinstance(operands, (tuple, list)):
        raise TypeError(f"operands must be a tuple of tensors, got {type(operands).__name__}; use operands=(x,)")
    _check_takes(closing, len(operands))
    function: Any = closing
    return RowFunction(function, tuple(operands), segments)


def _check_takes(closing: Any, number: int) -> None:
    """Raise if a closing cannot be called with rows and so many operands."""
    if torch.compiler.is_compiling():
        return
    try:
        signature = inspect.signature(closing)
    except (TypeError, ValueError):  # some functions of C have none
        return
    try:
        _ = signature.bind(None, *[None] * number)
    except TypeError as error:
        given = "(rows)" if number == 0 else f"(rows, *operands) with {number} operands"
        raise TypeError(f"closing is called with {given}, which it does not accept: {error}") from None


def checked_function(function: RowFunction, layout: LogitsLayout) -> RowFunction:
    """Return a closing with its tensors as vectors of rows.

    Raises
    ------
    TypeError, ValueError
        If an operand or the segments do not fit the rows, or require a gradient.
    """
    shape = layout.rows
    named = [(f"operands[{k}]", x) for k, x in enumerate(function.operands)]
    if function.segments is not None:
        named.append(("segments", function.segments))
    for name, x in named:
        check_companion(name, x, layout.device)
        check_constant(name, x)
        if x.shape[: len(shape)] != shape or (name == "segments" and x.shape != shape):
            raise ValueError(f"{name} of shape {tuple(x.shape)} does not match the rows, shape {tuple(shape)}")
    if function.segments is not None and function.segments.dtype not in INTEGER:
        raise TypeError(f"segments must have an integer dtype, got {function.segments.dtype}; use segments.long()")
    return function.map(lambda x: x.reshape(shape.numel(), *x.shape[len(shape) :]))


def closed(function: RowFunction, view: RowView, removed: Tensor | None, still: Tensor | None = None) -> Tensor:
    """Return the closing's loss of rows, (n,); removed rows are not passed to it and get 0.

    Rows that are `still` are seen as constants: their losses count for the weights that they have, and no more.

    Raises
    ------
    TypeError, ValueError
        If the closing returns no vector of row losses, or one that does not depend on the rows.
    NotImplementedError
        If whole sequences are asked for where rows cannot be left out.
    """

    def seen(x: Tensor) -> Tensor:
        return x if still is None else torch.where(still, x.detach(), x)

    places = None
    if removed is not None:
        if is_watched():
            if function.segments is not None:
                raise NotImplementedError(
                    "segments drop the rows without a target, which fails under torch.compile, function transforms and "
                    "modes; "
                    "call the loss outside of them, or leave segments out if each row loss depends only on its own row"
                )
            taken = ClosingRows(view, function.segments, lambda x: seen(x).masked_fill(removed, 0))
            return _called(function, taken, view.results.loss).masked_fill(removed, 0.0)
        if removed.any():
            places = (~removed).nonzero().squeeze(1)
    loss = view.results.loss
    if places is None:
        return _called(function, ClosingRows(view, function.segments, seen), loss)
    if not len(places) and view.ranks.alone:  # else other ranks have rows, and wait for this one
        return loss.masked_fill(torch.ones_like(loss, dtype=torch.bool), 0.0)
    function = function.take(places)
    losses = _called(function, ClosingRows(view, function.segments, lambda x: seen(x)[places]), loss[places])
    return losses.new_zeros(loss.shape).index_copy(0, places, losses)


def _called(function: RowFunction, rows: ClosingRows, like: Tensor) -> Tensor:
    """Return the checked result of a closing, in the dtype of the losses."""
    found: Any = function.function(rows, *function.operands)
    number = like.shape[0]
    if not isinstance(found, Tensor):
        raise TypeError(f"closing must return a tensor of row losses, got {type(found).__name__}")
    if found.shape != like.shape:
        hint = "; return a loss for each row, and let reduction= add them up" if found.ndim == 0 else ""
        raise ValueError(
            f"closing must return a vector of the {number} row losses, got shape {tuple(found.shape)}{hint}"
        )
    if not found.is_floating_point():
        raise TypeError(f"closing must return floating-point losses, got {found.dtype}; use x.float()")
    if like.requires_grad and torch.is_grad_enabled() and not found.requires_grad:
        raise ValueError(
            "the result of closing does not depend on the rows, so it has no gradient; use rows.logprob, rows.loss, "
            "rows.lse or rows.entropy without detach()"
        )
    found = found.to(like.dtype)
    if not is_watched() and os.environ.get("CROSSENT_VALIDATE") == "1":
        _check_apart(function, rows, found)
    return found


def _check_apart(function: RowFunction, rows: ClosingRows, losses: Tensor) -> None:
    """Raise if some rows, or whole sequences, have a different loss alone than with the others."""
    with torch.no_grad():
        parts = _parts(function.segments, losses.shape[0])
        for part in parts[:VALIDATED_ROWS]:
            alone = function.take(part)
            found = alone.function(_PartRows(rows, part, alone.segments), *alone.operands)
            wanted = losses[part]
            if not torch.allclose(found.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-5, equal_nan=True):
                what = "row" if function.segments is None else "sequence"
                hint = "; whole sequences need segments=" if function.segments is None else ""
                raise ValueError(
                    f"closing mixes rows: {what} {int(part[0])} has the loss {found.tolist()} alone and "
                    f"{wanted.tolist()} beside the others, so the result would depend on chunk_bytes{hint}"
                )


def _parts(segments: Tensor | None, number: int) -> list[Tensor]:
    """Return the positions of rows to evaluate alone, at most the number of validated parts."""
    if segments is None:
        return list(torch.arange(number)[:VALIDATED_ROWS].split(1))
    return [(segments == x).nonzero().squeeze(1) for x in segments.unique()[:VALIDATED_ROWS]]


class _PartRows(ClosingRows):
    """Some of the rows of a closing."""

    def __init__(self, rows: ClosingRows, part: Tensor, segments: Tensor | None) -> None:
        super().__init__(rows._view, segments, lambda x: rows._taken(x)[part])


def sequence_ends(segments: Tensor) -> list[int] | None:
    """Return where sequences end that lie one after the other, None if the rows of one are apart."""
    if not len(segments):
        return []
    segments = segments.long()
    begins = (segments[1:] != segments[:-1]).nonzero().squeeze(1) + 1
    if len(begins) + 1 != len(segments.unique()):
        return None
    return [*begins.tolist(), len(segments)]
