"""TRL's trainers, none of which is changed or told anything, with crossent under TRL and without."""

from __future__ import annotations

import importlib
import sys

import datasets
import peft
import pytest
import torch
import transformers
from peft.tuners import lora
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer import distillation_trainer, utils

from crossent.integrations import trl as ours
from crossent.integrations import trl_functions
from tests.integrations.trl_runs import BATCH, FEWEST, OF_TOKENS, D, V, fused, model, run, trained, trainer_of
from tests.torch import plain

pytestmark = [
    pytest.mark.slow,
    # of the libraries' own makings
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

LOGITS = BATCH * FEWEST * V
"""Fewer numbers than the logits of a batch's completions have."""
NOT_OF_SUMS = ("loss", "grad_norm", "entropy", "kl", "logps/chosen", "logits/chosen", "mean_token_accuracy", "reward")
"""What a trainer logs of a step that is not the time that it took."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch, little_memory):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setitem(trl_functions._TILE, True, 8 * V)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    little_memory(V)


def same(got, want):
    """Of float32 numbers: losses of reinforcement learning are differences of numbers about 1."""
    assert len(got.losses) == len(want.losses) > 0
    assert got.losses == pytest.approx(want.losses, rel=1e-5, abs=1e-6)
    for log, its in zip(got.logs, want.logs, strict=True):
        assert log.keys() == its.keys()
        for key in set(NOT_OF_SUMS) & log.keys():
            assert log[key] == pytest.approx(its[key], rel=1e-5, abs=1e-6), key
    assert got.weights.keys() == want.weights.keys()
    for key, x in got.weights.items():
        torch.testing.assert_close(x, want.weights[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("name", [*OF_TOKENS, "Reward"])
def test_a_run_is_the_same(name, lora):
    same(run(name, enabled=True, lora=lora), run(name, enabled=False, lora=lora))


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_run_makes_no_logits(name, lora):
    got = run(name, enabled=True, lora=lora).largest
    assert got < LOGITS <= run(name, enabled=False, lora=lora).largest
    assert got <= V * D * 1.5  # the head, or the attention of a batch


def test_a_reward_model_has_no_logits_of_tokens():
    assert run("Reward", enabled=False).largest < LOGITS


# Other heads

KINDS = {
    "gemma2": {"final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
    "phi": {},  # its head has a bias
    "tied": {"tie_word_embeddings": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["SFT", "DPO", "Distillation"])
def test_other_heads(name, kind):
    runs = []
    for enabled in (True, False):
        student = model("llama" if kind == "tied" else kind, **KINDS[kind])
        if not enabled:
            runs.append(trained(trainer_of(name, student)))
            continue
        with ours.enable():
            runs.append(trained(trainer_of(name, student)))
    same(*runs)
    assert runs[0].largest < LOGITS


def test_a_trainer_that_was_made_before():
    trainer = trainer_of("SFT", model())
    with ours.enable():
        got = trained(trainer)
    same(got, run("SFT", enabled=False))
    assert got.largest < LOGITS


def test_a_trainer_that_is_used_after_disabling():
    with ours.enable():
        trainer = trainer_of("SFT", model())
    got = trained(trainer)
    assert got.losses == run("SFT", enabled=False).losses
    assert got.largest >= LOGITS


# bfloat16: TRL rounds logits to it, so that both runs are held against the one in float32


@pytest.mark.parametrize("name", ["SFT", "Distillation"])
def test_a_run_in_bfloat16(name):
    exact = run(name, enabled=False).losses
    want = trained(trainer_of(name, model(), bf16=True)).losses
    with ours.enable():
        got = trained(trainer_of(name, model(), bf16=True)).losses
    for mine, its, truth in zip(got, want, exact, strict=True):
        assert abs(mine - truth) <= 2 * abs(its - truth) + plain.FLOOR[torch.bfloat16] * abs(truth)


def compiled(**options):
    given = {"torch_compile": True, "torch_compile_backend": "eager", "pad_to_multiple_of": 32}
    return trained(trainer_of("SFT", model(), **given, **options), watched=False)


def test_a_compiled_model():
    with ours.enable():
        got = compiled()
    same(got, run("SFT", enabled=False))


def test_a_compiled_model_with_an_adapter_on_its_head():
    with ours.enable():
        same(compiled(lora=HEAD, max_steps=1), trained(trainer_of("SFT", model(), lora=HEAD, max_steps=1)))


# What TRL itself computes from all logits: a fused head beside

SMOOTHED = {"label_smoothing_factor": 0.1}


def test_label_smoothing_needs_a_fused_head():
    want = trained(trainer_of("SFT", model(), **SMOOTHED))
    with ours.enable():
        alone = trained(trainer_of("SFT", model(), **SMOOTHED))
        both = trained(trainer_of("SFT", fused(), **SMOOTHED))
    same(alone, want)
    same(both, want)
    assert both.largest < LOGITS <= alone.largest


@pytest.mark.parametrize("make", [model, fused])
def test_a_trainer_that_reads_all_logits(make):
    """CPO logs the mean of all logits, which makes them, whether a head is fused or not; its losses stay the same."""
    from trl.experimental import cpo

    want = trained(trainer_of("CPO", model(), home=cpo))
    with ours.enable():
        same(trained(trainer_of("CPO", make(), home=cpo)), want)


# Adapters on the head

HEAD = ["lm_head", "q_proj"]


class Merged:
    """TRL's own function, of a head's weight to which PEFT has added the adapters."""

    def __init__(self, function, layers):
        self.function, self.layers = function, layers

    def apply(self, *args):
        frame, args = sys._getframe(1), list(args)
        for place, name in self.layers.items():
            layer = {**(frame.f_back.f_locals if frame.f_back else {}), **frame.f_locals}[name]
            if isinstance(layer, lora.Linear) and not layer.disable_adapters:
                args[place] = args[place] + layer.get_delta_weight("default")
        return self.function.apply(*args)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_an_adapter_on_the_head_is_trained(name, monkeypatch):
    with ours.enable():
        got = trained(trainer_of(name, model(), lora=HEAD))
    assert got.largest < LOGITS
    module = importlib.import_module(f"trl.trainer.{name.lower()}_trainer")
    monkeypatch.setattr(module, "BaseTunerLayer", bytes)  # of which no head is one
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Merged(ChunkedLogProbFunction, {1: "lm_head"}))
    monkeypatch.setattr(
        distillation_trainer, "ChunkedDivergenceFunction", Merged(ChunkedDivergenceFunction, {1: "student_lm_head"})
    )
    want = trained(trainer_of(name, model(), lora=HEAD))
    same(got, want)
    assert any("lm_head.lora_A" in key for key in want.weights)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_an_adapter_that_would_be_left_out_is_refused(name):
    with ours.enable(), pytest.raises(ValueError, match="PEFT adapter to `lm_head` is not supported"):
        _ = trainer_of(name, model(), lora=HEAD, adapter={"use_dora": True})
    with pytest.raises(ValueError, match="PEFT adapter to `lm_head` is not supported"):
        _ = trainer_of(name, model(), lora=HEAD)


@pytest.mark.parametrize("name", ["SFT", "DPO", "KTO", "Distillation"])
def test_one_that_comes_later_is_refused_too(name):
    trainer = trainer_of(name, model())
    adapter = peft.LoraConfig(r=2, target_modules=["lm_head"], use_dora=True)
    _ = peft.inject_adapter_in_model(adapter, trainer.model)
    with ours.enable(), pytest.raises(NotImplementedError, match=r"'default' is on the head.*DoraLinearVariant"):
        _ = trained(trainer)


def test_a_head_that_is_cast_to_float32_leaves_its_adapter_out():
    with ours.enable():
        trainer = trainer_of("GRPO", model(), lora=HEAD, cast_lm_head_to_fp32=True)
        with pytest.raises(NotImplementedError, match="leave that option out"):
            _ = trained(trainer)


def test_a_head_that_is_trained_whole_beside_adapters():
    def one():
        options = {"modules_to_save": ["lm_head"], "r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
        return trained(trainer_of("SFT", peft.get_peft_model(model(), peft.LoraConfig(**options))))

    want = one()
    with ours.enable():
        got = one()
    same(got, want)
    assert got.largest < LOGITS
