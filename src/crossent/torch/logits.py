"""Cross-entropy of logits that exist: `cross_entropy` after its arguments are bound."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from crossent.spec import Target
from crossent.torch.base.values import RowResults, is_dtensor
from crossent.torch.call.arguments import Arguments, check_same_call, checked
from crossent.torch.call.dtensor import of_logits
from crossent.torch.call.layout import layout_of
from crossent.torch.call.results import Stats, finished
from crossent.torch.operators.prediction import prediction
from crossent.torch.operators.rows import RowCall, RowLossCall, row_loss, row_stats


def loss_of_logits(arguments: Arguments) -> Tensor | tuple[Tensor, Stats]:
    """Return the loss of logits, or (loss, Stats)."""
    if is_dtensor(arguments.operands):
        local = of_logits(arguments)
        return local.finish(_local_loss(local.arguments))
    return _local_loss(arguments.sharded())


def _local_loss(arguments: Arguments) -> Tensor | tuple[Tensor, Stats]:
    """Return the loss of logits on this rank, and of the classes and rows on other ranks."""
    logits: Tensor = arguments.operands
    layout = layout_of(logits, shard=bool(arguments.shards.ranks.groups))
    rows, closing = checked(arguments, layout), arguments.closing
    call = RowCall(layout.flat(logits), rows.target, rows.scores, rows.ranks.groups)
    plain = closing.z_loss == 0.0 and closing.sample_weight is None and closing.function is None
    if plain and rows.ranks.alone and closing.reduction != "none" and not rows.return_stats:
        return row_loss(RowLossCall(call, closing.reduction == "mean"))
    if not rows.ranks.alone:
        check_same_call(rows, **{"the dtype": str(logits.dtype)})
    call = dataclasses.replace(call, recorded=rows.return_stats or closing.function is not None)

    def again(target: Target) -> RowResults:
        return row_stats(dataclasses.replace(call, target=target))

    return finished(rows, row_stats(call), again, lambda results: prediction(call, results.record))
