"""The Trainer of transformers logs the same losses with fused heads and crossent's losses as without, and no logits."""

from __future__ import annotations

import copy

import pytest
import torch

from crossent.integrations import transformers as ours
from crossent.torch import fuse_lm_head
from crossent.torch.lazy.logits import LazyLogits
from tests.integrations import families
from tests.torch.lazily import Largest
from tests.torch.test_lm_head_trainer import V, examples, llama, quiet, same_runs, trained

__all__ = ["quiet"]  # a fixture of every test here

# torch's own: inductor is imported, and Dynamo looks at the tensors that cross a break of its graph
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

OPTIONS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "accumulation and smoothing": {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1},
    "compiled, with accumulation": {
        "torch_compile": True, "torch_compile_backend": "aot_eager", "gradient_accumulation_steps": 2,
    },
}  # fmt: skip
WAYS = {
    "a fused head": (fuse_lm_head,),
    "a fused head and crossent's loss": (fuse_lm_head, ours.use_in),
    "crossent's loss of logits": (ours.use_in,),
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def masked():
    return families.euro_bert(V)


def model_for(make, options):
    """A model of one layer where it is compiled, which takes long."""
    return make(layers=1) if make is llama and "torch_compile" in options else make()


def changed(model, way):
    for change in way:
        model = change(model)
    return model


@pytest.fixture
def reads(monkeypatch):
    """What shapes of logits somebody has read."""
    shapes = []
    numbers = LazyLogits.numbers

    def seen(logits):
        shapes.append(logits._deferred.shape)
        return numbers(logits)

    monkeypatch.setattr(LazyLogits, "numbers", seen)
    return shapes


@pytest.mark.parametrize("make", [llama, masked])
@every_option
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_runs_are_the_same(make, options, way, tmp_path):
    # in float64: Adam divides gradients by their size, so that it makes steps of the rounding of float32
    twin = model_for(make, options).double()
    model = changed(copy.deepcopy(twin), way)
    runs = []
    for m in (model, twin):
        torch.compiler.reset()
        runs.append(trained(m, tmp_path, examples(24), **options)[1])
    same_runs(*runs)


@pytest.mark.parametrize("make", [llama, masked])
def test_all_losses_replaced_before_the_trainer_is_made(make, tmp_path):
    """Trainer counts the labels of a batch as its model's loss does, and scales the loss by that."""
    options = {"gradient_accumulation_steps": 2}
    twin = make().double()
    model = copy.deepcopy(twin)
    with ours.enable():
        got = trained(model, tmp_path, examples(24), **options)[1]
    same_runs(got, trained(twin, tmp_path, examples(24), **options)[1])


@every_option
@pytest.mark.parametrize("way", [WAYS["a fused head"], WAYS["a fused head and crossent's loss"]], ids=[*WAYS][:2])
def test_a_run_reads_no_logits(options, way, reads, tmp_path):
    torch.compiler.reset()
    _ = trained(changed(model_for(llama, options), way), tmp_path, examples(24), **options)
    assert reads == []


@pytest.mark.parametrize("options", [o for o in OPTIONS.values() if "torch_compile" not in o])
def test_a_run_makes_no_logits(options, tmp_path):
    sizes = []
    for way in (WAYS["a fused head and crossent's loss"], ()):
        with Largest() as largest:
            _ = trained(changed(llama(), way), tmp_path, examples(24, 24), **options)
        sizes.append(largest.elements)
    assert sizes[0] < 2 * 23 * V <= sizes[1]
