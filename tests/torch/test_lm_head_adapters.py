"""Fused heads that PEFT adapts, in any order: the losses and gradients of one adapter and of several."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch.lazily import memory_for_logits
from tests.torch.peft_heads import (
    LOGITS,
    VARIANTS,
    D,
    V,
    add,
    batch,
    dtypes,
    llama,
    loss_of,
    orders,
    pair_of,
    peft,
    same_logits,
    same_step,
    step,
    variants,
)
from tests.torch.test_lm_head_wrappers import LENGTH

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),  # peft's own
]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """Half-precision heads keep all logits where they fit."""
    memory_for_logits(monkeypatch, LOGITS // 2)


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


OTHERS = {
    "IA3": lambda: peft.IA3Config(target_modules=["lm_head", "q_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    "LoHa": lambda: peft.LoHaConfig(target_modules=["lm_head"], r=2, task_type="CAUSAL_LM", init_weights=False),
    "LoKr": lambda: peft.LoKrConfig(target_modules=["lm_head"], r=2, task_type="CAUSAL_LM", init_weights=False),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        target_modules=["lm_head"], init_r=3, target_r=2, total_step=10, tinit=1, tfinal=2, task_type="CAUSAL_LM"
    ),
    "OFT": lambda: peft.OFTConfig(target_modules=["lm_head"], oft_block_size=4, task_type="CAUSAL_LM"),
    "LN": lambda: peft.LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM"),
    "VeRA": lambda: peft.VeraConfig(target_modules=["lm_head"], r=3, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("order", ["fused before PEFT", "fused after PEFT"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_to_adapt_a_head_are_refused_or_right(name, order):
    models = []
    for fuse in (True, False):
        model = llama(torch.float32)
        if fuse and order == "fused before PEFT":
            model = F.fuse_lm_head(model)
        _ = torch.manual_seed(5)
        model = peft.get_peft_model(model, OTHERS[name]())
        with torch.no_grad():
            for n, p in model.named_parameters():
                if p.requires_grad:  # not as new ones are, which do nothing
                    _ = p.add_(0.1 * torch.sin(torch.arange(p.numel()).view(p.shape) + len(n)))
        if fuse and order == "fused after PEFT":
            try:
                model = F.fuse_lm_head(model)
            except TypeError as error:
                assert "peft" in str(error)  # noqa: PT017
                return
        models.append(model)
    same_step(*models, lazy=None)
    same_logits(*models)
    assert F.unfuse_lm_head(models[0]) is models[0]
    same_step(*models, lazy=False)


@orders
def test_a_policy_beside_its_reference_without_the_adapter(order):
    """As preference training has both in one model."""
    results = []
    for m in pair_of(order, lora_dropout=0.1):
        _ = m.train().zero_grad()
        _ = torch.manual_seed(11)
        ids = batch()["input_ids"]
        with torch.no_grad(), m.disable_adapter():
            reference = m(input_ids=ids).logits
        policy = m(input_ids=ids).logits
        kl = nnf.kl_div(policy.log_softmax(-1), reference.log_softmax(-1), reduction="batchmean", log_target=True)
        logp, ref = (z.log_softmax(-1).gather(-1, ids[..., None])[..., 0].sum(-1) for z in (policy, reference))
        loss = -nnf.logsigmoid(0.1 * (logp - ref)).mean() + 0.01 * kl
        loss.backward()
        results.append([loss.detach(), *[p.grad for p in m.parameters() if p.grad is not None]])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


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
