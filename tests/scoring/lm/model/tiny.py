"""Tiny causal language models with tokenizers, made in code; nothing is fetched."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

BOS = "<s>"
WORDS = ["<unk>", BOS, "</s>", *"abcdefghijklmnopqrstuvwxyz", "▁", "▁a", "▁the", "th", "the", "▁th", "▁b", "▁c"]


def bytewise(*, bos: bool) -> Any:
    """Return a tokenizer whose tokens are bytes, which puts a BOS before a text or nothing."""
    alphabet = [BOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={token: k for k, token in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if bos:
        made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS)


def model(vocabulary: int, *, seed: int = 0, kind: str = "llama", positions: int = 64, **more: Any) -> Any:
    """Return a model of random weights, large enough that its predictions differ."""
    shared: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=positions, **shared, **more)
    else:
        maker = {"llama": transformers.LlamaConfig, "gemma2": transformers.Gemma2Config}[kind]
        config = maker(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, max_position_embeddings=positions, **shared, **more,
        )  # fmt: skip
    torch.manual_seed(seed)
    return spread(transformers.AutoModelForCausalLM.from_config(config))


def spread(made: Any) -> Any:
    """Return a model with larger random weights."""
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.3)
    return made.eval()


def plain_loop(made: Any, tokenizer: Any, text: str, window: int, stride: int) -> dict[int, float]:
    """Return the log-probability of each token by its place: a forward a window, log_softmax of all logits."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    prefix = tokenizer("a").input_ids[:-1]
    if prefix and ids[: len(prefix)] == prefix:
        ids = ids[len(prefix) :]
    found: dict[int, float] = {}
    end = 0
    while end < len(ids):
        begun, end = end, min(len(ids), end + stride if end else window - len(prefix) + 1)
        begin = max(0, end - 1 - (window - len(prefix)))
        if not prefix and end == 1:
            break
        with torch.no_grad():
            logits = made(torch.tensor([[*prefix, *ids[begin : end - 1]]])).logits[0]
        rows = logits.double().log_softmax(-1)  # torch's own in float32 is off by 1.7e-5 at 49,152 classes
        for place in range(begun, end):
            row = len(prefix) + place - 1 - begin
            if row < 0:
                continue
            assert place not in found
            found[place] = float(rows[row, ids[place]])
    return found
