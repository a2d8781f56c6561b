"""Names of documents: ids that servers draw for each response, and names out of the text of a request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from crossent.scoring.lm.document import JsonObject

_RESPONSE = re.compile(
    r"(?:chatcmpl|cmpl|resp|gen|msg|batch_req|completion|response)[-_].+"
    r"|[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}(?:, choice \d+)?",
    re.DOTALL,
)
"""Ids of responses of OpenAI, vLLM, OpenRouter and others: a word of theirs and a random part, or a UUID."""
_REQUEST = ("messages", "prompt", "input", "inputs", "contents", "text")
"""Keys of the text in a request."""
_SHOWN = 40


def names_response(name: str) -> bool:
    """Return whether an id names a response, which has another one each time, and not a document.

    Examples
    --------
    >>> names_response("chatcmpl-9f2b"), names_response("question 7")
    (True, False)
    """
    return _RESPONSE.fullmatch(name) is not None


def request_of(record: JsonObject) -> str | None:
    """Return a name for the request text of a record: its beginning and a short hash; None without one.

    Examples
    --------
    >>> request_of({"request": {"prompt": "A cat sat."}, "response": {}})
    'A cat sat. #8686568f'
    """
    request: Any = record.get("request")
    places = [request, record.get("response"), record]
    asked: Any = request if isinstance(request, str) else None
    for place in places:
        if asked is None and isinstance(place, Mapping):
            keys = _REQUEST if place is request else ("prompt",)
            asked = next((place[key] for key in keys if place.get(key)), None)
    if not asked or not isinstance(asked, str | list | Mapping):
        return None
    whole = asked if isinstance(asked, str) else json.dumps(asked, sort_keys=True, ensure_ascii=False)
    last = " ".join(_last(asked).split())
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{last[:_SHOWN]}{'…' if len(last) > _SHOWN else ''} #{digest}"


def _last(asked: Any) -> str:
    """Return the last text of a request: for a conversation, its last message."""
    while isinstance(asked, list | Mapping) and asked:
        asked = asked[-1] if isinstance(asked, list) else asked.get("content", asked.get("text", asked.get("parts")))
    return asked if isinstance(asked, str) else "a request"
