"""Logs of language models: what logged log-probabilities cost per token, per byte and per document.

`formats` and `lm_eval` read what servers and tools write, `document` is one text with its tokens, `totals` are sums
that merge, `result` is what users get, `tokens` has the two functions. It imports `sums`, `show` and `parts`; the
command line imports it.
"""

from crossent.scoring.lm.document import Document, LogError, Token
from crossent.scoring.lm.result import LanguageModelScore
from crossent.scoring.lm.tokens import read, score_tokens

__all__ = ["Document", "LanguageModelScore", "LogError", "Token", "read", "score_tokens"]
