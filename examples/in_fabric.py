"""Train a language model with Lightning Fabric, with and without crossent, and compare the losses.

    pip install '.[examples]' lightning
    python examples/in_fabric.py                      # seconds on a CPU

crossent adds one line, `fuse_lm_head(model)`, before `fabric.setup`. The model, its loss and the loop stay what they
were, and the logits are never made.
"""

import argparse
from typing import Any

import lightning
import small_llama
import torch

from crossent.torch import fuse_lm_head


def train(model: Any, steps: int) -> list[float]:
    """Return the loss of each step, in nats per token."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=3e-3))
    losses = []
    for step in range(steps):
        tokens = small_llama.batch(step)
        loss = model(input_ids=tokens, labels=tokens).loss
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train both ways, and compare."""
    parser = argparse.ArgumentParser(description="Train in Lightning Fabric with a fused head.")
    parser.add_argument("--steps", type=int, default=30, help="of Adam (30)")
    steps = parser.parse_args().steps
    with_crossent = train(fuse_lm_head(small_llama.start()), steps)
    without = train(small_llama.start(), steps)
    print("step  with crossent  without")
    for step, (loss, other) in enumerate(zip(with_crossent, without, strict=True)):
        if step % 5 == 0 or step == steps - 1:
            print(f"{step:4}  {loss:13.5f}  {other:7.5f}")


if __name__ == "__main__":
    main()
