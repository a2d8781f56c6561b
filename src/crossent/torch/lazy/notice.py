"""One warning for each fused head whose logits are made in training: the operation, and the fix."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import Tensor, nn

_TOLD = "_was_told_of_logits"
_WAYS_OUT = (
    "The page on large vocabularies lists what keeps logits lazy. Read them after the loss and without gradients (in "
    "torch.no_grad(), or detached), or call unfuse_lm_head(model). This warning appears once per model."
)


_METRICS = frozenset(("topk", "max", "min", "sort", "mode", "kthvalue", "aminmax"))
"""Operations with a gradient that are mostly used for their indices."""


class Notice:
    """State of the head's warning for the lazy logits of one forward in training.

    Logits that are read before a loss make it an ordinary loss. After a fused loss only a second loss warns: metrics
    read the logits too, and need their numbers.
    """

    __slots__ = ("fused", "head")

    def __init__(self, head: nn.Module) -> None:
        self.head = head
        self.fused = False
        """Whether there was a loss without the logits."""

    def made(self, operation: str, logits: Tensor, result: Any) -> None:
        """Warn that an operation made the logits, unless after a fused loss and without a gradient."""
        if self.fused and (operation in _METRICS or not _wants_gradient(result)):
            return
        size = logits.numel() * logits.element_size() / 2**20
        warn_once(
            self.head,
            f"{operation} asked for the logits of a head that fuse_lm_head fused, so this training step computes "
            f"all of them, {size:.1f} MiB. {_WAYS_OUT}",
        )


def is_told(head: nn.Module) -> bool:
    """Return whether there was a warning of this head."""
    return _TOLD in vars(head)


def forget(head: nn.Module) -> None:
    """Let a head warn again."""
    _ = vars(head).pop(_TOLD, None)


def warn_once(head: nn.Module, message: str) -> None:
    """Warn where code that is neither torch's nor ours called, unless there was a warning of this head before."""
    if is_told(head):
        return
    vars(head)[_TOLD] = True
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("crossent", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _wants_gradient(result: Any) -> bool:
    if isinstance(result, (list, tuple)):
        return any(_wants_gradient(x) for x in result)  # pyright: ignore[reportUnknownVariableType]
    return isinstance(result, Tensor) and result.requires_grad
