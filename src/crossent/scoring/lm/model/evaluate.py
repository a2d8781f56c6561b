"""Calls of a language model on windows of texts, and the score of their tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

from crossent.errors import InputError, InputTypeError
from crossent.numbers import whole
from crossent.scoring.lm.document import Document, DocumentNote, LogError, Token
from crossent.scoring.lm.model.encoding import EncodedText, Encoder
from crossent.scoring.lm.model.kinds import why_not_causal
from crossent.scoring.lm.model.windows import Window, WindowPlan
from crossent.scoring.lm.result import LanguageModelScore
from crossent.scoring.lm.tokens import score_tokens
from crossent.scoring.show.words import counted

IGNORED = -100
"""Class of the rows that nothing is scored of: padding, and tokens that an earlier window scored."""
_PROBED = 8
"""Tokens of the check that a model does not look ahead."""
_AHEAD = 1e-5
"""Relative change of a log-probability that rounding never makes in float32: both calls have the same shapes."""

Said = Callable[[int], None]
"""Called with the number of bytes of the texts that have been scored since the last call."""


def score_model(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Mapping[str, str],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch: int = 1,
    ci: float = 0.95,
    worst: int = 10,
) -> LanguageModelScore:
    r"""Score texts by a causal language model: loss per token, bits per byte and perplexity, with intervals.

    Of a text with the tokens x₁ … x_n, in windows of W tokens,

        loss = −Σ log q(x_t | x_s … x_(t−1)) / number of t,   t − s ≥ W − stride + 1 beyond the first window

    where each token is scored once, also where windows overlap. Logits are computed in chunks, only for the scored
    tokens: no tensor of tokens × vocabulary exists.

    Parameters
    ----------
    model
        A causal language model of Hugging Face, whose head `crossent.torch.fuse_lm_head` can fuse, on any device. It is
        called without gradients, in evaluation mode, and not changed.
    tokenizer
        Its tokenizer. Its prefix tokens (a BOS) begin every window; a text that already begins with them gets no second
        ones. Without a prefix, the first token of a text is context and not scored. Suffix tokens are left out.
    texts
        Texts, or a mapping of names to texts. Each is a document: intervals take documents as independent.
    window
        Tokens per window; by default 1024, or the number of positions of the model if that is less.
    stride
        Tokens scored per window after the first; by default half of the window. A stride of the whole window is
        fastest, but some tokens get a context of one; a stride of 1 gives each token the longest context, and is
        slowest.
    batch
        Windows per model call. Shorter ones are padded; padding is never scored.
    ci, worst
        As in `score_tokens`.

    Returns
    -------
    LanguageModelScore
        Losses in nats per token, as from `score_tokens`; bits per byte of exactly the text that was scored, in UTF-8.

    Raises
    ------
    InputError
        If an argument is out of its range, the model reads later tokens, or its logits cannot be computed in chunks.
    LogError
        If no text has a token to score; a ValueError, like the other.

    Examples
    --------
    A Llama of random weights whose tokens are bytes:

    >>> import torch
    >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    >>> from crossent.scoring.lm import score_model
    >>> alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    >>> bytewise = Tokenizer(models.BPE(vocab={token: k for k, token in enumerate(alphabet)}, merges=[]))
    >>> bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise)
    >>> config = LlamaConfig(vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    ...                      num_attention_heads=2, num_key_value_heads=1)
    >>> model = LlamaForCausalLM(config).eval()
    >>> score = score_model(model, tokenizer, ["naïve bytes", "and more of them"], window=8)
    >>> score.tokens, score.bytes, round(score.bits_per_byte)  # the first token of each text is context
    (26, 26, 8)

    References
    ----------
    Windows with a stride: https://huggingface.co/docs/transformers/perplexity
    """
    plan, found = evaluated(model, tokenizer, _named(texts), window=window, stride=stride, batch=batch)
    return score_tokens(found, ci=ci, worst=worst).with_facts(said_of(plan))


class Evaluation(NamedTuple):
    """The windows of an evaluation, and its documents, which are made while they are read."""

    plan: WindowPlan
    documents: Iterator[Document]


class NamedText(NamedTuple):
    """A text, its name, and the keys and values for its slices."""

    name: str
    text: str
    by: tuple[tuple[str, str | None], ...] = ()
    notes: frozenset[DocumentNote] = frozenset()


def evaluated(
    model: Any,
    tokenizer: Any,
    texts: Iterable[NamedText],
    *,
    window: Any = None,
    stride: Any = None,
    batch: Any = 1,
    said: Said | None = None,
) -> Evaluation:
    """Return the documents of texts, some tokens at a time; windows of one text share a cluster."""
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise InputTypeError(
            f"tokenizer must be one of Hugging Face, got {type(tokenizer).__name__}", argument="tokenizer"
        )
    size = whole("batch", batch, " of windows")
    if size < 1:
        raise InputError(f"batch must be 1 or more, not {size}", argument="batch")
    if reason := why_not_causal(model):
        raise InputError(f"{reason}; pass a causal language model", argument="model")
    encoder = Encoder(tokenizer)
    plan = WindowPlan.of(window, stride, prefix=len(encoder.prefix), positions=_positions(model))
    return Evaluation(plan, _documents(model, encoder, texts, plan, size, said))


def said_of(plan: WindowPlan) -> str:
    """Return the fact about windows in a score."""
    beside = ", the tokenizer's BOS in each" if plan.prefix else ""
    return (
        f"windows of {plan.window:,} tokens{beside}; each after the first scores {plan.stride:,} tokens, after "
        f"{plan.context:,} or more of context"
    )


def _named(texts: Any) -> Iterator[NamedText]:
    """Yield texts with their names, numbers from 1 for those without."""
    if isinstance(texts, str):
        raise InputTypeError("texts must be several texts; pass [text] to score one", argument="texts")
    pairs = texts.items() if isinstance(texts, Mapping) else ((f"text {k}", text) for k, text in enumerate(texts, 1))
    for name, text in pairs:
        if not isinstance(text, str):
            raise InputTypeError(f"texts must hold strings; {name} is a {type(text).__name__}", argument="texts")
        yield NamedText(str(name), text)


def _check_text(text: str, name: str) -> None:
    """Raise if a text has half of a surrogate pair, which no UTF-8 holds."""
    try:
        _ = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name}: character {error.start} is {text[error.start]!a}, half of a surrogate pair, not a character; "
            'read the text as UTF-8, or replace it: text.encode("utf-8", "replace").decode()',
            argument="texts",
        ) from None


def _vocabulary(model: Any) -> int | None:
    """Return the number of tokens that a model has, as input and as output; None if it cannot be seen."""
    layers = (getattr(model, name, lambda: None)() for name in ("get_input_embeddings", "get_output_embeddings"))
    weights = [getattr(layer, "weight", None) for layer in layers]
    return min((int(w.shape[0]) for w in weights if w is not None and w.ndim == 2), default=None)


def _positions(model: Any) -> int | None:
    """Return the number of positions of a model, None if unknown."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = getattr(text, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


@dataclass(slots=True)
class _Job:
    """A window of a text that waits for the model: the tokens that it reads, and those that it scores."""

    name: str
    encoded: EncodedText
    window: Window
    inputs: list[int]
    by: tuple[tuple[str, str | None], ...]
    notes: frozenset[DocumentNote] = field(default_factory=frozenset[DocumentNote])

    def labels(self, prefix: int) -> list[int]:
        """Return the class to score in each row of the model's output."""
        begin, first, end = self.window
        return [*([IGNORED] * (prefix + first - 1 - begin)), *self.encoded.ids[first:end]]

    def document(self, values: list[float]) -> Document:
        """Return the tokens that the window scored, as a document of the cluster of its text."""
        _, first, end = self.window
        tokens: list[Token] = []
        for position, value in zip(range(first, end), values, strict=True):
            if math.isnan(value):
                raise LogError(
                    f"{self.name}: the model gives token {position} the log-probability NaN; its arithmetic failed, "
                    "load it in another dtype, such as float32"
                )
            part = self.encoded.parts[position]
            least = min(value, 0.0)
            tokens.append(Token(position, part.decode("utf-8", "replace"), least, least, len(part)))
        return Document(self.name, "model", tuple(tokens), cluster=self.name, notes=self.notes, by=self.by)


def _documents(
    model: Any, encoder: Encoder, texts: Iterable[NamedText], plan: WindowPlan, batch: int, said: Said | None
) -> Iterator[Document]:
    jobs = _jobs(encoder, texts, plan, _vocabulary(model))
    with _without_logits(model) as call:
        checked, empty = False, 0
        while group := list(islice(jobs, batch)):
            ready = [job for job in group if job.inputs]
            if ready and not checked:
                _check_causal(model, call, ready[0].inputs)
                checked = True
            values = iter(call([job.inputs for job in ready], [job.labels(plan.prefix) for job in ready]))
            for job in group:
                if not job.inputs:
                    empty += 1
                    yield Document(job.name, "model", notes=job.notes)
                    continue
                yield job.document(next(values))
                if said is not None:
                    said(sum(map(len, job.encoded.parts[job.window.first : job.window.end])))
        if not checked:
            alone = "" if plan.prefix else " or have one token, and the tokenizer puts no BOS before it"
            what = f" in {counted(empty, 'text')}: they are empty{alone}" if empty else ": there is no text"
            raise LogError(f"no scored token{what}; pass longer texts")


def _jobs(encoder: Encoder, texts: Iterable[NamedText], plan: WindowPlan, vocabulary: int | None) -> Iterator[_Job]:
    """Yield the windows of all texts; a text without a token to score is a job without inputs."""
    names: dict[str, int] = {}
    for name, text, by, said in texts:
        names[name] = seen = names.get(name, 0) + 1
        own = name if seen == 1 else f"{name} ({seen})"
        _check_text(text, own)
        encoded = encoder.encode(text)
        if vocabulary is not None and (largest := max([*encoder.prefix, *encoded.ids], default=0)) >= vocabulary:
            raise InputError(
                f"the tokenizer gives {own} the token {largest}, but the model has only {vocabulary:,} tokens, from 0; "
                "is it the "
                "tokenizer of another model?",
                argument="tokenizer",
            )
        windows = plan.windows(len(encoded.ids))
        first = next(windows, None)
        if first is None:
            yield _Job(own, encoded, Window(0, 0, 0), [], by)
            continue
        notes = said if plan.prefix else said | frozenset[DocumentNote]({"first token"})
        if not (plan.prefix or encoded.exact):
            notes |= frozenset[DocumentNote]({"inexact bytes"})
        for window in chain([first], windows):
            inputs = [*encoder.prefix, *encoded.ids[window.begin : window.end - 1]]
            yield _Job(own, encoded, window, inputs, by, notes if window is first else frozenset())


Call = Callable[[list[list[int]], list[list[int]]], list[list[float]]]
"""A call of the model: tokens and labels of some windows in, the log-probabilities of the labels out."""


@contextmanager
def _without_logits(model: Any) -> Generator[Call, None, None]:
    """Let a model make no logits, in evaluation mode, and leave it as it was."""
    import torch

    from crossent.torch import fuse_lm_head, unfuse_lm_head
    from crossent.torch.lazy.heads import is_fused

    if not isinstance(model, torch.nn.Module):
        raise InputTypeError(
            f"model must be a causal language model of Hugging Face, got {type(model).__name__}", argument="model"
        )
    fused, trained = any(is_fused(module) for module in model.modules()), model.training
    try:
        if not fused:
            _ = fuse_lm_head(model)
    except TypeError as error:
        raise InputError(f"the logits of this model cannot be computed in chunks: {error}") from error
    _ = model.eval()
    try:
        yield _call(model)
    finally:
        _ = model.train(trained)
        if not fused:
            _ = unfuse_lm_head(model)


def _call(model: Any) -> Call:
    import torch

    from crossent.torch import logprobs
    from crossent.torch.lazy.logits import LazyLogits

    device = model.get_input_embeddings().weight.device

    def call(inputs: list[list[int]], labels: list[list[int]]) -> list[list[float]]:
        if not inputs:
            return []
        longest = max(map(len, inputs))
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in inputs], device=device)
        wanted = torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in labels], device=device)
        mask: dict[str, Any] = {}
        if any(len(row) < longest for row in inputs):
            read = [[1] * len(row) + [0] * (longest - len(row)) for row in inputs]
            mask["attention_mask"] = torch.tensor(read, device=device)
        with torch.no_grad():
            logits = model(input_ids=padded, use_cache=False, **mask).logits
            if not (isinstance(logits, LazyLogits) and logits.stays_lazy()):
                raise InputError(
                    f"{type(model).__name__} computes all its logits before it returns them, and they would fill the "
                    "memory; log its log-probabilities and pass the log"
                )
            found = logprobs(logits, wanted, ignore_index=IGNORED).logprob.double().cpu()
        return [
            [value for value, label in zip(row.tolist(), own, strict=False) if label != IGNORED]
            for row, own in zip(found, labels, strict=True)
        ]

    return call


def _check_causal(model: Any, call: Call, inputs: list[int]) -> None:
    """Raise unless the model's output for each token is independent of later tokens."""
    import torch

    before = (inputs * _PROBED)[:_PROBED]
    labels = [*before[1:], inputs[0]]
    others = (inputs[0], inputs[0] - 1 if inputs[0] else 1)
    first, second = (call([[*before, *[token] * _PROBED]], [labels])[0] for token in others)
    # Experts of a mixture get other rows, and so another rounding, if later tokens change.
    room = max(_AHEAD, 4.0 * torch.finfo(model.get_input_embeddings().weight.dtype).eps)
    if any(abs(one - other) > room * max(1.0, abs(one)) for one, other in zip(first, second, strict=True)):
        raise InputError(_LOOKS_AHEAD, argument="model")


_LOOKS_AHEAD = "the model reads tokens after the one that it predicts; pass a causal language model"
