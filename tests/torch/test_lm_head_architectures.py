"""Encoder-decoders and masked models, which add biases to logits or compute losses of their own: all stay lazy."""

from __future__ import annotations

import copy
import os

import pytest
import torch
import torch.nn.functional as nnf
from transformers.trainer_pt_utils import LabelSmoother

import crossent.torch as F
from tests.torch.lazily import Largest, memory_for_logits

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

pytestmark = pytest.mark.slow

V, D, BATCH, LENGTH = 347, 32, 3, 17  # so long that the logits are more than the head's weight
LOGITS = BATCH * LENGTH * V
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": V}
SIZES = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
BART = {
    "d_model": D, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "attention_dropout": 0.0,
    "activation_dropout": 0.0, "init_std": 0.3, "decoder_start_token_id": 2, "max_position_embeddings": 64, **SIZES,
}  # fmt: skip
PROPHET = {
    "hidden_size": D, "num_encoder_layers": 1, "num_decoder_layers": 1, "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "max_position_embeddings": 64, "init_std": 0.3, "decoder_start_token_id": 0, **SIZES,
}  # fmt: skip
T5 = {"d_model": D, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.0}
LED = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 4}
ENCODER = {
    "hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 64,
}  # fmt: skip
MODELS = {
    "Bart": ("BartForConditionalGeneration", BART),
    "MBart": ("MBartForConditionalGeneration", BART),
    "Pegasus": ("PegasusForConditionalGeneration", BART),
    "BigBirdPegasus": ("BigBirdPegasusForConditionalGeneration", BART),
    "LED": ("LEDForConditionalGeneration", {**BART, **LED}),
    "Blenderbot": ("BlenderbotForConditionalGeneration", BART),
    "Marian": ("MarianMTModel", BART),
    "ProphetNet": ("ProphetNetForConditionalGeneration", {**PROPHET, "eps": 0.0}),
    "ProphetNet smoothed": ("ProphetNetForConditionalGeneration", {**PROPHET, "eps": 0.1}),
    "Esm": (
        "EsmForMaskedLM",
        {**ENCODER, "token_dropout": False, "mask_token_id": 4, "position_embedding_type": "rotary"},
    ),
    "T5": ("T5ForConditionalGeneration", {**T5, "decoder_start_token_id": 1}),
    "T5 tied": ("T5ForConditionalGeneration", {**T5, "decoder_start_token_id": 1, "tie_word_embeddings": True}),
    "Roberta": ("RobertaForMaskedLM", ENCODER),
}
every_model = pytest.mark.parametrize("name", MODELS)


def pair_of(name):
    kind, options = MODELS[name]
    kind = getattr(transformers, kind)
    twin = kind(kind.config_class(**{**SPECIAL, **options})).train()
    for at, buffer in twin.named_buffers():
        if at == "final_logits_bias":
            _ = buffer.normal_()
    for at, p in twin.named_parameters():
        if at.endswith("lm_head.bias"):
            _ = p.data.normal_()
    return F.fuse_lm_head(copy.deepcopy(twin)), twin


def batch():
    ids = torch.randint(5, V, (BATCH, LENGTH), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "labels": torch.where(ids % 4 == 0, -100, ids)}


def step(model, loss_of):
    """The loss, all gradients, and how large the largest tensor was."""
    inputs = batch()
    model.zero_grad(set_to_none=True)
    with Largest() as seen:
        loss = loss_of(model, inputs)
        loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}, seen.elements


def own_loss(model, inputs):
    return model(**inputs).loss


def smoothed_loss(model, inputs):
    """What transformers' Trainer computes with label_smoothing_factor=0.1."""
    out = model(**inputs)
    return LabelSmoother(epsilon=0.1)(out, inputs["labels"])


def same_step(model, twin, loss_of):
    (loss, grads, made), (want, wants, largest) = step(model, loss_of), step(twin, loss_of)
    assert made < LOGITS <= largest
    assert loss.dtype == want.dtype
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    assert [k for k, g in grads.items() if g is None] == [k for k, g in wants.items() if g is None]
    wants = {k: g for k, g in wants.items() if g is not None}
    noise = 1e-6 * torch.stack([g.norm() for g in wants.values()]).norm()
    for k, g in wants.items():
        assert (grads[k] - g).norm() <= 1e-4 * g.norm() + noise, k


@every_model
@pytest.mark.parametrize("loss_of", [own_loss, smoothed_loss])
def test_a_training_step_is_the_same_and_makes_no_logits(name, loss_of):
    model, twin = pair_of(name)
    same_step(model, twin, loss_of)


@every_model
def test_logits_are_equal_to_the_last_bit(name):
    model, twin = pair_of(name)
    for train in (True, False):
        got, want = model.train(train)(**batch()).logits, twin.train(train)(**batch()).logits
        assert torch.equal(got, want)
        assert got.requires_grad == want.requires_grad


@pytest.mark.parametrize("name", ["Bart", "Esm", "ProphetNet smoothed"])
def test_under_autocast(name, monkeypatch):
    """The bias is float32 there, and the logits are not."""
    memory_for_logits(monkeypatch, LOGITS // 2)
    model, twin = pair_of(name)

    def cast(model, inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return model(**inputs).loss

    (loss, _, made), (want, _, _) = step(model, cast), step(twin, cast)
    assert made < LOGITS
    # each logit, and the sum that it is of, is rounded to bfloat16 there; a loss moves by what two logits move, at most
    largest = float(twin(**batch()).logits.detach().abs().max())
    assert abs(float(loss) - float(want)) <= 2.0**-9 * (4 * largest + abs(float(want)))


@pytest.mark.parametrize("name", ["Bart", "Pegasus", "T5", "T5 tied"])
def test_a_new_vocabulary(name):
    model, twin = pair_of(name)
    for m in (model, twin):
        _ = m.resize_token_embeddings(V + 3, mean_resizing=False)
    _ = model.load_state_dict(twin.state_dict())
    same_step(model, twin, own_loss)


def test_a_trained_bias():
    """GPT-like models with a bias of their own after the head, several times, before and after a temperature."""
    twin = torch.nn.Linear(D, V)
    model = F.fuse_lm_head(copy.deepcopy(twin))
    x, y = torch.randn(60, D), torch.randint(V, (60,))
    biases = [torch.randn(V, requires_grad=True), torch.randn(1, V, requires_grad=True)]
    results = []
    for m in (model, twin):
        loss = nnf.cross_entropy((m(x) + biases[0]) / 3 + biases[1], y)
        results.append([loss, *torch.autograd.grad(loss, [*m.parameters(), *biases])])
    torch.testing.assert_close(*results)
