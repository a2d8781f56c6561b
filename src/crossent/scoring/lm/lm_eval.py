"""Reader of the samples of lm-eval (`--log_samples`), which hold totals of documents instead of tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from crossent.scoring.lm.document import (
    ROUNDING,
    Choices,
    Document,
    DocumentNote,
    JsonObject,
    LogError,
    described,
    log_sum,
    real,
)

SAME = 1e-6
"""How far an accuracy may be from the probability of the right answers, which some harness computed in float32."""


def sample(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield the document of one sample.

    A request with one text is scored as a whole (loglikelihood_rolling), a request with two texts is a context and a
    scored continuation (loglikelihood). Several continuations are a multiple choice; the right ones count.
    """
    label = f"doc {record['doc_id']}" if type(record.get("doc_id")) in (int, str) else name
    values = _values(record)
    requests = _requests(record.get("arguments"), len(values))
    if any(isinstance(request.continuation, Mapping) for request in requests):
        raise LogError("generate_until samples hold no log-probabilities; log a task of another output_type")
    if len(values) == 1:
        (request,) = requests
        if request.continuation is None:
            yield _rolling(record, label, values[0], request.text)
        else:
            yield Document(label, "lm-eval", loglikelihood=values[0], bytes=_size(request.continuation))
        return
    yield _multiple(record, label, values, requests)


def _rolling(record: JsonObject, label: str, loglikelihood: float, text: Any) -> Document:
    """Return a document with the numbers of bytes and words that lm-eval divided by, else with those of the text."""
    size, words = _logged(record, ("bits_per_byte", "byte_perplexity")), _logged(record, ("word_perplexity",))
    if isinstance(text, str):
        size = _size(text) if size is None else size
        words = len(re.split(r"\s+", text)) if words is None else words
    return Document(label, "lm-eval", loglikelihood=loglikelihood, bytes=size, words=words)


def _logged(record: JsonObject, metrics: tuple[str, ...]) -> int | None:
    """Return the denominator of the first metric that a sample holds as [log-likelihood, denominator]."""
    for metric in metrics:
        pair = record.get(metric)
        if isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int and 0 < pair[1] < 2**53:
            return pair[1]
    return None


def _multiple(record: JsonObject, label: str, values: list[float], requests: list[EvalRequest]) -> Document:
    """Return the document of a multiple-choice question."""
    half = len(values) // 2
    if "acc_mutual_info" in record and len(values) == 2 * half:
        # The second half are the same answers without the question.
        values, requests = values[:half], requests[:half]
    answers = [request.continuation for request in requests]
    right, accuracy = _right(record, values, answers), _accuracy(record)
    if accuracy is None and len(right) > 1 and isinstance(record.get("acc"), float):
        accuracy = _probability(values, right)  # NaN, where the harness divided zeros by zero
    if not right and (accuracy is None or accuracy in (0, 1)):
        return Document(label, "lm-eval", notes=frozenset[DocumentNote]({"unknown target"}))
    choices = Choices(tuple(values), right, accuracy)
    if not right:
        return Document(label, "lm-eval", choices=choices, notes=frozenset[DocumentNote]({"accuracy alone"}))
    return Document(
        label,
        "lm-eval",
        loglikelihood=log_sum([values[k] for k in right]),
        bytes=_size(answers[right[0]]) if len(right) == 1 else None,
        choices=choices,
    )


def _accuracy(record: JsonObject) -> float | None:
    """Return the accuracy that a sample gives itself, a fraction where several answers are right."""
    found: Any = record.get("acc")
    return float(found) if type(found) in (int, float) and 0.0 <= found <= 1.0 else None


def _right(record: JsonObject, values: list[float], answers: list[Any]) -> tuple[int, ...]:
    """Return the indices of the right answers, none unless the sample leaves exactly one set of them possible.

    Several are right if the question labels its answers (truthfulqa_mc2) or if the target is a list. An accuracy that
    is a fraction is the probability of the right answers among all, and they must have it.
    """
    accuracy, peak = _accuracy(record), max(values)
    if peak == -math.inf:
        return ()
    labelled = [found for found in _labels(record.get("doc"), answers) if found]
    target = str(record.get("target", "")).strip()
    if accuracy is not None and accuracy not in (0, 1):
        first = [tuple(range(k)) for k in range(1, len(values))]  # the harness asks for right answers first
        fits = [each for each in (*labelled, *first) if abs(_probability(values, each) - accuracy) <= SAME]
        return fits[0] if fits and (labelled or len(fits) == 1) else ()
    for each in labelled:
        probable = abs(_probability(values, each) - (accuracy or 0.0)) <= SAME
        if accuracy is None or probable or (values.index(peak) in each) == bool(accuracy):
            return each
    if re.fullmatch(r"\[\s*\d{1,6}(?:\s*,\s*\d{1,6})*\s*\]", target):
        several = tuple(sorted({int(k) for k in re.findall(r"\d+", target)}))
        agrees = accuracy is None or (values.index(peak) in several) == bool(accuracy)
        return several if several[-1] < len(values) and agrees else ()
    return _one_right(target, values, answers, accuracy)


def _one_right(target: str, values: list[float], answers: list[Any], accuracy: float | None) -> tuple[int, ...]:
    """Return the index of the one right answer, none unless exactly one is possible.

    lm-eval writes the target as text, either an index or an answer. Where both are possible, `acc` decides: it is
    whether the most probable answer was right.
    """
    possible = {k for k, answer in enumerate(answers) if isinstance(answer, str) and answer.strip() == target}
    if re.fullmatch(r"\d{1,6}", target) and int(target) < len(values):
        possible.add(int(target))
    if not possible and not target.startswith("["):
        possible = set(range(len(values)))
    if accuracy is not None:
        best = values.index(max(values))
        possible = {k for k in possible if (k == best) == bool(accuracy)}
    return tuple(possible) if len(possible) == 1 else ()


def _labels(doc: Any, answers: list[Any]) -> Iterator[tuple[int, ...]]:
    """Yield the right answers by each list of labels 0 and 1 that a question has beside the texts of its answers."""
    if isinstance(doc, Mapping):
        labels, choices = doc.get("labels"), doc.get("choices")
        texts = [answer.strip() if isinstance(answer, str) else None for answer in answers]
        if (
            isinstance(labels, list)
            and isinstance(choices, list)
            and [choice.strip() if isinstance(choice, str) else "" for choice in choices] == texts
            and len(labels) == len(texts)
            and all(label in (0, 1) for label in labels)
        ):
            yield tuple(k for k, label in enumerate(labels) if label == 1)
        for part in doc.values():
            yield from _labels(part, answers)


def _probability(values: list[float], chosen: tuple[int, ...]) -> float:
    """Return the probability of some answers among all."""
    return math.exp(log_sum([values[k] for k in chosen]) - log_sum(values))


def _values(record: JsonObject) -> list[float]:
    """Return the log-likelihood of each request."""
    what = "filtered_resps" if record.get("filtered_resps") is not None else "resps"
    answers = record.get(what)
    if not isinstance(answers, list) or not answers:
        raise LogError(f"`{what}` must be a list with an entry for each request, not {described(answers)}")
    return [_value(answer, what) for answer in answers]


def _value(answer: Any, what: str) -> float:
    """Return a from a, [a, is_greedy] or, with repeats, [[a, is_greedy], …]; the log-likelihood a may be text."""
    for _ in range(2):
        if isinstance(answer, list) and answer:
            answer = answer[0]
    if isinstance(answer, str):
        try:
            answer = float(answer)
        except ValueError:
            raise LogError(f"`{what}` holds {described(answer)} where a log-likelihood belongs") from None
    value = real(answer, f"a log-likelihood in `{what}`")
    if value > ROUNDING:
        raise LogError(
            f"a log-likelihood in `{what}` is {value:g}; are these log-probabilities? They cannot be positive"
        )
    return min(value, 0.0)


class EvalRequest(NamedTuple):
    """The texts of a request of lm-eval: a text and its continuation, which is None if the text itself is scored."""

    text: Any
    continuation: Any


def _requests(arguments: Any, count: int) -> list[EvalRequest]:
    """Return the texts of each request."""
    rows = list(arguments.values()) if isinstance(arguments, Mapping) else arguments
    if not isinstance(rows, list) or len(rows) != count:
        raise LogError(f"`arguments` must have an entry for each of the {count} requests, not {described(arguments)}")
    requests: list[EvalRequest] = []
    for row in rows:
        cells = list(row.values()) if isinstance(row, Mapping) else row
        if not isinstance(cells, list) or not cells:
            raise LogError(f"an entry of `arguments` must hold a request's texts, not {described(row)}")
        requests.append(EvalRequest(cells[0], cells[1] if len(cells) > 1 else None))
    return requests


def _size(text: Any) -> int | None:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else None
