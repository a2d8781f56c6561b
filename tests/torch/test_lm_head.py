"""The head that makes lazy logits: what it refuses, what it leaves as it was, what becomes of its logits in files."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import crossent.torch as F
from tests.torch import plain
from tests.torch.lazily import B, D, S, V, is_lazy, pair


class Model(nn.Module):
    """A small one with the methods that Hugging Face's have."""

    def __init__(self, tied=False, bias=False):
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.trunk = nn.Linear(D, D)
        self.head = nn.Linear(D, V, bias=bias)
        if tied:
            self.head.weight = self.embedding.weight

    def get_output_embeddings(self):
        return self.head

    def forward(self, tokens):
        return self.head(self.trunk(self.embedding(tokens)).tanh())


def models(**options):
    twin = Model(**options).double()
    return F.fuse_lm_head(copy.deepcopy(twin)), twin


def tokens():
    return torch.randint(V, (B, S), generator=torch.Generator().manual_seed(1))


def loss_of(z, y=None):
    return nnf.cross_entropy(z[:, :-1].reshape(-1, V), (tokens() if y is None else y)[:, 1:].reshape(-1))


def gradients(model):
    model.zero_grad()
    z = model(tokens())
    (loss_of(z) + z.logsumexp(-1).square().mean()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def same_gradients(fused, twin):
    got, want = gradients(fused), gradients(twin)
    assert got.keys() == want.keys()
    for name, w in want.items():
        if w is None:
            assert got[name] is None
        else:
            plain.agree(name, got[name], w, None, plain.FLOOR[torch.float64])


# Parameters


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_or_not_with_a_bias_or_without(tied, bias):
    fused, twin = models(tied=tied, bias=bias)
    same_gradients(fused, twin)
    assert (fused.head.weight is fused.embedding.weight) == tied
    assert is_lazy(fused(tokens()))


@pytest.mark.parametrize(
    "frozen", ["head", "head.weight", "head.bias", "trunk", "everything", "everything but the bias"]
)
def test_frozen_parameters(frozen):
    fused, twin = models(bias=True)
    for m in (fused, twin):
        for name, p in m.named_parameters():
            rest = name != "head.bias" and frozen.startswith("everything")
            _ = p.requires_grad_(not (name.startswith((frozen, "embedding")) or rest or frozen == "everything"))
    z, want = fused(tokens()), twin(tokens())
    assert z.requires_grad == want.requires_grad
    assert loss_of(z).requires_grad == want.requires_grad
    assert is_lazy(z)
    assert (z + 0).requires_grad == want.requires_grad
    if want.requires_grad:
        same_gradients(fused, twin)


def test_an_optimiser_that_steps_before_they_are_read():
    def change(model):
        _ = torch.optim.SGD(model.parameters(), lr=0.1).step()

    for makes in (
        lambda z: z,
        lambda z: z.view(-1, V),
        lambda z: z / 2,
        lambda z: z.float(),
        lambda z: z[:, -1],
        torch.tanh,
    ):
        for read in (
            lambda z: z + 0,
            lambda z: z.argmax(-1),
            lambda z: z.tolist(),
            lambda z: pickle.dumps(z.detach()),
            loss_of_rows,
        ):
            fused, _ = models()
            z = makes(fused(tokens()))
            _ = loss_of(fused(tokens())).backward()
            change(fused)
            with pytest.raises(RuntimeError, match=r"modified|changed|in.place"):
                _ = read(z)
            assert z.shape[-1] == V
            assert repr(z)
            _ = loss_of(fused(tokens()))  # the next ones are fine


def loss_of_rows(z):
    return nnf.cross_entropy(z.reshape(-1, V), torch.zeros(z.numel() // V, dtype=torch.long))


@pytest.mark.parametrize("name", ["head.weight", "head.bias"])
def test_other_ways_to_change_a_parameter(name):
    ways = (
        lambda m, p: p.mul_(2),
        lambda m, p: m.load_state_dict({k: 2 * v for k, v in m.state_dict().items()}),
        lambda m, p: nn.init.normal_(p),
        lambda m, p: p.__setitem__(0, 3.0),
        lambda m, p: p.detach().zero_(),
    )
    for way in ways:
        fused, _ = models(bias=True)
        with torch.no_grad():
            z = fused(tokens())
            _ = way(fused, fused.get_parameter(name))
            with pytest.raises(RuntimeError):
                _ = z + 0


def test_once_read_they_stay():
    fused, twin = models()
    z, want = fused(tokens()), twin(tokens()).detach()
    _ = z + 0
    with torch.no_grad():
        _ = fused.head.weight.mul_(3)
    with contextlib.suppress(RuntimeError):  # to forget what was read is allowed, to answer with new numbers is not
        assert torch.equal(z, want)
    assert not torch.equal(fused(tokens()), want)


def test_parameters_that_are_replaced():
    fused, twin = models()
    z, want = fused(tokens()), twin(tokens())
    for m in (fused, twin):
        m.head.weight = nn.Parameter(torch.ones(V, D, dtype=torch.float64))
    assert torch.equal(z, want)
    assert torch.equal(fused(tokens()), twin(tokens()))


def test_training_is_the_same():
    fused, twin = models(tied=True)
    losses = {}
    for m in (fused, twin):
        optimiser = torch.optim.Adam(m.parameters(), lr=0.05)
        losses[m] = []
        for _ in range(8):
            optimiser.zero_grad()
            z = m(tokens())
            accuracy = (z.argmax(-1) == tokens()).double().mean()
            loss = loss_of(z)
            _ = loss.backward()
            _ = optimiser.step()
            losses[m].append((loss.item(), accuracy.item()))
    torch.testing.assert_close(torch.tensor(losses[fused]), torch.tensor(losses[twin]))
    assert losses[twin][-1][0] < losses[twin][0][0]


# Files and copies


def loaded(what, **options):
    file = io.BytesIO()
    torch.save(what, file)
    _ = file.seek(0)
    return torch.load(file, **options)


@pytest.mark.parametrize("grad", [True, False])
def test_logits_in_files(grad):
    fused, twin = models()
    with torch.set_grad_enabled(grad):
        z, want = fused(tokens()), twin(tokens())
        for get in (lambda z: z, lambda z: z.view(-1, V), lambda z: z / 2, lambda z: z[:, -1], lambda z: z.detach()):
            for through in (loaded, lambda z: loaded(z, weights_only=True), lambda z: pickle.loads(pickle.dumps(z))):
                for got in (through(get(z)), through({"logits": get(z), "n": 1})["logits"], through([get(z)])[0]):
                    assert type(got) is Tensor
                    assert torch.equal(got, get(want))
                    assert got.requires_grad == get(want).requires_grad
    for z in (fused(tokens()).detach(), fused(tokens()).detach() / 2):
        got = copy.deepcopy({"logits": z})["logits"]
        assert torch.equal(got, z)
        assert torch.equal(copy.copy(z), z)
        got[...] = 0
        assert z.abs().sum() > 0
    with pytest.raises(RuntimeError, match="deepcopy"):
        _ = copy.deepcopy(twin(tokens()))
    with contextlib.suppress(RuntimeError):
        assert torch.equal(copy.deepcopy(fused(tokens())), twin(tokens()))


def test_an_output_of_transformers_in_files():
    from transformers import modeling_outputs as outputs

    fused, twin = models()
    with torch.no_grad():
        out, want = (outputs.CausalLMOutput(loss=loss_of(z), logits=z) for z in (fused(tokens()), twin(tokens())))
    assert out.keys() == want.keys()
    assert torch.equal(out[1], want[1])
    assert torch.equal(out.to_tuple()[1], want.logits)
    assert "logits" in repr(out)
    again = loaded(dict(out), weights_only=True)
    assert torch.equal(again["logits"], want.logits)
    again = [pickle.loads(pickle.dumps(out)), loaded(out, weights_only=False), copy.deepcopy(out), copy.copy(out)]
    for got in again:
        assert type(got) is outputs.CausalLMOutput
        assert torch.equal(got.logits, want.logits)
    leaves, spec = torch.utils._pytree.tree_flatten(out)
    assert torch.equal(torch.utils._pytree.tree_unflatten(leaves, spec).logits, want.logits)


def test_copies_of_a_fused_model_are_independent():
    fused, twin = models(tied=True)
    other = copy.deepcopy(fused)
    assert is_lazy(other(tokens()))
    with torch.no_grad():
        _ = other.head.weight.mul_(2)
    assert other.head.weight is other.embedding.weight
    assert torch.equal(fused(tokens()), twin(tokens()))
    assert not torch.equal(other(tokens()), twin(tokens()))
    with torch.no_grad():
        _ = twin.head.weight.mul_(2)
    same_gradients(other, twin)
    again = loaded(fused, weights_only=False)
    assert is_lazy(again(tokens()))
    assert torch.equal(again(tokens()), fused(tokens()))
    assert again.head.weight is again.embedding.weight
    _ = F.unfuse_lm_head(other)
    assert is_lazy(fused(tokens()))
    assert not is_lazy(other(tokens()))


# The head


def test_the_state_is_that_of_the_head_alone():
    fused, twin = models(bias=True)
    assert list(fused.state_dict()) == list(twin.state_dict())
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in twin.named_parameters()]
    assert [n for n, _ in fused.named_modules()] == [n for n, _ in twin.named_modules()]
    assert [n for n, _ in fused.named_buffers()] == []
    assert isinstance(fused.head, nn.Linear)
    assert (fused.head.in_features, fused.head.out_features) == (D, V)
    state = {k: v + 1 for k, v in twin.state_dict().items()}
    for m in (fused, twin):
        assert str(m.load_state_dict(state)) == "<All keys matched successfully>"
    same_gradients(fused, twin)
    same_gradients(fused.eval(), twin.eval())
    assert fused.float()(tokens()).dtype == torch.float32
    assert fused.to(torch.bfloat16)(tokens()).dtype == torch.bfloat16
    assert fused.to("meta")(tokens().to("meta")).device.type == "meta"


def test_fused_twice_and_unfused():
    twin = Model().double()
    model = copy.deepcopy(twin)
    assert F.fuse_lm_head(F.fuse_lm_head(model)) is model
    assert is_lazy(model(tokens()))
    assert F.unfuse_lm_head(model) is model
    assert type(model.head) is nn.Linear
    assert type(model(tokens())) is Tensor
    assert not is_lazy(model(tokens()))
    assert vars(model.head).keys() == vars(twin.head).keys()
    assert F.unfuse_lm_head(model) is model
    assert is_lazy(F.fuse_lm_head(model)(tokens()))
    same_gradients(model, twin)
    z = model(tokens())
    _ = F.unfuse_lm_head(model)
    assert torch.equal(z, twin(tokens()))


def test_hooks_of_the_head():
    fused, twin = models()
    seen = []
    for m in (fused, twin):
        _ = m.head.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
        _ = m.head.register_forward_hook(lambda _, args, out: seen.append(out.shape))
        _ = m.head.register_forward_hook(lambda _, args, out: out / 3)
    assert torch.equal(fused(tokens()), twin(tokens()))
    assert is_lazy(fused(tokens()))
    assert set(seen) == {(B, S, V)}
    same_gradients(fused, twin)


def test_functional_calls():
    fused, twin = models()
    state = {k: v.detach() * 2 for k, v in twin.named_parameters()}
    got, want = (torch.func.functional_call(m, state, (tokens(),)) for m in (fused, twin))
    assert torch.equal(got, want)

    def loss(model, state):
        return loss_of(torch.func.functional_call(model, state, (tokens(),)))

    want = torch.func.grad(lambda s: loss(twin, s))(state)
    try:
        got = torch.func.grad(lambda s: loss(fused, s))(state)
    except (RuntimeError, NotImplementedError):
        return
    torch.testing.assert_close(got, want)


class Sub(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


HEADS = {
    "a subclass": Sub(D, V),
    "a lazy module": nn.LazyLinear(V),
    "a sequence": nn.Sequential(nn.Linear(D, V)),
    "an embedding": nn.Embedding(V, D),
    "a convolution": nn.Conv1d(D, V, 1),
    "a bilinear one": nn.Bilinear(D, D, V),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_heads_that_are_not_linear_are_refused(head):
    model = Model()
    model.head = head
    before = dict(vars(head))
    with pytest.raises(TypeError, match=type(head).__name__):
        _ = F.fuse_lm_head(model)
    assert vars(head).keys() == before.keys()


def test_models_without_output_embeddings_are_refused():
    class Trunk(Model):
        def get_output_embeddings(self):
            return None

    for model in (Trunk(), nn.Sequential(nn.Linear(D, V)), nn.Embedding(V, D), None, "gpt2"):
        with pytest.raises((TypeError, ValueError)) as caught:
            _ = F.fuse_lm_head(model)
        assert len(str(caught.value)) > 20


def test_bad_inputs_are_refused_as_ever():
    for head, _ in pair():
        for x in (torch.randn(3, D + 1).double(), torch.randn(3, D), torch.tensor(1.0).double()):
            with pytest.raises((RuntimeError, TypeError, ValueError)):
                _ = head(x) + 0


def test_logits_traced_by_make_fx_are_no_constants():
    from torch.fx.experimental.proxy_tensor import make_fx

    twin = nn.Linear(D, V)
    head = F.fuse_lm_head(copy.deepcopy(twin))
    x, other = torch.randn(2, 3, D), torch.randn(2, 3, D)
    traced = make_fx(lambda x: 2 * head(x))(x)
    torch.testing.assert_close(traced(other), 2 * twin(other))
