"""Facts about a layer that makes logits: place, shape, dtype, and modules that change it."""

# pyright: reportPrivateUsage=false
# A module's children are asked by _modules: the getattr of PEFT's wrappers answers for other modules.

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from crossent.torch.base.values import is_dtensor
from crossent.torch.lazy.engines import freeing_engine
from crossent.torch.lazy.heads import base_of

_MIB = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class HeadFacts:
    """A layer that makes logits."""

    name: str
    """Its name in the model; empty for the model itself."""
    kind: str
    """Its class, with the module."""
    classes: int
    """Number V of classes."""
    features: int
    """Number D of features."""
    dtype: torch.dtype
    """Of the weight."""
    device: str
    trains: bool
    """Whether the weight gets a gradient."""
    bias: bool
    tied_to: str | None
    """The module that has the same weight, or None."""
    adapter: str | None
    """The adapters on the layer, or None."""
    quantised: str | None
    """The class of a weight that is stored in another form, or None."""
    sharded: str | None
    """The engine that shards the weight, or None."""
    parameter_bytes: int
    """Bytes of weight and bias on this rank."""

    def __str__(self) -> str:
        """Return the facts in words."""
        of_bias = "with a bias" if self.bias else "without a bias"
        where = f"{name_of(self.dtype)} on {self.device}"
        parts = [f"{self.classes:,} classes of {self.features:,} features", where, of_bias]
        parts += [] if self.trains else ["frozen"]
        if self.tied_to is not None:
            parts.append(f"its weight is that of {self.tied_to}, too")
        found = (("adapted by", self.adapter), ("quantised as", self.quantised), ("sharded by", self.sharded))
        parts += [f"{what} {value}" for what, value in found if value is not None]
        return f"{self.name or 'the model itself'}, a {self.kind}: {', '.join(parts)}; {size(self.parameter_bytes)}"


def facts_of(model: nn.Module, head: nn.Module) -> HeadFacts:
    """Return the facts about a layer of a model."""
    modules = dict(model.named_modules())
    name = next((name for name, module in modules.items() if module is head), "")
    inner: Any = base_of(head)
    weight: Any = _stored_weight(inner)
    shape = getattr(weight, "ds_shape", (getattr(inner, "out_features", 0), getattr(inner, "in_features", 0)))
    bias = getattr(inner, "bias", None)
    owners = [(at, x) for at, module in modules.items() if module is not inner for x in module._parameters.values()]
    adapters = getattr(head, "active_adapters", None)
    own = f"{type(head).__module__}.{type(head).__qualname__}"
    plain = type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()
    stored = None if plain or is_dtensor(weight) else type(weight).__name__
    held = [x for x in (weight, bias) if isinstance(x, Tensor)]
    return HeadFacts(
        name=name,
        kind="torch.nn.Linear" if type(head) is nn.Linear else own,
        classes=int(shape[0]),
        features=int(shape[1]),
        dtype=weight.dtype,
        device=weight.device.type,
        trains=bool(weight.requires_grad),
        bias=bias is not None,
        tied_to=next((at for at, x in owners if x is weight), None),
        adapter=None if inner is head else ", ".join(adapters or ["none that is active"]),
        quantised=stored,
        sharded="DTensor" if is_dtensor(weight) else freeing_engine(inner, weight),
        parameter_bytes=sum(_here(x).numel() * x.element_size() for x in held),
    )


def copies_of(head: nn.Module) -> list[nn.Module]:
    """Return a head, or in place of PEFT's `modules_to_save` the original and the copy of each adapter."""
    original, copies = (head._modules.get(name) for name in ("original_module", "modules_to_save"))
    return [head] if original is None or copies is None else [original, *copies.children()]


def _stored_weight(layer: nn.Module) -> Any:
    """Return a layer's weight in stored form: reading a parametrized one computes it, and may change its state."""
    parametrized: Any = layer._modules.get("parametrizations")
    if parametrized is None or "weight" not in parametrized._modules:
        return layer.weight
    return max(parametrized._modules["weight"]._parameters.values(), key=lambda x: x.numel())


def _here(x: Any) -> Tensor:
    return x.to_local() if is_dtensor(x) else x


def operand_dtype_of(model: nn.Module, head: HeadFacts) -> torch.dtype:
    """Return the dtype of a head's operands: its weight's, or the model's where the weight is stored otherwise."""
    if head.quantised is None and head.dtype.itemsize > 1:
        return head.dtype
    usual: Iterator[torch.dtype] = (x.dtype for x in model.parameters() if x.is_floating_point() and x.itemsize > 1)
    return next(usual, torch.float32)


def size(number: int) -> str:
    """Return a number of bytes in words.

    Examples
    --------
    >>> size(3 * 2**29), size(2**20)
    ('1.5 GiB', '1.0 MiB')
    """
    return f"{number / _MIB / 1024:,.1f} GiB" if number >= 1024 * _MIB else f"{number / _MIB:.1f} MiB"


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype."""
    return str(dtype).removeprefix("torch.")
