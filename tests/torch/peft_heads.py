"""Models whose heads PEFT adapts, fused and not, and what is asked of both."""

from __future__ import annotations

import copy
import os

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

import crossent.torch as F
from tests.torch.test_low_rank_memory import LargestMade

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

peft = pytest.importorskip("peft", reason="peft adapts the heads of these tests: pip install peft")

from tests.torch.test_lm_head_wrappers import LOGITS, D, V, batch  # noqa: E402

HEAD = ("q_proj", "lm_head")
BAR = {torch.float64: 1e-11, torch.float32: 1e-5}
"""How far a loss, or a gradient relative to its norm, may be off."""
orders = pytest.mark.parametrize("order", ["fused before PEFT", "fused after PEFT", "fused twice"])
dtypes = pytest.mark.parametrize("dtype", BAR, ids=str)
VARIANTS = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "rank 1": {"r": 1},
    "the head alone": {"target_modules": ["lm_head"]},
    "a bias in B": {"lora_bias": True},
    "dropout": {"lora_dropout": 0.3},
    "new, B zero": {"init_lora_weights": True},
    "a rank of its own": {"rank_pattern": {"lm_head": 6}, "alpha_pattern": {"lm_head": 5}},
    "other modules saved": {"modules_to_save": ["embed_tokens", "norm"]},
    "trainable tokens": {"trainable_token_indices": {"embed_tokens": [1, 5, 9]}},
    "biases trained": {"bias": "lora_only"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def llama(dtype=torch.float64, *, tied=False, bias=False, vocab=V):
    _ = torch.manual_seed(4)
    sizes = {"vocab_size": vocab, "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.3}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=tied, pad_token_id=0, bos_token_id=1)
    )
    if bias:
        model.lm_head.bias = nn.Parameter(torch.randn(vocab))
    return model.to(dtype)


def config_of(**how):
    plainly = {"r": 4, "lora_alpha": 11, "lora_dropout": 0.0, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    return peft.LoraConfig(**({"target_modules": list(HEAD)} | plainly | how))


def adapted(model, **how):
    _ = torch.manual_seed(5)
    return peft.get_peft_model(model, config_of(**how))


def pair_of(order, dtype=torch.float64, base=None, **how):
    """A model with a fused head, and its twin without."""
    base = base or {}
    twin = adapted(llama(dtype, **base), **how)
    if order == "fused after PEFT":
        return F.fuse_lm_head(copy.deepcopy(twin)), twin
    model = adapted(F.fuse_lm_head(llama(dtype, **base)), **how)
    return (F.fuse_lm_head(model) if order == "fused twice" else model), twin


def add(name, models, seed=7, **how):
    for m in models:
        _ = torch.manual_seed(seed)
        m.add_adapter(name, config_of(**how))


def loss_of(model, **inputs):
    """The loss of a model; in float64 one of our own, as transformers narrows logits to float32."""
    inputs = inputs or batch()
    if next(model.parameters()).dtype != torch.float64 or "labels" not in inputs:
        return model(**inputs).loss
    z, labels = model(**{k: x for k, x in inputs.items() if k != "labels"}).logits, inputs["labels"]
    return nnf.cross_entropy(z[:, :-1].reshape(-1, z.shape[-1]), labels[:, 1:].reshape(-1))


def step(model, **inputs):
    """The loss, the gradients that are there, and the largest memory that was made."""
    model.train()
    model.zero_grad(set_to_none=True)
    _ = torch.manual_seed(11)
    with LargestMade(*model.parameters(), *model.buffers()) as seen:
        loss = loss_of(model, **inputs)
        loss.backward()
    left = torch.get_rng_state()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, seen.elements, left


def same_step(model, twin, *, lazy: bool | None = True, **inputs):
    """The same loss, gradients and random numbers drawn; without logits where it is lazy (None for either way)."""
    (loss, grads, made, left), (want, wants, _, rest) = step(model, **inputs), step(twin, **inputs)
    if lazy is not None:
        assert (made < LOGITS) == lazy
    assert loss.dtype == want.dtype
    bar = BAR[loss.dtype]
    assert abs(loss.item() - want.item()) <= bar * max(1.0, abs(want.item()))
    assert grads.keys() == wants.keys()
    assert wants
    noise = 0.1 * bar * torch.stack([g.norm() for g in wants.values()]).norm()
    for name, g in wants.items():
        assert grads[name].dtype == g.dtype, name
        error = (grads[name] - g).norm()
        assert error <= bar * g.norm() + noise, f"the gradient of {name} is off by {error / g.norm():.3g}"
    assert torch.equal(left, rest)


def same_logits(model, twin, **inputs):
    """As somebody who evaluates reads them."""
    model, twin = model.eval(), twin.eval()
    with torch.no_grad():
        got, want = (m(**(inputs or {"input_ids": batch()["input_ids"]})).logits for m in (model, twin))
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    torch.testing.assert_close(got + 0, want, rtol=1e-5 if want.dtype == torch.float32 else 1e-11, atol=1e-5)
