"""Texts scored by a language model itself: in windows in which every token is scored once, without its logits.

Users import `score_model` through `crossent.scoring.lm`. `evaluate` holds it and the calls of the model; `windows`
plans the tokens that a call reads and scores; `encoding` makes tokens of a text and counts their bytes; `kinds` finds
models that are not causal language models; `loading` finds a model and its tokenizer in a folder or a file; `texts`
reads texts. torch and transformers are imported where they are used, so that logs can be read without them.
`crossent.scoring.lm` and the commands import it.
"""

from crossent.scoring.lm.model.evaluate import score_model

__all__ = ["score_model"]
