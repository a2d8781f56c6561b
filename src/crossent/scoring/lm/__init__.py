"""Logs of language models, and texts that a model scores: log-probabilities per token, per byte and per document.

Users import `read`, `score_tokens`, `compare_logs` and `score_model` from here, and the classes of their arguments and
results. `reading` holds `read`; `records` and `opening` take a file apart, `streams` puts chunks of answers together,
`formats` recognises the program that wrote a record (`openai_logs`, `vllm_logs`, `servers`, `inspect_logs`, `lm_eval`;
`fields` is their shared code), a `document` is their result, `spelling` finds the bytes of its tokens. `totals` and
`shape` sum documents, `tokens` makes the `result` of them, `pairs` compares two logs. `model/` scores texts by a model
itself. The folder imports `lm_values`, `sums`, `show`, `parts` and crossent.torch, and only the commands import it.
"""

from crossent.scoring.lm.compared import Difference, DocumentRegression, LanguageModelComparison
from crossent.scoring.lm.document import Choices, Document, LogError, LogSource, Token
from crossent.scoring.lm.model import score_model
from crossent.scoring.lm.pairs import compare_logs
from crossent.scoring.lm.reading import Format, read
from crossent.scoring.lm.result import LanguageModelScore
from crossent.scoring.lm.tokens import score_tokens
from crossent.scoring.lm_values import ChoiceScore, DocumentLoss, LanguageModelSlice, PositionLoss, TokenLoss

__all__ = [
    "ChoiceScore", "Choices", "Difference", "Document", "DocumentLoss", "DocumentRegression", "Format",
    "LanguageModelComparison", "LanguageModelScore", "LanguageModelSlice", "LogError", "LogSource", "PositionLoss",
    "Token", "TokenLoss", "compare_logs", "read", "score_model", "score_tokens",
]  # fmt: skip
