"""One call that lets a model train without its logits, and one that takes it back."""

# pyright: reportPrivateUsage=false
# A module's children are asked by _modules: the getattr of PEFT's wrappers answers for other modules.

from __future__ import annotations

import functools
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from crossent.torch.base.values import has_autocast, is_dtensor
from crossent.torch.call.layout import LayerOperands
from crossent.torch.lazy.deferred import Deferred
from crossent.torch.lazy.engines import freeing_engine, warn_of
from crossent.torch.lazy.graph import defer
from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.lazy.notice import Notice, forget, is_told, warn_once

Model = TypeVar("Model", bound=nn.Module)

_OF_DTENSORS = (
    "the head that fuse_lm_head fused multiplies DTensors, so this training step computes all logits: there are no "
    "lazy ones of DTensors. Call linear_cross_entropy with the DTensors, or unfuse_lm_head(model)"
)


class LazyLinear(nn.Linear):
    """A linear layer with lazy outputs: what `fuse_lm_head` makes of a model's head."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs as lazy logits; as ordinary ones under tracers and function transforms."""
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        traced = traced or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None  # pyright: ignore
        weight = self.weight  # once: a parametrization may compute it
        plain = type(input) in (Tensor, nn.Parameter) and type(weight) in (Tensor, nn.Parameter)
        if traced or not plain or torch._C._are_functorch_transforms_active():  # pyright: ignore
            if self.training and (is_dtensor(weight) or is_dtensor(input)):
                warn_once(self, _OF_DTENSORS)
            return nn.functional.linear(input, weight, self.bias)
        engine = freeing_engine(self, weight)
        if engine is not None:
            warn_of(engine)
            return nn.functional.linear(input, weight, self.bias)
        # what wants no gradient now will get none, whatever is unfrozen before the loss
        given: Any = (input, weight, self.bias)
        operands: Any = [x if x is None or x.requires_grad else x.detach() for x in given]
        if has_autocast(input) and torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
            operands = [x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in operands]
        if hasattr(self, "set_reshard_after_forward"):  # of FSDP, which would free the weight now and want it back
            self.set_reshard_after_forward(False, recurse=False)  # pyright: ignore[reportCallIssue]
        trains = self.training and torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands)
        return defer(
            Deferred.of_layer(LayerOperands(*operands), notice=Notice(self) if trains and not is_told(self) else None)
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state from a file or a copy; a process that only loads a fused model needs the preparations too."""
        super().__setstate__(state)
        _prepare()

    @property
    def qconfig(self) -> NoReturn:
        """Where torch.ao.quantization writes how it will quantise a layer: nowhere in a fused head."""
        raise AttributeError("qconfig")

    @qconfig.setter
    def qconfig(self, how: Any) -> NoReturn:
        raise RuntimeError(
            "torch.ao.quantization quantises plain torch.nn.Linear layers, and would leave out the head that "
            "fuse_lm_head fused; call unfuse_lm_head(model) before it"
        )


@functools.cache
def _prepare() -> None:
    """Let torch.compile leave lazy logits alone, and let heads that are replaced stay fused.

    Not done at import: it loads the compiler, and a process that fuses nothing needs neither.
    """
    hide: Any = functools.partial(torch.compiler.disable, reason="lazy logits are no tensors that a compiler knows")
    LazyLinear.forward = hide(LazyLinear.forward)
    LazyLogits.__torch_function__ = classmethod(hide(LazyLogits.__torch_function__.__func__))  # pyright: ignore
    _ = register_module_module_registration_hook(_stay_fused)


def _stay_fused(owner: nn.Module, name: str, replacement: nn.Module | None) -> None:
    """Fuse a plain linear layer that takes the place of a fused head, as `resize_token_embeddings` makes one."""
    if type(replacement) is nn.Linear and isinstance(owner._modules.get(name), LazyLinear):
        _set_class(replacement, LazyLinear)


def fuse_lm_head(model: Model) -> Model:
    """Let a model's output embedding return lazy logits, so that its training never builds the logits.

    The head then multiplies only when somebody wants the numbers: its output is a `torch.Tensor` that remembers the
    head's input, weight and bias. `torch.nn.functional.cross_entropy` of it (what Hugging Face's loss functions call)
    is `linear_cross_entropy`. A conversion of dtype, a choice of rows, a reshape of leading axes, an added bias, a
    division or multiplication by a number and a tanh before that stay lazy, as temperature and softcap; so does a
    log_softmax with `gather`, a sum over the classes or `nll_loss`. Anything else computes the logits as if nothing had
    happened, with the same numbers and gradients. `generate` and evaluation just work. Where a training step computes
    the logits, a `UserWarning` says so once for each model, unless they are read for metrics after a fused loss.

    Once somebody has read the logits, they are ordinary ones, and so is a loss of them. Like `linear_cross_entropy`, a
    fused loss is float32 at least, does not round logits to half precision, and raises for negative probabilities.
    Logits that were never computed cannot be read after an optimizer's step has changed the weight: that raises (unless
    the change went through `weight.data`, which leaves no trace).
    `torch.compile` of the model compiles what comes before the head, and breaks its graph there (with fullgraph=True
    it raises).

    FSDP2 may shard the model afterwards (`fully_shard`; fuse first). The head then keeps its weight from forward to
    backward, whatever `reshard_after_forward` says, so that it is gathered once a step and its gradient scattered once.
    Engines that put hooks on outputs of a model (FSDP1 with the head in the root's unit, Lightning, Accelerate) need
    nothing. FSDP1 with the head in a unit of its own, and DeepSpeed's ZeRO-3, free the weight before the loss: the head
    then computes its logits at once, and warns once.

    PEFT may wrap the model before or after: adapters inside it, and copies of the head (`modules_to_save`), all of
    which are fused. An adapter on the head itself makes a fused head compute its logits, and a head that has one
    already is refused. A plain linear layer that takes the place of a fused head is fused too:
    `resize_token_embeddings` makes one.

    Parameters
    ----------
    model
        A model with `get_output_embeddings()`, as Hugging Face's have, that returns a plain `torch.nn.Linear`, tied or
        not, with a bias or not; what wraps or contains such models; or the layer itself. It is changed in place; its
        state_dict stays what it was.

    Returns
    -------
    torch.nn.Module
        The model. A second call changes nothing.

    Raises
    ------
    TypeError
        If the model has no plain linear head: none at all, one that is sharded or quantised already, or an adapter.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import fuse_lm_head
    >>> head = fuse_lm_head(torch.nn.Linear(8, 50_000, bias=False))
    >>> logits = head(torch.zeros(4, 8))  # no 50,000 numbers a row yet
    >>> loss = torch.nn.functional.cross_entropy(logits.float(), torch.zeros(4, dtype=torch.long))  # nor are there now
    >>> loss.shape
    torch.Size([])
    """
    heads = _heads_of(model)
    if not heads:
        raise TypeError(_no_head(model))
    plain = [head for head in heads if not any(isinstance(module, LazyLinear) for module in head.modules())]
    for head in plain:
        _check_plain(head)
    _prepare()
    for head in plain:
        _set_class(head, LazyLinear)  # pyright: ignore[reportArgumentType]
    return model


def unfuse_lm_head(model: Model) -> Model:
    """Undo `fuse_lm_head`: let each fused head in a model return ordinary logits again.

    It finds the heads wherever they are now: inside wrappers, copied, as the layer below an adapter.

    Parameters
    ----------
    model
        Any module, with fused heads or without.

    Returns
    -------
    torch.nn.Module
        The model.

    Raises
    ------
    TypeError
        If it is no `torch.nn.Module`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import fuse_lm_head, unfuse_lm_head
    >>> unfuse_lm_head(fuse_lm_head(torch.nn.Linear(8, 4)))
    Linear(in_features=8, out_features=4, bias=True)
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(_no_head(model))
    for module in model.modules():
        if isinstance(module, LazyLinear):
            _set_class(module, _unfused(type(module)))
            forget(module)
    return model


def _heads_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers that make the logits of a model, or that may: PEFT switches between copies of a head."""
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        return []
    itself = isinstance(model, nn.Linear) or {"base_layer", "original_module"} & model._modules.keys()
    return [layer for head in ([model] if itself else _output_embeddings(model)) for layer in _copies_of(head)]


def _output_embeddings(module: nn.Module) -> list[nn.Module]:
    """Return the output embedding that a module names, or else those that the modules in it name."""
    ask: Any = getattr(module, "get_output_embeddings", None)
    head = None if ask is None else ask()
    if head is not None:
        return [head]
    return [head for child in module.children() for head in _output_embeddings(child)]


def _copies_of(head: nn.Module) -> list[nn.Module]:
    """Return a head, or in place of PEFT's `modules_to_save` the original and the copy of each adapter."""
    original, copies = (head._modules.get(name) for name in ("original_module", "modules_to_save"))
    return [head] if original is None or copies is None else [original, *copies.children()]


def _check_plain(head: nn.Module) -> None:
    """Raise unless a layer is a plain linear one that multiplies by a weight of its own; say what to do instead."""
    kind = type(head)
    name = f"a {kind.__module__}.{kind.__qualname__}"
    if is_dtensor(getattr(head, "weight", None)) or hasattr(head, "set_reshard_after_forward"):
        raise TypeError(
            f"the head of the model ({name}) is sharded already, its weight is a DTensor: call fuse_lm_head before "
            "fully_shard; of a head that tensor parallelism shards, call linear_cross_entropy with the DTensors"
        )
    if "base_layer" in head._modules:
        raise TypeError(
            f"the head of the model is {name}, an adapter around a linear layer, and the logits are the sum of both, "
            "which cannot be fused yet: keep the head out of target_modules (modules_to_save trains a copy of it), "
            "or merge the adapter first (merge_and_unload)"
        )
    if kind is not nn.Linear:
        raise TypeError(
            f"the head of the model is {name}, not a plain torch.nn.Linear, and what it adds to one "
            "would be lost; fuse before wrapping or quantising it, or call linear_cross_entropy yourself"
        )
    if "forward" in vars(head) and "_old_forward" not in vars(head):
        raise TypeError(
            "the head of the model is a torch.nn.Linear whose forward was replaced, and what the new one does would be "
            "lost; fuse before replacing it, or call linear_cross_entropy yourself"
        )


def _no_head(model: Any) -> str:
    """Return why there is nothing to fuse."""
    if not isinstance(model, nn.Module):
        return f"fuse_lm_head takes a torch.nn.Module, got a {type(model).__name__}; load the model first"
    if hasattr(model, "get_output_embeddings"):
        return f"{type(model).__name__} has no output embedding; use a class with a language-model head"
    return (
        f"no module in {type(model).__name__} has get_output_embeddings(); pass the model itself, "
        "or the torch.nn.Linear that makes its logits"
    )


def _set_class(head: nn.Linear, kind: type[nn.Linear]) -> None:
    """Change the class of a head; where Accelerate put a forward of its own around the old one, around the new one."""
    head.__class__ = kind  # pyright: ignore[reportAttributeAccessIssue]
    if "_old_forward" in vars(head):
        vars(head)["_old_forward"] = functools.partial(kind.forward, head)


@functools.cache
def _unfused(kind: type[LazyLinear]) -> type[nn.Linear]:
    """Return nn.Linear, or what torch (FSDP2, parametrizations) derives from it where the class is derived."""
    if kind is LazyLinear:
        return nn.Linear
    bases = tuple(_unfused(base) if issubclass(base, LazyLinear) else base for base in kind.__bases__)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    made: Any = type(kind.__name__.replace("LazyLinear", "Linear"), bases, own)
    return made
