"""Lightning, Accelerate and DDP around a fused head: engines that put hooks on the outputs of a model."""

from __future__ import annotations

import copy
import logging
import os
import warnings

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.torch.lazy.logits import LazyLogits
from tests.torch import plain

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

V, STEPS = 103, 3
FLOOR = plain.FLOOR[torch.float32]


def pair():
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32}
    config = transformers.LlamaConfig(vocab_size=V, hidden_size=16, tie_word_embeddings=True, **layers)
    twin = transformers.LlamaForCausalLM(config)
    return F.fuse_lm_head(copy.deepcopy(twin)), twin


def ids(step):
    return torch.randint(V, (2, 12), generator=torch.Generator().manual_seed(step))


def outside(logits, labels):
    return nnf.cross_entropy(logits[:, :-1].reshape(-1, V).float(), labels[:, 1:].reshape(-1))


def is_lazy(logits):
    return isinstance(logits, LazyLogits) and not logits.was_read()


def same(train):
    """Whether training gives the same parameters, and the fused head kept its logits lazy."""
    (got, lazy), (want, _) = (train(model) for model in pair())
    for g, w in zip(got, want, strict=True):
        assert (g - w).abs().max() <= 1e-5
    assert lazy
    return got


@pytest.mark.parametrize("inside", [True, False], ids=["loss inside", "loss outside"])
def test_fabric(inside):
    lightning = pytest.importorskip("lightning")

    def train(model):
        fabric = lightning.Fabric(accelerator="cpu", devices=1)
        model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
        lazy = True
        for step in range(STEPS):
            batch = ids(step)
            out = model(input_ids=batch, labels=batch if inside else None)
            fabric.backward(out.loss if inside else outside(out.logits, batch))
            lazy = lazy and is_lazy(out.logits)
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in model.parameters()], lazy

    _ = same(train)


@pytest.mark.parametrize("inside", [True, False], ids=["loss inside", "loss outside"])
def test_trainer_of_lightning(inside, tmp_path):
    lightning = pytest.importorskip("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model, self.lazy = model, True

        def training_step(self, batch, _):
            out = self.model(input_ids=batch, labels=batch if inside else None)
            self.lazy = self.lazy and is_lazy(out.logits)
            return out.loss if inside else outside(out.logits, batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def train(model):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        module, data = Module(model), [ids(step) for step in range(2 * STEPS)]
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=2, gradient_clip_val=1.0,
            enable_model_summary=False, default_root_dir=tmp_path, **quiet,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
        return [p.detach() for p in model.parameters()], module.lazy

    _ = same(train)


@pytest.mark.parametrize("inside", [True, False], ids=["loss inside", "loss outside"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(inside, precision):
    accelerate = pytest.importorskip("accelerate")

    def train(model):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        lazy, norms = True, []
        for step in range(2 * STEPS):
            with accelerator.accumulate(model):
                batch = ids(step)
                out = model(input_ids=batch, labels=batch if inside else None)
                loss = out.loss if inside else outside(out.logits, batch)
                _ = out.logits.register_hook(lambda g: norms.append(g.shape))
                accelerator.backward(loss)
                lazy = lazy and is_lazy(out.logits)
                _ = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        # what Accelerate makes of bfloat16 outputs comes after a loss inside of the model, and gets no gradient
        assert norms == ([] if inside and precision == "bf16" else [(2, 12, V)] * 2 * STEPS)
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        return [p.detach() for p in model.parameters()], lazy

    if precision == "no":
        _ = same(train)
    else:
        (got, lazy), (want, _) = (train(model) for model in pair())
        assert lazy
        for g, w in zip(got, want, strict=True):
            assert (g - w).abs().max() <= plain.FLOOR[torch.bfloat16] * w.abs().max()


@pytest.mark.parametrize("where", ["model", "head", "trunk"])
def test_backward_hooks_of_modules(where):
    """Full backward hooks see the same gradients of outputs and inputs, and may change them."""
    results = []
    for model in pair():
        module = {"model": model, "head": model.lm_head, "trunk": model.model.layers[1]}[where]
        seen: list = []

        def before(_, outputs, seen=seen):
            seen.append(outputs[0].detach() + 0)
            return None if where == "model" else tuple(None if g is None else g * 2 for g in outputs)

        def after(_, inputs, outputs, seen=seen):
            seen.extend(g.detach() + 0 for g in (*inputs, *outputs) if g is not None)

        handles = [module.register_full_backward_pre_hook(before), module.register_full_backward_hook(after)]
        embedded = model.get_input_embeddings()(ids(0)).detach().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = model(inputs_embeds=embedded)
        outside(out.logits, ids(0)).backward()
        results.append([*seen, embedded.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
        for handle in handles:
            handle.remove()
    got, want = results
    assert len(got) == len(want)
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g - w).abs().max() <= 1e-6, k


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_head_with_a_hook(reentrant):
    results = []
    for model in pair():
        hidden, seen = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(1)).requires_grad_(), []
        z = torch.utils.checkpoint.checkpoint(model.lm_head, hidden, use_reentrant=reentrant)
        _ = z.register_hook(lambda g, seen=seen: seen.append(g + 0) or 2 * g)
        outside(z, ids(0)).backward()
        results.append([*seen, hidden.grad, model.lm_head.weight.grad])
    for g, w in zip(*results, strict=True):
        assert (g - w).abs().max() <= 1e-6
