"""Readers of the formats that servers of language models log: one JSON value in, documents out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

from crossent.errors import Argument, Message
from crossent.scoring.lm.document import Document, JsonObject, LogError, LogSource, TokenCollector, described
from crossent.scoring.lm.fields import column_of, name_of, sequence, text_of
from crossent.scoring.lm.inspect_logs import inspect_log, is_inspect
from crossent.scoring.lm.lm_eval import sample
from crossent.scoring.lm.naming import names_response, request_of
from crossent.scoring.lm.openai_logs import chat, completions, entry, responses
from crossent.scoring.lm.servers import gemini, llama_cpp, ollama, sglang, tgi
from crossent.scoring.lm.vllm_logs import vllm


def documents(record: Any, name: str, source: LogSource | None) -> Iterator[Document]:
    """Yield the documents of one JSON value of a log.

    Parameters
    ----------
    record
        A response, a line of a batch, or a sample.
    name
        Name of a document that has none of its own.
    source
        Program or format that wrote the record; None to recognise it by its keys.

    Raises
    ------
    LogError
        If the record cannot be read.
    """
    if not isinstance(record, Mapping):
        raise LogError(f"this is {described(record)}, not an object; write one JSON object per line")
    response = _unwrapped(record)
    if response.body is None:
        yield Document(response.name or name, source or "chat", notes=frozenset({"failed"}))
        return
    own = response.name or name_of(response.body.get("id") or response.body.get("request_id"))
    if response.name is None and own is not None and names_response(own):
        own = request_of(record) or own
    yield from READERS[source or _source(response.body)](response.body, own or name)


class Response(NamedTuple):
    """The response to a request: the name that its wrapping gives it, and its body, None if the request failed."""

    name: str | None
    body: JsonObject | None


def _unwrapped(record: JsonObject) -> Response:
    """Return the response in a line of the batch API, in an object {request, response}, or in the record itself."""
    own = name_of(record.get("custom_id", record.get("key")))
    if isinstance(record.get("error"), Mapping) and "choices" not in record and "output" not in record:
        return Response(own, None)
    response = record.get("response")
    if isinstance(response, Mapping) and not _CONTENT & record.keys():
        body = response.get("body", response)
        if not isinstance(body, Mapping):
            raise LogError(f"`response.body` must be an object, not {described(body)}")
        inner = _unwrapped(body)
        return Response(own or inner.name, inner.body)
    if "custom_id" in record and "response" in record and response is None:
        return Response(own, None)
    return Response(own, record)


_CONTENT = {
    "choices", "output", "prompt_logprobs", "logprobs", "top_logprobs", "resps", "filtered_resps", "meta_info",
    "candidates", "completion_probabilities", "details", "samples",
}  # fmt: skip


def _source(record: JsonObject) -> LogSource:
    """Return the program or format that wrote a record, by its keys."""
    choices = record.get("choices")
    each = [c for c in choices if isinstance(c, Mapping)] if isinstance(choices, list) else []
    if "resps" in record or "filtered_resps" in record:
        return "lm-eval"
    if is_inspect(record):
        return "inspect"
    if any(r.get("prompt_logprobs") is not None for r in (record, *each)):
        return "vllm"
    if isinstance(choices, list) or isinstance(record.get("logprobs"), Mapping):
        return "chat" if any(_is_chat(choice) for choice in (each or [record])) else "completions"
    other: LogSource | None = next((source for keys, source in _BY_KEYS if keys <= record.keys()), None)
    if isinstance(record.get("output"), list):
        other = "responses"
    if other is None and (isinstance(record.get("logprobs"), list) or "top_logprobs" in record):
        other = "plain"
    if other is not None:
        return other
    raise LogError(
        Message(
            f"this {described(record).removeprefix('an ')} has no log-probabilities. ",
            "crossent lm reads responses of servers, samples of lm-eval and Inspect, and objects with `logprobs`. "
            "Ask the server for log-probabilities, or pass ",
            Argument("format"),
        )
    )


_BY_KEYS: tuple[tuple[set[str], LogSource], ...] = (
    ({"meta_info"}, "sglang"),
    ({"generated_text", "details"}, "tgi"),
    ({"completion_probabilities"}, "llama.cpp"),
    ({"candidates"}, "gemini"),
    ({"logprobs", "done"}, "ollama"),
)
"""Keys that identify the responses of servers."""


def _is_chat(choice: JsonObject) -> bool:
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, Mapping):
        return "content" in logprobs or "refusal" in logprobs
    return "message" in choice or "delta" in choice


def plain(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document; lines with the same `id` are parts of one."""
    tokens, text = TokenCollector(), record.get("text")
    values, tops = record.get("logprobs"), record.get("top_logprobs")
    if "target" in record or "token" in record:
        raw = record.get("target", record.get("token"))
        tokens.add(text_of(raw), record.get("logprob"), raw=record.get("bytes"), top=tops)
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in cast("list[Any]", values)):
        for one in cast("list[Any]", values):
            entry(tokens, one)
    else:
        given = values if values is not None else [None] * len(sequence(tops, "top_logprobs"))
        column = sequence(given, "logprobs")
        for token, value, top in zip(
            column_of(record, "tokens", len(column)),
            column,
            column_of(record, "top_logprobs", len(column)),
            strict=True,
        ):
            tokens.add(text_of(token), value, top=top)
    found = tokens.close(text, whole=False)
    if isinstance(text, str) and (found.total is None or found.approximate):
        tokens.total = len(text.encode("utf-8", "surrogatepass"))  # it is the text of the scored tokens
        tokens.notes.clear()
    yield replace(tokens.document(name, "plain"), cluster=name_of(record.get("id")))


READERS: dict[LogSource, Callable[[JsonObject, str], Iterator[Document]]] = {
    "chat": chat,
    "completions": completions,
    "responses": responses,
    "vllm": vllm,
    "sglang": sglang,
    "tgi": tgi,
    "llama.cpp": llama_cpp,
    "gemini": gemini,
    "ollama": ollama,
    "inspect": inspect_log,
    "lm-eval": sample,
    "plain": plain,
}
