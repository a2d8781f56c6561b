"""Who takes part in losses of reinforcement learning, and what bounds them.

Contenders are crossent, what one writes without such a loss (eager), and TRL's chunked function, if it is installed.

    forward    the loss alone, where no gradient is wanted
    both       the loss and the gradients of what learns, in fresh memory
    floor      mean: crossent's mean cross-entropy of the same head;  products: those that nobody can do without, into
               fresh memory, in the dtype of the case
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common import patience
from benchmarks.common.losses import Call, Contenders, Data, Loss, floors_as_calls, forward, step, timed
from benchmarks.rows.cases import RowsCase
from crossent.torch import linear_cross_entropy, linear_logprobs

LIMITS = {
    "forward": {"mean": ("mean forward",), "products": ("product",)},
    "both": {"mean": ("mean",), "products": ("products",)},
}
"""For each measure, what it is compared with."""

FEWER = {"trl": 5, "eager": 5}
"""Contenders so slow that they take part in some rounds only, and in how many at most."""

TRL_CHUNK = 32768
"""Classes of a chunk of TRL, its own default."""


def clipped(logprob: Tensor, entropy: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """Return the clipped loss of each row (PPO, https://arxiv.org/abs/1707.06347) with a bonus for its entropy."""
    ratio = (logprob - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) - 0.01 * entropy


def of_logprob(logprob: Tensor, advantage: Tensor) -> Tensor:
    """Return the policy gradient of each row."""
    return -advantage * logprob


def losses(case: RowsCase, *, compiled: bool = False) -> dict[str, Loss]:
    """Return the loss of everyone, as a function of input, weight and target."""
    found: dict[str, Loss] = {"crossent": ours, "eager": eager}
    if find_spec("trl") is not None:
        found["trl"] = trl
    found = {name: partial(loss, case.loss) for name, loss in found.items()}
    return {name: _frozen(loss) for name, loss in found.items()} if case.frozen else found


def _frozen(loss: Loss) -> Loss:
    """Return a loss as a function of the input and the target, whose weight is an option."""
    return lambda features, target, *, weight, **options: loss(features, weight, target, **options)


def ours(loss: str, features: Tensor, weight: Tensor, target: Tensor, *, old: Tensor, advantage: Tensor) -> Tensor:
    """Return the loss by a closing, or by the log-probabilities of the rows."""
    if loss == "logprob":
        return of_logprob(linear_logprobs(features, weight, target).logprob, advantage).mean()

    def closing(rows: Any, old: Tensor, advantage: Tensor) -> Tensor:
        return clipped(rows.logprob, rows.entropy, old, advantage)

    return linear_cross_entropy(features, weight, target, closing=closing, operands=(old, advantage))


def eager(loss: str, features: Tensor, weight: Tensor, target: Tensor, *, old: Tensor, advantage: Tensor) -> Tensor:
    """Return what one writes with logits."""
    logq = functional.linear(features, weight).float().log_softmax(1)
    logprob = logq.gather(1, target[:, None]).squeeze(1)
    if loss == "logprob":
        return of_logprob(logprob, advantage).mean()
    return clipped(logprob, -(logq.exp() * logq).sum(1), old, advantage).mean()


def trl(loss: str, features: Tensor, weight: Tensor, target: Tensor, *, old: Tensor, advantage: Tensor) -> Tensor:
    """Return the loss by TRL's function, with the outputs that it needs."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction  # pyright: ignore[reportMissingImports]

    outputs = () if loss == "logprob" else ("entropy",)
    found = ChunkedLogProbFunction.apply(features, weight, None, target, 1.0, TRL_CHUNK, None, 1.0, outputs)
    if loss == "logprob":
        return of_logprob(found[0], advantage).mean()
    return clipped(found[0], found[1], old, advantage).mean()


def calls(case: RowsCase, data: Data, *, compiled: bool) -> Contenders:
    """Return the calls of every contender that there is time for, and why the others cannot take part."""
    found = losses(case)
    missing = {name: "it is not installed" for name in case.rivals if name not in found}
    slow = patience.why_not(*operands(data))
    if slow is not None:
        missing |= dict.fromkeys(("eager", "products", "product"), slow)
    in_time = {name: loss for name, loss in found.items() if name not in missing}
    below = {name: call for name, call in floors(data).items() if name not in missing}
    return Contenders(timed(in_time, data) | floors_as_calls(below), missing)


def floors(data: Data) -> dict[str, Call]:
    """Return the mean loss of the same head, and the products."""
    frozen = data.options.get("weight")
    mean: Loss = linear_cross_entropy if frozen is None else lambda x, y: linear_cross_entropy(x, frozen, y)
    plain = Data(data.leaves, data.target, {})
    features, weight = operands(data)

    def products() -> list[Tensor]:
        g = features @ weight.t()
        return [g, g @ weight] if frozen is not None else [g, g @ weight, g.t() @ features]

    return {
        "mean": partial(step, mean, plain),
        "mean forward": partial(forward, mean, plain),
        "products": products,
        "product": lambda: features @ weight.t(),
    }


def operands(data: Data) -> tuple[Tensor, Tensor]:
    """Return input and weight."""
    features, *weight = (x.detach() for x in data.leaves)
    return features, weight[0] if weight else data.options["weight"]


def work(data: Data, measure: str) -> dict[str, int]:
    """Return the operations of the products in a measure, two for each number that is multiplied and added."""
    features, weight = operands(data)
    products = 1 if measure == "forward" else 1 + len(data.leaves)
    return {"flops": 2 * products * features.numel() * len(weight)}
