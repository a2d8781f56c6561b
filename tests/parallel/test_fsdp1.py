"""FullyShardedDataParallel, which puts hooks on outputs after the loss and frees weights after each forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy
from torch.distributed.fsdp.wrap import CustomPolicy
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from crossent.torch import fuse_lm_head
from crossent.torch.lazy.logits import LazyLogits
from tests.parallel.test_fsdp import llama, tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*FSDP.*"),
]

STEPS, BOUND = 3, 1e-5


class Own(nn.Module):
    """A model whose loss is computed outside."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids).logits


def trained(group, fused, inside, wrap, **options):
    """The parameters after some steps, the losses, and whether the logits stayed lazy."""
    model: nn.Module = llama(tied=False)
    model = fuse_lm_head(model) if fused else model
    own = {"process_group": group, "device_id": torch.device("cpu"), **options}
    units = {"root": (), "head": (model.lm_head,)}[wrap]
    policy = CustomPolicy(lambda module: isinstance(module, LlamaDecoderLayer) or module in units)
    sharded = FSDP(model if inside else Own(model), auto_wrap_policy=policy, **own)
    optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
    losses, lazy = [], True
    for step in range(STEPS):
        ids = tokens(step)[2 * group.rank() :][:2]
        if inside:
            out = sharded(input_ids=ids, labels=ids)
            loss, logits = out.loss, out.logits
        else:
            logits = sharded(ids)
            loss = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        lazy = lazy and isinstance(logits, LazyLogits) and not logits.was_read()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    with FSDP.summon_full_params(sharded):
        return [p.detach().clone() for p in sharded.parameters()], losses, lazy


def off(group, inside, wrap, options):
    got, losses, lazy = trained(group, True, inside, wrap, **options)
    want, others, _ = trained(group, False, inside, wrap, **options)
    apart = max((g - w).abs().max().item() for g, w in zip(got, want, strict=True))
    return apart, max(abs(a - b) for a, b in zip(losses, others, strict=True)), lazy


@pytest.mark.parametrize("inside", [True, False], ids=["loss inside", "loss outside"])
@pytest.mark.parametrize("original", [True, False], ids=["own parameters", "flat parameters"])
@pytest.mark.parametrize("strategy", [ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP], ids=str)
def test_a_head_in_the_root_trains_as_without_fusing(ranks, inside, original, strategy):
    options = {"use_orig_params": original, "sharding_strategy": strategy}
    for parameters, losses, lazy in ranks.run(2, off, inside, "root", options):
        assert parameters < BOUND
        assert losses < BOUND
        assert lazy


@pytest.mark.parametrize("inside", [True, False], ids=["loss inside", "loss outside"])
def test_a_head_wrapped_on_its_own_trains_as_without_fusing(ranks, inside):
    for parameters, losses, _ in ranks.run(2, off, inside, "head", {}):
        assert parameters < BOUND
        assert losses < BOUND


class Pair(nn.Module):
    """The last norm and the head, in a unit of their own."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 30)

    def forward(self, x):
        return self.head(self.norm(x))


def freed(group):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Pair())
    _ = fuse_lm_head(model[1].head)
    policy = CustomPolicy(lambda module: isinstance(module, Pair))
    sharded = FSDP(model, auto_wrap_policy=policy, process_group=group, device_id=torch.device("cpu"))
    logits = sharded(torch.randn(4, 8))
    try:
        return nn.functional.cross_entropy(logits, torch.arange(4)).item()
    except RuntimeError as error:
        return str(error)


def test_a_weight_that_is_gone_at_the_loss_is_an_error_that_names_the_engine(ranks):
    for text in ranks.run(2, freed):
        assert "FSDP1" in text
        assert "unfuse_lm_head" in text
        assert "optimizer" not in text
