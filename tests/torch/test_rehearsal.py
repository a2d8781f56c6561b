"""A step of a twin on the meta device shows what a real step does, costs no memory and leaves the model alone."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

import crossent.torch as F
from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.rehearsal import NoRehearsalError, NoTwinError, rehearse, twin_of

os.environ["HF_HUB_OFFLINE"] = "1"

V, D = 53, 8


class Model(nn.Module):
    """A language model of an embedding and a head; `change` is what it does to its logits."""

    def __init__(self, change=lambda z: z, bias=False, *, shared=False):
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.head = nn.Linear(D, V, bias=bias)
        if shared:
            self.head.weight = self.embedding.weight
        self.change = change

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, labels=None):
        logits = self.change(self.head(self.embedding(input_ids)))
        if labels is None:
            return (logits,)
        return nnf.cross_entropy(logits.view(-1, V).float(), labels.view(-1)), logits


def gemma(z):
    return 30.0 * torch.tanh(z / 30.0)


@pytest.mark.parametrize(
    ("change", "steps", "temperature", "softcap"),
    [
        (lambda z: z, (), 1.0, None),
        (lambda z: z / 4.0, ("div 4.0",), 4.0, None),
        (lambda z: z * 0.5, ("mul 0.5",), 2.0, None),
        (gemma, ("div 30.0", "tanh", "mul 30.0"), 1.0, 30.0),
        (lambda z: gemma(z / 2.0), ("div 2.0", "div 30.0", "tanh", "mul 30.0"), 2.0, 30.0),
        (lambda z: z.bfloat16(), ("to bfloat16",), 1.0, None),
    ],
)
def test_it_sees_softcap_and_scale(change, steps, temperature, softcap):
    found = rehearse(Model(change))
    assert (found.steps, found.has_loss, found.asked) == (steps, True, None)
    assert found.temperature == pytest.approx(temperature)
    assert found.softcap == (None if softcap is None else pytest.approx(softcap))
    # the numbers mean what the explanation says of them
    z = torch.randn(5, V, dtype=torch.float64)
    scores = z / found.temperature
    scores = scores if softcap is None else found.softcap * torch.tanh(scores / found.softcap)
    bound = 2**-8 if "to bfloat16" in steps else 1e-6
    torch.testing.assert_close(change(z).double(), scores, atol=bound, rtol=bound)


@pytest.mark.parametrize(
    ("change", "asked"),
    [(lambda z: z + z.exp(), "exp"), (lambda z: z.clamp(-5, 5), "clamp"), (lambda z: z.cumsum(-1), "cumsum")],
)
def test_it_names_the_operation_that_asks_for_the_logits(change, asked):
    found = rehearse(Model(change))
    assert found.asked is not None
    assert asked in found.asked
    model = F.fuse_lm_head(Model(change))
    with pytest.warns(UserWarning, match=f"{asked}.* asked for the logits"):
        _ = model(torch.zeros((2, 3), dtype=torch.int64), torch.zeros((2, 3), dtype=torch.int64))


def test_it_leaves_the_model_and_the_generator_alone():
    model, state = Model(shared=True), torch.random.get_rng_state()
    before = {name: (x, x.clone(), x._version) for name, x in model.named_parameters()}
    model.eval()
    _ = rehearse(model)
    assert type(model.head) is nn.Linear
    assert not model.training
    for name, x in model.named_parameters():
        same, numbers, version = before[name]
        assert x is same
        assert x._version == version
        assert x.grad is None
        assert torch.equal(x, numbers)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_twin_has_no_numbers_and_shares_what_the_model_shares():
    model = Model(shared=True)
    model.register_buffer("positions", torch.arange(9))
    model.plain = torch.ones(3)
    model.head.weight.note = "of an engine"
    twin = twin_of(model)
    assert {x.device.type for x in (*twin.parameters(), *twin.buffers(), twin.plain)} == {"meta"}
    assert twin.head.weight is twin.embedding.weight
    assert twin.head.weight.note == "of an engine"
    assert [x.shape for x in twin.parameters()] == [x.shape for x in model.parameters()]
    assert isinstance(twin.head.weight, nn.Parameter)


def test_a_head_alone():
    found = rehearse(nn.Linear(D, V))
    assert (found.steps, found.has_loss, found.asked) == ((), False, None)


def test_a_model_without_a_loss_of_its_own():
    class Plain(Model):
        def forward(self, input_ids):
            return self.head(self.embedding(input_ids))

    assert not rehearse(Plain()).has_loss


def test_a_model_that_looks_at_numbers_does_not_run():
    def looks(z):
        return z / 2.0 if bool(torch.ones((), device=z.device).item()) else z

    with pytest.raises(NoRehearsalError, match=r"Model does not run on the meta device \(RuntimeError: .*meta"):
        _ = rehearse(Model(looks))


def test_a_model_that_cannot_be_copied():
    class Single(Model):
        def __deepcopy__(self, memo):
            raise AssertionError("there is one of me")

    with pytest.raises(NoTwinError, match=r"Single cannot be copied \(AssertionError: there is one of me\)"):
        _ = rehearse(Single())


def test_what_cannot_be_fused_raises_what_fuse_lm_head_raises():
    model = Model()
    model.get_output_embeddings = lambda: None
    with pytest.raises(TypeError) as found:
        _ = rehearse(model)
    with pytest.raises(TypeError) as expected:
        _ = F.fuse_lm_head(model)
    assert str(found.value) == str(expected.value)


SIZES = {
    "vocab_size": 317, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ENCODED = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4,
}  # fmt: skip
FAMILIES = {
    "LlamaForCausalLM": ({}, 1.0, None),
    "GPT2LMHeadModel": ({"n_inner": 48}, 1.0, None),
    "Gemma2ForCausalLM": ({"final_logit_softcapping": 2.0, "head_dim": 8}, 1.0, 2.0),
    "GraniteForCausalLM": ({"logits_scaling": 4.0}, 4.0, None),
    "CohereForCausalLM": ({"logit_scale": 0.5}, 2.0, None),
    "OPTForCausalLM": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, 1.0, None),
    "BertForMaskedLM": ({}, 1.0, None),
    "MixtralForCausalLM": ({"num_local_experts": 4}, 1.0, None),
    "T5ForConditionalGeneration": ({"d_kv": 8, "d_ff": 48, "num_heads": 4, "d_model": 32}, 1.0, None),
    "BartForConditionalGeneration": (ENCODED, 1.0, None),
    "WhisperForConditionalGeneration": (
        {**ENCODED, "num_mel_bins": 8, "max_source_positions": 16, "decoder_start_token_id": 3}, 1.0, None,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_transformers(name):
    transformers = importlib.import_module("transformers")
    options, temperature, softcap = FAMILIES[name]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**{**SIZES, **options}))
    attends = model.config._attn_implementation
    found = rehearse(model)
    assert (found.temperature, found.softcap, found.asked, found.has_loss) == (temperature, softcap, None, True)
    assert model.config._attn_implementation == attends
    if name in {"T5ForConditionalGeneration", "WhisperForConditionalGeneration", "BartForConditionalGeneration"}:
        return
    logits = F.fuse_lm_head(model)(input_ids=torch.full((2, 5), 7)).logits  # a real step goes the same way
    assert isinstance(logits, LazyLogits)
    assert len(logits._deferred.steps) == len(found.steps)
