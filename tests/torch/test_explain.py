"""What `explain` says of a model is what `fuse_lm_head` does with it."""

from __future__ import annotations

import copy
import importlib
import json
import os

import pytest
import torch
from torch import nn

import crossent.torch as F
from crossent.torch.head_memory import HeadStep, with_crossent, with_logits
from tests.torch.test_linear_products import peak_of
from tests.torch.test_rehearsal import D, Model, V, gemma

os.environ["HF_HUB_OFFLINE"] = "1"


def llama(**options):
    transformers = importlib.import_module("transformers")
    sizes = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "pad_token_id": 0}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **heads, **options}))


def reason_of(model):
    """Why fuse_lm_head refuses a model, or None."""
    try:
        _ = F.fuse_lm_head(model)
    except TypeError as error:
        return str(error)
    return None


def test_the_facts_of_a_head():
    model = Model(gemma, bias=True, shared=True).bfloat16()
    found = F.explain(model, batch=2, length=100)
    (head,) = found.heads
    assert (head.name, head.kind, head.classes, head.features) == ("head", "torch.nn.Linear", V, D)
    assert (head.dtype, head.device, head.trains, head.bias) == (torch.bfloat16, "cpu", True, True)
    assert (head.tied_to, head.adapter, head.quantised, head.sharded) == ("embedding", None, None, None)
    assert head.parameter_bytes == 2 * (V * D + V)
    assert found.fuses
    assert found.saves
    assert (found.logits.softcap, found.logits.source) == (30.0, "a step on the meta device")
    step = HeadStep(200, V, D, torch.bfloat16, tied=True, bias=True, capped=True)
    assert (found.with_logits, found.with_crossent) == (with_logits(step), with_crossent(step))
    text = str(found)
    for said in (
        "head, a torch.nn.Linear",
        "53 classes of 8 features",
        "with a bias",
        "that of embedding",
        "softcap 30",
    ):
        assert said in text
    assert "2 × 100 = 200 rows, bfloat16, on cpu" in text


def test_nothing_of_the_model_changes():
    model = Model(bias=True)
    before, numbers = copy.copy(vars(model.head)), copy.deepcopy(model.state_dict())
    _ = F.explain(model)
    assert type(model.head) is nn.Linear
    assert vars(model.head).keys() == before.keys()
    torch.testing.assert_close(model.state_dict(), numbers, rtol=0, atol=0)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_a_parametrized_head_is_not_computed(norm):
    """In training the power iteration of a spectral norm makes a step each time the weight is read."""
    model = Model()
    model.head = norm(model.head)
    numbers = copy.deepcopy(model.state_dict())
    (head,) = F.explain(model).heads
    assert (head.classes, head.features, head.dtype) == (V, D, torch.float32)
    torch.testing.assert_close(model.state_dict(), numbers, rtol=0, atol=0)


@pytest.mark.parametrize("change", [lambda z: z.exp(), lambda z: z.sigmoid() + 1])
def test_a_model_that_asks_for_its_logits_saves_nothing(change):
    found = F.explain(Model(change))
    assert found.fuses
    assert not found.saves
    assert "all of them are computed: " in str(found)
    assert "linear loss" in str(found)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: nn.Embedding(3, 4), "no module in Embedding has get_output_embeddings()"),
        (lambda: nn.Sequential(nn.Linear(3, 4)), "no module in Sequential"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), "ParametrizedLinear"),
    ],
)
def test_the_reason_is_that_of_fuse_lm_head(make, why):
    found, reason = F.explain(make()), reason_of(make())
    assert found.why_not == reason
    assert reason is None or why in reason  # fuse_lm_head may learn to
    assert ("cannot fuse it: " in str(found)) == (reason is not None)


def test_a_model_that_does_not_run_on_the_meta_device_is_read_in_its_configuration():
    class Config:
        final_logit_softcapping, logits_scaling = 20.0, 2.0

        def to_dict(self):
            return {}

    def looks(z):
        return gemma(z) if bool(torch.ones((), device=z.device).item()) else z

    model = Model(looks)
    found = F.explain(model)
    assert found.fuses
    assert found.logits.source == "nothing"
    assert "unknown: Model does not run on the meta device (RuntimeError" in str(found)
    model.config = Config()
    found = F.explain(model)
    assert (found.logits.source, found.logits.softcap, found.logits.temperature) == ("the configuration", 20.0, 2.0)
    assert "divided by 2, softcap 20 (read in the configuration: Model does not run" in str(found)


@pytest.mark.parametrize("fused", [False, True])
def test_a_model_that_cannot_be_copied_is_fused_and_taken_back(fused):
    class Single(Model):
        def __deepcopy__(self, memo):
            raise AssertionError("there is one of me")

    model = Single()
    _ = F.fuse_lm_head(model) if fused else None
    kind = type(model.head)
    found = F.explain(model)
    assert found.fuses
    assert found.logits.why_no_step == "Single cannot be copied (AssertionError: there is one of me)"
    assert type(model.head) is kind


def test_a_fused_model_is_explained_as_before():
    model = Model(gemma)
    before = F.explain(model)
    after = F.explain(F.fuse_lm_head(model))
    assert (after.logits, after.with_crossent, after.saves) == (before.logits, before.with_crossent, True)


def test_another_dtype_means_autocast():
    found = F.explain(Model(), dtype=torch.bfloat16, batch=1, length=64)
    assert found.dtype == torch.bfloat16
    assert found.with_logits == with_logits(HeadStep(64, V, D, torch.bfloat16, weight_dtype=torch.float32))


def test_a_model_without_memory_may_be_meant_for_a_gpu():
    with torch.device("meta"):
        model = Model()
    here, there = F.explain(model, device="cpu"), F.explain(model, device=torch.device("cuda", 3))
    assert (here.device, there.device, F.explain(Model()).device) == ("cpu", "cuda", "cpu")
    assert here.heads[0].device == "meta"


def test_it_is_data():
    found = F.explain(Model(gemma))
    data = json.loads(json.dumps(found.to_dict()))
    assert (data["heads"][0]["dtype"], data["dtype"], data["fuses"], data["saves"]) == (
        "float32",
        "float32",
        True,
        True,
    )
    assert found.with_crossent is not None
    assert data["with_crossent"]["peak_bytes"] == found.with_crossent.peak_bytes
    assert data["logits"]["steps"] == ["div 30.0", "tanh", "mul 30.0"]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"batch": 0}, ValueError, "batch must be a positive integer, got 0"),
        ({"length": 1.5}, ValueError, "length must be a positive integer, got 1.5"),
        (
            {"dtype": torch.int64},
            TypeError,
            "dtype must be a floating-point dtype such as torch.bfloat16, got torch.int64",
        ),
        ({"device": "meta"}, ValueError, "no plan for a device of kind 'meta'"),
    ],
)
def test_what_cannot_be_explained(arguments, error, said):
    with pytest.raises(error, match=said):
        _ = F.explain(Model(), **arguments)


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"explain takes a torch\.nn\.Module, got a dict"):
        _ = F.explain({})


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_a_small_llama_takes_what_is_said(fused):
    """A trunk of one layer beside a head of many classes; a frozen embedding adds no gradient of its own."""
    classes, length = 16_000, 512
    model = llama(vocab_size=classes)
    _ = model.get_input_embeddings().requires_grad_(False)
    found = F.explain(model, batch=1, length=length)
    memory = found.with_crossent if fused else found.with_logits
    assert memory is not None
    _ = F.fuse_lm_head(model) if fused else None
    ids = torch.randint(classes, (1, length))

    def step() -> None:
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()

    step()
    model.zero_grad(set_to_none=True)
    assert memory.peak_bytes == pytest.approx(peak_of(step), rel=0.15)


# Heads in other hands


def sharded(group):
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh, found = DeviceMesh.from_group(group, "cpu"), []
    for fuses_first in (True, False):
        model = F.fuse_lm_head(Model()) if fuses_first else Model()
        fully_shard(model, mesh=mesh)
        kind = type(model.head)
        said = F.explain(model)
        assert type(model.head) is kind
        found.append((said.fuses, said.saves, said.heads[0].sharded, said.heads[0].classes, said.why_not))
    return found


@pytest.mark.slow
def test_a_model_in_shards_of_fsdp2(ranks):
    ((first, late),) = ranks.run(1, sharded)
    assert first == (True, True, "DTensor", V, None)
    assert late[:4] == (False, False, "DTensor", V)
    assert "call fuse_lm_head before fully_shard" in late[4]


def test_a_head_whose_weight_zero_frees():
    model = Model()
    for number, x in enumerate(model.parameters()):
        x.ds_id = number
    found = F.explain(model)
    assert found.fuses
    assert not found.saves
    assert "DeepSpeed ZeRO-3 frees the head's weight before the loss" in str(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
def test_an_adapter_on_the_head():
    peft = importlib.import_module("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(llama(), config)
    found = F.explain(model)
    (head,) = found.heads
    assert (head.adapter, head.trains, head.classes, head.features) == ("default", False, V, 32)
    assert head.name == "base_model.model.lm_head"
    assert "adapted by default" in str(found)
    assert type(model.base_model.model.lm_head) is peft.tuners.lora.layer.Linear
    assert found.why_not == reason_of(model)


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
def test_a_step_with_an_adapter_on_its_head_takes_what_is_said(fused):
    peft = importlib.import_module("peft")
    classes, length = 16_000, 512
    config = peft.LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM", r=2)
    model = peft.get_peft_model(llama(vocab_size=classes), config)
    found = F.explain(model, batch=1, length=length)
    assert found.saves
    memory = found.with_crossent if fused else found.with_logits
    assert memory is not None
    _ = F.fuse_lm_head(model) if fused else None
    ids = torch.randint(classes, (1, length))

    def step() -> None:
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()

    step()
    model.zero_grad(set_to_none=True)
    assert memory.peak_bytes == pytest.approx(peak_of(step), rel=0.15)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
def test_copies_of_a_head():
    peft = importlib.import_module("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    found = F.explain(peft.get_peft_model(llama(), config))
    assert [head.trains for head in found.heads] == [False, True]
    assert found.saves


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_quantised_head():
    quantization = pytest.importorskip("torchao.quantization")
    model = llama()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig(), filter_fn=lambda m, _: m is model.lm_head)
    found = F.explain(model)
    (head,) = found.heads
    assert head.quantised == type(model.lm_head.weight).__name__
    assert (head.classes, head.features, found.dtype) == (V, 32, torch.float32)
    assert found.with_logits is not None
    assert found.why_not == reason_of(model)
