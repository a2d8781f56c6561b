"""Readers of the formats that servers of language models log: one JSON value in, documents out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

from crossent.scoring.lm.document import (
    Document,
    DocumentNote,
    JsonObject,
    LogError,
    LogSource,
    TokenCollector,
    described,
)
from crossent.scoring.lm.lm_eval import sample


def documents(record: Any, name: str, source: LogSource | None) -> Iterator[Document]:
    """Yield the documents of one JSON value of a log.

    Parameters
    ----------
    record
        A response, a line of a batch, or a sample.
    name
        Name of a document that has none of its own.
    source
        Program or format that wrote the record; None to tell it by its keys.

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
    own = response.name or _name(response.body.get("id") or response.body.get("request_id"))
    yield from READERS[source or _source(response.body)](response.body, own or name)


class Response(NamedTuple):
    """The response to a request: the name that its wrapping gives it, and its body, None if the request failed."""

    name: str | None
    body: JsonObject | None


def _unwrapped(record: JsonObject) -> Response:
    """Return the response in a line of the batch API, in an object {request, response}, or in the record itself."""
    own = _name(record.get("custom_id"))
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


_CONTENT = {"choices", "output", "prompt_logprobs", "logprobs", "top_logprobs", "resps", "filtered_resps"}


def _source(record: JsonObject) -> LogSource:
    """Return the program or format that wrote a record, by its keys."""
    choices = record.get("choices")
    each = [c for c in choices if isinstance(c, Mapping)] if isinstance(choices, list) else []
    if "resps" in record or "filtered_resps" in record:
        return "lm-eval"
    if any(r.get("prompt_logprobs") is not None for r in (record, *each)):
        return "vllm"
    if isinstance(choices, list) or isinstance(record.get("logprobs"), Mapping):
        chat = any(_is_chat(choice) for choice in (each or [record]))
        return "chat" if chat else "completions"
    if isinstance(record.get("output"), list):
        return "responses"
    if isinstance(record.get("logprobs"), list) or "top_logprobs" in record:
        return "plain"
    raise LogError(
        f"this is {described(record)}; none of a response of OpenAI or vLLM, a sample of lm-eval, or an object with "
        "`logprobs`. Ask the server for log-probabilities, or name the format"
    )


def _is_chat(choice: JsonObject) -> bool:
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, Mapping):
        return "content" in logprobs or "refusal" in logprobs
    return "message" in choice or "delta" in choice


def _chat(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document: the answers to one prompt are not independent of each other."""
    tokens = TokenCollector()
    for choice in _choices(record):
        if "delta" in choice:
            raise LogError("this is a chunk of a streamed answer; log whole answers, or join the chunks by their id")
        logprobs = _mapping(choice.get("logprobs"), "logprobs")
        message = _mapping(choice.get("message"), "message")
        for kind in ("content", "refusal"):
            for entry in _list(logprobs.get(kind), f"logprobs.{kind}"):
                _entry(tokens, entry)
            _ = tokens.close(message.get(kind))
    yield tokens.document(name, "chat", notes=_written(tokens))


def _responses(record: JsonObject, name: str) -> Iterator[Document]:
    tokens = TokenCollector()
    for item in _list(record.get("output"), "output"):
        for part in _list(_mapping(item, "an entry of output").get("content"), "content"):
            entries = _mapping(part, "an entry of content")
            for entry in _list(entries.get("logprobs"), "logprobs"):
                _entry(tokens, entry)
            _ = tokens.close(entries.get("text"))
    yield tokens.document(name, "responses", notes=_written(tokens))


def _written(tokens: TokenCollector) -> list[DocumentNote]:
    return ["sampled"] if tokens.scored else []


def _entry(tokens: TokenCollector, entry: Any) -> None:
    """Add a token that is an object of its own: token, logprob, bytes, top_logprobs."""
    if not isinstance(entry, Mapping) or not ("logprob" in entry or "top_logprobs" in entry):
        raise LogError(f"a token must be an object with `token` and `logprob`, not {described(entry)}")
    text = _text(entry.get("token"))
    tokens.add(text, entry.get("logprob"), raw=entry.get("bytes"), top=entry.get("top_logprobs"))


def _completions(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document for each choice: a request may hold many prompts."""
    choices = _choices(record)
    for number, choice in enumerate(choices):
        logprobs = _mapping(choice.get("logprobs"), "logprobs")
        values = _list(logprobs.get("token_logprobs"), "token_logprobs")
        texts = _column(logprobs, "tokens", len(values))
        tops = _column(logprobs, "top_logprobs", len(values))
        tokens = TokenCollector()
        for text, value, top in zip(texts, values, tops, strict=True):
            tokens.add(_text(text), value, top=top)
        _ = tokens.close(choice.get("text"))
        # Only an echoed prompt begins with a token that nothing predicts.
        echoed = len(values) > 0 and values[0] is None
        notes = _prompt_only(tokens, record, len(choices)) if echoed else _written(tokens)
        yield tokens.document(_one(name, number, choices), "completions", notes=notes)


def _prompt_only(tokens: TokenCollector, record: JsonObject, choices: int) -> list[DocumentNote]:
    """Remove the tokens generated after an echoed prompt, if the usage tells their number, and return notes on it."""
    generated = _mapping(record.get("usage"), "usage").get("completion_tokens")
    if type(generated) is not int or generated <= 0:
        return []
    if choices in (1, generated):
        tokens.remove_last(generated // choices)
        return ["generated"]
    return ["mixed"]


def _vllm(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document for each prompt; with n > 1 each of its choices repeats it."""
    answers = _choices(record)
    choices = answers if record.get("prompt_logprobs") is None else [record]
    seen: list[Any] = []
    for number, choice in enumerate(choices):
        positions = choice.get("prompt_logprobs")
        if positions is None or positions in seen:
            continue
        seen.append(positions)
        tokens = _prompt(_list(positions, "prompt_logprobs"), choice.get("prompt_token_ids"))
        _ = tokens.close(choice.get("prompt"), whole=False)
        generated: list[DocumentNote] = ["generated"] if any(c.get("logprobs") for c in answers) else []
        yield tokens.document(_one(name, number, choices), "vllm", notes=generated)
    if not seen:
        yield Document(name, "vllm")


def _prompt(positions: list[Any], ids: Any) -> TokenCollector:
    """Return the tokens of a prompt: at each position the one that `ids` names, else the first.

    vLLM writes the prompt's own token first and then the most probable ones, and JSON keeps that order.
    """
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(positions)):
        raise LogError(f"`prompt_token_ids` is {described(ids)}, but `prompt_logprobs` has {len(positions)} positions")
    tokens = TokenCollector()
    for number, position in enumerate(positions):
        if position is None:
            tokens.add(None, None)
            continue
        if not isinstance(position, Mapping) or not position:
            raise LogError(f"position {number} of `prompt_logprobs` must be an object, not {described(position)}")
        own = str(ids[number]) if ids is not None else _first(position, number)
        prompt = _candidate(position.get(own))
        if own in position and prompt.logprob is not None:
            tokens.add(prompt.text, prompt.logprob)
        else:
            tokens.add(prompt.text, None, top={key: _candidate(entry).logprob for key, entry in position.items()})
    return tokens


def _first(position: JsonObject, number: int) -> str:
    """Return the first key of a position, which must be the prompt's own token."""
    first, *rest = position
    for key in rest:
        entry = position[key]
        rank = entry.get("rank") if isinstance(entry, Mapping) else None
        # Ranks up to k and one beyond k + 1: that one is the prompt's, wherever a tool has moved it.
        if isinstance(rank, int) and rank > len(position):
            raise LogError(
                f"position {number} of `prompt_logprobs` does not begin with the prompt's token, so something has "
                "sorted its keys; log `prompt_token_ids` too"
            )
    return first


class Candidate(NamedTuple):
    """A token that vLLM logged for a position: its log-probability, and its text if the log has it."""

    logprob: Any
    text: str | None


def _candidate(entry: Any) -> Candidate:
    if isinstance(entry, Mapping):
        return Candidate(entry.get("logprob"), _text(entry.get("decoded_token")))
    return Candidate(entry, None)


def _plain(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document; lines with the same `id` are parts of one."""
    tokens, text = TokenCollector(), record.get("text")
    values, tops = record.get("logprobs"), record.get("top_logprobs")
    if "target" in record or "token" in record:
        raw = record.get("target", record.get("token"))
        tokens.add(_text(raw), record.get("logprob"), raw=record.get("bytes"), top=tops)
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in cast("list[Any]", values)):
        for entry in cast("list[Any]", values):
            _entry(tokens, entry)
    else:
        given = values if values is not None else [None] * len(_list(tops, "top_logprobs"))
        column = _list(given, "logprobs")
        for token, value, top in zip(
            _column(record, "tokens", len(column)), column, _column(record, "top_logprobs", len(column)), strict=True
        ):
            tokens.add(_text(token), value, top=top)
    found = tokens.close(text, whole=False)
    if isinstance(text, str) and (found.total is None or found.approximate):
        tokens.total = len(text.encode("utf-8", "surrogatepass"))  # it is the text of the scored tokens
        tokens.notes.clear()
    yield replace(tokens.document(name, "plain"), cluster=_name(record.get("id")))


def _one(name: str, number: int, choices: list[JsonObject]) -> str:
    return f"{name}, choice {number}" if len(choices) > 1 else name


def _choices(record: JsonObject) -> list[JsonObject]:
    """Return the choices of a response; a choice on its own is one."""
    if "choices" not in record:
        return [record]
    return [_mapping(choice, "a choice") for choice in _list(record["choices"], "choices")]


def _mapping(value: Any, what: str) -> JsonObject:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise LogError(f"`{what}` must be an object, not {described(value)}")
    return cast("JsonObject", value)


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise LogError(f"`{what}` must be a list, not {described(value)}")
    return cast("list[Any]", value)


def _column(record: JsonObject, what: str, length: int) -> list[Any]:
    """Return a list with one entry for each log-probability; nulls if the log does not have it."""
    if record.get(what) is None:
        return [None] * length
    column = _list(record[what], what)
    if len(column) != length:
        raise LogError(f"`{what}` has {len(column)} entries for {length} log-probabilities; was the line cut off?")
    return column


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise LogError(f"a token's text must be a string, not {described(value)}")
    return value


def _name(value: Any) -> str | None:
    """Return an id as text, None for an empty one."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise LogError(f"an id must be a string or an integer, not {described(value)}")
    return str(value)


READERS: dict[LogSource, Callable[[JsonObject, str], Iterator[Document]]] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "vllm": _vllm,
    "lm-eval": sample,
    "plain": _plain,
}
