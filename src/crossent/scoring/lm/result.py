"""`LanguageModelScore`: the loss of a language model per token and per byte, as numbers, tables and a page."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossent.errors import InputError
from crossent.scoring.lm_values import LanguageModelValues
from crossent.scoring.parts import Interval, Unit, bits

_IN_NATS = {
    "loss", "ci", "bounds", "covered_loss", "covered_ci", "loss_per_word", "loss_per_word_ci", "loss_per_document",
    "loss_per_document_ci", "guess", "low", "high",
}  # fmt: skip
"""Names of the numbers in nats."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LanguageModelScore(LanguageModelValues):
    """Score of logged log-probabilities of a language model: loss per token, bits per byte, and their intervals.

    Losses are in nats. `loss` is per token. If tokens are outside the log it is NaN; then `bounds` holds its lower
    bound and ∞, and `covered_loss` is the loss of the other tokens alone. `bits_per_byte` and `bits_per_byte_bounds`
    are the same in bits per byte of the scored tokens' UTF-8. `tokens` counts the scored tokens, `covered` those with a
    known log-probability; `bytes` is None if unknown. `loss_per_document` and `loss_per_word` are for logs that hold
    totals of documents. Intervals cover with probability `level` and take documents as independent, not tokens. `facts`
    describe the calculation, such as the windows of a model. `by` has the same numbers for the documents of each value
    of a key, `positions` the loss by the position of a token in its document (ranges of positions, each twice as long
    as the one before), `histogram` the numbers of tokens by their loss, those outside the log left out,
    `document_histogram` the numbers of documents by their loss per token.
    """

    def with_facts(self, *facts: str) -> LanguageModelScore:
        """Return the score with more facts."""
        return dataclasses.replace(self, facts=(*self.facts, *facts))

    def to_dict(self, *, unit: Unit = "nats") -> dict[str, Any]:
        """Return every number by its name, perplexities and coverage included.

        Parameters
        ----------
        unit
            Unit of all losses, "nats" or "bits"; bits per byte are in bits in any case.

        Returns
        -------
        dict
            The fields, the unit, and numbers derived from them.

        Raises
        ------
        InputError
            If the unit is neither.
        """
        if unit not in ("nats", "bits"):
            raise InputError(f"unit must be nats or bits, not {unit!r}", argument="unit")
        more = ("coverage", "perplexity", "perplexity_ci", "byte_perplexity", "word_perplexity")
        own = dataclasses.asdict(self)
        found = _in_bits(own) if unit == "bits" else own
        return {**found, **{name: getattr(self, name) for name in more}, "unit": unit}

    def to_json(self, *, indent: int | None = 2, unit: Unit = "nats") -> str:
        """Return `to_dict` as JSON, where NaN is null and an infinity the text "inf"."""
        from crossent.scoring.show.text import json_value

        return json.dumps(json_value(self.to_dict(unit=unit)), indent=indent, allow_nan=False)

    def to_text(self, *, unit: Unit = "nats") -> str:
        """Return the score as aligned tables, with losses in a unit."""
        from crossent.scoring.show.lm_text import text

        return text(self, in_bits=unit == "bits")

    def to_html(self, path: str | Path, *, title: str = "Loss of the language model", source: str = "") -> Path:
        """Write a report to one self-contained HTML page without scripts.

        Parameters
        ----------
        path
            The file to write.
        title
            Heading of the page.
        source
            Origin of the numbers, such as the name of a log.

        Returns
        -------
        Path
            The file written.

        Raises
        ------
        OSError
            If it cannot be written.

        Examples
        --------
        >>> from crossent.scoring.lm import Document, Token, score_tokens
        >>> document = Document("a", "plain", (Token(1, "!", -0.5, -0.5, 1), Token(2, " Hi", -1.5, -1.5, 3)))
        >>> path = getfixture("tmp_path") / "report.html"
        >>> score_tokens([document]).to_html(path).read_text(encoding="utf-8")[:15]
        '<!DOCTYPE html>'
        """
        from crossent.scoring.show.lm_report import write

        return write(self, path, title=title, source=source)

    def __repr__(self) -> str:
        from crossent.scoring.show.lm_text import text

        return text(self)

    def _repr_html_(self) -> str:
        from crossent.scoring.show.lm_text import notebook_html

        return notebook_html(self)


def in_bits(ci: Interval) -> Interval:
    """Return an interval of nats in bits."""
    return bits(ci[0]), bits(ci[1])


def _in_bits(value: Any, *, nats: bool = False) -> Any:
    """Return numbers by their names with those of `_IN_NATS` in bits."""
    if isinstance(value, dict):
        return {name: _in_bits(part, nats=name in _IN_NATS) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_in_bits(part, nats=nats) for part in value)
    return bits(value) if nats and isinstance(value, float) else value
