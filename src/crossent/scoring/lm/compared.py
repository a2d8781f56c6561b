"""`LanguageModelComparison`: the difference of two logs per token, byte, document and question, as numbers and text."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from crossent.errors import shown
from crossent.scoring.parts import Interval, Unit, bits
from crossent.scoring.show import words
from crossent.scoring.show.text import BITS, NATS, LossUnit, TextRows, aligned, json_value


@dataclass(frozen=True, slots=True)
class DocumentRegression:
    """A document with a larger loss in a than in b: its losses per `LanguageModelComparison.unit`, in nats."""

    document: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """The loss in a minus the loss in b."""
        return self.a - self.b


@dataclass(frozen=True, slots=True)
class Difference:
    """Loss of a minus loss of b, in nats per unit: Σ (a − b) / Σ units, with both losses.

    `ci` covers the expected difference with the level of the comparison. `p_value` is the probability of a difference
    at least this far from 0 if the models were equal, by the rule of the interval.
    """

    difference: float
    ci: Interval
    se: float
    p_value: float
    loss_a: float
    loss_b: float


@dataclass(frozen=True, slots=True, repr=False)
class LanguageModelComparison:
    """Comparison of two logs of the same documents: loss of a minus loss of b, negative if a is better.

    Losses are in nats. `per_token` is None where the logs cut the documents into different tokens, or have none,
    `per_byte` where they lack the bytes, `per_document` where they have no losses of documents. `per_question` compares
    the loss over the choices of multiple-choice questions, `accuracy` their accuracy, a minus b. `unit` is the first of
    token, byte, document and question in which there is a difference; `worst_regressions` are in it. `share_better` and
    `share_worse` are the shares of documents with a smaller and a larger loss in a.
    """

    per_token: Difference | None
    per_byte: Difference | None
    per_document: Difference | None
    per_question: Difference | None
    accuracy: Difference | None
    share_better: float
    share_worse: float
    documents: int
    tokens: tuple[int | None, int | None]
    bytes: int | None
    level: float
    unit: str
    worst_regressions: tuple[DocumentRegression, ...]
    warnings: tuple[str, ...]
    names: tuple[str, str] = ("a", "b")

    @property
    def main(self) -> Difference | None:
        """The difference per `unit`."""
        return {
            "token": self.per_token, "byte": self.per_byte, "document": self.per_document,
            "question": self.per_question,
        }[self.unit]  # fmt: skip

    def to_dict(self, *, unit: Unit = "nats") -> dict[str, Any]:
        """Return every number by its name; NaN is None, infinities are "inf" and "-inf".

        Parameters
        ----------
        unit
            Unit of all losses, "nats" or "bits".
        """
        found = {f.name: json_value(getattr(self, f.name)) for f in fields(self) if f.name != "names"}
        return {**(_in_bits(found) if unit == "bits" else found), "loss_unit": unit}

    def to_json(self, *, indent: int | None = 2, unit: Unit = "nats") -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(unit=unit), indent=indent, allow_nan=False, ensure_ascii=False)

    def to_text(self, *, unit: Unit = "nats") -> str:
        """Return the comparison as aligned tables, with losses in a unit."""
        return _text(self, BITS if unit == "bits" else NATS)

    def __repr__(self) -> str:
        return self.to_text()


def _text(found: LanguageModelComparison, unit: LossUnit) -> str:
    a, b = ("NEW", "OLD") if found.names != ("a", "b") else found.names
    head = ("", f"{a} minus {b}", f"{100 * found.level:g} % interval", "p-value", a, b)
    rows: TextRows = [head]
    losses = (
        ("token", found.per_token, unit), ("byte", found.per_byte, BITS), ("document", found.per_document, unit),
        ("question", found.per_question, unit),
    )  # fmt: skip
    for name, each, own in losses:
        if each is not None and not (name == "document" and (found.per_token or found.per_byte)):
            rows.append(_row(f"{own.name} per {name}", each, own))
    if found.accuracy is not None:
        rows.append(_row("accuracy", found.accuracy, NATS))
    said = [f"{a} minus {b}: {words.counted(found.documents, 'document')}, paired", *aligned(rows)]
    said.append(
        f"{words.share(found.share_better)} of the documents have a lower loss in {a}, "
        f"{words.share(found.share_worse)} a higher one"
    )
    if found.worst_regressions:
        own = BITS if found.unit == "byte" else unit
        table = [("document", f"{a}, {own.name} per {found.unit}", b, "difference")]
        table += [
            (shown(r.document), *(words.number(own.of(x)) for x in (r.a, r.b, r.difference)))
            for r in found.worst_regressions
        ]
        said += ["", "documents with the largest increase in loss", *aligned(table)]
    return "\n".join([*said, *(f"warning: {warning}" for warning in found.warnings)])


def _row(name: str, each: Difference, unit: LossUnit) -> tuple[str, ...]:
    places = words.places(unit.of(each.se))
    ends = words.interval((unit.of(each.ci[0]), unit.of(each.ci[1])), places)
    numbers = [words.number(unit.of(x), places) for x in (each.difference, each.loss_a, each.loss_b)]
    return name, numbers[0], ends, words.number(each.p_value, 4), *numbers[1:]


def _in_bits(found: dict[str, Any]) -> dict[str, Any]:
    """Return a comparison's numbers with losses in bits."""
    lossy = ("per_token", "per_byte", "per_document", "per_question")
    names = ("difference", "ci", "se", "loss_a", "loss_b", "a", "b")

    def convert(part: dict[str, Any]) -> dict[str, Any]:
        def number(x: Any) -> Any:
            return [number(y) for y in x] if isinstance(x, list) else bits(x) if isinstance(x, float) else x

        return {name: number(x) if name in names else x for name, x in part.items()}

    return {
        **found,
        **{name: convert(found[name]) for name in lossy if found[name] is not None},
        "worst_regressions": [convert(part) for part in found["worst_regressions"]],
    }
