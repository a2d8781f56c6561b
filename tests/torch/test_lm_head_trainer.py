"""The Trainer of transformers, Accelerate and torch.compile with fused heads, against the same without."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import crossent.torch as F
from tests.torch import plain
from tests.torch.lazily import Largest

os.environ["HF_HUB_OFFLINE"] = "1"
import accelerate
import transformers

# torch's own: inductor is imported, and Dynamo looks at the tensors that cross a break of its graph
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

V, D, LENGTH = 307, 32, 12


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    transformers.logging.disable_progress_bar()
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def llama(layers=2):
    sizes = {"vocab_size": V, "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, initializer_range=0.3))


def bert():
    sizes = {
        "vocab_size": V,
        "hidden_size": D,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **quiet))


def pair_of(make=llama):
    twin = make()
    return F.fuse_lm_head(copy.deepcopy(twin)), twin


def examples(count, *lengths):
    """Two of a length in a row, so that batches of two need no padding."""
    g = torch.Generator().manual_seed(5)
    data = []
    for k in range(count):
        ids = torch.randint(3, V, ((lengths or (LENGTH,))[k // 2 % max(len(lengths), 1)],), generator=g)
        labels = torch.where(torch.rand(ids.shape, generator=g) < 0.3, -100, ids)
        data.append({"input_ids": ids, "labels": labels})
    return data


# The Trainer


def trained(model, directory, data, **options):
    """What a run logs: the loss and the norm of the gradient of each step."""
    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        max_steps=4,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3,
        **options,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=examples(6, 12, 9))
    _ = trainer.train()
    return trainer, [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "grad_norm" in e]


def same_runs(got, want):
    assert len(got) == len(want) == 4
    for (loss, norm), (other, its) in zip(got, want, strict=True):
        assert loss == pytest.approx(other, abs=1e-5, rel=1e-5)
        assert norm == pytest.approx(its, rel=1e-4)


OPTIONS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "both": {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1},
    "accumulation with a remainder": {"gradient_accumulation_steps": 3, "num_train_epochs": 1},
    "checkpoints": {"activation_checkpointing": True},
}


@pytest.mark.parametrize("make", [llama, bert])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_runs_are_the_same(options, make, tmp_path):
    # in float64: Adam divides gradients by their size, so that it makes steps of the rounding of float32
    runs = [trained(m.double(), tmp_path, examples(24), **options)[1] for m in pair_of(make)]
    same_runs(*runs)


def test_a_run_in_bfloat16(tmp_path):
    (_, got), (_, want) = (trained(m, tmp_path, examples(24), bf16=True) for m in pair_of())
    for (loss, norm), (other, its) in zip(got, want, strict=True):
        assert loss == pytest.approx(other, rel=plain.FLOOR[torch.bfloat16])
        assert norm == pytest.approx(its, rel=0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_run_makes_no_logits(smoothing, tmp_path):
    sizes = []
    for model in pair_of():
        with Largest() as largest:
            _ = trained(model, tmp_path, examples(24, 24), label_smoothing_factor=smoothing)
        sizes.append(largest.elements)
    assert sizes[0] < 2 * 23 * V <= sizes[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_evaluation_with_metrics(smoothing, tmp_path):
    kept = []

    def metrics(prediction):
        kept.append((prediction.predictions, prediction.label_ids))
        hits = prediction.predictions.argmax(-1)[:, :-1] == prediction.label_ids[:, 1:]
        return {"accuracy": float(hits[prediction.label_ids[:, 1:] != -100].mean())}

    results = []
    for model in pair_of():
        trainer, _ = trained(model, tmp_path, examples(12), label_smoothing_factor=smoothing)
        trainer.compute_metrics = metrics
        _ = model.load_state_dict(results[0][0].state_dict() if results else model.state_dict())
        results.append((model, trainer.evaluate(), trainer.predict(examples(6, 9, 12))))
    (_, got, predicted), (_, want, expected) = results
    assert got["eval_loss"] == pytest.approx(want["eval_loss"], abs=1e-5)
    assert got["eval_accuracy"] == want["eval_accuracy"]
    assert type(predicted.predictions) is np.ndarray
    assert np.array_equal(predicted.predictions, expected.predictions)
    assert predicted.predictions.shape == (6, 12, V)
    (logits, labels), _, (its, others), _ = kept
    assert np.array_equal(logits, its)
    assert np.array_equal(labels, others)


def test_evaluation_without_predictions(tmp_path):
    results = []
    for model in pair_of():
        trainer, _ = trained(model, tmp_path, examples(12))
        trainer.args.prediction_loss_only = True
        results.append((trainer.evaluate()["eval_loss"], trainer.predict(examples(4)).metrics["test_loss"]))
    assert results[0] == pytest.approx(results[1], abs=1e-4)


def test_predictions_reduced_before_they_are_gathered(tmp_path):
    results = []
    for model in pair_of():
        trainer, _ = trained(model.eval(), tmp_path, examples(12), eval_accumulation_steps=1)
        trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)
        results.append(trainer.predict(examples(6, 12, 9)).predictions)
    assert np.array_equal(*results)


@pytest.mark.parametrize("own", ["flat", "classes in the middle"])
def test_a_loss_function_of_ones_own(own, tmp_path):
    def loss(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"][..., :-1, :].contiguous()
        shifted = labels[..., 1:].contiguous().view(-1)
        if own == "flat":
            total = nnf.cross_entropy(logits.view(-1, logits.size(-1)).float(), shifted, reduction="sum")
        else:
            total = nnf.cross_entropy(logits.transpose(1, 2), shifted.view(logits.shape[:-1]), reduction="none").sum()
        return total / num_items_in_batch

    runs = []
    for model in pair_of():
        arguments = {
            "output_dir": str(tmp_path),
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "max_steps": 4,
        }
        arguments |= {"logging_steps": 1, "save_strategy": "no", "dataloader_pin_memory": False, "seed": 3}
        trainer = transformers.Trainer(
            model, transformers.TrainingArguments(**arguments), train_dataset=examples(24), compute_loss_func=loss
        )
        _ = trainer.train()
        runs.append([(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "grad_norm" in e])
    same_runs(*runs)


def test_a_model_that_a_run_has_saved(tmp_path):
    runs = []
    for k, model in enumerate(pair_of()):
        trainer, log = trained(model, tmp_path / str(k), examples(24))
        trainer.save_model(str(tmp_path / f"model{k}"))
        again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / f"model{k}")
        ids = torch.stack([e["input_ids"] for e in examples(4)])
        assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
        runs.append(log)
    same_runs(*runs)


def test_accelerate():
    losses = []
    for model in pair_of():
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        model, optimiser = accelerator.prepare(model, optimiser)  # noqa: PLW2901
        batch = {k: torch.stack([e[k] for e in examples(4)]) for k in ("input_ids", "labels")}
        for _ in range(3):
            optimiser.zero_grad()
            out = model(**batch)  # its outputs are converted to float32
            assert out.logits.dtype == torch.float32
            accelerator.backward(out.loss)
            optimiser.step()
            losses.append(out.loss.item())
        gathered = accelerator.gather_for_metrics(model(**batch).logits.argmax(-1))
        assert gathered.shape == (4, LENGTH)
        _ = accelerator.free_memory()
    assert losses[:3] == pytest.approx(losses[3:], rel=plain.FLOOR[torch.bfloat16])


# torch.compile


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.head = nn.Linear(D, V, bias=False)
        self.head.weight = self.embedding.weight

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, labels):
        logits = self.head(self.embedding(input_ids).sin())
        logits = 3.0 * torch.tanh(logits / 3.0)
        loss = nnf.cross_entropy(logits[:, :-1].float().reshape(-1, V), labels[:, 1:].reshape(-1))
        return loss, logits


def shallow():
    return llama(layers=1)


def steps(run, model, count=2):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    results = []
    for k in range(count):
        batch = {key: torch.stack([e[key] for e in examples(8)[4 * k :][:4]]) for key in ("input_ids", "labels")}
        optimiser.zero_grad()
        loss = run(**batch)[0]
        loss.backward()
        results.append([loss.detach(), *[p.grad.clone() for p in model.parameters()]])
        _ = optimiser.step()
    return results


@pytest.mark.parametrize(
    ("make", "backend"),
    [(Small, "eager"), (Small, "aot_eager"), (Small, "inductor"), (shallow, "eager"), (shallow, "aot_eager")],
)
def test_compiled(make, backend):
    """The step of a compiled and fused model is that of an eager and unfused one; graphs may break."""
    torch.compiler.reset()
    model, twin = pair_of(make)
    run = torch.compile(model, backend=backend)
    for got, want in zip(steps(run, model), steps(twin, twin), strict=True):
        assert abs(got[0] - want[0]) <= 1e-5 * max(1.0, want[0].abs().item())
        for g, w in zip(got[1:], want[1:], strict=True):
            assert plain.off(g, w) <= 1e-4
    ids = torch.stack([e["input_ids"] for e in examples(2)])
    with torch.no_grad():
        _, logits = run.eval()(input_ids=ids, labels=ids)[:2]
        _, want = twin.eval()(input_ids=ids, labels=ids)[:2]
    assert isinstance(logits, Tensor)
    torch.testing.assert_close(logits + 0, want, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


def test_a_head_outside_of_what_is_compiled():
    """The trunk compiled, the head and the loss not; and a compiled function of the logits."""
    torch.compiler.reset()
    results = []
    ids = torch.stack([e["input_ids"] for e in examples(4)])
    for model in pair_of():
        model.model.compile(backend="aot_eager")
        out = model(input_ids=ids, labels=ids)

        def own(logits):
            return logits.float().logsumexp(-1).square().mean()

        loss = out.loss + torch.compile(own, backend="aot_eager")(out.logits)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()
