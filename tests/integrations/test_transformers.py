"""The losses against those of transformers, and the ways to put them into models and to take them out again."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
import transformers.trainer
from transformers.loss import loss_utils

from crossent.integrations import transformers as ours
from crossent.torch import fuse_lm_head
from tests.integrations import families
from tests.torch.lazily import Largest, memory_for_logits
from tests.torch.plain import FLOOR

pytestmark = pytest.mark.slow  # transformers is

B, T, V, D = 3, 7, 41, 4
CAUSAL, MASKED = loss_utils.ForCausalLMLoss, loss_utils.ForMaskedLMLoss
both = pytest.mark.parametrize(("loss", "rival"), [(ours.causal_lm_loss, CAUSAL), (ours.masked_lm_loss, MASKED)])
SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=V, **SIZES))


def masked_model():
    return families.euro_bert(V)


def batch(shape=(B, T), ignored=-100):
    labels = torch.randint(V, shape)
    return 3 * torch.randn(*shape, V), torch.where(torch.rand(shape) < 0.3, ignored, labels)


def value_and_gradient(loss, logits, *args, **options):
    logits = logits.detach().requires_grad_()
    value = loss(logits, *args, **options)
    return value, *torch.autograd.grad(value, logits)


def same(got, want, floor=1e-6):
    (value, grad), (its, other) = got, want
    assert value.dtype == its.dtype == torch.float32
    assert grad.dtype == other.dtype
    torch.testing.assert_close(value, its, rtol=floor, atol=floor)
    torch.testing.assert_close(grad, other, rtol=floor, atol=floor)


# The losses

OPTIONS = {
    "none": {},
    "a number of items": {"num_items_in_batch": 29},
    "a fraction of items": {"num_items_in_batch": 14.5},
    "items in a tensor": {"num_items_in_batch": torch.tensor(29)},
    "another index": {"ignore_index": 7},
    "both": {"num_items_in_batch": torch.tensor(29.0), "ignore_index": 7},
    "words for others": {"output_attentions": True, "cache_position": None},
}


@both
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", [(B, T), (T,), (2, B, T)])
def test_the_loss_is_that_of_transformers(loss, rival, options, shape):
    logits, labels = batch(shape, options.get("ignore_index", -100))
    same(*(value_and_gradient(f, logits, labels, V, **options) for f in (loss, rival)))


@pytest.mark.parametrize("labels", [None, "kept"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_labels_that_are_shifted_already(labels, options):
    logits, shifted = batch(ignored=options.get("ignore_index", -100))
    labels = None if labels is None else torch.zeros_like(shifted)
    results = [
        value_and_gradient(f, logits, labels, V, shift_labels=shifted, **options) for f in (ours.causal_lm_loss, CAUSAL)
    ]
    same(*results)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_loss_is_float32_whatever_the_logits_are(loss, rival, dtype):
    logits, labels = batch()
    results = [value_and_gradient(f, logits.to(dtype), labels, V) for f in (loss, rival)]
    same(*results, floor=max(FLOOR[dtype], 1e-6))


@both
def test_without_a_label_the_mean_is_nan_and_a_sum_is_zero(loss, rival):
    logits, labels = batch()
    nothing = torch.full_like(labels, -100)
    assert loss(logits, nothing, V).isnan()
    assert rival(logits, nothing, V).isnan()
    assert loss(logits, nothing, V, num_items_in_batch=3) == rival(logits, nothing, V, num_items_in_batch=3) == 0


@both
def test_logits_that_are_not_contiguous(loss, rival):
    logits, labels = batch()
    same(
        value_and_gradient(loss, logits.transpose(0, 1).contiguous().transpose(0, 1), labels, V),
        value_and_gradient(rival, logits, labels, V),
    )


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_lazy_logits_stay_lazy(loss, rival, dtype, monkeypatch):
    memory_for_logits(monkeypatch, B * T * V // 2)
    twin = nn.Linear(D, V, dtype=dtype)
    head, x = fuse_lm_head(copy.deepcopy(twin)), torch.randn(B, T, D, dtype=dtype)
    labels = batch()[1]
    with Largest() as seen:
        value = loss(head(x), labels, V, num_items_in_batch=29)
        value.backward()
    assert seen.elements < B * (T - 1) * V
    exact = copy.deepcopy(twin).double()
    want = rival(exact(x.double()), labels, V, num_items_in_batch=29)
    want.backward()
    assert value.dtype == want.dtype == torch.float32
    torch.testing.assert_close(value, want, rtol=1e-5, atol=1e-6)
    floor = FLOOR[torch.bfloat16] if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(head.weight.grad.double(), exact.weight.grad, rtol=floor, atol=floor)


def test_errors_say_what_is_wrong():
    logits, labels = batch()
    with pytest.raises(ValueError, match="needs labels, or shift_labels; both are None"):
        _ = ours.causal_lm_loss(logits, None, V)
    with pytest.raises(IndexError, match="class 41"):
        _ = ours.masked_lm_loss(logits, torch.full_like(labels, V), V)
    with pytest.raises(ValueError, match="shape"):
        _ = ours.masked_lm_loss(logits, labels[:, 1:], V)


# All models


@pytest.fixture
def untouched():
    """Every loss of transformers is its own before and after."""
    before = dict(loss_utils.LOSS_MAPPING)
    yield
    assert before == loss_utils.LOSS_MAPPING
    assert transformers.trainer.ForCausalLMLoss is loss_utils.ForCausalLMLoss is CAUSAL


def test_all_language_models_change_and_change_back(untouched):
    model, masked = llama(), masked_model()
    before = dict(loss_utils.LOSS_MAPPING)
    _ = ours.enable()
    assert model.loss_function is llama().loss_function is ours.causal_lm_loss
    assert masked.loss_function is ours.masked_lm_loss
    changed = {k for k, loss in loss_utils.LOSS_MAPPING.items() if loss is not before[k]}
    assert changed == {k for k, loss in before.items() if loss in (CAUSAL, MASKED)}
    _ = ours.enable()  # a second time
    ours.disable()
    assert model.loss_function is CAUSAL
    assert masked.loss_function is MASKED
    ours.disable()  # a second time


def test_contexts_restore_what_was(untouched):
    with ours.enable():
        with ours.enable():
            assert llama().loss_function is ours.causal_lm_loss
        assert llama().loss_function is ours.causal_lm_loss
    assert llama().loss_function is CAUSAL
    with pytest.raises(KeyError), ours.enable():
        raise KeyError
    assert llama().loss_function is CAUSAL


def test_a_trainer_counts_labels_as_before(untouched, tmp_path):
    """It compares the mapping with ForCausalLMLoss, which it has imported."""
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    with ours.enable():
        causal, masked = (transformers.Trainer(m, arguments)._loss_shifts_labels for m in (llama(), masked_model()))
    assert (causal, masked) == (True, False)


def test_modules_that_are_imported_meanwhile_change_back():
    code = """
from crossent.integrations import transformers as ours
import sys
with ours.enable():
    assert "transformers.trainer" not in sys.modules
    import transformers.trainer
    assert transformers.trainer.ForCausalLMLoss is ours.causal_lm_loss
print(transformers.trainer.ForCausalLMLoss.__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["transformers.loss.loss_utils"]


def test_importing_the_integration_imports_no_transformers():
    code = "import sys, crossent.integrations.transformers_kernels; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_version_with_other_arguments_is_refused(monkeypatch):
    ours.replacements.cache_clear()
    monkeypatch.setattr(loss_utils, "ForMaskedLMLoss", lambda logits, labels, weights: 0)
    try:
        with pytest.raises(RuntimeError, match=r"of transformers .* takes \(logits, labels, weights\)"):
            _ = ours.enable()
        assert llama().loss_function is CAUSAL
    finally:
        monkeypatch.undo()
        ours.replacements.cache_clear()


# One model


def test_one_model_alone_changes(untouched):
    model, other = ours.use_in(llama()), llama()
    assert model.loss_function is ours.causal_lm_loss
    assert other.loss_function is CAUSAL
    assert ours.use_in(model).loss_function is ours.causal_lm_loss
    assert ours.remove_from(model).loss_function is CAUSAL
    assert ours.remove_from(model) is model


def test_the_loss_of_a_model_goes_where_the_model_goes():
    model = ours.use_in(llama())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.loss_function is ours.causal_lm_loss
    assert model.state_dict().keys() == llama().state_dict().keys()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own
def test_models_inside_others():
    peft = importlib.import_module("peft")
    model = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert ours.use_in(model).base_model.model.loss_function is ours.causal_lm_loss
    assert ours.remove_from(nn.ModuleList([model]))[0].base_model.model.loss_function is CAUSAL


def test_a_loss_function_of_somebody_else_stays():
    def theirs(logits, labels, **options):
        return logits.sum()

    model = llama()
    model.loss_function = theirs
    with pytest.raises(TypeError, match="LlamaForCausalLM contains no causal or masked language model"):
        _ = ours.use_in(model)
    assert ours.remove_from(model).loss_function is theirs


@pytest.mark.parametrize("model", ["classifier", "layer", "name"])
def test_what_has_no_such_loss_is_refused(model):
    config = transformers.BertConfig(vocab_size=V, **SIZES)
    made = {
        "classifier": lambda: transformers.BertForSequenceClassification(config),
        "layer": lambda: nn.Linear(2, 2),
        "name": lambda: "llama",
    }
    with pytest.raises(TypeError, match="causal_lm_loss or masked_lm_loss"):
        _ = ours.use_in(made[model]())
