"""The warning of a fused head: once, where its logits are made in training, and nowhere else."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

import crossent.torch as F
from crossent.torch.lazy.notice import is_told
from tests.torch.lazily import V, expressions, others, pair, value

TEXT = "that fuse_lm_head fused"


def fused():
    (head, x), _ = pair()
    return head, x


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("z + 1", "add"), ("1 + z", "add"), ("z.exp()", "exp"), ("z * a.t", "mul"), ("z.argmax(-1)", "argmax"),
        ("torch.stack([z, z])", "stack"), ("z.view(-1, 11).topk(2)", "topk"), ("z.detach().cpu() + 1", "add"),
        ("z.log_softmax(-1).exp()", "exp"), ("z[..., 0]", "__getitem__"), ("repr(z)", "print"),
        ("z.tolist()", "tolist"),
        ("z.transpose(1, 2)", "transpose"),
        ('nnf.kl_div(z.log_softmax(-1), a.p, reduction="none")', "kl_div"),
    ],
)  # fmt: skip
def test_a_read_in_training_warns_once_and_names_the_operation(text, name):
    head, x = fused()
    z = head(x)
    with pytest.warns(UserWarning, match=TEXT) as caught:
        _ = value(text, z, others())
    (warning,) = caught
    assert str(warning.message).startswith(f"{name} asked for the logits")
    assert "unfuse_lm_head(model)" in str(warning.message)
    assert is_told(head)
    _ = value(text, z, others())
    _ = value(text, head(x), others())


def test_the_line_that_asked_is_named():
    head, x = fused()
    with pytest.warns(UserWarning, match=TEXT) as caught:
        _ = head(x) + 1
    assert caught[0].filename == __file__


def test_what_bypasses_torch_functions():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.exp()

        @staticmethod
        def backward(ctx, g):
            return g

    head, x = fused()
    with pytest.warns(UserWarning, match=TEXT):
        _ = Own.apply(head(x))
    head, x = fused()
    with torch._C.DisableTorchFunctionSubclass(), pytest.warns(UserWarning, match=r"aten\.exp"):
        _ = torch.exp(head(x))


QUIET = """
nnf.cross_entropy(z.view(-1, 11), a.y.view(-1)).backward(); z.shape; (z / 2 + a.row).log_softmax(-1); z.requires_grad
F.cross_entropy(z[0], a.y[0], return_stats=True); z.log_softmax(-1).gather(-1, a.y[..., None]); len(z); z.float()[:, 1:]
z.retain_grad(); z.register_hook(print); z.logsumexp(-1)
"""


@pytest.mark.parametrize("text", expressions(QUIET))
def test_what_makes_no_logits_is_quiet(text):
    head, x = fused()
    _ = value(text, head(x), others())
    assert not is_told(head)


def test_evaluation_is_quiet():
    head, x = fused()
    with torch.no_grad():
        _ = head(x) + 1
    with torch.inference_mode():
        _ = head(x) + 1
    _ = head.eval()(x) + 1
    frozen = head.train().requires_grad_(False)
    assert not is_told(frozen)
    with pytest.warns(UserWarning, match=TEXT):
        _ = frozen(x) + 1  # the input still wants a gradient
    (head, _), _ = pair()
    _ = head.requires_grad_(False)(x.detach()) + 1


@pytest.mark.parametrize(
    "metric", ["z.argmax(-1)", "z.detach() + 1", "z.topk(2).indices", "z.detach().tolist()", "repr(z)"]
)
def test_metrics_after_a_fused_loss_are_quiet(metric):
    head, x = fused()
    z, a = head(x), others()
    loss = nnf.cross_entropy(z.view(-1, V), a.y.view(-1))
    _ = value(metric, z, a)
    with torch.no_grad():
        _ = z.softmax(-1)
    loss.backward()
    assert not is_told(head)


def test_a_second_loss_of_the_numbers_warns():
    head, x = fused()
    z, a = head(x), others()
    _ = nnf.cross_entropy(z.view(-1, V), a.y.view(-1))
    with pytest.warns(UserWarning, match="exp"):
        _ = z.exp()


def test_each_model_warns_once():
    for head, x in (fused(), fused()):
        with pytest.warns(UserWarning, match=TEXT):
            _ = head(x) + 1
        copied = copy.deepcopy(head)
        _ = copied(x) + 1
        assert vars(F.unfuse_lm_head(head)).keys() == vars(nn.Linear(1, 1)).keys()
        _ = F.fuse_lm_head(head)
        with pytest.warns(UserWarning, match=TEXT):
            _ = head(x) + 1


def test_a_head_of_dtensors(ranks):
    ranks.run(1, dtensors)


def dtensors(group):
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    mesh = DeviceMesh.from_group(group, "cpu")
    head = F.fuse_lm_head(nn.Linear(5, V))
    head.weight = nn.Parameter(distribute_tensor(head.weight.detach(), mesh, [Shard(0)]))
    head.bias = nn.Parameter(distribute_tensor(head.bias.detach(), mesh, [Shard(0)]))
    x = distribute_tensor(torch.randn(3, 5), mesh)
    with pytest.warns(UserWarning, match="DTensors"):
        assert isinstance(head(x), DTensor)
    _ = head(x)
