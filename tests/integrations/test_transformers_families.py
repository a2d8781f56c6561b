"""Every family of transformers trains with a fused head to its own losses and gradients, and makes no logits."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_pt_utils import LabelSmoother

from crossent.integrations import transformers as ours
from crossent.torch import fuse_lm_head
from tests.integrations import families
from tests.torch.lazily import Largest

pytestmark = pytest.mark.slow

every_family = pytest.mark.parametrize("name", families.ALL)


def own(model, inputs):
    return model(**inputs).loss


def shared(model, inputs):
    """What Trainer computes where several batches make a step."""
    return model(**inputs, num_items_in_batch=torch.tensor(29)).loss


def smoothed(model, inputs):
    """What Trainer computes with a label smoothing factor: it calls causal models without labels, others with them."""
    causal = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    out = model(**{k: x for k, x in inputs.items() if not causal or k != "labels"})
    return LabelSmoother(epsilon=0.1)(out, inputs["labels"], shift_labels=causal, num_items_in_batch=29)


def step(model, loss_of, name):
    """The loss, the gradients, and the largest tensor that was made."""
    model.zero_grad(set_to_none=True)
    inputs = families.inputs_of(name)
    with Largest() as seen:
        loss = loss_of(model, inputs)
        loss.backward()
    return loss.detach(), {k: p.grad for k, p in model.named_parameters()}, seen.elements


def same(got, want):
    (loss, grads, _), (its, wants, _) = got, want
    assert loss.dtype == its.dtype
    assert abs(loss - its) <= 1e-5 * max(1.0, abs(its))
    assert [k for k, g in grads.items() if g is None] == [k for k, g in wants.items() if g is None]
    wants = {k: g for k, g in wants.items() if g is not None}
    noise = 1e-6 * torch.stack([g.norm() for g in wants.values()]).norm()  # of gradients that are zero but for rounding
    for k, g in wants.items():
        assert (grads[k] - g).norm() <= 1e-5 * g.norm() + noise, k


@every_family
@pytest.mark.parametrize("losses", [nullcontext, ours.enable], ids=["transformers' losses", "crossent's losses"])
@pytest.mark.parametrize("loss_of", [own, shared, smoothed])
def test_a_step_is_the_same_and_makes_no_logits(name, losses, loss_of):
    if loss_of is shared and name in families.OWN_LOSS:
        loss_of = own  # they take no number of items, and Trainer passes them none
    twin = families.model_of(name)
    model = fuse_lm_head(copy.deepcopy(twin))
    logits = families.BATCH * (families.LENGTH - 1) * families.classes_of(model)
    want = step(twin, loss_of, name)
    with losses():
        got = step(model, loss_of, name)
    same(got, want)
    assert got[2] < logits <= want[2]


@every_family
def test_crossents_losses_of_logits_that_exist(name):
    twin = families.model_of(name)
    want = step(twin, own, name)
    with ours.enable():
        same(step(twin, own, name), want)


@pytest.mark.parametrize("name", [name for name in families.ALL if name not in families.OWN_LOSS])
def test_a_model_is_given_its_loss(name):
    """Each loss is the model's own kind: masked ones are not shifted."""
    model = families.model_of(name)
    want = step(model, own, name)
    its = model.loss_function
    assert ours.use_in(model) is model
    assert model.loss_function is (ours.masked_lm_loss if name == "EuroBert" else ours.causal_lm_loss)
    same(step(model, own, name), want)
    assert ours.remove_from(model).loss_function is its


@pytest.mark.parametrize("name", families.OWN_LOSS)
def test_a_model_that_computes_its_loss_itself_is_refused(name):
    with pytest.raises(TypeError, match=r"computes its loss itself .*fuse_lm_head\(model\) alone"):
        _ = ours.use_in(families.model_of(name))
