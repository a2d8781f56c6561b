"""`kernels.kernelize` puts crossent's losses into models: on its own, and by `set_use_kernels` of transformers."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

from crossent.integrations import transformers as ours
from crossent.integrations.transformers_kernels import CausalLMLoss, MaskedLMLoss, add_loss_layer, kernel_mapping
from crossent.torch import fuse_lm_head
from tests.integrations import families
from tests.torch.lazily import Largest

kernels = pytest.importorskip("kernels", reason="kernels, with the 16 packages that it needs, is no requirement")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # torch's own
]

V, B, T = 331, 3, 17
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
MODES = {
    "training": kernels.Mode.TRAINING,
    "compiled": kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE,
    "inference": kernels.Mode.INFERENCE,
}


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=V, **SIZES))


def masked():
    return families.euro_bert(V)


def batch():
    ids = torch.randint(3, V, (B, T), generator=torch.Generator().manual_seed(4))
    return {"input_ids": ids, "labels": torch.where(ids % 3 == 0, -100, ids), "num_items_in_batch": 29}


def step(model, run=None):
    model.zero_grad(set_to_none=True)
    with Largest() as seen:
        loss = (run or model)(**batch()).loss
        loss.backward()
    return [loss.detach(), *[p.grad for p in model.parameters() if p.grad is not None]], seen.elements


def kernelized(model, mode):
    with kernels.use_kernel_mapping(kernel_mapping()):
        return kernels.kernelize(model, mode=mode, device="cpu", use_fallback=False)


def runs_ours(model):
    return model.loss_function.forward.__func__.__module__ == ours.__name__ + "_kernels" and (
        model.loss_function.forward.__func__ is not type(model.loss_function).forward
    )


@pytest.mark.parametrize(("make", "layer"), [(llama, CausalLMLoss), (masked, MaskedLMLoss)])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_kernelized_model_computes_crossents_loss(make, layer, mode):
    twin = make()
    model = add_loss_layer(copy.deepcopy(twin))
    (want, _), (before, _) = step(twin), step(model)
    assert all(torch.equal(g, w) for g, w in zip(before, want, strict=True))  # transformers' own until then
    assert type(model.loss_function) is layer
    assert not runs_ours(model)
    assert kernelized(model, mode) is model
    assert runs_ours(model)
    torch.testing.assert_close(step(model)[0], want, rtol=1e-5, atol=1e-6)
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert ours.remove_from(model).loss_function is twin.loss_function


def test_with_a_fused_head_it_makes_no_logits():
    twin = llama()
    model = kernelized(add_loss_layer(fuse_lm_head(copy.deepcopy(twin))), kernels.Mode.TRAINING)
    (got, made), (want, logits) = step(model), step(twin)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert made < B * (T - 1) * V <= logits


def test_a_compiled_model_is_one_graph():
    torch.compiler.reset()
    twin = llama()
    model = kernelized(add_loss_layer(copy.deepcopy(twin)), kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE)
    run = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss = run(**batch()).loss
    loss.backward()
    got = [loss.detach(), *[p.grad for p in model.parameters()]]
    torch.testing.assert_close(got, step(twin)[0], rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


def test_functions_and_layers_take_each_others_place():
    model = llama()
    for _ in range(2):
        assert type(add_loss_layer(model).loss_function) is CausalLMLoss
        assert ours.use_in(model).loss_function is ours.causal_lm_loss
    assert type(add_loss_layer(add_loss_layer(model)).loss_function) is CausalLMLoss


def test_a_device_that_the_mapping_lacks_keeps_the_model_as_it_is():
    model = add_loss_layer(llama())
    with kernels.use_kernel_mapping(kernel_mapping(devices=["cuda"])):
        _ = kernels.kernelize(model, mode=kernels.Mode.TRAINING, device="cpu")
    assert not runs_ours(model)


def test_what_transformers_asks_of_the_mapping():
    """Its set_use_kernels registers its own mapping first; no key of it is ours, so that neither hides the other."""
    code = f"""
import transformers.utils.import_utils as known
if not known.is_kernels_available():  # another version than transformers wants: let it try
    known.is_kernels_available = lambda *args: True
import transformers.utils
transformers.utils.is_kernels_available = known.is_kernels_available
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.hub_kernels import get_kernel_mapping_transformers
from kernels import register_kernel_mapping
from crossent.integrations.transformers_kernels import add_loss_layer, kernel_mapping
print(get_kernel_mapping_transformers().keys() & kernel_mapping().keys())
register_kernel_mapping(kernel_mapping())
model = add_loss_layer(LlamaForCausalLM(LlamaConfig(vocab_size=16, **{SIZES!r})))
model.set_use_kernels(True)
print(model.loss_function.forward.__func__.__qualname__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["set()", "_CrossentCausalLMLoss.forward"]


def test_transformers_refuses_other_versions_of_kernels_in_words():
    if transformers.utils.is_kernels_available():
        pytest.skip("this version of kernels is the one that transformers takes")
    with pytest.raises(ValueError, match="Please install a compatible version"):
        llama().set_use_kernels(True)
