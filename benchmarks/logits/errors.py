"""How far losses of logits and their gradients are from torch's own loss of the same operands in float64."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from benchmarks.common.losses import Data, Exact, errors_of, step
from benchmarks.common.records import Record
from benchmarks.logits.cases import LogitsCase
from benchmarks.logits.contenders import losses
from crossent.torch import TopK


def measure(case: LogitsCase, without: Collection[str] = ()) -> Record:
    """Return the errors of everyone but some contenders in this case."""
    data, wide = case.make(), double(case.make())
    found = losses(case, compiled=False)
    value = float(step(found["eager"], wide))
    exact = Exact(value, (wide.logits.grad,))
    errors = {name: errors_of(loss, data, exact, ("dlogits",)) for name, loss in found.items() if name not in without}
    return {"measure": "error", "errors": errors}


def double(data: Data) -> Data:
    """Return the same arguments in float64."""
    target, options = data.target, {name: _double(option) for name, option in data.options.items()}
    target = TopK(target.index, _double(target.prob)) if isinstance(target, TopK) else _double(target)
    return Data(tuple(x.detach().double().requires_grad_() for x in data.leaves), target, options)


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
