"""Fused heads that PEFT adapts: in any order, with any adapter, numbers and files are those of PEFT alone."""

from __future__ import annotations

import contextlib
import copy
import os

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import crossent.torch as F
from crossent.torch.lm_head import LazyLinear
from tests.torch import plain
from tests.torch.test_low_rank_memory import LargestMade

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

peft = pytest.importorskip("peft", reason="peft adapts the heads of these tests: pip install peft")

from tests.torch.test_lm_head_wrappers import BATCH, LENGTH, LOGITS, D, V, batch, contents, kinds  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),  # peft's own
]
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


# One adapter


@orders
@variants
@dtypes
def test_an_adapter_on_the_head(dtype, variant, order):
    how = VARIANTS[variant]
    model, twin = pair_of(order, dtype, **how)
    assert any(n.endswith("lm_head.lora_B.default.weight") for n, _ in model.named_parameters())
    same_step(model, twin)
    same_step(model, twin)  # again: nothing is kept from the first
    same_logits(model, twin)
    same_step(copy.deepcopy(model), twin)
    assert F.fuse_lm_head(model) is model
    same_step(model, twin)


@orders
@pytest.mark.parametrize("how", [{}, {"lora_dropout": 0.3}, {"lora_bias": True}], ids=["LoRA", "dropout", "bias in B"])
def test_a_head_with_a_bias(how, order):
    model, twin = pair_of(order, base={"bias": True}, **how)
    same_step(model, twin)
    for m in (model, twin):  # the head itself trained too
        for name, p in m.named_parameters():
            _ = p.requires_grad_("lm_head" in name)
    same_step(model, twin)
    assert any(n.endswith("base_layer.bias") for n in step(model)[1])


@orders
def test_no_copy_of_the_weight_is_made(order):
    model, _ = pair_of(order, torch.float32)
    _, grads, made, _ = step(model)
    assert not any("base_layer.weight" in n for n in grads)
    assert made < V * D < LOGITS


@orders
@dtypes
def test_dora_is_never_wrong(dtype, order):
    try:
        model, twin = pair_of(order, dtype, use_dora=True)
    except TypeError as error:
        assert "DoRA" in str(error) or "Dora" in str(error)  # noqa: PT017
        return
    same_step(model, twin, lazy=None)
    same_logits(model, twin)
    with model.disable_adapter(), twin.disable_adapter():
        same_logits(model, twin)
    for m in (model, twin):
        m.merge_adapter()
    same_logits(model, twin)
    for m in (model, twin):
        m.unmerge_adapter()
    same_step(model, twin, lazy=None)


@orders
def test_loss_options_of_transformers(order):
    model, twin = pair_of(order, torch.float32)
    same_step(model, twin, **batch(), num_items_in_batch=torch.tensor(29))
    mask = (torch.arange(LENGTH) < torch.tensor([[17], [9], [5]])).long()
    same_step(model, twin, **batch(), attention_mask=mask)
    ids = batch()["input_ids"]
    for m in (model, twin):
        m.train()
    results = []
    for m in (model, twin):  # a loss of ones own on the logits
        m.zero_grad(set_to_none=True)
        z = m(input_ids=ids).logits
        logp = z[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
        (logp.mean() + z.logsumexp(-1).square().mean()).backward()
        results.append([p.grad for p in m.parameters() if p.grad is not None])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@orders
def test_a_few_steps_of_an_optimiser(order):
    """What an optimiser writes to A and B is read by the next step: nothing is merged and kept."""
    losses = []
    for m in pair_of(order, lora_dropout=0.1):
        optimiser, found = torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.02), []
        for _ in range(5):
            found.append(step(m)[0].item())
            _ = optimiser.step()
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)
    assert losses[0][-1] < losses[0][0] - 0.5


# Several adapters


@orders
def test_several_adapters_switched_together_and_deleted(order):
    model, twin = pair_of(order)
    add("second", (model, twin), r=3, lora_alpha=5)
    add("third", (model, twin), seed=9, r=2, target_modules=["q_proj"])  # not on the head
    add("fourth", (model, twin), seed=10, r=2, lora_dropout=0.3, target_modules=["lm_head"])
    losses = []
    for active in ("default", "second", "third", ["default", "second"], ["second", "third", "fourth"], "default"):
        for m in (model, twin):
            if isinstance(active, str):
                m.set_adapter(active)
            else:
                m.base_model.set_adapter(active)
        same_step(model, twin)
        losses.append(round(step(model)[0].item(), 9))
    assert losses[0] == losses[-1]
    assert len(set(losses)) == 5
    for m in (model, twin):
        m.delete_adapter("second")
    same_step(model, twin)
    for m in (model, twin):
        m.add_weighted_adapter(["default", "fourth"], [0.7, 0.4], "mixed", combination_type="cat")
        m.set_adapter("mixed")
    same_step(model, twin)


@orders
def test_adapters_are_added_up_not_the_last_alone(order):
    model, _ = pair_of(order)
    add("second", (model,), r=3, target_modules=["lm_head"])
    found = {}
    for active in (["default"], ["second"], ["default", "second"]):
        model.base_model.set_adapter(active)
        found[tuple(active)] = step(model)[0].item()
    assert len(set(found.values())) == 3
    grads = step(model)[1]
    assert {n.split(".")[-2] for n in grads if "lm_head" in n} == {"default", "second"}


@orders
def test_a_scale_that_changes(order):
    model, twin = pair_of(order)
    for m in (model, twin):
        m.base_model.model.lm_head.set_scale("default", 0.3)
    same_step(model, twin)
    for m in (model, twin):
        m.base_model.model.lm_head.scale_layer(2.0)
    same_step(model, twin)


@orders
def test_disabled_adapters(order):
    model, twin = pair_of(order)
    before = step(model)[0]
    with model.disable_adapter(), twin.disable_adapter():
        got, want = loss_of(model), loss_of(twin)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=0)
        assert not torch.equal(want, before)
        same_logits(model, twin)
    same_step(model, twin)
    base = llama()
    with model.disable_adapter():
        torch.testing.assert_close(loss_of(model), loss_of(base), rtol=1e-11, atol=0)
    with peft.helpers.rescale_adapter_scale(model, 0.5), peft.helpers.rescale_adapter_scale(twin, 0.5):
        same_step(model, twin)
    same_step(model, twin)


@orders
def test_adapters_of_each_sample_in_evaluation(order):
    model, twin = (m.eval() for m in pair_of(order))
    add("second", (model, twin), r=3)
    names = ["default", "second", "__base__"]
    for m in (model, twin):
        _ = m.eval()
    with torch.no_grad():
        losses = [loss_of(m, **batch(), adapter_names=names) for m in (model, twin)]
        got, want = (m(**batch(), adapter_names=names).logits + 0 for m in (model, twin))
    torch.testing.assert_close(*losses, rtol=1e-11, atol=0)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


# Merged


@orders
@pytest.mark.parametrize("how", [{}, {"use_rslora": True, "lora_dropout": 0.3}], ids=["LoRA", "rsLoRA with dropout"])
def test_merged_and_unmerged(how, order):
    """Merged, A and B do nothing; a weight from before must not be used."""
    model, twin = pair_of(order, **how)
    add("second", (model, twin), r=3)
    for m in (model, twin):
        m.base_model.set_adapter(["default", "second"])
    same_step(model, twin)
    for merged in (["default"], ["default", "second"], None):
        for m in (model, twin):
            m.merge_adapter(merged)
        same_logits(model, twin)
        with torch.no_grad():
            got, want = loss_of(model), loss_of(twin)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=0)
        results = []  # the trunk's adapters are merged too: a gradient by the features is all that there is
        for m in (model, twin):
            embeds = m.get_input_embeddings()(batch()["input_ids"]).detach().requires_grad_()
            loss = loss_of(m, inputs_embeds=embeds, labels=batch()["labels"])
            results.append(torch.autograd.grad(loss, embeds)[0])
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-13)
        for m in (model, twin):
            m.unmerge_adapter()
        same_step(model, twin)


@orders
def test_merged_then_trained_otherwise(order):
    """Optimisers step between: what is merged is the weight of then."""
    model, twin = pair_of(order)
    for m in (model, twin):
        m.merge_adapter()
        m.unmerge_adapter()
        _ = step(m)
        _ = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1).step()
    same_step(model, twin)
    for m in (model, twin):
        m.merge_adapter(safe_merge=True)
    same_logits(model, twin)
    with model.disable_adapter(), twin.disable_adapter():
        same_logits(model, twin)  # PEFT unmerges
    same_step(model, twin)


@orders
@pytest.mark.parametrize("how", [{}, {"lora_dropout": 0.3}, {"modules_to_save": ["embed_tokens"]}], ids=str)
@pytest.mark.parametrize("unload", ["merge_and_unload", "unload"])
def test_unloaded_it_is_an_ordinary_head_that_stays_fused(unload, how, order):
    model, twin = (getattr(m, unload)().requires_grad_(True) for m in pair_of(order, **how))
    assert isinstance(model.lm_head, LazyLinear)
    assert type(twin.lm_head) is nn.Linear
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert all(torch.equal(x, twin.state_dict()[n]) for n, x in model.state_dict().items())
    same_step(model, twin)
    same_logits(model, twin)
    assert F.unfuse_lm_head(model) is model
    assert kinds(model) == kinds(twin)
    same_step(model, twin, lazy=False)


# Taken back, written, copied


@orders
@variants
def test_unfused(variant, order):
    model, twin = pair_of(order, **VARIANTS[variant])
    same_step(model, twin)
    assert F.unfuse_lm_head(model) is model
    assert {type(m) for m in model.modules()} == {type(m) for m in twin.modules()}
    assert all("forward" not in vars(m) for m in model.modules())
    assert [n for n, _ in model.named_modules()] == [n for n, _ in twin.named_modules()]
    same_step(model, twin, lazy=False)
    assert type(model(**batch()).logits) is Tensor
    assert F.unfuse_lm_head(model) is model
    same_step(F.fuse_lm_head(model), twin)


@orders
def test_every_way_to_name_the_head(order):
    model, twin = pair_of(order)
    for what in (model.base_model, model.get_base_model(), model.base_model.model.lm_head):
        assert F.unfuse_lm_head(what) is what
        same_step(model, twin, lazy=False)
        assert F.fuse_lm_head(what) is what
        same_step(model, twin)


@orders
@variants
def test_files_are_those_without(variant, order, tmp_path):
    model, twin = pair_of(order, **VARIANTS[variant])
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in twin.named_parameters()]
    assert list(model.state_dict()) == list(twin.state_dict())
    assert all(torch.equal(x, twin.state_dict()[n]) for n, x in model.state_dict().items())
    for name, m in (("fused", model), ("alone", twin)):
        m.save_pretrained(tmp_path / name)
    assert contents(tmp_path / "fused") == contents(tmp_path / "alone")
    for base in (llama(), F.fuse_lm_head(llama())):
        again = peft.PeftModel.from_pretrained(base, tmp_path / "fused", is_trainable=True)
        same_step(F.fuse_lm_head(again), twin)
    other = adapted(F.fuse_lm_head(llama()), target_modules=["q_proj"])
    _ = other.load_adapter(tmp_path / "fused", "loaded", is_trainable=True)
    other.set_adapter("loaded")
    got, want = loss_of(other.train()), loss_of(twin.train())
    if not VARIANTS[variant].get("lora_dropout"):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=0)


@orders
def test_a_state_is_loaded(order):
    model, twin = pair_of(order)
    state = {n: x * 1.5 for n, x in twin.state_dict().items()}
    for m in (model, twin):
        _ = m.load_state_dict(state)
    same_step(model, twin)


@orders
def test_a_copy_has_parameters_of_its_own(order):
    model, twin = pair_of(order)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for n, p in other.named_parameters():
            if "lora_B" in n:
                _ = p.zero_()
    same_step(model, twin)
    assert step(other)[0] != step(model)[0]
    assert F.unfuse_lm_head(other) is other
    same_step(model, twin)


def test_a_file_of_the_whole_model(tmp_path):
    model, twin = pair_of("fused after PEFT", torch.float32)
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    same_step(again, twin)


# Heads that are tied, resized, of half precision


@orders
@pytest.mark.parametrize(
    "how",
    [{}, {"modules_to_save": ["embed_tokens"]}, {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
     {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5, 9]}],
    ids=["head", "embedding saved", "embedding adapted too", "trainable tokens of both"],
)  # fmt: skip
def test_a_tied_embedding(how, order):
    model, twin = pair_of(order, base={"tied": True}, **how)
    same_step(model, twin)
    same_logits(model, twin)
    assert F.unfuse_lm_head(model) is model
    same_step(model, twin, lazy=False)


@orders
def test_the_gradient_of_both_uses_of_a_tied_embedding(order):
    """Where the weight learns beside the adapter, it gets that of the lookup and that of the head."""
    model, twin = (m.requires_grad_(True) for m in pair_of(order, base={"tied": True}))
    same_step(model, twin)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [V + 5, V - 7])
def test_a_vocabulary_of_another_size_before_the_adapter(size, tied):
    models = []
    for fused in (True, False):
        model = llama(tied=tied)
        model = F.fuse_lm_head(model) if fused else model
        _ = torch.manual_seed(8)
        _ = model.resize_token_embeddings(size, mean_resizing=False)
        models.append(adapted(model))
    ids = batch()["input_ids"].clamp(max=size - 1)
    for m in models:
        state = {n: torch.linspace(-0.3, 0.3, p.numel()).view(p.shape).sin() for n, p in m.state_dict().items()}
        _ = m.load_state_dict(state)
    same_step(*models, lazy=None, input_ids=ids, labels=ids)
    _, _, made, _ = step(models[0], input_ids=ids, labels=ids)
    assert made < BATCH * (LENGTH - 1) * size


@orders
@pytest.mark.parametrize("how", [{}, {"lora_dropout": 0.3}, {"use_rslora": True}], ids=["LoRA", "dropout", "rsLoRA"])
def test_float32_adapters_on_a_bfloat16_head(how, order):
    """Off by twice what PEFT alone is off, at most; the truth is the model in float64."""
    model, twin = pair_of(order, torch.bfloat16, **how)
    exact = copy.deepcopy(twin).double()
    assert {p.dtype for n, p in twin.named_parameters() if "lora" in n} == {torch.float32}
    (loss, grads, made, _), (rival, rivals, *_), (want, wants, *_) = step(model), step(twin), step(exact)
    assert made < LOGITS
    assert grads.keys() == wants.keys()
    if "lora_dropout" in how:  # the generator draws other numbers for another dtype
        return
    plain.agree("loss", loss, want, rival, plain.FLOOR[torch.bfloat16])
    for name, g in wants.items():
        assert grads[name].dtype == torch.float32
        plain.agree(f"the gradient of {name}", grads[name], g, rivals[name], plain.FLOOR[torch.bfloat16])


@orders
def test_dropout_on_a_bfloat16_head_draws_the_numbers_of_peft(order):
    model, twin = pair_of(order, torch.bfloat16, lora_dropout=0.5)
    (loss, grads, _, left), (want, wants, _, rest) = step(model), step(twin)
    assert torch.equal(left, rest)
    plain.agree("loss", loss, want, None, plain.FLOOR[torch.bfloat16])
    for name, g in wants.items():
        plain.agree(f"the gradient of {name}", grads[name], g, None, 4 * plain.FLOOR[torch.bfloat16])


@orders
def test_under_autocast(order):
    model, twin = pair_of(order, torch.float32)
    want, wants, *_ = step(copy.deepcopy(twin).double())
    with torch.autocast("cpu", torch.bfloat16):
        (loss, grads, made, _), (rival, rivals, *_) = step(model), step(twin)
    assert made < LOGITS
    plain.agree("loss", loss, want, rival, plain.FLOOR[torch.bfloat16])
    for name, g in wants.items():
        assert grads[name].dtype == torch.float32
        plain.agree(f"the gradient of {name}", grads[name], g, rivals[name], plain.FLOOR[torch.bfloat16])


@orders
def test_gradient_checkpoints(order):
    model, twin = pair_of(order, lora_dropout=0.2)
    for m in (model, twin):
        m.enable_input_require_grads()
        m.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    same_step(model, twin)


# Evaluation and generation


@orders
@pytest.mark.parametrize("state", ["active", "two active", "merged", "disabled"])
def test_the_same_tokens_are_generated(state, order):
    model, twin = (m.eval() for m in pair_of(order))
    ids = torch.randint(3, V, (2, 5))
    if state == "two active":
        add("second", (model, twin), r=3)
        for m in (model, twin):
            m.base_model.set_adapter(["default", "second"])
            _ = m.eval()
    if state == "merged":
        for m in (model, twin):
            m.merge_adapter()
    with contextlib.ExitStack() as stack:
        for m in (model, twin) if state == "disabled" else ():
            stack.enter_context(m.disable_adapter())
        options = {"max_new_tokens": 8, "attention_mask": torch.ones_like(ids), "do_sample": False}
        for search in ({}, {"num_beams": 3}, {"repetition_penalty": 1.3}):
            got, want = (m.generate(input_ids=ids, **options, **search) for m in (model, twin))
            assert torch.equal(got, want)
    if state == "active":
        same_step(model, twin)


@orders
def test_evaluation_reads_the_loss_without_logits(order):
    model, twin = (m.eval() for m in pair_of(order))
    with torch.no_grad(), LargestMade(*model.parameters(), *model.buffers()) as seen:
        loss = loss_of(model)
    torch.testing.assert_close(loss, loss_of(twin).detach(), rtol=1e-11, atol=0)
    assert seen.elements < LOGITS


@orders
@pytest.mark.parametrize("keep", [1, 3])
def test_logits_to_keep(keep, order):
    model, twin = pair_of(order)
    same_logits(model, twin, input_ids=batch()["input_ids"], logits_to_keep=keep)


@orders
def test_an_optimiser_that_steps_before_logits_are_read(order):
    """They cannot be read, or are those of the adapter that there was."""
    model, twin = pair_of(order)
    for name in ("lora_A", "lora_B"):
        z, want = (m.train()(input_ids=batch()["input_ids"]).logits for m in (model, twin))
        for m in (model, twin):
            with torch.no_grad():
                _ = getattr(m.base_model.model.lm_head, name)["default"].weight.mul_(2)
        with contextlib.suppress(RuntimeError):
            torch.testing.assert_close(z + 0, want, rtol=1e-11, atol=1e-11)
        same_step(model, twin)
