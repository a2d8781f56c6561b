"""Comparison of two logs of the same documents: which model's tokens cost less, and whether by more than chance."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import InputError, quoted
from crossent.scoring.lm.compared import Difference, DocumentRegression, LanguageModelComparison
from crossent.scoring.lm.document import Document, LogError
from crossent.scoring.lm.naming import names_response
from crossent.scoring.lm.reading import LogPath, read
from crossent.scoring.lm.totals import TokenTotals
from crossent.scoring.sums.interval import ratio, tested

Documents = LogPath | Iterable[Document]
"""A log: its file, or its documents from `read`."""
_SHOWN = 3


def compare_logs(
    a: Documents, b: Documents, *, ci: float = 0.95, worst: int = 10, names: tuple[str, str] | None = None
) -> LanguageModelComparison:
    r"""Compare two logs of the same documents, paired by their ids: return the difference in loss, a minus b.

    Ids of server responses, such as `chatcmpl-…`, are random. Then documents are paired by `custom_id` or the text of
    the request if the log has one, else by their order, with a warning.

    Of the documents d with losses a_d and b_d in nats and sizes n_d, in tokens or bytes,

        difference = Σ (a_d − b_d) / Σ n_d

    with Hall's interval and the p-value of the same rule; documents are independent of each other, tokens are not. A
    difference per token needs the same tokens in both logs. If tokenizers differ, there is only one per byte.

    Parameters
    ----------
    a, b
        Paths of logs, or documents from `read`.
    ci
        Level of confidence.
    worst
        Number of documents to list, largest increase in loss first.
    names
        Names of the two in texts; by default the paths, else a and b.

    Returns
    -------
    LanguageModelComparison
        Differences in nats, negative where a is better.

    Raises
    ------
    LogError
        If documents cannot be paired, their texts differ, or some of their tokens are outside the log; a ValueError.

    Examples
    --------
    >>> from crossent.scoring.lm import Document, Token, compare_logs
    >>> def log(*losses):
    ...     return [Document(f"d{k}", "plain", (Token(0, "ab", -x, -x, 2),)) for k, x in enumerate(losses)]
    >>> found = compare_logs(log(1.0, 2.0, 3.5), log(1.5, 2.5, 3.5))
    >>> round(found.per_token.difference, 4), found.share_better
    (-0.3333, 0.6666666666666666)
    """
    if not 0.0 < ci < 1.0:
        raise InputError(f"ci must lie between 0 and 1, not {ci}", argument="ci")
    if worst < 0:
        raise InputError(f"worst must not be negative, not {worst}", argument="worst")
    called = names or (_name(a, "a"), _name(b, "b"))
    first, second = (_summed(log, name) for log, name in zip((a, b), called, strict=True))
    pairs = _paired(first, second, called)
    return _compared(pairs, ci, worst, called)


class Summed(NamedTuple):
    """Sums of a document in a log: its loss, its tokens and bytes, NaN where unknown, their texts, and its choices.

    `whole` is whether the bytes are certain and include the first token of the text.
    """

    loss: float
    tokens: float
    bytes: float
    texts: int
    choice: float
    accuracy: float
    whole: bool = False


class Pairs(NamedTuple):
    """The documents of two logs in pairs, their names, and whether their order pairs them."""

    a: list[Summed]
    b: list[Summed]
    ids: list[str]
    by_order: bool = False


def _name(log: Documents, name: str) -> str:
    return str(os.fspath(log)) if isinstance(log, str | os.PathLike) else name


def _summed(log: Documents, name: str) -> dict[str, Summed]:
    """Return the sums of each document of a log, by its id or that of its cluster."""
    found: dict[str, Summed] = {}
    documents = read(log) if isinstance(log, str | os.PathLike) else log
    for document in documents:
        own = _of_document(document, name)
        if own is None:
            continue
        key = document.cluster or document.id
        if key in found:
            if document.cluster is None:
                raise LogError(f"{name} has two documents {quoted(key)}; documents are paired by their id")
            own = _joined(found[key], own)
        found[key] = own
    if not found:
        raise LogError(f"{name} has no scored document; ask the server for log-probabilities")
    return found


def _of_document(document: Document, name: str) -> Summed | None:
    """Return the sums of a document, None if nothing of it is scored."""
    totals = TokenTotals(0, whole=False)
    totals.add(document)
    choice, _, accuracy = (column[0] if column else math.nan for column in totals.choices.values())
    if not len(totals):
        return None if math.isnan(accuracy) else Summed(math.nan, math.nan, math.nan, 0, choice, accuracy)
    totals.finish()
    if not totals.exact:
        raise LogError(
            f"{name}: tokens of {quoted(document.id)} are outside the log, so their loss has only a lower bound; log "
            "more of the most probable tokens, or the log-probability of each token"
        )
    loss, tokens, size = (float(totals.column(column)[0]) for column in ("loss", "tokens", "bytes"))
    texts = hash(tuple(token.text for token in document.tokens))
    sure = document.notes.isdisjoint({"inexact bytes", "unconfirmed bytes", "first token", "byte-order mark"})
    begun = bool(document.tokens) and document.tokens[0].position == 0
    return Summed(loss, tokens, size, texts, choice, accuracy, whole=sure and begun)


def _joined(one: Summed, other: Summed) -> Summed:
    """Return the sums of two parts of a document."""
    loss, tokens, size = (getattr(one, name) + getattr(other, name) for name in ("loss", "tokens", "bytes"))
    return Summed(loss, tokens, size, hash((one.texts, other.texts)), other.choice, other.accuracy, whole=one.whole)


def _paired(a: dict[str, Summed], b: dict[str, Summed], names: tuple[str, str]) -> Pairs:
    """Return the documents of both logs in pairs.

    Raises
    ------
    LogError
        If one of them has a document that the other lacks, or the texts of a pair differ.
    """
    drawn = a.keys() != b.keys() and any(all(map(names_response, log)) for log in (a, b))
    if drawn and len(a) == len(b):
        found = Pairs(list(a.values()), list(b.values()), list(a), by_order=True)
    else:
        _check_ids(a, b, names, drawn=drawn)
        found = Pairs(list(a.values()), [b[key] for key in a], list(a))
    _check_texts(found, names)
    return found


def _check_ids(a: dict[str, Summed], b: dict[str, Summed], names: tuple[str, str], *, drawn: bool) -> None:
    """Raise if one of two logs has a document that the other lacks."""
    for here, there, own, other in ((a, b, *names), (b, a, *reversed(names))):
        if lacking := [key for key in here if key not in there]:
            few = ", ".join(map(quoted, lacking[:_SHOWN])) + (", …" if len(lacking) > _SHOWN else "")
            raise LogError(
                f"{len(lacking)} of the {len(here)} documents of {own} are not in {other}: {few}; "
                + (
                    "these are ids of server responses; log the request or a custom_id with each"
                    if drawn
                    else "documents are paired by their id, so log both models on the same documents with the same ids"
                )
            )


def _check_texts(pairs: Pairs, names: tuple[str, str]) -> None:
    """Raise if the texts of a pair certainly differ, or if their order pairs them and they may."""
    for one, other, key in zip(pairs.a, pairs.b, pairs.ids, strict=True):
        both = one.whole and other.whole
        if not (both or pairs.by_order) or one.bytes == other.bytes:
            continue
        if math.isnan(one.bytes + other.bytes) and not (pairs.by_order and one.tokens != other.tokens):
            continue
        why = (
            "neither ids of server responses nor the order of documents can pair them; log the request or a custom_id "
            "with each"
            if pairs.by_order
            else "log both models on the same texts"
        )
        raise LogError(
            f"{quoted(key)} has {_size(one)} in {names[0]} and {_size(other)} in {names[1]}, so its texts differ; {why}"
        )


def _size(one: Summed) -> str:
    return f"{one.tokens:.0f} tokens" if math.isnan(one.bytes) else f"{one.bytes:.0f} bytes"


def _compared(pairs: Pairs, level: float, worst: int, names: tuple[str, str]) -> LanguageModelComparison:
    a, b, ids, _ = pairs
    mine, theirs = (np.array([(x.loss, x.tokens, x.bytes, x.choice, x.accuracy) for x in side]).T for side in (a, b))
    same = bool((mine[1] == theirs[1]).all()) and all(x.texts == y.texts for x, y in zip(a, b, strict=True))
    known = bool((mine[2] == theirs[2]).all()) and float(mine[2].sum()) > 0
    ones = np.ones(len(ids))
    per_token = _difference(mine[0], theirs[0], mine[1], level) if same else None
    per_byte = _difference(mine[0], theirs[0], mine[2], level) if known else None
    asked = ~np.isnan(mine[3] + theirs[3])
    judged = ~np.isnan(mine[4] + theirs[4])
    per_document = _difference(mine[0], theirs[0], ones, level)
    unit = "token" if per_token else "byte" if per_byte else "document" if per_document else "question"
    size = {"token": mine[1], "byte": mine[2]}.get(unit, ones)
    mine[0], theirs[0] = (mine[3], theirs[3]) if unit == "question" else (mine[0], theirs[0])
    gap = mine[0] - theirs[0]
    order = [k for k in np.argsort(-gap / size, kind="stable") if gap[k] > 0][:worst]
    return LanguageModelComparison(
        per_token=per_token,
        per_byte=per_byte,
        per_document=per_document,
        per_question=_difference(mine[3][asked], theirs[3][asked], ones[asked], level) if asked.any() else None,
        accuracy=_difference(mine[4][judged], theirs[4][judged], ones[judged], level) if judged.any() else None,
        share_better=float((gap < 0).mean()),
        share_worse=float((gap > 0).mean()),
        documents=len(ids),
        tokens=(_count(mine[1].sum()), _count(theirs[1].sum())),
        bytes=_count(mine[2].sum()) if known else None,
        level=level,
        unit=unit,
        worst_regressions=tuple(
            DocumentRegression(ids[k], float(mine[0][k] / size[k]), float(theirs[0][k] / size[k])) for k in order
        ),
        warnings=(
            *([_BY_ORDER] if pairs.by_order else []),
            *_warnings(mine, theirs, same=same, known=known),
        ),
        names=names,
    )


_BY_ORDER = (
    "documents are paired by their order, because their ids are random ids of server responses; log the request or a "
    "custom_id with each to pair them by id"
)


def _warnings(mine: Any, theirs: Any, *, same: bool, known: bool) -> Iterator[str]:
    """Yield the warnings of a comparison."""
    tokens = np.isfinite(mine[1] + theirs[1]).all()
    if tokens and not same:
        yield "the logs cut the documents into different tokens, so there is no difference per token"
    if not known and np.isfinite(mine[2] + theirs[2]).all() and not (mine[2] == theirs[2]).all():
        yield "the scored texts differ in bytes, so there is no difference per byte; are these the same documents?"
    elif not known and tokens:
        yield "the logs do not hold the text of all tokens, so there is no difference per byte"
    if mine.shape[1] == 1:
        yield "there is one document, and an interval needs two: documents are independent, their tokens are not"


def _difference(a: Any, b: Any, size: Any, level: float) -> Difference | None:
    """Return the difference of losses per unit of size; None where it is unknown."""
    total = float(size.sum())
    if not total > 0 or np.isnan(a).any() or np.isnan(b).any():
        return None
    with np.errstate(all="ignore"):
        mean = ratio(a - b, size)
        (low, high), chance = tested(mean, level) if len(a) > 1 else ((math.nan, math.nan), math.nan)
        value = float(mean.value)
    return Difference(value, (low, high), float(mean.se), chance, math.fsum(a) / total, math.fsum(b) / total)


def _count(x: float) -> int | None:
    return None if math.isnan(x) else int(x)
