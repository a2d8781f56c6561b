"""Reader of the log-probabilities of prompts that vLLM returns, or that its `RequestOutput` holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from crossent.scoring.lm.document import Document, DocumentNote, JsonObject, LogError, TokenCollector, described
from crossent.scoring.lm.fields import choices_of, one_of, sequence, text_of


def vllm(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield one document for each prompt; with n > 1 each of its choices repeats it."""
    answers = choices_of(record)
    choices = answers if record.get("prompt_logprobs") is None else [record]
    seen: list[Any] = []
    for number, choice in enumerate(choices):
        positions = choice.get("prompt_logprobs")
        if positions is None or positions in seen:
            continue
        seen.append(positions)
        tokens = _prompt(sequence(positions, "prompt_logprobs"), choice.get("prompt_token_ids"))
        _ = tokens.close(choice.get("prompt"), whole=False)
        generated: list[DocumentNote] = ["generated"] if any(c.get("logprobs") for c in answers) else []
        yield tokens.document(one_of(name, number, choices), "vllm", notes=generated)
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
        return Candidate(entry.get("logprob"), text_of(entry.get("decoded_token")))
    return Candidate(entry, None)
