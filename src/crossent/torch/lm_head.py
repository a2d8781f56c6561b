"""One call that lets a model train without its logits, and one that takes it back."""

# pyright: reportPrivateUsage=false
# A module's children are asked by _modules: the getattr of PEFT's wrappers answers for other modules.

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from crossent.torch.base.values import is_dtensor
from crossent.torch.lazy.heads import (
    LazyLinear,
    base_of,
    fuse_layers,
    fused_class,
    is_fused,
    prepare,
    set_class,
    unfused_class,
)
from crossent.torch.lazy.notice import forget

__all__ = ["LazyLinear", "fuse_lm_head", "unfuse_lm_head"]

Model = TypeVar("Model", bound=nn.Module)


def fuse_lm_head(model: Model) -> Model:
    """Let a model's output embedding return lazy logits, so that training never computes the full logits.

    The head then multiplies only when the numbers are needed: its output is a `torch.Tensor` that holds the head's
    input, weight and bias. `torch.nn.functional.cross_entropy` of it (as called by Hugging Face's loss functions) runs
    `linear_cross_entropy`. A conversion of dtype, a choice of rows, a reshape of leading axes, an added bias, a
    division or multiplication by a number and a tanh before that stay lazy, as temperature and softcap; so does a
    log_softmax with `gather`, a sum over the classes or `nll_loss`. Any other operation computes the logits as usual,
    with the same numbers and gradients. `generate` and evaluation work unchanged. If a training step computes the
    logits, a `UserWarning` appears once per model, unless they are read for metrics after a fused loss.

    Once computed, the logits are ordinary ones, and so is a loss of them. Like `linear_cross_entropy`, a fused loss is
    float32 at least, does not round logits to half precision, and raises for negative probabilities. Logits that were
    never computed cannot be read after an optimizer's step has changed the weight: that raises (unless the change went
    through `weight.data`, which leaves no trace). `torch.compile` of the model compiles what comes before the head, and
    breaks its graph there (with fullgraph=True it raises).

    FSDP2 may shard the model afterwards (`fully_shard`; fuse first). The head then keeps its weight from forward to
    backward, for any `reshard_after_forward`, so that it is gathered once a step and its gradient scattered once.
    Engines that put hooks on outputs of a model (FSDP1 with the head in the root's unit, Lightning, Accelerate) need no
    changes. FSDP1 with the head in a unit of its own, and DeepSpeed's ZeRO-3, free the weight before the loss: the head
    then computes its logits at once, and warns once.

    PEFT may wrap the model before or after: adapters inside it or on the head itself, copies of the head
    (`modules_to_save`) and trained tokens. A LoRA or rsLoRA on the head stays lazy, any number of them: neither logits
    nor a gradient of the frozen weight are computed (`LowRank` is the same without PEFT). Merging, disabling, saving
    and loading adapters work as usual. An adapter that does more than add low-rank logits, such as DoRA, makes a
    training step compute the logits, with the warning. A plain linear layer that replaces a fused head is fused too, as
    after `resize_token_embeddings`.

    A head whose weight torchao or bitsandbytes has quantised is multiplied by the dequantised weight, a range of
    classes at a time (`Dequantized`).

    Parameters
    ----------
    model
        A model with `get_output_embeddings()`, as Hugging Face's have, that returns a `torch.nn.Linear`, tied or not,
        with a bias or not, parametrized, quantised, or in adapters of PEFT; a wrapper around such models; or the layer
        itself. It is changed in place; its state_dict stays the same.

    Returns
    -------
    torch.nn.Module
        The model. A second call changes nothing.

    Raises
    ------
    TypeError
        If the model has no linear head, the head is sharded already, or its class does more than a linear layer.

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
    for head in heads:
        for layer in _copies_of(head):
            _check_layer(layer)
    prepare()
    for head in heads:
        fuse_layers(head)
    return model


def unfuse_lm_head(model: Model) -> Model:
    """Undo `fuse_lm_head`: let each fused head in a model return ordinary logits again.

    It finds the heads also inside wrappers, in copies, and below adapters.

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
        If it is not a `torch.nn.Module`.

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
        if is_fused(module):
            set_class(module, unfused_class(type(module)))
            forget(module)
    return model


def _heads_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers that make the logits of a model, or that may: PEFT switches between copies of a head."""
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        return []
    itself = isinstance(model, nn.Linear) or {"base_layer", "original_module", "token_adapter"} & model._modules.keys()
    return [model] if itself else _output_embeddings(model)


def _output_embeddings(module: nn.Module) -> list[nn.Module]:
    """Return the output embedding of a module, else the output embeddings of its submodules."""
    ask: Any = getattr(module, "get_output_embeddings", None)
    head = None if ask is None else ask()
    if head is not None:
        return [head]
    return [head for child in module.children() for head in _output_embeddings(child)]


def _copies_of(head: nn.Module) -> list[nn.Module]:
    """Return the layer below a head's adapters, and PEFT's copies of it (`modules_to_save`)."""
    copies = head._modules.get("modules_to_save")
    return [base_of(head), *([] if copies is None else map(base_of, copies.children()))]


def _check_layer(head: nn.Module) -> None:
    """Raise unless a layer is one that can be fused, or is; name the alternative."""
    kind = type(head)
    if is_fused(head):
        return
    name = f"a {kind.__module__}.{kind.__qualname__}"
    if is_dtensor(head._parameters.get("weight")) or hasattr(head, "set_reshard_after_forward"):
        raise TypeError(
            f"the head of the model ({name}) is sharded already, its weight is a DTensor: call fuse_lm_head before "
            "fully_shard; under tensor parallelism, call linear_cross_entropy with the DTensors"
        )
    if fused_class(kind) is None:
        raise TypeError(
            f"the head of the model is {name}, not a plain torch.nn.Linear, and its additions would be lost; fuse "
            "before wrapping or quantising it, or call linear_cross_entropy yourself"
        )
    if "forward" in vars(head) and "_old_forward" not in vars(head):
        raise TypeError(
            "the head of the model is a torch.nn.Linear whose forward was replaced, and the new forward would be lost; "
            "fuse before replacing it, or call linear_cross_entropy yourself"
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
