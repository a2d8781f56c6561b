"""Streamed answers: the chunks of an answer become the record that the server would have returned at once.

Chunks of OpenAI's interfaces are put together by their id, also those of answers that were streamed side by side.
Ollama, llama.cpp's server and TGI send none, so theirs must follow each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from crossent.scoring.lm.document import JsonObject
from crossent.scoring.lm.fields import column_of, mapping, name_of, sequence
from crossent.scoring.lm.records import LogRecord


def joined(records: Iterable[LogRecord]) -> Iterator[LogRecord]:
    """Yield the records of a log, with the chunks of each streamed answer put together."""
    waiting: dict[str, _Answer] = {}
    for record in records:
        kind = _kind(record.value)
        key = "" if kind is None else f"{kind}:{_key(record.value, kind)}"
        if kind is None or (key not in waiting and kind == "completions" and _is_finished(record.value)):
            yield from _flushed(waiting, all_of=False)
            yield record
            continue
        if key not in waiting:
            if not _begins(record.value, kind):
                continue  # the numbers of tokens after an answer, the events around it
            yield from _flushed(waiting, all_of=False)
            waiting[key] = _ANSWERS[kind](record)
        waiting[key].add(record.value)
        if waiting[key].ended and kind not in _WITH_ID:
            yield waiting.pop(key).record()
    yield from _flushed(waiting, all_of=True)


def _flushed(waiting: dict[str, _Answer], *, all_of: bool) -> Iterator[LogRecord]:
    """Yield the answers that need no more chunks, or all, and forget them."""
    for key in [key for key, answer in waiting.items() if answer.ended or all_of]:
        yield waiting.pop(key).record()


def _kind(value: Any) -> str | None:
    """Return which server's chunk a value is, None for anything else."""
    if not isinstance(value, Mapping):
        return None
    record = cast("JsonObject", value)
    choices = record.get("choices")
    if isinstance(choices, list):
        if record.get("object") == "chat.completion.chunk" or any(
            "delta" in c for c in choices if isinstance(c, Mapping)
        ):
            return "chat"
        single = bool(choices) and all(isinstance(c, Mapping) and "finish_reason" in c for c in choices)
        chunk = record.get("object") == "text_completion" and single and record.get("usage") is None
        return "completions" if chunk else None
    if str(record.get("type", "")).startswith("response."):
        return "responses"
    return next((kind for kind, flag, others in _FLAGS if _has(record, flag) and others & record.keys()), None)


def _has(record: JsonObject, flag: str) -> bool:
    """Return whether a record has the key that marks the last chunk."""
    return isinstance(record.get(flag), Mapping if flag == "token" else bool)


def _key(record: JsonObject, kind: str) -> str:
    """Return the key that the chunks of one answer share."""
    if kind in _WITH_ID:
        return name_of(record.get("id")) or ""
    return str(record.get("index", "")) if kind == "llama.cpp" else ""


def _begins(record: JsonObject, kind: str) -> bool:
    """Return whether a chunk may be the first of an answer."""
    if kind == "chat":
        return bool(record.get("choices"))
    if kind == "responses":
        return record.get("type") in (_DELTA, *_ENDS)
    return True


def _is_finished(record: JsonObject) -> bool:
    """Return whether all choices of a record are finished."""
    choices = [mapping(choice, "a choice") for choice in sequence(record.get("choices"), "choices")]
    return all(choice.get("finish_reason") is not None for choice in choices)


class _Answer(ABC):
    """An answer whose chunks are being put together: texts and lists by the choice or the place that they are of."""

    def __init__(self, first: LogRecord) -> None:
        self.first = first
        self.ended = False
        self.texts: dict[Any, list[str]] = {}
        self.lists: dict[Any, dict[str, list[Any]]] = {}
        self.finished: set[Any] = set()

    @abstractmethod
    def add(self, chunk: JsonObject) -> None:
        """Add a chunk."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """Return the response as the server would send it without streaming."""

    def record(self) -> LogRecord:
        """Return the answer as a record."""
        kept = {key: x for key, x in cast("JsonObject", self.first.value).items() if key not in _OF_CHUNKS}
        return self.first._replace(value={**kept, **self.whole()})

    def extend(self, place: Any, name: str, entries: Any) -> None:
        """Add entries to a list."""
        self.lists.setdefault(place, {}).setdefault(name, []).extend(sequence(entries, name))

    def say(self, place: Any, text: Any) -> None:
        """Add a piece of text."""
        self.texts.setdefault(place, []).extend([text] if isinstance(text, str) else [])

    def said(self, place: Any) -> str:
        """Return a text."""
        return "".join(self.texts.get(place, []))

    def choices(self, chunk: JsonObject) -> Iterator[tuple[Any, JsonObject]]:
        """Yield the choices of a chunk with their numbers; an answer ends when all its choices have."""
        for one in sequence(chunk.get("choices"), "choices"):
            choice = mapping(one, "a choice")
            index = choice.get("index", 0)
            if choice.get("finish_reason") is not None:
                self.finished.add(index)
            yield index, choice
        self.ended = self.lists.keys() <= self.finished


class _Chat(_Answer):
    def add(self, chunk: JsonObject) -> None:
        for index, choice in self.choices(chunk):
            delta, logprobs = mapping(choice.get("delta"), "delta"), mapping(choice.get("logprobs"), "logprobs")
            for name in ("content", "refusal"):
                self.say((index, name), delta.get(name))
                self.extend(index, name, logprobs.get(name))

    def whole(self) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        for index, lists in self.lists.items():
            message = {name: self.said((index, name)) for name in ("content", "refusal")}
            choices.append({"index": index, "message": message, "logprobs": lists})
        return {"choices": choices}


class _Completions(_Answer):
    def add(self, chunk: JsonObject) -> None:
        for index, choice in self.choices(chunk):
            self.say(index, choice.get("text"))
            logprobs = mapping(choice.get("logprobs"), "logprobs")
            values = sequence(logprobs.get("token_logprobs"), "token_logprobs")
            self.extend(index, "token_logprobs", values)
            for name in ("tokens", "top_logprobs"):
                self.extend(index, name, column_of(logprobs, name, len(values)))

    def whole(self) -> dict[str, Any]:
        choices = [{"index": k, "text": self.said(k), "logprobs": lists} for k, lists in self.lists.items()]
        return {"choices": choices}


class _Responses(_Answer):
    def __init__(self, first: LogRecord) -> None:
        super().__init__(first)
        self.last: Any = None

    def add(self, chunk: JsonObject) -> None:
        if chunk.get("type") == _DELTA:
            place = (chunk.get("output_index", 0), chunk.get("content_index", 0))
            self.say(place, chunk.get("delta"))
            self.extend(place, "logprobs", chunk.get("logprobs"))
        if chunk.get("type") in _ENDS:
            self.last, self.ended = chunk.get("response"), True

    def whole(self) -> dict[str, Any]:
        last = mapping(self.last, "response")
        own = {"id": last["id"]} if "id" in last else {}
        if _is_logged(last):
            return {**own, "output": last["output"]}
        parts = [{"text": self.said(place), **lists} for place, lists in self.lists.items()]
        return {**own, "output": [{"content": parts}]}


class _Ollama(_Answer):
    def add(self, chunk: JsonObject) -> None:
        self.say(0, chunk.get("response", mapping(chunk.get("message"), "message").get("content")))
        self.extend(0, "logprobs", chunk.get("logprobs"))
        self.ended = bool(chunk.get("done"))

    def whole(self) -> dict[str, Any]:
        return {"done": True, "response": self.said(0), **self.lists[0]}


class _LlamaCpp(_Answer):
    def add(self, chunk: JsonObject) -> None:
        self.say(0, chunk.get("content"))
        self.extend(0, "completion_probabilities", chunk.get("completion_probabilities"))
        self.ended = bool(chunk.get("stop"))

    def whole(self) -> dict[str, Any]:
        return {"content": self.said(0), **self.lists[0]}


class _Tgi(_Answer):
    def add(self, chunk: JsonObject) -> None:
        self.extend(0, "tokens", [mapping(chunk.get("token"), "token")])
        self.say(0, chunk.get("generated_text"))
        self.ended = isinstance(chunk.get("generated_text"), str)

    def whole(self) -> dict[str, Any]:
        return {"generated_text": self.said(0), "details": self.lists[0]}


_DELTA = "response.output_text.delta"
_ENDS = ("response.completed", "response.incomplete")
_ANSWERS: dict[str, type[_Answer]] = {
    "chat": _Chat, "completions": _Completions, "responses": _Responses, "ollama": _Ollama, "llama.cpp": _LlamaCpp,
    "tgi": _Tgi,
}  # fmt: skip
_FLAGS = (
    ("ollama", "done", {"response", "message"}),
    ("llama.cpp", "stop", {"content"}),
    ("tgi", "token", {"generated_text"}),
)
"""Servers whose chunks say whether they are the last, the key that does, and the keys that one of is there too."""
_WITH_ID = ("chat", "completions")
"""Kinds of chunks that name their answer, so that answers may be streamed side by side."""
_OF_CHUNKS = {
    "choices", "object", "type", "done", "response", "message", "logprobs", "stop", "content", "token", "tokens",
    "generated_text", "details", "completion_probabilities", "delta", "top_tokens",
}  # fmt: skip
"""Keys of a chunk that the whole answer has anew, or does not have."""


def _is_logged(response: JsonObject) -> bool:
    """Return whether a response of the Responses API holds log-probabilities itself."""
    for item in sequence(response.get("output"), "output"):
        for part in sequence(mapping(item, "an entry of output").get("content"), "content"):
            if mapping(part, "an entry of content").get("logprobs"):
                return True
    return False
