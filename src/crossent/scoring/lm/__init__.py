"""Logs of language models: scores of logged log-probabilities per token, per byte and per document.

Users import `read` and `score_tokens` from here, and the records that these take and return. `tokens` holds the two
functions; `formats` and `lm_eval` read what servers and lm-eval write into a `document`, `spelling` the bytes of its
tokens; `totals` sums documents; `result` is the score. `model` scores texts by a model itself. The folder imports `sums`, `show` and `parts`, and only the
commands import it.
"""

from crossent.scoring.lm.document import Choices, Document, LogError, LogSource, Token
from crossent.scoring.lm.model import score_model
from crossent.scoring.lm.result import ChoiceScore, DocumentLoss, LanguageModelScore, TokenLoss
from crossent.scoring.lm.tokens import Format, read, score_tokens

__all__ = [
    "ChoiceScore", "Choices", "Document", "DocumentLoss", "Format", "LanguageModelScore", "LogError", "LogSource",
    "Token", "TokenLoss", "read", "score_model", "score_tokens",
]  # fmt: skip
