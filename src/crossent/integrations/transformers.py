"""crossent in Hugging Face transformers: its losses of language models, for one model or for all.

A model calls `self.loss_function`, which transformers looks up in `LOSS_MAPPING`. `use_in` gives one model crossent's
loss; `enable` puts crossent's losses into the mapping; `transformers_kernels` makes them kernels. With
`crossent.torch.fuse_lm_head` no loss makes the logits; without it, the logits that the model made are read as they are,
without transformers' float32 copy.

Models that compute their loss themselves (BART, T5, Whisper and others) call none of these functions. They need only
`fuse_lm_head`, and so does the Trainer's label smoothing, which reads the model's logits.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn

from crossent.torch import cross_entropy
from crossent.torch.lazy.logits import LazyLogits

__all__ = [
    "causal_lm_loss",
    "disable",
    "enable",
    "masked_lm_loss",
    "remove_from",
    "use_in",
]

Model = TypeVar("Model", bound=nn.Module)
Loss = Callable[..., Tensor]


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Loss of a causal language model: the cross-entropy of each token after the tokens before it, in nats.

        loss = Σ_t −log softmax(logits_t)[labels_(t+1)] / n

    over the positions t whose next label is not ignored. n is `num_items_in_batch`, or the number of these positions.

    Parameters
    ----------
    logits
        Shape (…, T, V), any floating dtype; lazy logits of a fused head are not computed.
    labels
        Shape (…, T), integers. May be None if `shift_labels` is passed.
    vocab_size
        V.
    num_items_in_batch
        Divisor of the sum: a number, or a tensor of one number on any device. Trainer passes the number of labels in
        all batches of a step.
    ignore_index
        Label of positions that contribute nothing.
    shift_labels
        Labels that are already shifted, shape (…, T): the loss at position t is that of `shift_labels` at t.
    kwargs
        Ignored, as in transformers: models pass on the arguments of their callers.

    Returns
    -------
    Tensor
        A float32 scalar; NaN if every position is ignored and there is no `num_items_in_batch`.

    Raises
    ------
    ValueError
        If neither `labels` nor `shift_labels` is passed, or if the numbers of logits and labels differ.
    IndexError
        If a label is not a class.

    Examples
    --------
    >>> import torch
    >>> from crossent.integrations.transformers import causal_lm_loss
    >>> logits = torch.zeros(1, 3, 4)
    >>> round(causal_lm_loss(logits, torch.tensor([[0, 1, 2]]), vocab_size=4).item(), 4)  # log 4
    1.3863

    Notes
    -----
    Parameters and result are those of `ForCausalLMLoss` in transformers.loss.loss_utils. Here the loss of
    half-precision logits is computed from them as they are, and that of float64 logits in float64 before it is rounded.
    """
    if shift_labels is None:
        if labels is None:
            raise ValueError("the loss of a causal language model needs labels, or shift_labels; both are None")
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    return _loss(logits, shift_labels, vocab_size, num_items_in_batch, ignore_index)


def masked_lm_loss(
    logits: Tensor,
    labels: Tensor,
    vocab_size: int,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = -100,
    **kwargs: Any,
) -> Tensor:
    """Loss of a masked language model: the cross-entropy of each masked token, in nats.

        loss = Σ_t −log softmax(logits_t)[labels_t] / n

    over the positions t whose label is not ignored. n is `num_items_in_batch`, or the number of these positions.

    Parameters
    ----------
    logits
        Shape (…, T, V), any floating dtype; lazy logits of a fused head are not computed.
    labels
        Shape (…, T), integers.
    vocab_size
        V.
    num_items_in_batch
        Divisor of the sum: a number, or a tensor of one number on any device.
    ignore_index
        Label of positions that contribute nothing.
    kwargs
        Ignored, as in transformers.

    Returns
    -------
    Tensor
        A float32 scalar; NaN if every position is ignored and there is no `num_items_in_batch`.

    Raises
    ------
    ValueError
        If the numbers of logits and labels differ.
    IndexError
        If a label is not a class.

    Examples
    --------
    >>> import torch
    >>> from crossent.integrations.transformers import masked_lm_loss
    >>> logits = torch.zeros(1, 3, 4)
    >>> round(masked_lm_loss(logits, torch.tensor([[-100, 1, -100]]), vocab_size=4).item(), 4)  # log 4
    1.3863

    Notes
    -----
    Parameters and result are those of `ForMaskedLMLoss` in transformers.loss.loss_utils.
    """
    return _loss(logits, labels, vocab_size, num_items_in_batch, ignore_index)


def _loss(
    logits: Tensor, labels: Tensor, vocab_size: int, num_items: Tensor | float | None, ignore_index: int
) -> Tensor:
    rows = logits.reshape(-1, vocab_size)
    target = labels.reshape(-1).to(logits.device)
    reduction = "mean" if num_items is None else "sum"
    # lazy logits answer torch's function out of sight of torch.compile, which would trace into ours
    function = nn.functional.cross_entropy if isinstance(rows, LazyLogits) else cross_entropy
    loss = function(rows, target, ignore_index=ignore_index, reduction=reduction)
    if num_items is not None:
        loss = loss / (num_items.to(loss.device) if isinstance(num_items, Tensor) else num_items)
    return loss.float()


@functools.cache
def replacements() -> dict[Loss, Loss]:
    """Return crossent's loss for each loss of transformers that has one; raise if transformers changed them."""
    try:
        from transformers import __version__
        from transformers.loss import loss_utils
    except ImportError as error:
        raise ImportError("crossent.integrations.transformers needs transformers: pip install transformers") from error
    pairs: dict[Loss, Loss] = {
        loss_utils.ForCausalLMLoss: causal_lm_loss,
        loss_utils.ForMaskedLMLoss: masked_lm_loss,
    }
    for theirs, ours in pairs.items():
        expected, found = (list(inspect.signature(loss).parameters) for loss in (ours, theirs))
        if found != expected:
            raise RuntimeError(
                f"{theirs.__name__} of transformers {__version__} takes ({', '.join(found)}), but crossent expects "
                f"({', '.join(expected)}); use fuse_lm_head alone, which replaces no losses, or another version of "
                "transformers"
            )
    return pairs


# All models ----------------------------------------------------------------------------------------------------------


class _Enabled:
    """Result of `enable`; as a context manager, it restores the previous losses on exit."""

    def __init__(self, before: bool) -> None:
        self._before = before

    def __enter__(self) -> None:
        """Enter the context; the losses are in place already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._before:
            disable()


def enable() -> _Enabled:
    """Let every model of transformers use crossent's losses, by way of `LOSS_MAPPING`; `disable` undoes it.

    The entries of causal and masked language models and of conditional generation change, for existing and new models.
    A model with a loss function of its own keeps it. Trainer compares the mapping with `ForCausalLMLoss` to count
    labels; while this is enabled it compares with crossent's loss, and counts the same.

    Returns
    -------
    A context manager that restores the previous state on exit; its use is optional.

    Raises
    ------
    ImportError
        If transformers is not installed.
    RuntimeError
        If the losses of this version of transformers take other arguments than crossent's.

    Examples
    --------
    >>> from crossent.integrations import transformers as crossent_losses
    >>> with crossent_losses.enable():
    ...     from transformers.loss.loss_utils import LOSS_MAPPING
    ...     print(LOSS_MAPPING["ForCausalLM"].__name__)
    causal_lm_loss
    """
    pairs = replacements()
    found = _exchange(pairs)
    return _Enabled(before=not found)


def disable() -> None:
    """Undo `enable`: restore transformers' own losses. It does nothing if they are in place.

    Examples
    --------
    >>> from crossent.integrations import transformers as crossent_losses
    >>> _ = crossent_losses.enable()
    >>> crossent_losses.disable()
    """
    if "transformers" in sys.modules:
        _ = _exchange({ours: theirs for theirs, ours in replacements().items()})


def _exchange(pairs: dict[Loss, Loss]) -> bool:
    """Put the second loss of each pair wherever transformers holds the first; return whether there was one.

    Trainer and others hold losses under names of their own, imported before or after.
    """
    from transformers.loss.loss_utils import LOSS_MAPPING

    homes = [LOSS_MAPPING]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("transformers", "transformers_modules"):
            homes.append(vars(module))
    places = [(home, key, value) for home in homes for key, value in list(home.items()) if inspect.isfunction(value)]
    places = [(home, key, pairs[value]) for home, key, value in places if value in pairs]
    for home, key, loss in places:
        home[key] = loss
    return bool(places)


# One model -----------------------------------------------------------------------------------------------------------


def use_in(model: Model) -> Model:
    """Let one model use crossent's loss as its `loss_function`; `remove_from` undoes it.

    Parameters
    ----------
    model
        A causal or masked language model of transformers, or a wrapper around such models (PEFT). A loss function set
        by others stays.

    Returns
    -------
    torch.nn.Module
        The model, changed in place. A second call changes nothing.

    Raises
    ------
    TypeError
        If no module in it has a loss that crossent replaces, or if the model computes its loss itself.
    ImportError, RuntimeError
        As `enable`.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from crossent.integrations.transformers import use_in
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = use_in(LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes)))
    >>> model.loss_function.__name__
    'causal_lm_loss'
    """
    for module, ours in with_losses(model):
        set_loss(module, ours)
    return model


def remove_from(model: Model) -> Model:
    """Undo `use_in` (and `add_loss_layer`): let a model look up its loss in `LOSS_MAPPING` again.

    Parameters
    ----------
    model
        Any module. A loss function set by others stays.

    Returns
    -------
    torch.nn.Module
        The model.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from crossent.integrations.transformers import remove_from, use_in
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = remove_from(use_in(LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))))
    >>> model.loss_function.__name__
    'ForCausalLMLoss'
    """
    for module in list(model.modules()):
        if _is_ours(_chosen_in(module)):
            del module._loss_function
    return model


def with_losses(model: nn.Module) -> list[tuple[nn.Module, Loss]]:
    """Return the modules whose loss crossent replaces, each with crossent's loss; raise if there is none."""
    from transformers import PreTrainedModel
    from transformers.loss.loss_utils import LOSS_MAPPING

    pairs = {**replacements(), causal_lm_loss: causal_lm_loss, masked_lm_loss: masked_lm_loss}
    found: list[tuple[nn.Module, Loss]] = []
    alone: list[tuple[nn.Module, Loss]] = []
    for module in model.modules() if isinstance(model, nn.Module) else ():  # pyright: ignore[reportUnnecessaryIsInstance]
        if not isinstance(module, PreTrainedModel):
            continue
        kind: Any = getattr(module, "loss_type", None)
        named = kind in LOSS_MAPPING or module.get_output_embeddings() is not None
        looked_up: Any = LOSS_MAPPING.get(kind, LOSS_MAPPING["ForCausalLM"]) if named else None  # as transformers does
        chosen = _chosen_in(module) or looked_up
        ours = pairs.get(looked_up if _is_ours(chosen) else chosen)
        if ours is not None:
            (found if _calls_loss_function(type(module)) else alone).append((module, ours))
    if alone and not found:
        raise TypeError(
            f"{type(alone[0][0]).__name__} computes its loss itself and calls no loss_function; use "
            "crossent.torch.fuse_lm_head(model) alone"
        )
    if not found:
        raise TypeError(
            f"{type(model).__name__} contains no causal or masked language model with the standard loss of "
            "transformers; call causal_lm_loss or masked_lm_loss, or set model.loss_function to one of them"
        )
    return found


def _calls_loss_function(kind: type[nn.Module]) -> bool:
    """Return whether a class of models, as written, mentions `self.loss_function` in a method of its own."""
    from transformers import PreTrainedModel

    bases = [base for base in kind.__mro__ if issubclass(base, PreTrainedModel) and base is not PreTrainedModel]
    methods = [inspect.unwrap(x) for base in bases for x in vars(base).values() if inspect.isfunction(x)]
    return any("loss_function" in method.__code__.co_names for method in methods)


def _chosen_in(module: nn.Module) -> Any:
    """Return the loss set in the module itself: PEFT's wrappers answer for the modules in them."""
    return vars(module).get("_loss_function", module._modules.get("_loss_function"))  # pyright: ignore[reportPrivateUsage]


def _is_ours(loss: Any) -> bool:
    """Return whether a function, or a layer of `transformers_kernels`, is a loss of crossent."""
    return str(getattr(loss, "__module__", None)).startswith("crossent.")


def set_loss(module: nn.Module, loss: Any) -> None:
    """Set the loss function of a model of transformers: a function or a layer."""
    if _chosen_in(module) is not None:
        del module._loss_function  # torch lets no function take the place of a layer
    module._loss_function = loss
