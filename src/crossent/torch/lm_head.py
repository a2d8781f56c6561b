"""One call that lets a model train without its logits, and one that takes it back."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from crossent.torch.base.values import has_autocast
from crossent.torch.lazy.deferred import Deferred
from crossent.torch.lazy.logits import LazyLogits, defer

Model = TypeVar("Model", bound=nn.Module)


class LazyLinear(nn.Linear):
    """A linear layer with lazy outputs: what `fuse_lm_head` makes of a model's head."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs as lazy logits; as ordinary ones under tracers and function transforms."""
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        weight = self.weight  # once: a parametrization may compute it
        plain = type(input) in (Tensor, nn.Parameter) and type(weight) in (Tensor, nn.Parameter)
        if traced or not plain or torch._C._are_functorch_transforms_active():  # pyright: ignore
            return nn.functional.linear(input, weight, self.bias)
        # what wants no gradient now will get none, whatever is unfrozen before the loss
        given: Any = (input, weight, self.bias)
        operands: Any = [x if x is None or x.requires_grad else x.detach() for x in given]
        if has_autocast(input) and torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
            operands = [x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in operands]
        if hasattr(self, "set_reshard_after_forward"):  # of FSDP, which would free the weight now and want it back
            self.set_reshard_after_forward(False, recurse=False)  # pyright: ignore[reportCallIssue]
        return defer(Deferred(*operands))


@functools.cache
def _hide_from_compilers() -> None:
    """Let torch.compile leave lazy logits alone; not done at import, because it loads the compiler."""
    hide: Any = functools.partial(torch.compiler.disable, reason="lazy logits are no tensors that a compiler knows")
    LazyLinear.forward = hide(LazyLinear.forward)
    LazyLogits.__torch_function__ = classmethod(hide(LazyLogits.__torch_function__.__func__))  # pyright: ignore


def fuse_lm_head(model: Model) -> Model:
    """Let a model's output embedding return lazy logits, so that its training never builds the logits.

    The head then multiplies only when somebody wants the numbers: its output is a `torch.Tensor` that remembers the
    head's input, weight and bias. `torch.nn.functional.cross_entropy` of it (what Hugging Face's loss functions call)
    is `linear_cross_entropy`; a conversion of dtype, a choice of rows, a reshape of leading axes, a division or
    multiplication by a number and a tanh before that stay lazy, as temperature and softcap; anything else computes
    the logits as if nothing had happened, with the same numbers and gradients. `generate` and evaluation just work.

    Once somebody has read the logits, they are ordinary ones, and so is a loss of them. Like `linear_cross_entropy`, a
    fused loss is float32 at least, does not round logits to half precision, and raises for negative probabilities.
    Logits that were never computed cannot be read after an optimizer's step has changed the weight: that raises (unless
    the change went through `weight.data`, which leaves no trace).
    `torch.compile` of the model compiles what comes before the head, and breaks its graph there (with fullgraph=True
    it raises).

    FSDP2 may shard the model afterwards (`fully_shard`; fuse first). The head then keeps its weight from forward to
    backward, whatever `reshard_after_forward` says, so that it is gathered once a step and its gradient scattered once.

    Parameters
    ----------
    model
        A model with `get_output_embeddings()`, as Hugging Face's have, that returns a plain `torch.nn.Linear`, tied or
        not, with a bias or not; or the layer itself. It is changed in place; its state_dict stays what it was.

    Returns
    -------
    torch.nn.Module
        The model. A second call changes nothing.

    Raises
    ------
    TypeError
        If the model has no plain linear head.

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
    head = _head_of(model)
    _hide_from_compilers()
    if type(head) is nn.Linear:
        head.__class__ = LazyLinear
    elif type(head) is not LazyLinear:
        raise TypeError(
            f"the head of the model is a {type(head).__name__}, not a plain torch.nn.Linear, and what it adds to one "
            "would be lost; fuse before wrapping or quantising it, or call linear_cross_entropy yourself"
        )
    return model


def unfuse_lm_head(model: Model) -> Model:
    """Undo `fuse_lm_head`: let the head return ordinary logits again.

    Parameters
    ----------
    model
        A model that `fuse_lm_head` takes, fused or not.

    Returns
    -------
    torch.nn.Module
        The model.

    Raises
    ------
    TypeError
        If the model has no head that `fuse_lm_head` takes.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import fuse_lm_head, unfuse_lm_head
    >>> unfuse_lm_head(fuse_lm_head(torch.nn.Linear(8, 4)))
    Linear(in_features=8, out_features=4, bias=True)
    """
    head = _head_of(model)
    if type(head) is LazyLinear:
        head.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]
    return model


def _head_of(model: nn.Module) -> nn.Module:
    if isinstance(model, nn.Linear):
        return model
    ask: Any = getattr(model, "get_output_embeddings", None)
    if ask is None:
        raise TypeError(
            f"{type(model).__name__} has no get_output_embeddings(); pass the model itself before it is wrapped, "
            "or the torch.nn.Linear that makes its logits"
        )
    head = ask()
    if head is None:
        raise TypeError(f"{type(model).__name__} has no output embedding; use a class with a language-model head")
    return head
