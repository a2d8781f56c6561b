"""Models of which every rank holds a part of each weight, and data of which every rank has its own rows."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from crossent.torch import cross_entropy, fuse_lm_head, linear_cross_entropy
from crossent.torch._lazy import LazyLogits
from tests.parallel.counting import sent

V, D, STEPS = 103, 16, 4


def llama(tied):
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=D, tie_word_embeddings=tied, **layers))


def tokens(step):
    return torch.randint(V, (4, 12), generator=torch.Generator().manual_seed(step))


def step_of(model, ids):
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    return out


def train(model, rows):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, lazy = [], True
    for step in range(STEPS):
        out = step_of(model, tokens(step)[rows])
        losses.append(out.loss.item())
        lazy = lazy and isinstance(out.logits, LazyLogits) and not out.logits.was_read()
        optimizer.step()
        optimizer.zero_grad()
    return losses, lazy


def sharded(group, tied, own, **policy):
    """A fused Llama in shards, with the head in the root's group or in one of its own."""
    model = fuse_lm_head(llama(tied))
    how = {"mesh": DeviceMesh.from_group(group, "cpu"), **policy}
    for layer in model.model.layers:
        fully_shard(layer, **how)
    if own:
        fully_shard([model.model.embed_tokens, model.lm_head] if tied else model.lm_head, **how)
    return fully_shard(model, **how)


def followed(group, tied, own):
    single, _ = train(llama(tied), slice(None))
    rank = group.rank()
    losses, lazy = train(sharded(group, tied, own), slice(2 * rank, 2 * rank + 2))
    mean = torch.tensor(losses, dtype=torch.float64)
    dist.all_reduce(mean, group=group)
    return (mean / 2 - torch.tensor(single)).abs().max().item(), lazy


@pytest.mark.parametrize("own", [False, True], ids=["root", "own group"])
@pytest.mark.parametrize("tied", [False, True], ids=["free", "tied"])
def test_sharded_training_follows_a_single_process_and_stays_lazy(ranks, tied, own):
    for difference, lazy in ranks.run(2, followed, tied, own):
        assert difference < 1e-5
        assert lazy


def head_traffic(group, own):
    model = sharded(group, False, own)
    _, first = sent(lambda: step_of(model, tokens(0)[group.rank() :: 2]))
    _, second = sent(lambda: step_of(model, tokens(1)[group.rank() :: 2]))
    return first, second


def test_the_weight_of_a_head_is_gathered_once_a_step_and_its_gradient_scattered_once(ranks):
    rows = -(-V // 2)  # of a shard, the last one padded
    for traffic in ranks.run(2, head_traffic, True):
        for step in traffic:
            assert step["all_gather", rows * D] == 1
            assert step["reduce_scatter", 2 * rows * D] == 1


def mixed(group):
    half, whole = torch.bfloat16, torch.float32
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=whole, output_dtype=whole)
    model = sharded(group, False, True, mp_policy=policy)
    seen = []
    _ = model.lm_head.register_forward_hook(
        lambda _, given, out: seen.append((given[0].dtype, out._deferred.weight.dtype))
    )
    out = step_of(model, tokens(0)[group.rank() :: 2])
    plain = llama(False).to(half)
    reference = plain(input_ids=tokens(0)[group.rank() :: 2], labels=tokens(0)[group.rank() :: 2])
    grads = {p.grad.dtype for p in model.parameters()}
    return seen, grads, out.loss.dtype, out.logits.was_read(), (out.loss - reference.loss.float()).item()


def test_mixed_precision_policies_are_honoured(ranks):
    for seen, grads, dtype, was_read, difference in ranks.run(2, mixed):
        assert seen == [(torch.bfloat16, torch.bfloat16)]
        assert grads == {torch.float32}
        assert dtype == torch.float32
        assert not was_read
        assert abs(difference) < 0.02


def evaluated(group):
    model = sharded(group, False, True)
    plain, ids = llama(False), tokens(0)
    with torch.no_grad():
        logits = model(input_ids=ids).logits - plain(input_ids=ids).logits
    before = step_of(model, ids).loss.item()
    read = model(input_ids=ids).logits[..., 0].sum()  # gradients flow through numbers as well
    read.backward()
    return logits.abs().max().item(), before - step_of(plain, ids).loss.item()


def test_logits_of_a_sharded_model_can_be_read(ranks):
    for logits, loss in ranks.run(2, evaluated):
        assert logits < 1e-5
        assert abs(loss) < 1e-5


def unequal(group):
    torch.manual_seed(0)
    labels = torch.randint(V, (8, 6))
    labels[4:, 1:] = -100  # the second rank has few tokens
    data, model = torch.randn(8, 6, D), torch.nn.Linear(D, V)
    single = torch.autograd.grad(cross_entropy(model(data).mT, labels), model.weight)[0]
    own = slice(4 * group.rank(), 4 * group.rank() + 4)
    parallel = DistributedDataParallel(model, process_group=group)
    tokens_of_all = (labels[own] != -100).sum()
    dist.all_reduce(tokens_of_all, group=group)
    loss = cross_entropy(parallel(data[own]).mT, labels[own], reduction="sum") * group.size() / tokens_of_all
    loss.backward()
    return (model.weight.grad - single).abs().max().item()


def test_the_mean_over_ranks_with_unequal_numbers_of_tokens(ranks):
    assert max(ranks.run(2, unequal)) < 1e-7


def of_a_sharded_weight(group):
    """A loss of a weight that FSDP holds in shards, where every rank has rows of its own, without gathering it."""
    from torch.distributed.tensor import DTensor, Shard

    torch.manual_seed(0)
    model, data, labels = torch.nn.Linear(D, V), torch.randn(10, D), torch.randint(V, (10,))
    single = torch.autograd.grad(linear_cross_entropy(data, model.weight, labels), model.weight)[0]
    mesh = DeviceMesh.from_group(group, "cpu")
    weight = fully_shard(model, mesh=mesh).weight
    own = slice(5 * group.rank(), 5 * group.rank() + 5)
    h, y = (DTensor.from_local(x[own], mesh, [Shard(0)]) for x in (data, labels))
    linear_cross_entropy(h, weight, y).backward()
    return (weight.grad.full_tensor() - single).abs().max().item()


def test_a_loss_of_a_weight_in_shards_of_fsdp(ranks):
    assert max(ranks.run(2, of_a_sharded_weight)) < 1e-7
