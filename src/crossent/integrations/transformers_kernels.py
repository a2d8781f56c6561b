"""crossent's losses as kernels for `kernels.kernelize`, in models of Hugging Face transformers.

The package `kernels` replaces the forward of named layers; a mapping gives the new layer for a name and a device.
transformers (5.23) calls its losses as functions, which no mapping reaches: the entry "ForCausalLMLoss" of its own
mapping matches no layer. So `add_loss_layer` makes the loss of a model a layer, and `kernel_mapping` is the mapping for
it. This module needs no `kernels` to be imported.

    from kernels import Mode, kernelize, register_kernel_mapping

    register_kernel_mapping(kernel_mapping())
    kernelize(add_loss_layer(model), mode=Mode.TRAINING, device="cpu")

`model.set_use_kernels(True)` of transformers does the same as the last line where it accepts the version of `kernels`
(5.23: 0.18.2 and later, before 0.19). A `KernelConfig` cannot name these layers: it takes repositories of the hub and
folders of files, and no device "cpu".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from crossent.integrations.transformers import (
    causal_lm_loss,
    masked_lm_loss,
    set_loss,
    with_losses,
)

__all__ = ["CausalLMLoss", "MaskedLMLoss", "add_loss_layer", "kernel_mapping"]

Model = TypeVar("Model", bound=nn.Module)


def add_loss_layer(model: Model) -> Model:
    """Make the loss of a model a layer that `kernels.kernelize` finds, under the names of `kernel_mapping`.

    The layer computes transformers' own loss until the model is kernelized with the mapping, and adds nothing to the
    state_dict. transformers itself (5.23) calls its losses as functions, which no kernel mapping reaches. `remove_from`
    undoes it.

    Parameters
    ----------
    model
        As for `use_in`.

    Returns
    -------
    torch.nn.Module
        The model, changed in place.

    Raises
    ------
    TypeError, ImportError, RuntimeError
        As `use_in`.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from crossent.integrations.transformers_kernels import add_loss_layer
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = add_loss_layer(LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes)))
    >>> model.loss_function
    CausalLMLoss()
    """
    for module, ours in with_losses(model):
        set_loss(module, CausalLMLoss() if ours is causal_lm_loss else MaskedLMLoss())
    return model


class CausalLMLoss(nn.Module):
    """transformers' own loss of causal language models as a layer, whose forward `kernels.kernelize` may replace."""

    kernel_layer_name = "CrossentCausalLMLoss"

    def forward(  # noqa: D102
        self, logits: Any, labels: Any, vocab_size: int, num_items_in_batch: Any = None, ignore_index: int = -100,
        shift_labels: Any = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        from transformers.loss import loss_utils

        return loss_utils.ForCausalLMLoss(
            logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **kwargs
        )


class MaskedLMLoss(nn.Module):
    """transformers' own loss of masked language models as a layer, whose forward `kernels.kernelize` may replace."""

    kernel_layer_name = "CrossentMaskedLMLoss"

    def forward(  # noqa: D102
        self, logits: Any, labels: Any, vocab_size: int, num_items_in_batch: Any = None, ignore_index: int = -100,
        **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        from transformers.loss import loss_utils

        return loss_utils.ForMaskedLMLoss(logits, labels, vocab_size, num_items_in_batch, ignore_index, **kwargs)


class _CrossentCausalLMLoss(nn.Module):
    can_torch_compile = True

    def forward(
        self, logits: Any, labels: Any, vocab_size: int, num_items_in_batch: Any = None, ignore_index: int = -100,
        shift_labels: Any = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        return causal_lm_loss(logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **kwargs)


class _CrossentMaskedLMLoss(nn.Module):
    can_torch_compile = True

    def forward(
        self, logits: Any, labels: Any, vocab_size: int, num_items_in_batch: Any = None, ignore_index: int = -100,
        **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        return masked_lm_loss(logits, labels, vocab_size, num_items_in_batch, ignore_index, **kwargs)


@dataclasses.dataclass(frozen=True)
class InstalledLayer:
    """A layer of an installed package in a kernel mapping, in place of a repository of files."""

    layer: type[nn.Module]

    @property
    def layer_name(self) -> str:
        """Its name, in messages of `kernels`."""
        return self.layer.__name__

    def load(self) -> type[nn.Module]:
        """Return the layer."""
        return self.layer


def kernel_mapping(devices: Sequence[str] = ("cpu", "cuda", "rocm")) -> dict[str, dict[str, Any]]:
    """Return the mapping of loss layers to crossent's losses, for `register_kernel_mapping` and `use_kernel_mapping`.

    Parameters
    ----------
    devices
        Device types, as `kernels` names them, that the mapping is for.

    Returns
    -------
    dict
        Layer name to device type to an object whose `load()` returns a layer: in every mode, compiled or not.

    Examples
    --------
    >>> from crossent.integrations.transformers_kernels import kernel_mapping
    >>> sorted(kernel_mapping())
    ['CrossentCausalLMLoss', 'CrossentMaskedLMLoss']
    """
    layers = {CausalLMLoss: _CrossentCausalLMLoss, MaskedLMLoss: _CrossentMaskedLMLoss}
    return {theirs.kernel_layer_name: dict.fromkeys(devices, InstalledLayer(ours)) for theirs, ours in layers.items()}
