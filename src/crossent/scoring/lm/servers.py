"""Readers of responses of other servers: SGLang, TGI, llama.cpp's server, Gemini and Ollama."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from crossent.scoring.lm.document import (
    Document,
    DocumentNote,
    JsonObject,
    LogError,
    LogSource,
    TokenCollector,
    described,
    real,
)
from crossent.scoring.lm.fields import mapping, sequence, text_of
from crossent.scoring.lm.openai_logs import entry, written


def sglang(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield the document of a response of SGLang's `/generate`: its prompt if it is scored, else its answer."""
    meta = mapping(record.get("meta_info"), "meta_info")
    prompt, answer = _triples(meta, "input"), _triples(meta, "output")
    _, _ = prompt.close(), answer.close(record.get("text"))
    yield _of_prompt_or_answer(prompt, answer, name, "sglang")


def tgi(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield the document of a response of TGI: its prompt (`decoder_input_details`), else its answer."""
    details = mapping(record.get("details"), "details")
    prompt, answer = TokenCollector(), TokenCollector()
    for one in sequence(details.get("prefill"), "details.prefill"):
        token = mapping(one, "an entry of prefill")
        prompt.add(text_of(token.get("text")), token.get("logprob"))
    tokens = sequence(details.get("tokens"), "details.tokens")
    tops = sequence(details.get("top_tokens"), "details.top_tokens")
    for k, one in enumerate(tokens):
        token = mapping(one, "an entry of tokens")
        top = [_renamed(x) for x in sequence(tops[k], "top_tokens")] if k < len(tops) else None
        answer.add(text_of(token.get("text")), token.get("logprob"), top=top)
    _, _ = prompt.close(), answer.close(record.get("generated_text"))
    yield _of_prompt_or_answer(prompt, answer, name, "tgi")


def llama_cpp(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield the document of an answer of llama.cpp's server, of its form since 2025 or of the one before.

    The older form has the probabilities that are left after the server's samplers, and the score warns of them.
    """
    tokens, notes = TokenCollector(), set[DocumentNote]()
    for one in sequence(record.get("completion_probabilities"), "completion_probabilities"):
        position = mapping(one, "an entry of completion_probabilities")
        if "prob" in position or "top_probs" in position:
            raise LogError(
                "these are probabilities after sampling, which are not the model's; ask for post_sampling_probs=false"
            )
        if "logprob" in position or "top_logprobs" in position:
            entry(tokens, position)
            continue
        own, top = text_of(position.get("content")), _probabilities(position.get("probs"))
        tokens.add(own, None, top=top or {"": 0.0})
        notes.add("after sampling")
    _ = tokens.close(record.get("content"))
    yield tokens.document(name, "llama.cpp", notes=[*written(tokens), *notes])


def gemini(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield the document of a response of Gemini, whose keys are spelled as its REST interface or its SDK does."""
    tokens = TokenCollector()
    for one in sequence(record.get("candidates"), "candidates"):
        candidate = mapping(one, "a candidate")
        result = mapping(_either(candidate, "logprobsResult", "logprobs_result"), "logprobsResult")
        chosen = sequence(_either(result, "chosenCandidates", "chosen_candidates"), "chosenCandidates")
        tops = sequence(_either(result, "topCandidates", "top_candidates"), "topCandidates")
        for k, token in enumerate(chosen):
            own = _of_gemini(token)
            others = mapping(tops[k], "an entry of topCandidates").get("candidates") if k < len(tops) else None
            top = [_of_gemini(x) for x in sequence(others, "topCandidates.candidates")]
            tokens.add(text_of(own["token"]), own["logprob"], top=top)
        parts = sequence(mapping(candidate.get("content"), "content").get("parts"), "content.parts")
        texts = [mapping(part, "a part").get("text") for part in parts]
        _ = tokens.close("".join(text for text in texts if isinstance(text, str)))
    yield tokens.document(name, "gemini", notes=written(tokens))


def ollama(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield the document of an answer of Ollama's `/api/generate` or `/api/chat`."""
    tokens = TokenCollector()
    for one in sequence(record.get("logprobs"), "logprobs"):
        entry(tokens, one)
    text = record.get("response", mapping(record.get("message"), "message").get("content"))
    _ = tokens.close(text)
    yield tokens.document(name, "ollama", notes=written(tokens))


def _of_prompt_or_answer(prompt: TokenCollector, answer: TokenCollector, name: str, source: LogSource) -> Document:
    """Return the document of a prompt, or of the answer if the prompt is not scored."""
    if prompt.scored:
        return prompt.document(name, source, notes=["generated"] if answer.scored else [])
    return answer.document(name, source, notes=written(answer))


def _triples(meta: JsonObject, side: str) -> TokenCollector:
    """Return the tokens [log-probability, number, text] of a side of a response of SGLang."""
    entries = sequence(meta.get(f"{side}_token_logprobs"), f"{side}_token_logprobs")
    tops = sequence(meta.get(f"{side}_top_logprobs"), f"{side}_top_logprobs")
    tokens = TokenCollector()
    for k, value in enumerate(entries):
        own = _triple(value, f"{side}_token_logprobs")
        several = (
            [_triple(x, f"{side}_top_logprobs") for x in sequence(tops[k], "top_logprobs")] if k < len(tops) else []
        )
        tokens.add(own["token"], own["logprob"], top=several)
    return tokens


def _triple(value: Any, what: str) -> Mapping[str, Any]:
    """Return [log-probability, number, text] as an object."""
    if not isinstance(value, list) or not 2 <= len(value) <= 3:
        raise LogError(f"an entry of `{what}` must be [log-probability, number, text], not {described(value)}")
    return {"logprob": value[0], "token": text_of(value[2]) if len(value) == 3 else None}


def _renamed(value: Any) -> Mapping[str, Any]:
    """Return a token of TGI as one of the most probable tokens of a position."""
    token = mapping(value, "an entry of top_tokens")
    return {"token": token.get("text"), "logprob": token.get("logprob")}


def _of_gemini(value: Any) -> Mapping[str, Any]:
    """Return a candidate of Gemini as a token with `token` and `logprob`."""
    candidate = mapping(value, "a candidate token")
    return {"token": candidate.get("token"), "logprob": _either(candidate, "logProbability", "log_probability")}


def _probabilities(value: Any) -> dict[str, float]:
    """Return the log-probabilities of the most probable tokens of a position in llama.cpp's older form."""
    found: dict[str, float] = {}
    for one in sequence(value, "probs"):
        candidate = mapping(one, "an entry of probs")
        text, probability = text_of(candidate.get("tok_str", candidate.get("tok"))), candidate.get("prob")
        p = real(probability, "a probability in `probs`")
        if not 0.0 <= p <= 1.0 + 1e-6:
            raise LogError(f"a probability in `probs` is {p:g}; it must lie between 0 and 1")
        if text is not None and p > 0:
            found[text] = min(math.log(p), 0.0)
    return found


def _either(record: JsonObject, *names: str) -> Any:
    """Return the value of the first of these keys that an object has."""
    return next((record[name] for name in names if name in record), None)
