"""Models of an unmodified transformers train, answer and generate with a fused head as they do without."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import crossent.torch as F
from tests.torch import plain
from tests.torch.lazily import Largest, memory_for_logits

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

pytestmark = pytest.mark.slow

V, D, BATCH, LENGTH = 317, 32, 3, 17  # so long that the logits are more than the head's weight
SMALL = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # logits of some size: with 0.02 no softcap and no scale would matter
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FEWER_KEYS = {"num_key_value_heads": 2}
FAMILIES = {
    "Llama": {},
    "GPT2": {"n_inner": 48, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "Gemma2": {**FEWER_KEYS, "final_logit_softcapping": 2.0, "head_dim": 8, "query_pre_attn_scalar": 8},
    "Qwen2": FEWER_KEYS,
    "Qwen3": {**FEWER_KEYS, "head_dim": 8, "tie_word_embeddings": True},
    "Mistral": {**FEWER_KEYS, "sliding_window": 8},
    "Phi3": FEWER_KEYS,
    "OPT": {"ffn_dim": 48, "dropout": 0.0, "init_std": 0.3, "word_embed_proj_dim": D},
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.5},
    "Olmo2": {},
    "Bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
NAMES = {"GPT2": "GPT2LMHeadModel", "Bert": "BertForMaskedLM"}
CAUSAL = [name for name in FAMILIES if name != "Bert"]
every_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(family, name=None, **options):
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **FAMILIES.get(family, {}), **options})
    return getattr(transformers, name or NAMES.get(family, f"{family}ForCausalLM"))(config)


def pair_of(family, dtype=torch.float32, **options):
    """One with a fused head and one left alone."""
    twin = model_of(family, **options).to(dtype)
    model = copy.deepcopy(twin)
    assert F.fuse_lm_head(model) is model
    return model, twin


def batch_of(family, *, ignore=0.0):
    ids = torch.randint(3, V, (BATCH, LENGTH))
    labels = torch.where(torch.rand(ids.shape) < (0.7 if family == "Bert" else ignore), -100, ids)
    return {"input_ids": ids, "labels": labels}


def step(model, **inputs):
    model.zero_grad(set_to_none=True)
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def same_step(model, twin, **inputs):
    """The loss within 1e-5 and each gradient within 1e-4 of its norm: the rounding of float32."""
    loss, grads = step(model, **inputs)
    want, wants = step(twin, **inputs)
    assert loss.dtype == want.dtype
    assert loss.isfinite()
    assert abs(loss.item() - want.item()) <= 1e-5 * max(1.0, abs(want.item()))
    assert grads.keys() == wants.keys()
    assert all((grads[name] is None) == (wants[name] is None) for name in wants)
    wants = {name: g for name, g in wants.items() if g is not None}
    noise = (
        1e-6 * torch.stack([g.norm() for g in wants.values()]).norm()
    )  # the gradient of a key's bias is exactly zero
    for name, g in wants.items():
        error = (grads[name] - g).norm()
        assert error <= 1e-4 * g.norm() + noise, f"gradient of {name} is off by {error / g.norm():.3g}"


def largest(model, **inputs):
    with Largest() as seen:
        _ = step(model, **inputs)
    return seen.elements


# Training


@every_family
def test_a_training_step_is_the_same(family):
    model, twin = pair_of(family)
    assert model.training
    for ignore in (0.0, 0.4):
        batch = batch_of(family, ignore=ignore)
        same_step(model, twin, **batch)
        same_step(model, twin, **batch, num_items_in_batch=torch.tensor(29))
        same_step(model, twin, **batch, num_items_in_batch=29)
        same_step(model, twin, **batch, attention_mask=(torch.arange(LENGTH) < torch.tensor([[17], [9], [5]])).long())


@every_family
def test_a_training_step_in_bfloat16(family):
    """Off by twice what the model alone is off, at most; the truth is the model in float64."""
    model, twin = pair_of(family, torch.bfloat16)
    batch = batch_of(family, ignore=0.4)
    loss, grads = step(model, **batch)
    rival, rivals = step(twin, **batch)
    exact, exacts = step(copy.deepcopy(twin).double(), **batch)
    plain.agree("loss", loss, exact, rival, plain.FLOOR[torch.bfloat16])
    for name, g in exacts.items():
        assert grads[name].dtype == torch.bfloat16
        if g.norm() > 1e-6:
            plain.agree(f"gradient of {name}", grads[name], g, rivals[name], plain.FLOOR[torch.bfloat16])


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Granite", "Bert"])
def test_the_head_of_a_bfloat16_model_multiplies_in_float32(family):
    model, twin = pair_of(family, torch.bfloat16)
    batch = batch_of(family, ignore=0.4)
    loss, _ = step(model, **batch)
    head = twin.get_output_embeddings()

    def precise(module, args, _):
        bias = None if module.bias is None else module.bias.double()
        return torch.nn.functional.linear(args[0].double(), module.weight.double(), bias)

    rounded, _ = step(twin, **batch)
    with head.register_forward_hook(precise):
        exact, _ = step(twin, **batch)
    assert plain.off(loss, exact) < 1e-5 < plain.off(rounded, exact)


@every_family
def test_no_logits_are_made_in_training(family, monkeypatch):
    bound = BATCH * (LENGTH - 1) * V
    memory_for_logits(monkeypatch, bound // 2)
    for dtype in (torch.float32, torch.bfloat16):
        model, twin = pair_of(family, dtype)
        batch = batch_of(family, ignore=0.2)
        assert largest(model, **batch) < bound <= largest(twin, **batch)
        assert largest(model, **batch, num_items_in_batch=torch.tensor(29)) < bound


def test_memory_of_a_large_vocabulary():
    """Everything that torch allocates is counted here, also what an operator keeps for itself."""
    model, twin = pair_of("Llama", vocab_size=24000, num_hidden_layers=1, max_position_embeddings=1024)
    ids = torch.randint(3, 24000, (2, 1024))
    logits = ids.numel() * 24000 * 4

    def peak(model):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            _ = step(model, input_ids=ids, labels=ids)
        events = sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns())
        changes = torch.tensor([e.nbytes() for e in events if e.name() == "[memory]"])
        return changes.cumsum(0).max().item()

    assert peak(model) < logits / 1.5 < 2 * logits < peak(twin)


def test_training_with_gradient_checkpoints():
    for reentrant in (False, True):
        model, twin = pair_of("Llama")
        for m in (model, twin):
            m.activation_checkpointing_enable({"use_reentrant": reentrant})
        batch = batch_of("Llama")
        if reentrant:
            model.enable_input_require_grads()
            twin.enable_input_require_grads()
        same_step(model, twin, **batch)
        assert largest(model, **batch) < BATCH * (LENGTH - 1) * V <= largest(twin, **batch)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Cohere", "Bert"])
def test_training_under_autocast(family):
    model, twin = pair_of(family)
    batch = batch_of(family, ignore=0.3)
    exact, exacts = step(copy.deepcopy(twin).double(), **batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss, grads = step(model, **batch)
        rival, rivals = step(twin, **batch)
    plain.agree("loss", loss, exact, rival, plain.FLOOR[torch.bfloat16])
    for name, g in exacts.items():
        assert grads[name].dtype == torch.float32
        if g.norm() > 1e-6:
            plain.agree(f"gradient of {name}", grads[name], g, rivals[name], plain.FLOOR[torch.bfloat16])


def test_a_few_steps_of_an_optimiser():
    model, twin = pair_of("GPT2")  # tied
    losses = {}
    batch = batch_of("GPT2")
    for m in (model, twin):
        optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
        losses[m] = []
        for _ in range(5):
            losses[m].append(step(m, **batch)[0].item())
            _ = torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            _ = optimiser.step()
    assert losses[model] == pytest.approx(losses[twin], abs=1e-5)
    assert losses[model][-1] < losses[model][0] - 1


@pytest.mark.parametrize("case", ["GPT2 with two heads", "T5", "Bart with a bias of its own"])
def test_heads_that_do_something_else_with_their_logits(case):
    ids = torch.randint(3, V, (2, 9))
    inputs = {"input_ids": ids, "labels": ids}
    if case.startswith("GPT2"):
        twin = model_of("GPT2", "GPT2DoubleHeadsModel")
        inputs = {"input_ids": ids[:, None], "labels": ids[:, None], "mc_labels": torch.zeros(2, dtype=torch.long)}
    elif case == "T5":
        sizes = {"d_model": D, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
        twin = model_of("T5", "T5ForConditionalGeneration", **sizes, decoder_start_token_id=0)
    else:
        sizes = {"d_model": D, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
        heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "init_std": 0.3}
        twin = model_of("Bart", "BartForConditionalGeneration", **sizes, **heads)
        _ = twin.final_logits_bias.normal_()
    model = F.fuse_lm_head(copy.deepcopy(twin))
    if case.startswith("GPT2"):
        grads = []
        for m in (model, twin):
            out = m(**inputs)
            (out.loss + out.mc_loss).backward()
            grads.append([out.loss.detach(), *[p.grad for p in m.parameters() if p.grad is not None]])
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
    else:
        same_step(model, twin, **inputs)


# Evaluation


@every_family
def test_logits_are_equal_to_the_last_bit(family):
    for dtype in (torch.float32, torch.bfloat16):
        model, twin = pair_of(family, dtype)
        batch = batch_of(family)
        for train in (True, False):
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    got, want = model.train(train)(**batch), twin.train(train)(**batch)
                assert isinstance(got.logits, Tensor)
                assert got.logits.shape == want.logits.shape
                assert got.logits.dtype == want.logits.dtype
                assert got.logits.requires_grad == want.logits.requires_grad
                assert torch.equal(got.logits, want.logits)
        with torch.inference_mode():
            ids = batch["input_ids"]
            assert torch.equal(model(input_ids=ids).logits, twin(input_ids=ids).logits)
            assert torch.equal(model(input_ids=ids, return_dict=False)[0], twin(input_ids=ids, return_dict=False)[0])


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "OPT"])
def test_logits_to_keep(family):
    model, twin = pair_of(family)
    ids = batch_of(family)["input_ids"]
    for keep in (1, 3, torch.tensor([2, 5])):
        got, want = (m(input_ids=ids, logits_to_keep=keep).logits for m in (model, twin))
        assert torch.equal(got, want)


def test_a_loss_of_ones_own_on_the_logits():
    """Distillation and a z-loss from what the model returns, beside its own loss."""
    model, twin = pair_of("Gemma2")
    teacher = torch.randn(BATCH, LENGTH, V).softmax(-1)
    batch = batch_of("Gemma2")
    results = []
    for m in (model, twin):
        out = m(**batch)
        z = out.logits.float()
        own = torch.nn.functional.kl_div(z.log_softmax(-1), teacher, reduction="batchmean")
        loss = out.loss + own + 1e-3 * z.logsumexp(-1).square().mean()
        loss.backward()
        results.append([loss.detach(), *[p.grad for p in m.parameters()]])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


# Generation


@pytest.mark.parametrize("family", CAUSAL)
def test_the_same_tokens_are_generated(family):
    model, twin = (m.eval() for m in pair_of(family))
    ids = torch.randint(3, V, (2, 5))
    options = {"max_new_tokens": 8, "attention_mask": torch.ones_like(ids)}
    searches = [{}, {"repetition_penalty": 1.3}] + [{"num_beams": 3}] * (family in {"Llama", "Gemma2"})
    for search in searches:
        got, want = (m.generate(ids, do_sample=False, **options, **search) for m in (model, twin))
        assert torch.equal(got, want)
    drawn = []
    for m in (model, twin):
        _ = torch.manual_seed(1)
        drawn.append(m.generate(ids, do_sample=True, top_k=20, top_p=0.9, temperature=0.8, **options))
    assert torch.equal(*drawn)


def test_generation_hands_out_logits_and_scores():
    model, twin = (m.eval() for m in pair_of("Llama"))
    ids = torch.randint(3, V, (2, 5))
    options = {"max_new_tokens": 4, "attention_mask": torch.ones_like(ids), "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    got, want = (m.generate(ids, **options) for m in (model, twin))
    assert torch.equal(torch.stack(got.logits), torch.stack(want.logits))
    assert torch.equal(torch.stack(got.scores), torch.stack(want.scores))


def test_assisted_generation():
    model, twin = (m.eval() for m in pair_of("Llama"))
    ids = torch.randint(3, V, (1, 5))
    options = {"max_new_tokens": 8, "attention_mask": torch.ones_like(ids), "do_sample": False}
    want = twin.generate(ids, **options)
    assert torch.equal(model.generate(ids, assistant_model=twin, **options), want)
    assert torch.equal(twin.generate(ids, assistant_model=model, **options), want)


# The model itself


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bert"])
def test_files_are_those_of_the_model_alone(family, tmp_path):
    model, twin = pair_of(family)
    model.save_pretrained(tmp_path / "fused")
    twin.save_pretrained(tmp_path / "alone")
    files = {p.name: p.read_bytes() for p in (tmp_path / "alone").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "fused").iterdir()} == files
    again = type(model).from_pretrained(tmp_path / "fused").train()
    assert type(again.get_output_embeddings()) is torch.nn.Linear
    same_step(F.fuse_lm_head(again), twin, **batch_of(family))


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bert"])
def test_the_model_stays_what_it_was(family):
    model, twin = pair_of(family)
    assert [n for n, _ in model.named_modules()] == [n for n, _ in twin.named_modules()]
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in twin.named_parameters()]
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())
    tied = twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    _ = F.fuse_lm_head(model)  # twice
    same_step(model, twin, **batch_of(family))
    assert F.unfuse_lm_head(model) is model
    assert type(model(**batch_of(family)).logits) is Tensor
    bound = BATCH * (LENGTH - 1) * V
    assert largest(model, **batch_of(family)) >= bound
    model.resize_token_embeddings(V + 3)
    same_step(F.fuse_lm_head(model), F.unfuse_lm_head(copy.deepcopy(model)), **batch_of(family))


def test_models_without_a_linear_head_are_refused():
    trunk = transformers.LlamaModel(transformers.LlamaConfig(**SMALL))
    with pytest.raises((TypeError, ValueError), match=r"head|output|embedding"):
        _ = F.fuse_lm_head(trunk)
    model = model_of("Llama")
    model.set_output_embeddings(torch.nn.Bilinear(D, D, V))
    with pytest.raises(TypeError, match="Linear"):
        _ = F.fuse_lm_head(model)
