"""Train a language model whose head is sharded over its classes, and compare its loss with the loss of one process.

    pip install '.[torch]'
    torchrun --nproc-per-node 2 examples/tensor_parallel.py          # any number of ranks, on CPUs with gloo

The model predicts the next of 10,007 characters of an invented language. Each rank holds a shard of the head's classes,
in the layout of torch's tensor parallelism (`distribute_tensor(weight, mesh, [Shard(0)])`), and all other layers whole.
With --sequence-parallel each rank also brings its own rows to the head. Rank 0 trains a second copy alone, from the
same start on the same data, and prints both losses.
"""

import argparse
import math
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from crossent.torch import linear_cross_entropy

CLASSES, FEATURES, BATCH, LENGTH = 10_007, 64, 4, 64


class Model(nn.Module):
    """An embedding, one layer, and a head that the loss multiplies itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, FEATURES)
        self.layer = nn.Sequential(nn.Linear(FEATURES, 4 * FEATURES), nn.GELU(), nn.Linear(4 * FEATURES, FEATURES))
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the input of the head."""
        x = self.embedding(tokens)
        return x + self.layer(x)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return tokens and the next token of each, the same on every rank; most tokens follow from the one before."""
    random = torch.Generator().manual_seed(step)
    text = [torch.randint(CLASSES, (BATCH,), generator=random)]
    for _ in range(LENGTH):
        surprise = torch.randint(CLASSES, (BATCH,), generator=random)
        text.append(torch.where(torch.rand(BATCH, generator=random) < 0.1, surprise, (31 * text[-1] + 7) % 101))
    tokens = torch.stack(text, 1)
    return tokens[:, :-1], tokens[:, 1:]


def start() -> Model:
    """Return the model that every run begins with."""
    torch.manual_seed(0)
    return Model()


def sharded(mesh: DeviceMesh) -> Model:
    """Return the model with this rank's shard of the head; the other layers are whole on every rank."""
    model = start()
    for name, parameter in list(model.head.named_parameters()):
        setattr(model.head, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
    return model


def loss_of_shards(model: Model, mesh: DeviceMesh, step: int, *, sequence_parallel: bool) -> Tensor:
    """Return the loss on all ranks: the call is that of one process, with DTensors."""
    tokens, following = batch(step)
    hidden = DTensor.from_local(model(tokens), mesh, [Replicate()])
    if sequence_parallel:
        hidden = hidden.redistribute(placements=[Shard(1)])
    loss = linear_cross_entropy(hidden, model.head.weight, following, linear_bias=model.head.bias, label_smoothing=0.01)
    return loss.to_local()


def loss_alone(model: Model, step: int) -> Tensor:
    """Return the loss of the whole model in one process."""
    tokens, following = batch(step)
    head = model.head
    return linear_cross_entropy(model(tokens), head.weight, following, linear_bias=head.bias, label_smoothing=0.01)


def main() -> None:
    """Train both ways, and compare."""
    parser = argparse.ArgumentParser(description="Train with a head that is sharded over its classes.")
    parser.add_argument("--steps", type=int, default=30, help="of Adam (30)")
    parser.add_argument("--sequence-parallel", action="store_true", help="let each rank bring its own rows to the head")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with torchrun: torchrun --nproc-per-node 2 examples/tensor_parallel.py")

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    rank = dist.get_rank()
    model, alone = sharded(mesh), start()
    optimizer, other = (torch.optim.Adam(m.parameters(), lr=3e-3) for m in (model, alone))
    if rank == 0:
        held = model.head.weight.to_local().shape[0]
        print(f"{mesh.size()} ranks, {held} of {CLASSES} classes on this one; chance is {math.log(CLASSES):.3f}")
        print("step   sharded     alone")
    for step in range(options.steps):
        loss = loss_of_shards(model, mesh, step, sequence_parallel=options.sequence_parallel)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0:
            reference = loss_alone(alone, step)
            reference.backward()
            other.step()
            other.zero_grad()
            if step % 5 == 0 or step == options.steps - 1:
                print(f"{step:4}  {loss.item():8.5f}  {reference.item():8.5f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
