"""Readers of responses of OpenAI's interfaces, and of compatible servers: chat, completions, responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crossent.scoring.lm.document import Document, DocumentNote, JsonObject, LogError, TokenCollector, described
from crossent.scoring.lm.fields import choices_of, column_of, mapping, one_of, sequence, text_of


def chat(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document: the answers to one prompt are not independent of each other."""
    tokens = TokenCollector()
    for choice in choices_of(record):
        if "delta" in choice:
            raise LogError("this is a chunk of a streamed answer; log whole answers, or join the chunks by their id")
        logprobs = mapping(choice.get("logprobs"), "logprobs")
        message = mapping(choice.get("message"), "message")
        for kind in ("content", "refusal"):
            for one in sequence(logprobs.get(kind), f"logprobs.{kind}"):
                entry(tokens, one)
            _ = tokens.close(message.get(kind))
    yield tokens.document(name, "chat", notes=written(tokens))


def responses(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield the document of a response of the Responses API."""
    tokens = TokenCollector()
    for item in sequence(record.get("output"), "output"):
        for part in sequence(mapping(item, "an entry of output").get("content"), "content"):
            entries = mapping(part, "an entry of content")
            for one in sequence(entries.get("logprobs"), "logprobs"):
                entry(tokens, one)
            _ = tokens.close(entries.get("text"))
    yield tokens.document(name, "responses", notes=written(tokens))


def written(tokens: TokenCollector) -> list[DocumentNote]:
    """Return the note on tokens that the model wrote itself, none without tokens."""
    return ["sampled"] if tokens.scored else []


def entry(tokens: TokenCollector, entry: Any) -> None:
    """Add a token that is an object of its own: token, logprob, bytes, top_logprobs."""
    if not isinstance(entry, Mapping) or not ("logprob" in entry or "top_logprobs" in entry):
        raise LogError(f"a token must be an object with `token` and `logprob`, not {described(entry)}")
    text = text_of(entry.get("token"))
    tokens.add(text, entry.get("logprob"), raw=entry.get("bytes"), top=entry.get("top_logprobs"))


def completions(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document for each choice: a request may hold many prompts."""
    choices = choices_of(record)
    for number, choice in enumerate(choices):
        logprobs = mapping(choice.get("logprobs"), "logprobs")
        values = sequence(logprobs.get("token_logprobs"), "token_logprobs")
        texts = column_of(logprobs, "tokens", len(values))
        tops = column_of(logprobs, "top_logprobs", len(values))
        tokens = TokenCollector()
        for text, value, top in zip(texts, values, tops, strict=True):
            tokens.add(text_of(text), value, top=top)
        _ = tokens.close(choice.get("text"))
        # Only an echoed prompt begins with a token that nothing predicts.
        echoed = len(values) > 0 and values[0] is None
        notes = _prompt_only(tokens, record, len(choices)) if echoed else written(tokens)
        yield tokens.document(one_of(name, number, choices), "completions", notes=notes)


def _prompt_only(tokens: TokenCollector, record: JsonObject, choices: int) -> list[DocumentNote]:
    """Remove the tokens generated after an echoed prompt, if the usage has their number, and return notes on it."""
    generated = mapping(record.get("usage"), "usage").get("completion_tokens")
    if type(generated) is not int or generated <= 0:
        return []
    if choices in (1, generated):
        tokens.remove_last(generated // choices)
        return ["generated"]
    return ["mixed"]
