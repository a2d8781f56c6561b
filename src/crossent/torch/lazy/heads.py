"""The layers that a fused head consists of: linear, quantised and adapter layers, with lazy outputs.

A fused layer has the class of the layer that it was, with `LazyHead` before it. Adapters need no more than that: PEFT
adds a factor times the output of another linear layer to the output of the wrapped layer, and the sum of two lazy
outputs is lazy (`sums`).
"""

# pyright: reportPrivateUsage=false
# A module's children are asked by _modules: the getattr of PEFT's wrappers answers for other modules.

from __future__ import annotations

import functools
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from crossent.torch.base import quantised
from crossent.torch.base.dequantized import Dequantized
from crossent.torch.base.values import has_autocast, is_dtensor
from crossent.torch.call.layout import LayerOperands
from crossent.torch.lazy.deferred import Deferred
from crossent.torch.lazy.engines import freeing_engine, warn_of
from crossent.torch.lazy.graph import defer
from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.lazy.notice import Notice, is_told, warn_once

_PLAIN = (Tensor, nn.Parameter)
_OF_DTENSORS = (
    "the fused head multiplies DTensors, which have no lazy logits, so this training step computes all logits. Call "
    "linear_cross_entropy with the DTensors, or unfuse_lm_head(model)"
)


@functools.cache
def prepare() -> None:
    """Keep torch.compile away from lazy logits, and keep replaced heads fused.

    Not done at import: it loads the compiler, and a process that fuses nothing needs neither.
    """
    hide: Any = functools.partial(torch.compiler.disable, reason="compilers do not support lazy logits")
    LazyHead.forward = hide(LazyHead.forward)
    LazyTokens.forward_adapters = hide(LazyTokens.forward_adapters)
    LazyLogits.__torch_function__ = classmethod(hide(LazyLogits.__torch_function__.__func__))  # pyright: ignore
    _ = register_module_module_registration_hook(_stay_fused)


def _stay_fused(owner: nn.Module, name: str, replacement: nn.Module | None) -> None:
    """Fuse a replacement of a fused head: a plain layer, as a new vocabulary makes one, or an adapter around it.

    And fuse new layers of a fused adapter: another adapter.
    """
    if replacement is None or is_fused(replacement):
        return
    if is_fused(owner._modules.get(name)):
        if type(replacement) is nn.Linear:
            set_class(replacement, LazyLinear)
        elif any(is_fused(module) for module in replacement.modules()):
            fuse_layers(replacement)
    elif type(replacement) is nn.Linear and _holds_adapters(owner):
        set_class(replacement, LazyAdapter)


def _holds_adapters(owner: nn.Module) -> bool:
    """Return whether these are the last layers of adapters by their names, as PEFT keeps them."""
    return isinstance(owner, nn.ModuleDict) and any(isinstance(module, LazyAdapter) for module in owner.children())


def base_of(head: nn.Module) -> nn.Module:
    """Return the layer below adapters and copies of PEFT."""
    for name in ("base_layer", "original_module", "token_adapter"):
        below = head._modules.get(name)
        if below is not None:
            return base_of(below)
    return head


def fuse_layers(head: nn.Module) -> None:
    """Fuse all layers of a head, also in adapters and copies.

    The last linear layer of an adapter is one that makes as many numbers as the head.
    """
    base: Any = base_of(head)
    for name, module in [*head.named_modules()]:
        beside = {"base_layer", "original_module", "token_adapter", "modules_to_save"}.isdisjoint(name.split("."))
        adapter = beside and module is not base
        if adapter and isinstance(module, nn.Linear) and module.out_features != base.out_features:
            continue
        kind = fused_class(type(module), adapter=adapter)
        if kind is not None:
            set_class(module, kind)


class LazyHead(nn.Module):
    """Base of all fused layers: lazy outputs, or ordinary ones under tracing and sharding."""

    weight: Any
    bias: Any
    _is_adapter = False
    """Whether its output is only a part of the logits; the head itself warns."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs as lazy logits; as ordinary ones under tracers and function transforms."""
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        traced = traced or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None  # pyright: ignore
        weight = self.weight  # once: a parametrization may compute it
        own = None
        if not traced and type(input) in _PLAIN and not torch._C._are_functorch_transforms_active():  # pyright: ignore
            own = self._lazy_weight(weight, input)
        if own is None:
            if self.training and (is_dtensor(weight) or is_dtensor(input)):
                warn_once(self, _OF_DTENSORS)
            return self._at_once(input, weight)
        engine = freeing_engine(self, weight)
        if engine is not None:
            warn_of(engine)
            return self._at_once(input, weight)
        if hasattr(self, "set_reshard_after_forward"):  # FSDP would free the weight now and gather it again
            self.set_reshard_after_forward(False, recurse=False)  # pyright: ignore[reportCallIssue]
        return lazy_output(self, LayerOperands(input, own, self.bias))

    def _lazy_weight(self, weight: Any, input: Tensor) -> Tensor | None:
        """Return the weight as lazy logits take it, None if they do not."""
        if type(weight) in _PLAIN:
            return weight
        return Dequantized.of(weight) if quantised.is_dequantised_by_rows(weight) else None

    def _at_once(self, input: Tensor, weight: Any) -> Tensor:
        """Return the outputs as the layer without us does."""
        return nn.functional.linear(input, weight, self.bias)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state from a file or a copy; a process that only loads a fused model needs the preparations too."""
        super().__setstate__(state)
        prepare()

    @property
    def qconfig(self) -> NoReturn:
        """Where torch.ao.quantization writes how it will quantise a layer: nowhere in a fused head."""
        raise AttributeError("qconfig")

    @qconfig.setter
    def qconfig(self, how: Any) -> NoReturn:
        raise RuntimeError(
            "torch.ao.quantization quantises plain torch.nn.Linear layers, and would skip the head that fuse_lm_head "
            "fused; call unfuse_lm_head(model) first"
        )


class LazyLinear(LazyHead, nn.Linear):
    """A linear layer with lazy outputs: the head of a model after `fuse_lm_head`."""


class LazyAdapter(LazyLinear):
    """The last linear layer of an adapter on a fused head."""

    _is_adapter = True


class LazyQuantised(LazyHead):
    """A layer of bitsandbytes with lazy outputs, before its own class."""

    def _lazy_weight(self, weight: Any, input: Tensor) -> Tensor | None:
        state = getattr(weight, "quant_state", None)
        if quantised.is_4bit(weight) and not getattr(state, "packing_format_for_cpu", False):
            return Dequantized.of(weight, input.dtype)
        if quantised.is_8bit(weight):
            scales: Any = getattr(getattr(self, "state", None), "SCB", None)
            if scales is not None or getattr(weight, "SCB", None) is not None:
                make, shape, _ = quantised.rows_of(weight, scales)
                return Dequantized(make, shape, input.dtype, weight.device)
        return None

    def _at_once(self, input: Tensor, weight: Any) -> Tensor:
        return super(LazyHead, self).forward(input)  # pyright: ignore[reportAttributeAccessIssue]


class LazyTokens(nn.Module):
    """A layer of PEFT whose weight has some rows that are trained, with lazy outputs, before its own class."""

    def forward_adapters(self, x: Tensor, active_adapters: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the outputs of the layer, lazy where it multiplies by a weight of its own."""
        own: Any = self
        if own.disable_adapters or not active_adapters or own.merged or not isinstance(own.base_layer, nn.Linear):
            return super().forward_adapters(x, active_adapters, *args, **kwargs)  # pyright: ignore
        own._check_overlapping_tokens(active_adapters)
        return lazy_output(self, LayerOperands(x, own.get_merged_weights(active_adapters), None))


def lazy_output(head: nn.Module, layer: LayerOperands) -> Tensor:
    """Return the output of a layer as lazy logits."""
    # frozen operands get no gradient, even if unfrozen before the loss
    operands: Any = [x if x is None or x.requires_grad else x.detach() for x in layer]
    x = layer.input
    if has_autocast(x) and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        operands = [x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in operands]
    elif layer.linear_bias is not None and isinstance(layer.linear_weight, Dequantized):
        operands[2] = operands[2].to(x.dtype)
    trains = head.training and torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands)
    tells = trains and not getattr(head, "_is_adapter", False) and not is_told(head)
    return defer(Deferred.of_layer(LayerOperands(*operands), Notice(head) if tells else None))


# Classes -------------------------------------------------------------------------------------------------------------


def fused_class(kind: type[nn.Module], *, adapter: bool = False) -> type[nn.Module] | None:
    """Return the class of a layer of this class that is fused, None if there is none."""
    if kind is nn.Linear:
        return LazyAdapter if adapter else LazyLinear
    if kind.__module__.partition(".")[0] == "bitsandbytes" and issubclass(kind, nn.Linear):
        return _before(LazyQuantised, kind)
    if kind.__name__ == "TrainableTokensLayer" and hasattr(kind, "get_merged_weights"):
        return _before(LazyTokens, kind)
    if kind.__name__ == "ParametrizedLinear" and kind.__bases__ == (nn.Linear,):
        return _derived(kind, (LazyAdapter if adapter else LazyLinear,), kind.__name__)
    return None


def is_fused(module: nn.Module | None) -> bool:
    """Return whether a layer has lazy outputs."""
    return isinstance(module, (LazyHead, LazyTokens))


@functools.cache
def unfused_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class that a fused layer had; where torch (FSDP2, parametrizations) derived another, as derived."""
    if kind in (LazyLinear, LazyAdapter):
        return nn.Linear
    if kind.__bases__[0] in (LazyQuantised, LazyTokens):
        return kind.__bases__[1]
    bases = tuple(unfused_class(base) if issubclass(base, (LazyHead, LazyTokens)) else base for base in kind.__bases__)
    return _derived(kind, bases, kind.__name__.replace("LazyLinear", "Linear").replace("LazyAdapter", "Linear"))


@functools.cache
def _before(lazy: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Lazy{kind.__name__}", (lazy, kind), {"__module__": __name__})


@functools.cache
def _derived(kind: type[nn.Module], bases: tuple[type[nn.Module], ...], name: str) -> type[nn.Module]:
    """Return a class that was derived from a layer's, derived from another."""
    own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    made: Any = type(name, bases, own)
    return made


def set_class(head: nn.Module, kind: type[nn.Module]) -> None:
    """Change the class of a head; where Accelerate put a forward of its own around the old one, around the new one."""
    head.__class__ = kind
    if "_old_forward" in vars(head):
        vars(head)["_old_forward"] = functools.partial(kind.forward, head)
