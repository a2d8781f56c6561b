"""A training step of a model's twin on torch's meta device, which shows the use of its logits and costs no memory.

The twin has the modules of the model and no numbers: a parameter becomes one of the same shape and dtype on the meta
device. So it can be fused, run and thrown away for a model of any size, and the model stays untouched.
"""

# pyright: reportPrivateUsage=false
# What lazy logits remember is theirs and ours.

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.lm_head import fuse_lm_head

_BATCH, _LENGTH = 2, 8
_ASKED = " asked for the logits of a head that fuse_lm_head fused"


@dataclasses.dataclass(frozen=True, slots=True)
class Rehearsal:
    """Use of the logits in a step of a fused twin; numbers are None if the use cannot be fused."""

    steps: tuple[str, ...]
    """Operations on the head's output, in order: "div 2.0", "tanh", "to float32"."""
    temperature: float | None
    softcap: float | None
    has_loss: bool
    """Whether the model computes a loss from labels; else the caller does so."""
    asked: str | None
    """The operation that needed the logits, so that they were computed; None if there was none."""


class NoRehearsalError(Exception):
    """A twin does not run on the meta device; the text is the reason."""


class NoTwinError(NoRehearsalError):
    """A twin cannot be made; the text is the reason."""


def twin_of(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose ordinary parameters and buffers are on the meta device; others are shared.

    Examples
    --------
    >>> twin_of(torch.nn.Linear(8, 4)).weight.device
    device(type='meta')
    """
    memo = {id(x): _without_memory(x) for x in _tensors(model)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise NoTwinError(f"{type(model).__name__} cannot be copied ({_short(error)})") from error


def rehearse(model: nn.Module) -> Rehearsal:
    """Return the use of the logits in a training step of a model's fused twin.

    Raises
    ------
    NoTwinError
        If the twin cannot be made.
    NoRehearsalError
        If the twin, whose head was fused, does not run.
    TypeError
        As `fuse_lm_head`, if there is no head that it can fuse.
    """
    twin = fuse_lm_head(twin_of(model)).train()
    _without_numbers(twin)
    errors: list[Exception] = []
    for inputs in _inputs(twin):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                out: Any = twin(**inputs) if isinstance(inputs, dict) else twin(inputs)
            except Exception as error:  # any error of a model's own code
                errors.append(error)
                continue
        leaves = tree_leaves(dict(out) if isinstance(out, dict) else out)
        lazy = next((x for x in leaves if isinstance(x, LazyLogits)), None)
        has_loss = any(isinstance(x, Tensor) and x.ndim == 0 for x in leaves)
        asked = next((text.partition(_ASKED)[0] for x in heard if _ASKED in (text := str(x.message))), None)
        if lazy is None:
            return Rehearsal((), None, None, has_loss, asked or "the forward of the model")
        layer = lazy._deferred
        scores = layer.scores()
        numbers = (None, None) if scores is None else (scores.temperature, scores.softcap)
        return Rehearsal(tuple(map(_in_words, layer.steps)), *numbers, has_loss, asked)  # pyright: ignore[reportArgumentType]
    raise NoRehearsalError(f"{type(model).__name__} does not run on the meta device ({_short(errors[0])})")


def _without_numbers(twin: nn.Module) -> None:
    """Let a twin of transformers attend and choose experts by ways that look at no numbers."""
    ways = {"set_attn_implementation": "eager", "set_experts_implementation": "batched_mm"}
    for name, way in ways.items():
        choose: Any = getattr(twin, name, None)
        if choose is not None:
            with warnings.catch_warnings(), suppress(Exception):  # the rehearsal itself will tell
                warnings.simplefilter("ignore")
                choose(way)


def _inputs(model: nn.Module) -> Iterator[Any]:
    """Return possible inputs of a language model, one after the other."""
    ids = torch.zeros((_BATCH, _LENGTH), dtype=torch.int64, device="meta")
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", "input_ids")
    whole: Any = ids
    if main == "input_features" and hasattr(config, "num_mel_bins"):
        frames = 2 * int(getattr(config, "max_source_positions", _LENGTH))
        dtype = next((x.dtype for x in model.parameters() if x.is_floating_point()), torch.float32)
        whole = torch.zeros((_BATCH, config.num_mel_bins, frames), dtype=dtype, device="meta")
    given = {main: whole}
    if getattr(config, "is_encoder_decoder", False):
        yield given | {"decoder_input_ids": ids, "labels": ids}
    yield given | {"labels": ids}
    yield given | {"labels": ids, "attention_mask": torch.ones_like(ids)}
    yield given
    if main == "input_ids":
        yield ids
        for module in model.modules():  # the head itself, or one that takes features
            if isinstance(module, nn.Linear):
                yield torch.zeros((_BATCH, module.in_features), dtype=module.weight.dtype, device="meta")


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Return parameters, buffers, and tensors that modules hold as plain attributes."""
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            yield from (x for x in held.values() if isinstance(x, Tensor))


def _without_memory(x: Tensor) -> Tensor:
    """Return an ordinary tensor on the meta device; other tensors stay."""
    if type(x) not in (Tensor, nn.Parameter):
        return x
    empty = torch.empty_like(x, device="meta")
    if type(x) is Tensor:
        return empty.requires_grad_(x.requires_grad) if x.is_leaf else empty
    made = nn.Parameter(empty, requires_grad=x.requires_grad)
    vars(made).update(vars(x))  # engines leave notes there
    return made


def _in_words(step: Any) -> str:
    if step.name == "add":
        return "add a bias"
    what = str(step.operand).removeprefix("torch.")
    return step.name if step.operand is None else f"{step.name} {what}"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text if len(text) <= 160 else text[:159] + '…'}"
