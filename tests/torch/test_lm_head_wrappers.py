"""Fused heads that something wraps, copies, replaces or shards: PEFT, Accelerate, a new vocabulary, quantisation."""

from __future__ import annotations

import copy
import json
import os

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import crossent.torch as F
from crossent.torch.lm_head import LazyLinear
from tests.torch.lazily import Largest

os.environ["HF_HUB_OFFLINE"] = "1"
import accelerate
import transformers

peft = pytest.importorskip("peft", reason="peft wraps the heads of these tests: pip install peft")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),  # peft's own
]

V, D, BATCH, LENGTH = 307, 32, 3, 20  # so long that the logits are more than the head's weight
LOGITS = BATCH * (LENGTH - 1) * V


def llama(tied=False):
    _ = torch.manual_seed(4)
    sizes = {"vocab_size": V, "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "max_position_embeddings": 32, "initializer_range": 0.3}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))


def with_adapter(model, target=("q_proj", "v_proj"), save=None, name="default"):
    _ = torch.manual_seed(5)
    how = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "init_lora_weights": False}
    config = peft.LoraConfig(target_modules=list(target), modules_to_save=save, task_type="CAUSAL_LM", **how)
    return peft.get_peft_model(model, config, adapter_name=name)


def batch():
    ids = torch.randint(3, V, (BATCH, LENGTH), generator=torch.Generator().manual_seed(6))
    return {"input_ids": ids, "labels": torch.where(ids % 5 == 0, -100, ids)}


def step(model):
    """The loss, the gradients that are there, and whether logits were made."""
    model.train()
    model.zero_grad(set_to_none=True)
    with Largest() as seen:
        loss = model(**batch()).loss
        loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads, seen.elements >= LOGITS


def same_step(model, twin, *, lazy=True):
    (loss, grads, made), (want, wants, _) = step(model), step(twin)
    assert made != lazy
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    assert grads.keys() == wants.keys()
    torch.testing.assert_close(list(grads.values()), list(wants.values()), rtol=1e-4, atol=1e-4)


def kinds(model):
    return {type(module) for module in model.modules() if isinstance(module, nn.Linear)}


ADAPTERS = {
    "inside": {},
    "inside, the head trained too": {"save": ["lm_head"]},
    "everything trained": {"save": ["lm_head", "embed_tokens"]},
}
both_orders = pytest.mark.parametrize("order", ["fused before PEFT", "fused after PEFT"])
adapters = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)


def pair_of(order, **adapter):
    twin = with_adapter(llama(), **adapter)
    if order == "fused before PEFT":
        return with_adapter(F.fuse_lm_head(llama()), **adapter), twin
    return F.fuse_lm_head(copy.deepcopy(twin)), twin


# PEFT


@both_orders
@adapters
def test_an_adapter_inside_the_model(order, adapter):
    model, twin = pair_of(order, **adapter)
    same_step(model, twin)
    assert F.fuse_lm_head(model) is model
    same_step(model, twin)
    with model.disable_adapter(), twin.disable_adapter():  # the original head is the one that multiplies
        got, want = model(**batch()), twin(**batch())
        torch.testing.assert_close(got.loss, want.loss, rtol=1e-5, atol=1e-5)
        assert not got.logits.was_read()
    again = copy.deepcopy(model)
    same_step(again, twin)
    assert F.unfuse_lm_head(model) is model
    assert kinds(model) == kinds(twin)
    assert F.unfuse_lm_head(model) is model
    same_step(model, twin, lazy=False)
    same_step(again, twin)
    same_step(F.fuse_lm_head(model), twin)


@both_orders
@adapters
def test_an_adapter_that_is_merged(order, adapter):
    model, twin = (m.merge_and_unload().requires_grad_(True) for m in pair_of(order, **adapter))
    assert isinstance(model.get_output_embeddings(), LazyLinear)
    assert torch.equal(model.eval()(**batch()).logits, twin.eval()(**batch()).logits)
    same_step(model, twin)
    same_step(F.unfuse_lm_head(model), twin, lazy=False)
    assert kinds(model) == kinds(twin)


@both_orders
def test_several_adapters_with_heads_of_their_own(order):
    model, twin = pair_of(order, save=["lm_head"])
    for m in (model, twin):
        _ = torch.manual_seed(7)
        m.add_adapter("other", m.peft_config["default"])
        with torch.no_grad():
            _ = m.base_model.model.lm_head.modules_to_save["other"].weight.mul_(2)
    losses = []
    for name in ("default", "other", "default"):
        for m in (model, twin):
            m.set_adapter(name)
        same_step(model, twin)
        losses.append(model(**batch()).loss.item())
    assert losses[0] == losses[2] != losses[1]
    _ = F.unfuse_lm_head(model)
    assert kinds(model) == kinds(twin)


@both_orders
def test_the_model_within(order):
    model, twin = pair_of(order, save=["lm_head"])
    inner = model.get_base_model()
    assert F.unfuse_lm_head(inner) is inner
    assert kinds(model) == kinds(twin)
    assert F.fuse_lm_head(inner) is inner
    same_step(model, twin)
    assert F.unfuse_lm_head(inner.lm_head) is inner.lm_head
    assert kinds(model) == kinds(twin)
    assert F.fuse_lm_head(inner.lm_head) is inner.lm_head
    same_step(model, twin)


@both_orders
@adapters
def test_files_are_those_without(order, adapter, tmp_path):
    model, twin = pair_of(order, **adapter)
    assert model.state_dict().keys() == twin.state_dict().keys()
    for name, m in (("fused", model), ("alone", twin)):
        m.save_pretrained(tmp_path / name)
    assert contents(tmp_path / "fused") == contents(tmp_path / "alone")


def contents(folder):
    """What the files of a folder hold; PEFT writes sets as lists, in an order that a copy of a set need not have."""
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    config = json.loads(found["adapter_config.json"])
    return found | {"adapter_config.json": {k: sorted(x) if isinstance(x, list) else x for k, x in config.items()}}


@both_orders
def test_an_adapter_on_the_head(order):
    model, twin = pair_of(order, target=["q_proj", "lm_head"])
    same_step(model, twin)
    assert F.fuse_lm_head(model) is model
    same_step(model, twin)
    with model.disable_adapter(), twin.disable_adapter():
        torch.testing.assert_close(model(**batch()).loss, twin(**batch()).loss, rtol=1e-5, atol=1e-5)
    same_step(*(m.merge_and_unload().requires_grad_(True) for m in (copy.deepcopy(model), copy.deepcopy(twin))))
    assert F.unfuse_lm_head(model) is model
    assert LazyLinear not in kinds(model)
    same_step(model, twin, lazy=False)


def test_a_model_in_a_container():
    twin = llama()
    pair = nn.ModuleDict({"policy": copy.deepcopy(twin), "reference": copy.deepcopy(twin)})
    assert F.fuse_lm_head(pair) is pair
    for model in pair.values():
        same_step(model, twin)
    _ = F.unfuse_lm_head(pair)
    assert kinds(pair) == kinds(twin)


# A new vocabulary


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [V + 5, V - 7, V])
def test_a_vocabulary_of_another_size(tied, size):
    model, twin = F.fuse_lm_head(llama(tied)), llama(tied)
    for m in (model, twin):
        _ = torch.manual_seed(8)
        _ = m.resize_token_embeddings(size, mean_resizing=False)
        same = m.get_input_embeddings().weight is m.get_output_embeddings().weight
        assert same == tied
    assert type(model.lm_head) is LazyLinear
    assert model.state_dict().keys() == twin.state_dict().keys()
    with torch.no_grad():
        _ = [p.copy_(q) for p, q in zip(model.parameters(), twin.parameters(), strict=True)]

    def clamped(m):
        m.zero_grad(set_to_none=True)
        ids = batch()["input_ids"].clamp(max=size - 1)
        with Largest() as seen:
            m(input_ids=ids, labels=ids).loss.backward()
        return [p.grad for p in m.parameters()], seen.elements

    (got, made), (want, _) = clamped(model), clamped(twin)
    assert made < BATCH * (LENGTH - 1) * size
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    _ = F.unfuse_lm_head(model)
    assert kinds(model) == kinds(twin)
    _ = model.resize_token_embeddings(size + 1)
    assert kinds(model) == kinds(twin)


def test_a_vocabulary_that_grows_in_a_loaded_or_copied_model():
    for model in (copy.deepcopy(F.fuse_lm_head(llama())), with_adapter(F.fuse_lm_head(llama()))):
        _ = model.resize_token_embeddings(V + 2)
        assert type(model.get_output_embeddings()) is LazyLinear
        assert F.unfuse_lm_head(model) is model
        assert LazyLinear not in kinds(model)


# Accelerate


@pytest.mark.parametrize("order", ["fused before", "fused after", "unfused after"])
def test_hooks_of_accelerate(order):
    model, twin = llama(), llama()
    if order != "fused after":
        _ = F.fuse_lm_head(model)
    _ = accelerate.hooks.add_hook_to_module(model.lm_head, accelerate.hooks.ModelHook())
    if order == "fused after":
        _ = F.fuse_lm_head(model)
    if order == "unfused after":
        _ = F.unfuse_lm_head(model)
    same_step(model, twin, lazy=order != "unfused after")
    _ = model.resize_token_embeddings(V + 1)  # gives the new head the hook of the old one
    assert isinstance(model(**batch()).logits, Tensor)
    assert (type(model(**batch()).logits) is not Tensor) == (order != "unfused after")
    _ = accelerate.hooks.remove_hook_from_module(model.lm_head)
    assert (type(model(**batch()).logits) is not Tensor) == (order != "unfused after")


def test_a_forward_of_ones_own_is_refused():
    head = nn.Linear(D, V)
    head.forward = lambda x: nnf.linear(x, head.weight) * 2
    with pytest.raises(TypeError, match="forward was replaced"):
        _ = F.fuse_lm_head(head)
    assert type(head) is nn.Linear


# Other kinds of heads


def test_a_head_that_is_sharded_already(ranks):
    ranks.run(1, sharded_head)


def sharded_head(group):
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = DeviceMesh.from_group(group, "cpu")
    for shard in (
        lambda m: fully_shard(m, mesh=mesh),
        lambda m: fully_shard([m.model.norm, m.lm_head], mesh=mesh),
        lambda m: (fully_shard(m.lm_head, mesh=mesh), fully_shard(m, mesh=mesh)),
        lambda m: parallelize_module(m, mesh, {"lm_head": ColwiseParallel()}),
    ):
        model = llama()
        _ = shard(model)
        for what in (model, model.lm_head):
            with pytest.raises(TypeError, match=r"sharded already.*before fully_shard.*linear_cross_entropy"):
                _ = F.fuse_lm_head(what)
    model, twin = F.fuse_lm_head(llama()), llama()
    _ = fully_shard(model.lm_head, mesh=mesh)
    _ = fully_shard(model, mesh=mesh)
    _ = F.fuse_lm_head(model)
    loss = model(**batch()).loss
    torch.testing.assert_close(loss, twin(**batch()).loss, rtol=1e-5, atol=1e-5)
    assert F.unfuse_lm_head(model) is model
    assert type(model.lm_head).__name__ == "FSDPLinear"
    out = model(**batch())
    assert type(out.logits) is Tensor
    out.loss.backward()
    twin(**batch()).loss.backward()
    grads = [p.grad.full_tensor() for p in model.parameters()]
    torch.testing.assert_close(grads, [p.grad for p in twin.parameters()], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_quantisation_says_that_it_leaves_out_a_fused_head():
    quantise = torch.ao.quantization.quantize_dynamic
    model = F.fuse_lm_head(llama())
    with pytest.raises(RuntimeError, match="unfuse_lm_head"):
        _ = quantise(model, {nn.Linear})
    assert not hasattr(model.lm_head, "qconfig")
    twin = quantise(llama(), {nn.Linear})
    quantised = quantise(F.unfuse_lm_head(model), {nn.Linear})
    assert type(quantised.lm_head) is type(twin.lm_head) is not nn.Linear
    assert torch.equal(quantised(**batch()).logits, twin(**batch()).logits)
    with pytest.raises(TypeError, match=r"quantized\.dynamic.*Linear, not a plain torch\.nn\.Linear"):
        _ = F.fuse_lm_head(quantised)


def test_a_parametrised_head_is_unfused():
    head = F.fuse_lm_head(nn.Linear(D, V))
    _ = nn.utils.parametrizations.weight_norm(head)
    assert F.fuse_lm_head(head) is head
    x = torch.randn(3, D)
    assert type(head(x)) is not Tensor
    assert type(F.unfuse_lm_head(head)(x)) is Tensor
    assert type(head).__name__ == "ParametrizedLinear"
    assert isinstance(head, nn.Linear)
    assert not isinstance(head, LazyLinear)
