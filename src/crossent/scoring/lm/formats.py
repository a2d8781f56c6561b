"""Readers of the logs that language-model servers write: one JSON value in, documents out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from crossent.scoring.lm.document import Document, LogError, Note, Source, Token, Tokens, shown
from crossent.scoring.lm.lm_eval import sample

Record = Mapping[str, Any]


def documents(record: Any, name: str, source: Source | None) -> Iterator[Document]:
    """Yield the documents of one JSON value; without a `source` its shape decides what it is.

    Parameters
    ----------
    record
        A response, a line of a batch, a sample.
    name
        What to call a document that has no name of its own.
    source
        What wrote it.
    """
    if not isinstance(record, Mapping):
        raise LogError(f"this is {shown(record)}, not an object; write one JSON object per line")
    own, inner = _unwrapped(record)
    if inner is None:
        yield Document(own or name, source or "chat", notes=frozenset({"failed"}))
        return
    own = own or _name(inner.get("id") or inner.get("request_id"))
    yield from READERS[source or _source(inner)](inner, own or name)


def _unwrapped(record: Record) -> tuple[str | None, Record | None]:
    """Return the name and the response of a line of the batch API or of {request, response}; None if it failed."""
    own = _name(record.get("custom_id"))
    if isinstance(record.get("error"), Mapping) and "choices" not in record and "output" not in record:
        return own, None
    response = record.get("response")
    if isinstance(response, Mapping) and not _CONTENT & record.keys():
        body = response.get("body", response)
        if not isinstance(body, Mapping):
            raise LogError(f"`response.body` must be an object, not {shown(body)}")
        name, inner = _unwrapped(body)
        return own or name, inner
    if "custom_id" in record and "response" in record and response is None:
        return own, None
    return own, record


_CONTENT = {"choices", "output", "prompt_logprobs", "logprobs", "top_logprobs", "resps", "filtered_resps"}


def _source(record: Record) -> Source:
    """Return what wrote a record, by its shape."""
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
        f"this is {shown(record)}; none of a response of OpenAI or vLLM, a sample of lm-eval, or an object with "
        "`logprobs`. Ask the server for log-probabilities, or name the format"
    )


def _is_chat(choice: Record) -> bool:
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, Mapping):
        return "content" in logprobs or "refusal" in logprobs
    return "message" in choice or "delta" in choice


def _chat(record: Record, name: str) -> Iterator[Document]:
    """Yield one document: the answers to one prompt are not independent of each other."""
    tokens = Tokens()
    for choice in _choices(record):
        if "delta" in choice:
            raise LogError("this is a chunk of a streamed answer; log whole answers, or join the chunks by their id")
        logprobs = _mapping(choice.get("logprobs"), "logprobs")
        before = len(tokens.scored)
        for kind in ("content", "refusal"):
            for entry in _list(logprobs.get(kind), f"logprobs.{kind}"):
                _entry(tokens, entry)
        message = _mapping(choice.get("message"), "message")
        _shorter(tokens, tokens.scored[before:], message.get("content"))
    yield tokens.document(name, "chat", notes=_written(tokens))


def _shorter(tokens: Tokens, scored: list[Token], content: Any) -> None:
    """Note tokens with fewer bytes than the answer they make up: some tokenizers lose blanks when decoding one."""
    if isinstance(content, str) and scored:
        size = sum(token.bytes or 0 for token in scored)
        tokens.inexact |= size < len(content.encode("utf-8", "surrogatepass"))


def _responses(record: Record, name: str) -> Iterator[Document]:
    tokens = Tokens()
    for item in _list(record.get("output"), "output"):
        for part in _list(_mapping(item, "an entry of output").get("content"), "content"):
            for entry in _list(_mapping(part, "an entry of content").get("logprobs"), "logprobs"):
                _entry(tokens, entry)
    yield tokens.document(name, "responses", notes=_written(tokens))


def _written(tokens: Tokens) -> list[Note]:
    return ["sampled"] if tokens.scored else []


def _entry(tokens: Tokens, entry: Any) -> None:
    """Add a token that is an object of its own: token, logprob, bytes, top_logprobs."""
    if not isinstance(entry, Mapping) or not ("logprob" in entry or "top_logprobs" in entry):
        raise LogError(f"a token must be an object with `token` and `logprob`, not {shown(entry)}")
    text = _text(entry.get("token"))
    tokens.add(text, entry.get("logprob"), raw=entry.get("bytes"), top=entry.get("top_logprobs"))


def _completions(record: Record, name: str) -> Iterator[Document]:
    """Yield one document for each choice: a request may hold many prompts."""
    choices = _choices(record)
    for number, choice in enumerate(choices):
        logprobs = _mapping(choice.get("logprobs"), "logprobs")
        values = _list(logprobs.get("token_logprobs"), "token_logprobs")
        texts = _column(logprobs, "tokens", len(values))
        tops = _column(logprobs, "top_logprobs", len(values))
        tokens = Tokens()
        for text, value, top in zip(texts, values, tops, strict=True):
            tokens.add(_text(text), value, top=top)
        tokens.covers(choice.get("text"))
        # Only an echoed prompt begins with a token that nothing predicts.
        echoed = len(values) > 0 and values[0] is None
        notes = _prompt_only(tokens, record, len(choices)) if echoed else _written(tokens)
        yield tokens.document(_one(name, number, choices), "completions", notes=notes)


def _prompt_only(tokens: Tokens, record: Record, choices: int) -> list[Note]:
    """Leave out what was generated after an echoed prompt, where the usage tells how much of each choice it is."""
    generated = _mapping(record.get("usage"), "usage").get("completion_tokens")
    if type(generated) is not int or generated <= 0:
        return []
    if choices in (1, generated):
        each = generated // choices
        del tokens.scored[max(0, len(tokens.scored) - each) :]
        return ["generated"]
    return ["mixed"]


def _vllm(record: Record, name: str) -> Iterator[Document]:
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
        tokens.covers(choice.get("prompt"))
        generated: list[Note] = ["generated"] if any(c.get("logprobs") for c in answers) else []
        yield tokens.document(_one(name, number, choices), "vllm", notes=generated)
    if not seen:
        yield Document(name, "vllm")


def _prompt(positions: list[Any], ids: Any) -> Tokens:
    """Return the prompt's tokens: the one that `ids` names, else the first of each position.

    vLLM enters the prompt's own token first and then the most probable ones, and JSON keeps that order.
    """
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(positions)):
        raise LogError(f"`prompt_token_ids` is {shown(ids)}, but `prompt_logprobs` has {len(positions)} positions")
    tokens = Tokens()
    for number, position in enumerate(positions):
        if position is None:
            tokens.add(None, None)
            continue
        if not isinstance(position, Mapping) or not position:
            raise LogError(f"position {number} of `prompt_logprobs` must be an object, not {shown(position)}")
        own = str(ids[number]) if ids is not None else _first(position, number)
        logprob, text = _candidate(position.get(own))
        if own in position and logprob is not None:
            tokens.add(text, logprob)
        else:
            tokens.add(text, None, top={key: _candidate(entry)[0] for key, entry in position.items()})
    return tokens


def _first(position: Record, number: int) -> str:
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


def _candidate(entry: Any) -> tuple[Any, str | None]:
    if isinstance(entry, Mapping):
        return entry.get("logprob"), _text(entry.get("decoded_token"))
    return entry, None


def _plain(record: Record, name: str) -> Iterator[Document]:
    """Yield one document; lines with the same `id` are parts of one."""
    tokens, text = Tokens(), record.get("text")
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
        if record.get("tokens") is not None:
            tokens.covers(text)
    size = None
    if isinstance(text, str) and (tokens.inexact or any(token.bytes is None for token in tokens.scored)):
        size, tokens.inexact = len(text.encode("utf-8", "surrogatepass")), False
    made = tokens.document(name, "plain")
    yield Document(name, "plain", made.tokens, bytes=size, cluster=_name(record.get("id")), notes=made.notes)


def _one(name: str, number: int, choices: list[Record]) -> str:
    return f"{name}, choice {number}" if len(choices) > 1 else name


def _choices(record: Record) -> list[Record]:
    """Return the choices of a response; a choice on its own is one."""
    if "choices" not in record:
        return [record]
    return [_mapping(choice, "a choice") for choice in _list(record["choices"], "choices")]


def _mapping(value: Any, what: str) -> Record:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise LogError(f"`{what}` must be an object, not {shown(value)}")
    return cast("Record", value)


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise LogError(f"`{what}` must be a list, not {shown(value)}")
    return cast("list[Any]", value)


def _column(record: Record, what: str, length: int) -> list[Any]:
    """Return a list that runs beside the log-probabilities; nulls if the log does not have it."""
    if record.get(what) is None:
        return [None] * length
    column = _list(record[what], what)
    if len(column) != length:
        raise LogError(f"`{what}` has {len(column)} entries for {length} log-probabilities; was the line cut off?")
    return column


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise LogError(f"a token's text must be a string, not {shown(value)}")
    return value


def _name(value: Any) -> str | None:
    """Return an id as text; empty for none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise LogError(f"an id must be a string or an integer, not {shown(value)}")
    return str(value)


READERS: dict[Source, Callable[[Record, str], Iterator[Document]]] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "vllm": _vllm,
    "lm-eval": sample,
    "plain": _plain,
}
