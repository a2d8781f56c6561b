"""TRL's trainers on a model of a few thousand numbers, with a tokenizer and data made here: what a run logs."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import accelerate
import datasets
import peft
import tokenizers
import torch
import transformers
import trl
from torch import Tensor

import crossent.torch as F
from crossent.integrations import trl as ours
from tests.torch.lazily import Largest

V, D, LENGTH, BATCH, STEPS = 307, 16, 24, 4, 3
FEWEST = LENGTH - 8
"""The fewest tokens of a completion that a batch learns from."""
WORDS = [f"w{k}" for k in range(V - 3)]
OF_TOKENS = ("SFT", "DPO", "KTO", "GRPO", "RLOO", "Distillation")
"""The trainers that have a loss of tokens."""


class Run(NamedTuple):
    """What a run logged, the losses of its steps, its weights in the end, and the largest memory that it made."""

    losses: list[float]
    logs: list[dict[str, float]]
    weights: dict[str, Tensor]
    largest: int


def tokenizer() -> Any:
    """A tokenizer with a token for each word."""
    names = ["<pad>", "<eos>", "<unk>", *WORDS]
    of_words = tokenizers.models.WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>")
    found = tokenizers.Tokenizer(of_words)
    found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, padding_side="left", **special)


def model(kind: str = "llama", seed: int = 0, *, scores: bool = False, **options: Any) -> Any:
    """A small model of a kind, the same one for the same seed, of tokens or of one score."""
    sizes = {"vocab_size": V, "hidden_size": D, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "tie_word_embeddings": False}
    given = {**sizes, **heads, **tokens, "initializer_range": 0.3, **options}
    config: Any = transformers.AutoConfig.for_model(kind, **given)
    _ = torch.manual_seed(seed)
    if scores:
        config.num_labels = 1
        return transformers.AutoModelForSequenceClassification.from_config(config)
    return transformers.AutoModelForCausalLM.from_config(config)


def words(count: int, seed: int) -> str:
    """Some words, each with a space before it."""
    chosen = torch.randint(len(WORDS), (count,), generator=torch.Generator().manual_seed(seed))
    return "".join(f" {WORDS[k]}" for k in chosen)


def data(trainer: str) -> Any:
    """What a trainer learns from; the rows have different lengths."""
    rows = BATCH * STEPS + BATCH
    prompts = [words(3 + k % 3, k) for k in range(rows)]
    first, second = ([words(FEWEST + k % 5, base + k) for k in range(rows)] for base in (100, 200))
    columns: dict[str, Any] = {
        "SFT": {"prompt": prompts, "completion": first},
        "DPO": {"prompt": prompts, "chosen": first, "rejected": second},
        "CPO": {"prompt": prompts, "chosen": first, "rejected": second},
        "Reward": {"chosen": first, "rejected": second},
        "KTO": {"prompt": prompts, "completion": first, "label": [k % 2 == 0 for k in range(rows)]},
    }
    return datasets.Dataset.from_dict(columns.get(trainer, {"prompt": prompts}))


def reward(completions: list[str], **_: Any) -> list[float]:
    """A tenth of the words of each completion that end in an even digit."""
    return [sum(word[-1] in "02468" for word in text.split()) / 10 for text in completions]


def trainer_of(
    name: str, student: Any, *, lora: Any = False, adapter: Any = None, home: Any = trl, **options: Any
) -> Any:
    """An unmodified trainer of TRL. `lora` gives it adapters to train instead of weights: True, or the names
    of their layers (which begin at random numbers), and `adapter` what kind they are."""
    given: dict[str, Any] = {"train_dataset": data(name), "processing_class": tokenizer()}
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": BATCH, "learning_rate": 0.05,
        "max_steps": STEPS, "logging_steps": 1, "save_strategy": "no", "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 3, "optim": "sgd", "bf16": False,
    }  # fmt: skip
    if name in {"GRPO", "RLOO"}:
        given["reward_funcs"] = reward
        common |= {"num_generations": 2, "max_completion_length": LENGTH, "beta": 0.1, "num_iterations": 2}
    if name == "Distillation":
        given["teacher_model"] = model(student.config.model_type, 1)
        common |= {"max_completion_length": LENGTH}
    if name in {"DPO", "KTO", "GRPO", "RLOO"} and not lora:  # their reference is loaded from where the model comes from
        directory = tempfile.mkdtemp()
        student.save_pretrained(directory)
        student.config._name_or_path = directory
    if lora:
        layers = ["q_proj", "v_proj", "down_proj"] if lora is True else lora
        task = "SEQ_CLS" if name == "Reward" else "CAUSAL_LM"
        random = {"init_lora_weights": lora is True, **(adapter or {})}
        given["peft_config"] = peft.LoraConfig(r=2, target_modules=layers, task_type=task, **random)
    arguments = getattr(home, f"{name}Config")(**(common | options))
    _ = torch.manual_seed(2)
    return getattr(home, f"{name}Trainer")(model=student, args=arguments, **given)


def trained(trainer: Any, *, watched: bool = True) -> Run:
    """Train, and return what came of it; torch compiles nothing that is watched."""
    losses: list[float] = []
    step = trainer.training_step

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        loss = step(*args, **kwargs)
        losses.append(float(loss))
        return loss

    trainer.training_step = recorded
    seen = Largest()
    with seen if watched else contextlib.nullcontext():
        _ = trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    weights = {key: x.detach().clone() for key, x in trainer.model.named_parameters()}
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    return Run(losses, logs, weights, seen.elements)


@functools.cache
def run(name: str, *, enabled: bool, lora: bool = False, kind: str = "llama") -> Run:
    """Train with crossent under TRL, or without."""
    student = model(kind, scores=name == "Reward")
    if not enabled:
        assert not ours.is_enabled()
        return trained(trainer_of(name, student, lora=lora))
    with ours.enable():
        return trained(trainer_of(name, student, lora=lora))


def fused(*args: Any, **options: Any) -> Any:
    """The model with a fused head."""
    return F.fuse_lm_head(model(*args, **options))
