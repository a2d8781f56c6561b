"""Train a language model in shards with Accelerate's FSDP2 plugin, and compare its loss with the loss of one process.

    pip install '.[examples]'
    torchrun --nproc-per-node 2 examples/in_accelerate.py         # any number of ranks, on CPUs with gloo

crossent adds one line, `fuse_lm_head(model)`, before `accelerator.prepare`. Each rank holds a part of every weight and
brings rows of its own. Every rank trains a second copy alone, without crossent, from the same start on all rows, and
rank 0 prints both losses. The logits of the sharded model are never made.
"""

import argparse
import os

import accelerate
import small_llama
import torch
from accelerate.utils import FullyShardedDataParallelPlugin

from crossent.torch import fuse_lm_head


def shard_on_cpus(accelerator: accelerate.Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Let Accelerate use the plugin on CPUs too: with `cpu=True` it ignores plugins, and would copy the whole model."""
    accelerator.state.distributed_type = accelerate.DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def main() -> None:
    """Train both ways, and compare."""
    parser = argparse.ArgumentParser(description="Train with Accelerate's FSDP2 plugin and a fused head.")
    parser.add_argument("--steps", type=int, default=30, help="of Adam (30)")
    steps = parser.parse_args().steps
    if "RANK" not in os.environ:
        parser.error("start it with torchrun: torchrun --nproc-per-node 2 examples/in_accelerate.py")

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["LlamaDecoderLayer"]
    )
    accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    shard_on_cpus(accelerator, plugin)
    model = fuse_lm_head(small_llama.start())
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=3e-3))
    alone = small_llama.start()
    other = torch.optim.Adam(alone.parameters(), lr=3e-3)

    held = model.lm_head.weight.to_local().shape[0]
    accelerator.print(
        f"{accelerator.num_processes} ranks, {held} of {small_llama.CLASSES} rows of the head on this one"
    )
    accelerator.print("step   sharded     alone")
    for step in range(steps):
        tokens = small_llama.batch(step)
        rows = tokens[accelerator.process_index :: accelerator.num_processes]
        loss = model(input_ids=rows, labels=rows).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        mean = accelerator.reduce(loss.detach(), reduction="mean")

        reference = alone(input_ids=tokens, labels=tokens).loss
        reference.backward()
        other.step()
        other.zero_grad()
        if step % 5 == 0 or step == steps - 1:
            accelerator.print(f"{step:4}  {mean.item():8.5f}  {reference.item():8.5f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
