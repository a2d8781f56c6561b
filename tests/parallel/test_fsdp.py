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
from crossent.torch.lazy.logits import LazyLogits
from tests.parallel.counting import sent
from tests.torch.plain import FLOOR

pytestmark = pytest.mark.slow

V, D, STEPS = 103, 16, 4


def no_worse(got, rival, truth, floor):
    """Whether what crossent gives is at most twice as far from the truth as what FSDP gives without it, and a floor."""
    far, allowed = ((torch.as_tensor(x, dtype=torch.float64) - truth).abs().max().item() for x in (got, rival))
    return far <= 2 * allowed + floor


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


def sharded(group, tied, own, fuse=fuse_lm_head, **policy):
    """A fused Llama in shards, with the head in the root's group or in one of its own."""
    model = fuse(llama(tied))
    how = {"mesh": DeviceMesh.from_group(group, "cpu"), **policy}
    for layer in model.model.layers:
        fully_shard(layer, **how)
    if own:
        fully_shard([model.model.embed_tokens, model.lm_head] if tied else model.lm_head, **how)
    return fully_shard(model, **how)


def followed(group, tied, own):
    rank = group.rank()
    own_rows = slice(2 * rank, 2 * rank + 2)
    truth, _ = train(llama(tied).double(), slice(None))
    losses, lazy = train(sharded(group, tied, own), own_rows)
    without, _ = train(sharded(group, tied, own, fuse=lambda model: model), own_rows)
    means = torch.tensor([losses, without], dtype=torch.float64)
    dist.all_reduce(means, group=group)
    return no_worse(*means / 2, torch.tensor(truth, dtype=torch.float64), FLOOR[torch.float32]), lazy


@pytest.mark.parametrize("own", [False, True], ids=["root", "own group"])
@pytest.mark.parametrize("tied", [False, True], ids=["free", "tied"])
def test_sharded_training_follows_a_single_process_and_stays_lazy(ranks, tied, own):
    assert ranks.run(2, followed, tied, own) == [(True, True)] * 2


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
    ids = tokens(0)[group.rank() :: 2]
    out = step_of(model, ids)
    without = step_of(sharded(group, False, True, fuse=lambda model: model, mp_policy=policy), ids)
    truth = step_of(llama(False).double(), ids).loss.detach().double()
    grads = {p.grad.dtype for p in model.parameters()}
    right = no_worse(out.loss.detach(), without.loss.detach(), truth, FLOOR[half])
    return seen, grads, out.loss.dtype, out.logits.was_read(), right


def test_mixed_precision_policies_are_honoured(ranks):
    for seen, grads, dtype, was_read, right in ranks.run(2, mixed):
        assert seen == [(torch.bfloat16, torch.bfloat16)]
        assert grads == {torch.float32}
        assert dtype == torch.float32
        assert not was_read
        assert right


def evaluated(group):
    ids = tokens(0)
    cotangent = torch.rand(*ids.shape, V, generator=torch.Generator().manual_seed(1))
    found = []
    fused, without = sharded(group, False, True), sharded(group, False, True, fuse=lambda model: model)
    for model in (fused, without, llama(False).double()):
        with torch.no_grad():
            logits = model(input_ids=ids).logits + 0
        _ = step_of(model, ids)  # after an evaluation, a step
        model.zero_grad()
        (model(input_ids=ids).logits * cotangent).sum().backward()  # gradients flow through numbers as well
        grad = model.lm_head.weight.grad
        found.append((logits, grad.full_tensor() if hasattr(grad, "full_tensor") else grad))
    return [no_worse(*of_each, FLOOR[torch.float32]) for of_each in zip(*found, strict=True)]


def test_logits_of_a_sharded_model_can_be_read(ranks):
    assert ranks.run(2, evaluated) == [[True, True]] * 2


def unequal(group):
    torch.manual_seed(0)
    labels = torch.randint(V, (8, 6))
    labels[4:, 1:] = -100  # the second rank has few tokens
    data, model = torch.randn(8, 6, D).double(), torch.nn.Linear(D, V).double()
    single = torch.autograd.grad(cross_entropy(model(data).mT, labels), model.weight)[0]
    own = slice(4 * group.rank(), 4 * group.rank() + 4)
    parallel = DistributedDataParallel(model, process_group=group)
    tokens_of_all = (labels[own] != -100).sum()
    dist.all_reduce(tokens_of_all, group=group)
    loss = cross_entropy(parallel(data[own]).mT, labels[own], reduction="sum") * group.size() / tokens_of_all
    loss.backward()
    return (model.weight.grad - single).abs().max().item()


def test_the_mean_over_ranks_with_unequal_numbers_of_tokens(ranks):
    assert max(ranks.run(2, unequal)) < 1e-12


def of_a_sharded_weight(group):
    """A loss of a weight that FSDP holds in shards, where every rank has rows of its own, without gathering it."""
    from torch.distributed.tensor import DTensor, Shard

    torch.manual_seed(0)
    model, data, labels = torch.nn.Linear(D, V).double(), torch.randn(10, D).double(), torch.randint(V, (10,))
    single = torch.autograd.grad(linear_cross_entropy(data, model.weight, labels), model.weight)[0]
    mesh = DeviceMesh.from_group(group, "cpu")
    weight = fully_shard(model, mesh=mesh).weight
    own = slice(5 * group.rank(), 5 * group.rank() + 5)
    h, y = (DTensor.from_local(x[own], mesh, [Shard(0)]) for x in (data, labels))
    linear_cross_entropy(h, weight, y).backward()
    return (weight.grad.full_tensor() - single).abs().max().item()


def test_a_loss_of_a_weight_in_shards_of_fsdp(ranks):
    assert max(ranks.run(2, of_a_sharded_weight)) < 1e-12
