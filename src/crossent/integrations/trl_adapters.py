"""Adapters on a head, where TRL reads only the weight: PEFT's LoRA layers as a `LowRank` weight.

TRL's trainers refuse an adapter on the head when they are made, because their losses would leave it out. While crossent
is enabled, they refuse those alone that crossent leaves out too.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from torch import Tensor, nn

from crossent.torch import LowRank


class State:
    """State of the trainers since `enable`: whether one of them has a head with an adapter."""

    accepted = False


class Head(NamedTuple):
    """The weight and bias of a head, adapters included."""

    weight: Tensor | LowRank
    bias: Tensor | None


def tuner_class() -> Any:
    """Return PEFT's class of layers with adapters; None if PEFT is not loaded, so that there are none."""
    module: Any = sys.modules.get("peft.tuners.tuners_utils")
    return None if module is None else module.BaseTunerLayer


class _LeftOut(type):
    def __instancecheck__(cls, layer: Any) -> bool:
        if not isinstance(layer, tuner_class()) or why_not(layer):
            return isinstance(layer, tuner_class())
        State.accepted = True
        return False


class LeftOut(metaclass=_LeftOut):
    """In place of `BaseTunerLayer` where TRL's trainers ask if the head has an adapter: one that would be left out."""


def why_not(layer: Any) -> str | None:
    """Return why the adapters of a layer cannot be part of a loss, or None if they can."""
    lora: Any = sys.modules.get("peft.tuners.lora.layer")
    if lora is None or type(layer) is not lora.Linear:
        return f"it is a {type(layer).__module__}.{type(layer).__name__}, and only LoRA on nn.Linear is supported"
    if layer.disable_adapters and layer.merged:
        return "it is merged and disabled at once; call unmerge() or enable it"
    if "forward" in vars(layer):
        return "its forward was replaced, for example by cast_lm_head_to_fp32; leave that option out"
    variants = [type(layer.lora_variant[name]).__name__ for name in active(layer) if name in layer.lora_variant]
    if variants:
        return f"it is a variant of LoRA ({', '.join(variants)}), and only LoRA and rsLoRA are supported"
    return None


def active(layer: Any) -> list[str]:
    """Return the names of the adapters that add something to the weight of a layer of PEFT."""
    if layer.disable_adapters or layer.merged:
        return []
    return [name for name in layer.active_adapters if any(name in getattr(layer, x) for x in layer.adapter_layer_names)]


def head_of(layer: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Head:
    """Return the head whose own weight and bias were read from a layer, with the adapters of the layer.

    Raises
    ------
    NotImplementedError
        If the layer has an adapter that cannot be part of the loss.
    """
    tuner = tuner_class()
    if tuner is None or not isinstance(layer, tuner):
        return Head(weight, bias)
    names, odd = active(layer), bool(layer.disable_adapters and layer.merged)
    if not names and not odd:
        return Head(weight, bias)
    reason = why_not(layer)
    if reason is not None:
        raise NotImplementedError(
            f"the adapter {', '.join(map(repr, names or layer.merged_adapters))} is on the head. TRL reads the head's "
            f"weight without it, and crossent cannot add it: {reason}. Take the head out of target_modules, or use "
            'modules_to_save=["lm_head"] to train it whole'
        )
    head: Any = Head(weight, bias)
    for name in names:
        a, b, scale = layer.lora_A[name].weight, layer.lora_B[name], layer.scaling[name]
        dropout: nn.Module = layer.lora_dropout[name]
        own = None if isinstance(dropout, nn.Identity) or not dropout.training else dropout(hidden.to(a.dtype))
        more = None if b.bias is None else scale * b.bias
        added = more if head.bias is None or more is None else head.bias + more.to(head.bias.dtype)
        head = Head(LowRank(head.weight, a, b.weight, scale, input=own), head.bias if more is None else added)
    return head


def refuse_what_is_hidden() -> None:
    """Raise if a trainer has a head with an adapter, where TRL's variables cannot be read: under torch.compile.

    Raises
    ------
    NotImplementedError
        If so.
    """
    if State.accepted:
        raise NotImplementedError(
            "torch.compile hides the variables of TRL that hold the adapter of the head; leave out torch_compile "
            "(or fullgraph), or take the head out of target_modules"
        )
