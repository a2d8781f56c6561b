"""Train a language model with Lightning's Trainer, with and without crossent, and compare the losses.

    pip install '.[examples]' lightning
    python examples/in_lightning.py                   # seconds on a CPU

crossent adds one line, `fuse_lm_head(model)`, where the module gets its model. Trainer accumulates the gradients of two
batches and clips them. The logits are never made.
"""

import argparse
import logging
import warnings
from typing import Any

import lightning
import small_llama
import torch
from torch.utils.data import DataLoader

from crossent.torch import fuse_lm_head


class LanguageModel(lightning.LightningModule):
    """A causal language model of transformers, and the loss of each batch that it was trained on."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, tokens: torch.Tensor, _: int) -> torch.Tensor:
        """Return the loss in nats per token."""
        loss = self.model(input_ids=tokens, labels=tokens).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def train(model: Any, batches: int) -> list[float]:
    """Return the loss of each batch."""
    module = LanguageModel(model)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=2, gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([small_llama.batch(k) for k in range(batches)], batch_size=None))
    return module.losses


def main() -> None:
    """Train both ways, and compare."""
    parser = argparse.ArgumentParser(description="Train in Lightning's Trainer with a fused head.")
    parser.add_argument("--batches", type=int, default=60, help="two for each step of Adam (60)")
    batches = parser.parse_args().batches
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers")
    with_crossent = train(fuse_lm_head(small_llama.start()), batches)
    without = train(small_llama.start(), batches)
    print("batch  with crossent  without")
    for number, (loss, other) in enumerate(zip(with_crossent, without, strict=True)):
        if number % 10 == 0 or number == batches - 1:
            print(f"{number:5}  {loss:13.5f}  {other:7.5f}")


if __name__ == "__main__":
    main()
