"""Kinds of models of transformers: models that are not causal language models, by class and configuration."""

from __future__ import annotations

import sys
from typing import Any


def why_not_causal(model: Any) -> str | None:
    """Return the reason why a model is not a causal language model, None if there is none.

    A class for masked tokens or for pairs of texts is none. Nor is the decoder of a kind of model that also has masked
    tokens, such as BERT, unless its configuration has `is_decoder`: without that it looks at later tokens.
    """
    auto: Any = sys.modules.get("transformers.models.auto.modeling_auto")
    if auto is None:
        return None
    causal = _classes(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    masked = _classes(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES) - causal
    paired = _classes(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES) - causal
    for module in model.modules() if hasattr(model, "modules") else ():
        kind = type(module).__name__
        if not type(module).__module__.startswith("transformers."):
            continue
        if kind in paired:
            return f"the model is a {kind}, which turns one text into another"
        if kind in masked:
            return f"the model is a {kind}, which predicts masked tokens and reads the tokens after them"
        config = getattr(module, "config", None)
        both = getattr(config, "model_type", None) in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        if kind in causal and both and getattr(config, "is_decoder", None) is False:
            return f"the model is a {kind} that reads later tokens: its configuration has is_decoder=False"
    return None


def _classes(names: Any) -> set[str]:
    """Return the names of the classes of a mapping of transformers."""
    found: set[str] = set()
    for kind in names.values():
        found |= {kind} if isinstance(kind, str) else set(kind)
    return found
