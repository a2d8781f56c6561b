"""Ids of rows as files write them: one form for the spellings of an id in different files."""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from crossent.scoring.input.plain import plain

_UUID = re.compile(r"(?:urn:uuid:)?\{?([0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12})\}?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_MOMENT = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<minute>\d\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)? ?(?P<zone>Z|[+-]\d\d:?(?:\d\d)?)?)?",
    re.ASCII,
)
_TIME = re.compile(r"(?P<minute>\d?\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?", re.ASCII)
_BYTES = re.compile(r"b'.*'|b\".*\"", re.DOTALL)
_TRUTH = frozenset({"true", "false"})


def meaning(name: Any) -> Hashable:
    """Return an id in one form for all file formats.

    Numbers are equal if their values are, exactly; moments if they are the same, where one without a time zone is in
    UTC and a date is its midnight; UUIDs and times of day ignore case, hyphens and zeros.

    Examples
    --------
    >>> meaning(0) == meaning("0") == meaning("0.0") == meaning(0.0)
    True
    >>> meaning(datetime(2026, 1, 2)) == meaning("2026-01-02T01:00:00.000+01:00") == meaning("2026-01-02")
    True
    """
    text = str(name).strip()
    if _BYTES.fullmatch(text):
        text = _of_bytes(text)
    if found := _UUID.fullmatch(text):
        return "uuid", found[1].replace("-", "").lower()
    if _NUMBER.fullmatch(text):
        return _number(text)
    if (found := _MOMENT.fullmatch(text)) and (moment := _moment(found)) is not None:
        return moment
    if found := _TIME.fullmatch(text):
        return "time", found["minute"].zfill(5), found["second"] or "00", (found["fraction"] or "").rstrip("0")
    return text.lower() if text.lower() in _TRUTH else text


def _of_bytes(text: str) -> str:
    """Return the value of bytes written by Python, as pandas does in a csv file."""
    try:
        return str(plain(ast.literal_eval(text)))
    except (ValueError, SyntaxError):
        return text


def _number(text: str) -> Hashable:
    """Return a number by all its digits."""
    sign, digits, exponent = Decimal(text).as_tuple()
    written = "".join(map(str, digits)).lstrip("0")
    shown = written.rstrip("0")
    return ("number", sign, shown, int(exponent) + len(written) - len(shown)) if shown else ("number", 0)


def _moment(found: re.Match[str]) -> Hashable | None:
    try:
        moment = datetime.fromisoformat(f"{found['day']} {found['minute'] or '00:00'}:{found['second'] or '00'}")
        zone = found["zone"] or "Z"
        if zone != "Z":
            hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
            moment -= timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
    except (ValueError, OverflowError):  # the 31st of February
        return None
    return "moment", moment, (found["fraction"] or "").rstrip("0")
