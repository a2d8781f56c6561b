"""Teachers that are linear layers, or sparse ones, for a student that is a layer: no logits exist all at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from crossent.spec import Scores, Target
from crossent.torch.base.transforms import wants_plain_operations
from crossent.torch.base.values import PairResults, RowResults, loss_dtype
from crossent.torch.call.arguments import Arguments, CheckedRows, check_same_call, row_closing, row_scores
from crossent.torch.call.checks import check_companion
from crossent.torch.call.layout import LayerNames, LayerOperands, layout_of_layer, under_autocast
from crossent.torch.call.results import DivergenceStats
from crossent.torch.call.targets import TopK
from crossent.torch.linear import checked_layer, layer_matrices, wants_gradient
from crossent.torch.operators.linear_call import LinearCall
from crossent.torch.operators.linear_pair import LinearPairStatsCall, linear_pair_stats
from crossent.torch.operators.linear_pair_call import LinearPairCall, PairWants
from crossent.torch.operators.linear_pair_loss import LinearPairLossCall, closed_pair_loss, linear_pair_loss
from crossent.torch.operators.linear_selected import LinearSelectedCall, linear_selected
from crossent.torch.operators.linear_stats import LinearStatsCall, linear_stats
from crossent.torch.operators.pair import TeacherScores
from crossent.torch.ranks.shards import held
from crossent.torch.sources.linear import costs_of
from crossent.torch.sources.plan import pair_rows, pair_sweep
from crossent.torch.teachers.logits import class_map, raise_other_classes
from crossent.torch.teachers.sparse import StudentRows, TopKView, sparse_teacher
from crossent.torch.teachers.view import DivergenceOptions, HeadsView, PairView, TeacherArguments

TEACHER = LayerNames("teacher_input", "teacher_weight", "teacher_bias")
"""Names of the operands of a teacher's layer in errors."""


class LinearView(HeadsView):
    """Rows of two layers, with their most probable classes if requested."""

    predicted: tuple[Tensor, Tensor]

    def agreement(self) -> Tensor:
        """Return whether the most probable classes of student and teacher are the same."""
        return self.agreed(*self.predicted, self.of_teacher("teacher_lse"))


def _linear_pair(
    call: LinearCall, rows: CheckedRows, teacher: TeacherArguments, options: DivergenceOptions, chunk_bytes: int
) -> LinearPairCall:
    """Return the call of a student's layer and a teacher's.

    Raises
    ------
    TypeError, ValueError
        If the teacher's layer does not fit the student's.
    NotImplementedError
        If classes that the teacher lacks meet a softcap.
    """
    layout, target, classes = rows.layout, rows.target, teacher.classes
    own = under_autocast(teacher.logits)  # pyright: ignore[reportArgumentType]
    check_companion(TEACHER.input, own.input, layout.device)
    of_teacher = layout_of_layer(own, shard=bool(rows.ranks.groups), names=TEACHER)
    if of_teacher.rows != layout.rows:
        raise ValueError(
            f"teacher_input and teacher_weight make rows {tuple(of_teacher.rows)}, input and linear_weight "
            f"{tuple(layout.rows)}; both heads must have the same rows, so reshape one of the inputs"
        )
    scores = teacher.scores(rows.scores)
    temperatures: Any = scores.row_temperature
    if temperatures is not None and teacher.temperature is not None:
        scores = row_scores(scores, layout, "teacher_temperature")
    here = held(layout.classes, target.first_class, target.num_classes)
    if classes is not None:
        own = _mapped(own, scores, class_map(classes, of_teacher.classes, rows, here))
    elif held(of_teacher.classes, target.first_class, target.num_classes) != here:
        raise_other_classes(layout, of_teacher.classes, target, ("linear_weight", TEACHER.weight))
    x, weight, bias, adapter = layer_matrices(own)
    others_are_seen = rows.return_stats or rows.closing.function is not None
    return LinearPairCall(
        call,
        x,
        weight,
        bias,
        TeacherScores.of(scores),
        options.beta if options.kind == "js" or others_are_seen else None,
        chunk_bytes,
        predicts=rows.return_stats,
        teacher_adapter=adapter,
    )


def _mapped(layer: LayerOperands, scores: Scores, classes: Tensor) -> LayerOperands:
    """Return the teacher's layer with the student's classes; missing classes have a bias of −inf."""
    if scores.softcap is not None:
        raise NotImplementedError(
            "teacher_classes beside teacher_softcap needs the teacher's logits: a class that the teacher lacks would "
            "be capped; pass teacher_weight[teacher_classes] if it lacks none, or call divergence"
        )
    x, weight, bias, adapter = layer
    at = classes.clamp(0, max(0, weight.shape[0] - 1))
    rows_of_bias = weight.new_zeros((len(at), *weight.shape[1:-1])) if bias is None else bias.index_select(0, at)
    missing = (classes < 0).reshape(-1, *[1] * (weight.ndim - 2))
    weight, adapter = (None if w is None else w.index_select(0, at) for w in (weight, adapter))
    return LayerOperands(x, weight, rows_of_bias.masked_fill(missing, -torch.inf), adapter)  # pyright: ignore


def _in_one_or_two_sweeps(
    call: LinearPairCall, rows: CheckedRows, options: DivergenceOptions, *, wants: PairWants, has_target: bool
) -> tuple[Tensor, PairView]:
    """Return the loss of the call and its view of the rows, by the cheaper plan."""
    closing = rows.closing
    samples = closing.sample_weight
    constant = not (wants.prob or (samples is not None and samples.requires_grad))
    wanted = wants.heads
    learns = wanted.teacher.of_source
    plainly = wants_plain_operations()

    def again(target: Target) -> RowResults:
        head = dataclasses.replace(call.head, target=target)
        return linear_stats(LinearStatsCall(head, "nothing", call.chunk_bytes)).rows

    def view_of(target: Target, found: PairResults, other: Any) -> LinearView:
        has_js = call.beta is not None
        return LinearView(rows._replace(target=target), found, other, has_js=has_js, has_target=has_target)

    def viewed(found: Any) -> LinearView:
        view = view_of(rows.target, found.pair, again)
        view.predicted = found.predicted, found.teacher_predicted
        return view

    student, teacher = call.costs
    at_once = pair_rows(student, teacher, call.chunk_bytes, spare=wanted.both)
    sweeps = rows.ranks.alone and closing.reduction != "none" and any(wants) and constant and not plainly
    if sweeps and pair_sweep(student, teacher, at_once, teacher_learns=learns):
        whole = LinearPairLossCall(call, options.name, samples, closing.reduction == "mean", wants)
        if closing.function is None:
            found = linear_pair_loss(whole)
        else:
            found = closed_pair_loss(whole, closing.function, view_of)
        if found is not None:
            return found.reduced, viewed(found)
    size = sum(costs.logits * loss_dtype(costs.dtype).itemsize for costs in (student, teacher)) * student.rows
    keep = any(wants) and not plainly and size <= call.chunk_bytes
    view = viewed(linear_pair_stats(LinearPairStatsCall(call, keep)))
    return row_closing(rows).closed(view, None if closing.function else view.of_teacher(options.name)), view


def _sparse_view(
    call: LinearCall, rows: CheckedRows, teacher: TeacherArguments, options: DivergenceOptions, chunk_bytes: int,
    *, wanted: bool, has_target: bool,
) -> TopKView:  # fmt: skip
    """Return the view of the rows of a layer and of a sparse teacher; `wanted` if a gradient may be.

    Raises
    ------
    NotImplementedError
        If the layer has K-dimensional weights.
    """
    if call.positions != 1:
        raise NotImplementedError(
            "a TopK teacher beside a K-dimensional linear_weight needs the logits; pass those to divergence, or one "
            "position of the weight at a time"
        )
    given: Any = teacher.logits
    sparse = sparse_teacher(given, rows, teacher.tail)
    target = call.target
    stand_in = Target(
        torch.zeros(call.features.shape[0], dtype=torch.int64, device=call.input.device),
        first_class=target.first_class,
        num_classes=target.num_classes,
    )  # ignored rows are computed too, and then removed
    size = rows.layout.shape.numel() * loss_dtype(call.input.dtype).itemsize
    keep = wanted and size <= chunk_bytes and not wants_plain_operations()
    none = dataclasses.replace(call, target=stand_in)
    found = linear_selected(LinearSelectedCall(none, sparse.classes, keep, chunk_bytes))

    def again(other: Target) -> RowResults:
        head = dataclasses.replace(call, target=other)
        return linear_stats(LinearStatsCall(head, "nothing", chunk_bytes)).rows

    lse, entropy, record = found.lse, found.entropy, found.record
    if target.kind == "index":
        index: Any = target.index
        lse, entropy = (x.masked_fill(index.long() == target.ignore_index, 0.0) for x in (lse, entropy))
    results = again(target) if has_target else RowResults(lse, lse, entropy, record)
    student = StudentRows(found.selected, results, again, lambda: found.predicted)
    return TopKView(rows, student, sparse, options, teacher.tail, has_target=has_target)


def divergence_of_layers(
    arguments: Arguments, teacher: TeacherArguments, options: DivergenceOptions, chunk_bytes: int | None = None,
    *, has_target: bool,
) -> Tensor | tuple[Tensor, DivergenceStats]:  # fmt: skip
    """Return `linear_divergence` of bound arguments; the operands are local if classes are sharded."""
    call, rows = checked_layer(arguments)
    if chunk_bytes is None:
        chunk_bytes = costs_of(call.input, call.linear_weight).device.chunk_bytes
    wants = [wants_gradient(x) for x in call.operands]
    sparse = isinstance(teacher.logits, TopK)
    if not rows.ranks.alone:
        facts = {"the dtype": str(call.input.dtype), "chunk_bytes": chunk_bytes, "what gets a gradient": wants}
        kinds = {"the kind of teacher": type(teacher.logits).__name__, "tail": teacher.tail}
        check_same_call(rows, **facts, **kinds, kind=options.kind, beta=options.beta)
    if sparse:
        view: Any = _sparse_view(call, rows, teacher, options, chunk_bytes, wanted=any(wants), has_target=has_target)
        loss = row_closing(rows).closed(view, None if rows.closing.function else view.of_teacher(options.name))
    else:
        pair = _linear_pair(call, rows, teacher, options, chunk_bytes)
        wanted = PairWants(*map(wants_gradient, pair.operands))
        loss, view = _in_one_or_two_sweeps(pair, rows, options, wants=wanted, has_target=has_target)
    if rows.closing.reduction == "none" and len(rows.layout.rows) != 1:
        loss = loss.reshape(rows.layout.rows)
    return (loss, view.stats(rows.layout.rows)) if rows.return_stats else loss
