"""Engines that hold a weight in shards, and free it between the forward of its layer and a loss of the layer's output.

Lazy logits need the weight at the loss. A head whose weight will be gone by then multiplies at once.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable

from torch import Tensor, nn

_FSDP, _ZERO = "FullyShardedDataParallel (FSDP1)", "DeepSpeed ZeRO-3"


def freeing_engine(head: nn.Module, weight: Tensor) -> str | None:
    """Return the engine that will free the weight once the forward of the head is over, or None."""
    if hasattr(weight, "ds_id"):
        return _ZERO
    flat = weight._base  # of a weight in FSDP1, the parameters of its unit in one vector
    if getattr(flat, "_is_flat_param", False) and hasattr(flat, "_full_param_padded"):
        infos = flat._param_infos  # pyright: ignore
        return _FSDP if all(info.module is head for info in infos) else None
    return None


@functools.cache
def warn_of(engine: str) -> None:
    """Warn, once in a process, that a head multiplies at once because of an engine."""
    unit = "leave the head in the root's unit" if engine is _FSDP else "use ZeRO-2 or FSDP2 (fully_shard)"
    warnings.warn(
        f"{engine} frees the weight of the fused head before the loss, so the head computes its logits at once: "
        f"the loss is right and saves no memory. To save it, {unit}; to silence this, use unfuse_lm_head(model)",
        stacklevel=3,
    )


def freed_by(operands: Iterable[Tensor | None]) -> str | None:
    """Return the engine that has freed one of these tensors, or None if all have their memory."""
    for x in operands:
        if x is None or x.untyped_storage().nbytes() or not (x.numel() or hasattr(x, "ds_id")):
            continue
        if hasattr(x, "ds_id"):
            return _ZERO
        return _FSDP if getattr(x._base, "_is_flat_param", False) else "an engine that shards weights (FSDP2?)"
    return None
