"""Lazy logits are the logits: whatever is asked of them, they answer as those of the head alone do."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from tests.torch import plain
from tests.torch.lazily import LOGITS, B, D, Largest, V, expressions, memory_for_logits, others, pair, same, value

# What is known without a multiplication

KNOWN = """
z.shape; z.dtype; z.device; z.requires_grad; z.ndim; z.dim(); z.size(); z.size(-1); z.size(1); len(z); z.numel()
z.shape[-1] * z.shape[0]; z.shape == z.size(); z.is_leaf; z.is_cuda; z.is_floating_point(); z.is_contiguous()
torch.is_tensor(z); isinstance(z, torch.Tensor); torch.is_floating_point(z); torch.numel(z); z is z; {z: 1}[z]
"""
ODD = """
z.nelement(); z.layout; z.is_cpu; z.is_sparse; z.is_meta; z.is_quantized; z.is_nested; z.is_complex(); z.stride()
z.stride(-1); z.element_size(); z.itemsize; z.nbytes; z.storage_offset(); z.get_device(); z.grad_fn is None
z.is_inference(); z.is_signed(); isinstance(z, nn.Parameter); torch.is_complex(z); z.is_same_size(z); z.is_conj()
z.dim_order(); z.untyped_storage().nbytes()
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grad", [True, False])
def test_what_is_known_without_a_multiplication(grad, dtype):
    (head, x), (twin, u) = pair(dtype)
    with torch.set_grad_enabled(grad):
        z, want = head(x), twin(u)
        with Largest() as seen:
            for text in expressions(KNOWN):
                assert value(text, z) == value(text, want), text
                assert seen.elements < LOGITS, text
        for text in expressions(ODD):
            assert value(text, z) == value(text, want), text


@pytest.mark.parametrize("grad", [True, False])
def test_they_can_be_shown(grad):
    (head, x), _ = pair()
    with torch.set_grad_enabled(grad):
        z = head(x)
        for text in (repr(z), str(z), f"{z}", f"{z!r:>3}", "%s" % z, repr({"logits": z}), repr([z.view(-1, V), z / 2])):  # noqa: UP031
            assert text.strip()


# Reading

READS = {
    "tolist": lambda z: z.detach().tolist(),
    "numpy": lambda z: z.detach().numpy().tolist(),
    "cpu numpy": lambda z: z.detach().cpu().numpy().tolist(),
    "numpy, forced": lambda z: z.numpy(force=True).tolist(),
    "asarray": lambda z: np.asarray(z.detach()).tolist(),
    "dlpack": lambda z: torch.from_dlpack(z.detach()).tolist(),
    "from_dlpack": lambda z: np.from_dlpack(z.detach()).tolist(),
    "item": lambda z: z.sum().item(),
    "item of one": lambda z: z[0, 1, 2].item(),
    "numbers": lambda z: (
        float(z.sum().detach()),
        int(z.detach().sum()),
        bool(z.sum() > 0),
        complex(z[0, 0, 0].detach()),
    ),
    "iteration": lambda z: [row.tolist() for row in z],
    "nested iteration": lambda z: [v.item() for sample in z for row in sample for v in row],
    "unpacking": lambda z: [half.tolist() for half in operator.itemgetter(0, 1)(tuple(z))],
    "format of one": lambda z: f"{z[0, 0, 0]:.3f} {z.max():.2e} {z.argmax()}",
    "containing": lambda z: z.max().item() in z.detach(),
    "equality": lambda z: (torch.equal(z, z.clone()), torch.allclose(z, z + 1e-12), (z == z).all().item()),
    "splitting": lambda z: [part.tolist() for part in z.split(5, -1)],
    "unbinding": lambda z: [part.tolist() for part in z.unbind(1)],
    "extrema": lambda z: [part.tolist() for part in (*z.max(-1), *z.topk(3), *torch.sort(z, -1))],
    "types": lambda z: (z.type(), z.sum().type()),
    "broadcast": lambda z: [part.shape for part in torch.broadcast_tensors(z, torch.ones(3, 1, 1, 1))],
    "storage": lambda z: (z + 0).untyped_storage().nbytes(),
    "meta": lambda z: z.to("meta").shape,
    "empty ones": lambda z: (z.new_zeros(2).tolist(), torch.zeros_like(z).tolist(), torch.ones_like(z).sum().item()),
}


@pytest.mark.parametrize("use", READS.values(), ids=READS)
@pytest.mark.parametrize("grad", [True, False])
def test_what_comes_out_of_torch(use, grad):
    (head, x), (twin, u) = pair()
    with torch.set_grad_enabled(grad):
        assert use(head(x)) == use(twin(u))


USES = """
z + 0; -z; z * 1.5; z ** 2; 2 ** abs(z); 2 - z; z - a.real; a.real - z; a.real * z; a.real / z; z @ a.row
z @ a.real.mT; a.real @ z.mT; z.detach() // 2; z % 2; abs(z); z > 0; z == z; 0 < z; z <= a.real; z.argmax(-1)
z.argmax(dim=-1, keepdim=True); z.sum(); z.mean((0, 1)); z[..., -1, :]; z[:, :-1].contiguous(); z[:, -1]; z[:, -1, :]
z[0]; z[-1, 2]; z[0, 1, 2]; z[..., :5]; z[..., 3]; z[..., ::2]; z[z > 0]; z[:, [0, 2]]; z[torch.tensor([1, 0])]
z[:, ::3]; z[None]; z[:, None]; z[..., None]; z[...]; z[:]; z[:, :0]; z[a.y > 3]; z[0][1][2]
z[torch.arange(2)[:, None], torch.arange(7), a.y]; z[:, :, a.y[0]]; z[True]; z[1:, 2:4, 1:3]; z[:, 2:][:, :3]
z[0][:, 2]; z[..., -1:, :]; z[:, slice(-3, None), :]; z[:, torch.tensor([2, 5]), :]; z[1, None]; z[1, ..., 2]
z[None, 0, :, None, 3]; z[torch.tensor(1)]; z[:, :, :4]; z.view(-1, 11); z.view(14, -1); z.view(2, 77); z.view(-1)
z.reshape(7, 2, 11); z.reshape(-1, z.size(-1)); z.reshape(11, 14); z.ravel(); z.view((14, 11))
z.view(torch.Size([14, 11])); z.view(2, 7, 11, 1); z.view(2, 7, 1, 11); z.view_as(a.real); z.flatten(); z.flatten(0, 1)
z.flatten(0, -2); z.unflatten(1, (7, 1)); z.transpose(1, 2); z.transpose(0, 1); z.mT; z.permute(2, 0, 1)
z.movedim(-1, 0); z.swapaxes(0, 2); z.unsqueeze(0); z.unsqueeze(-1); z.squeeze(); z.expand(3, 2, 7, 11)
z.repeat(2, 1, 1); z.flip(-1); z.roll(1, -1); z.narrow(1, 2, 3); z[0].T; z.select(1, 3); z.chunk(2, 1)[1]
z.split(3, 1)[2]; z.split(5, -1)[1]; z.diff(dim=-1); z.tril(); z.diagonal(dim1=1, dim2=2); z.cumsum(-1)
z.index_select(1, a.y[0] % 7); z.gather(-1, a.y[..., None]); z.take_along_dim(a.y[..., None], -1)
z.masked_fill(a.real > 1, -9.0); z.softmax(-1); z.softmax(1); z.log_softmax(-1); z.logsumexp(-1); torch.softmax(z, -1)
z.exp(); z.tanh(); z.tanh() * 2; z.sigmoid(); z.max(-1).values; z.max(); z.amax(-1); z.topk(3).values
z.sort(-1).values; z.median(-1).values; z.var(-1); z.norm(); z.kthvalue(2).values; z.float(); z.double()
z.half().double(); z.bfloat16().float(); z.to(torch.float32); z.to(a.real); z.to("cpu"); z.to("cpu", torch.float32)
z.to(copy=True, dtype=torch.float32, device="cpu"); z.type(torch.float32); z.type_as(a.real); z.int(); z.cpu()
z.clone(); z.detach(); z.data; z.to(torch.float32, copy=True); z.to(dtype=torch.float32); z.to(torch.int64)
z.contiguous(); z.requires_grad_(); z.to(z.device, non_blocking=True); torch.cat([z, a.real])
torch.cat([a.real, z], -1); torch.cat((z, z), 1); torch.stack([z, a.real]); torch.stack((a.real, z, z), -1)
torch.where(z > 0, z, 0); torch.where(a.real > 1, a.real, z); torch.maximum(z, a.real); torch.add(a.real, z, alpha=2)
torch.lerp(z, a.real, 0.3); torch.addcmul(a.real, z, z); torch.einsum("bsv,bsv->bs", z, a.real)
torch.bmm(z, a.real.mT); torch.tensordot(z, a.row, 1); torch.clamp(z, -1, 1); torch.nan_to_num(z); torch.isfinite(z)
torch.div(z, 0.5, rounding_mode="floor"); torch.vstack([z, a.real]); torch.log_softmax(z, 2); z @ z.mT
nnf.linear(z, a.real[0]); nnf.pad(z, (0, 1)); nnf.gelu(z); nnf.softmax(z, -1); nnf.mse_loss(z, a.real)
nnf.dropout(z, 0.0); nn.Softmax(-1)(z); nnf.nll_loss(nnf.log_softmax(z.view(-1, 11), -1), a.y.view(-1))
nnf.kl_div(z.log_softmax(-1), a.p, reduction="batchmean"); nnf.binary_cross_entropy_with_logits(z, a.p)
nnf.multi_margin_loss(z[0], a.y[0]); nnf.layer_norm(z, (11,)); nnf.normalize(z, dim=-1)
z.log_softmax(-1).gather(-1, a.y.unsqueeze(-1)).squeeze(-1).mean(); z.unsqueeze(0).squeeze(0)
z.sum(dtype=torch.float64); nn.Identity()(z); nn.Flatten()(z); nn.CosineSimilarity()(z, a.real); torch.stack(list(z))
sum(z); torch.cdist(z, a.real); torch.nn.utils.rnn.pad_sequence([z[0], z[1]])
torch.distributions.Categorical(logits=z).log_prob(a.y); torch.distributions.Categorical(logits=z).entropy()
z.__rsub__(1); z.__rtruediv__(1); torch.stack(z.unbind()); torch.cat(z.split(3, 1), 1); torch.concat([*z])
torch.block_diag(z[0], z[1]); z.new_tensor([1.0]) + z.sum(); torch.full_like(z, 3); z.view(torch.int64)
z[:, :, None].expand(2, 7, 2, 11)
"""


@pytest.mark.parametrize("text", expressions(USES))
def test_uses_are_those_of_the_logits(text):
    same(lambda z, a: value(text, z, a))


# Scales, caps and views that stay lazy, and those that cannot

LAZY = """
z; z.float(); z.double(); z.to(torch.float32); z.to(torch.float64); z.contiguous(); z / 3; z * 0.3; 0.3 * z
z / 3.0 * 7; z * 2 / 3 * 4; z.mul(0.7); z.div(0.7); torch.mul(z, 0.5); torch.div(z, 3); torch.tanh(z); z.tanh()
2.0 * torch.tanh(z / 2.0); torch.tanh(z / 1.7) * 1.7; z.tanh() * 3 / 2; z.float() / 3; torch.tanh(z / 2) * 2 / 0.7
"""
SCALED = """
-0.5 * z; z / -2; torch.tanh(z * -0.4) * -3; torch.tanh(z / 2) * -2; z / 3 / -0.3 * 0.7
torch.tanh(torch.tanh(z / 2) * 3) * 2; z.tanh().tanh(); z * a.t; a.t * z; z / a.t; a.t / z; z * a.row; z / a.row
z * a.real; z / torch.tensor(2.0); z * torch.tensor(2.0, dtype=torch.float64); 3 / z; 3.0 / z * 0.5; z * True; z * 0
z + 1; z - 1; 1 - z; z + a.row; z * a.t + a.row; torch.tanh(z * a.t); torch.tanh(z / 2) * a.t; z.mul(other=0.5)
torch.mul(input=z, other=0.5); z * a.w[0].item(); z.div(2, rounding_mode=None); z.div(2, rounding_mode="trunc")
(z * 2).clamp(-1, 1); -z; +z; z.sigmoid(); z.clone() / 2; z.detach() / 2; z * a.t.detach(); (z / 2).requires_grad_()
z.masked_fill(a.real > 1, -1e4); torch.where(a.real > 1, z, -torch.inf); z - z.amax(-1, keepdim=True)
z.log_softmax(-1); torch.true_divide(z, 2); torch.multiply(z, 2); torch.divide(z, 2); z.true_divide(2); z.multiply(2)
z.divide(2); z.mul(a.t); z.clone().mul_(2)
"""
ROUNDED = """
z.float().double(); z.bfloat16().float(); z.half() / 3; (z / 3).half().double() * 3; z.tanh().bfloat16() / 7
z.bfloat16().tanh()
"""
VIEWS = """
nnf.cross_entropy({z}.view(-1, 11), a.y.view(-1))
nnf.cross_entropy({z}.reshape(-1, z.size(-1)), a.ignored.reshape(-1))
nnf.cross_entropy(({z})[:, :-1].contiguous().view(-1, 11), a.y[:, 1:].reshape(-1))
nnf.cross_entropy(({z})[..., :-1, :].reshape(12, 11), a.y[..., 1:].ravel())
nnf.cross_entropy(({z})[:, :-1].transpose(1, 2), a.y[:, 1:])
nnf.cross_entropy(({z}).view(14, 11)[1:], a.y.view(-1)[:-1], reduction="sum")
"""


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
def test_scaled_logits_are_equal_to_the_last_bit(dtype):
    (head, x), (twin, u) = pair(dtype)
    a = others(dtype)
    for text in expressions(LAZY + SCALED + ROUNDED):
        got, want = value(text, head(x), a), value(text, twin(u), a)
        assert got.dtype == want.dtype, text
        assert torch.equal(got, want) or want.isnan().any(), text
        assert torch.equal(got.view(-1, V) + 0, want.view(-1, V) + 0) or want.isnan().any(), text


@pytest.mark.parametrize("text", expressions(LAZY + SCALED))
def test_the_loss_of_scaled_logits(text):
    for view in expressions(VIEWS):
        loss = view.format(z=f"({text})")
        same(lambda z, a, loss=loss: value(loss, z, a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_logits_are_made_for_a_loss(dtype, monkeypatch):
    memory_for_logits(monkeypatch, LOGITS // 2)
    (head, x), (twin, u) = pair(dtype)
    a = others(dtype)
    losses = [v.format(z=f"({z})") for z in expressions(LAZY) for v in expressions(VIEWS)]
    for text in losses:
        if "transpose" in text or "double" in text or "float64" in text:
            continue
        for h, leaf, made in ((head, x, False), (twin, u, True)):
            with Largest() as seen:
                value(text, h(leaf), a).backward()
            assert (seen.elements >= LOGITS) == made, text


# Losses

LOSSES = """
nnf.cross_entropy(z[0], a.y[0], reduction="none"); nnf.cross_entropy(z[0], a.ignored[0], a.w)
nnf.cross_entropy(z[0, 0], a.y[0, 0]); nnf.cross_entropy(z.view(-1, 11), a.ignored.view(-1), reduction="sum")
nnf.cross_entropy(z.view(-1, 11), a.ignored.view(-1), a.w, reduction="none")
nnf.cross_entropy(z.view(-1, 11), a.y.view(-1), label_smoothing=0.1)
nnf.cross_entropy(z.view(-1, 11), a.ignored.view(-1), a.w, label_smoothing=0.3)
nnf.cross_entropy(z.view(-1, 11), a.y.view(-1), ignore_index=4)
nnf.cross_entropy(z.view(-1, 11), target=a.y.view(-1), ignore_index=int(a.y[0, 0]))
nnf.cross_entropy(input=z.view(-1, 11), target=a.y.view(-1), reduction="sum", weight=a.w)
nnf.cross_entropy(z.view(-1, 11), a.p.view(-1, 11))
nnf.cross_entropy(z.view(-1, 11), a.p.view(-1, 11), a.w, label_smoothing=0.2, reduction="sum")
nnf.cross_entropy(z[0], a.p[0], reduction="none"); nnf.cross_entropy(z.transpose(1, 2), a.y)
nnf.cross_entropy(z.permute(0, 2, 1), a.ignored, a.w, reduction="none"); nnf.cross_entropy(z.mT, a.p.mT)
nnf.cross_entropy(z.transpose(-1, -2)[:, :, :-1], a.y[:, 1:])
nnf.cross_entropy(z.movedim(-1, 1), a.ignored, label_smoothing=0.1, reduction="sum")
nnf.cross_entropy(z.transpose(1, 2).contiguous(), a.y); nnf.cross_entropy((z / 2).swapaxes(1, 2).float(), a.y)
nnf.cross_entropy(z.mT / 2, a.y); nnf.cross_entropy(z, a.y[:, :1].expand(2, 11) % 7); nnf.cross_entropy(z, a.p)
nnf.cross_entropy(z[:, None].transpose(1, 3), a.y[..., None]); nnf.cross_entropy(a.real.view(-1, 11), z.view(-1, 11))
nnf.cross_entropy(a.real[0], z[0].softmax(-1)); nnf.cross_entropy(z[0], z[1].softmax(-1))
nn.CrossEntropyLoss(a.w, label_smoothing=0.1)(z.view(-1, 11), a.y.view(-1)); nn.CrossEntropyLoss()(z.mT, a.ignored)
nnf.cross_entropy(z[..., :9].mT, a.y % 9)
nnf.cross_entropy(z[:, :0].reshape(0, 11), a.y[:, :0].reshape(-1), reduction="sum")
nnf.cross_entropy(z.view(-1, 11), a.y.view(-1) * 0 - 100)
nnf.cross_entropy(z.view(-1, 11), a.y.view(-1), torch.ones_like(a.w))
nnf.cross_entropy(z.view(-1, 11), a.y.view(-1)) * nnf.cross_entropy(z[0], a.y[1])
F.cross_entropy(z.view(-1, 11), a.y.view(-1)); F.cross_entropy(z.mT, a.ignored, a.w, softcap=2.0)
F.binary_cross_entropy_with_logits(z, a.p); F.CrossEntropyLoss(temperature=0.5)(z[0], a.y[0])
F.cross_entropy(z.view(-1, 11), a.y.view(-1), return_stats=True)[1].entropy
nnf.cross_entropy(z[0], a.y[0]) + z.logsumexp(-1).square().mean()
nnf.cross_entropy(z[0], a.y[0]) + (z * a.real).sum() + z[1].max()
nnf.cross_entropy(z.view(-1, 11), a.ignored.view(-1), reduction="none").view(2, 7).mean(-1)
nnf.cross_entropy(z[0], a.y[0]) - a.t * nnf.cross_entropy(z[1] / 2, a.y[1])
nnf.cross_entropy(z.view(-1, 11), a.y.view(-1), reduction="none") * (z.argmax(-1) == a.y).view(-1)
nnf.cross_entropy(torch.tanh(z[0]), a.y[0]) + z.tanh().sum()
"""


@pytest.mark.parametrize("text", expressions(LOSSES))
def test_losses(text):
    same(lambda z, a: value(text, z, a))


@pytest.mark.parametrize(
    "text", ["z, a.y", "z.mT, a.y", "z.transpose(0, 1).transpose(1, 2), a.y.T", "z / 2, a.ignored"]
)
def test_the_class_axis_is_not_always_the_last(text):
    # with as many classes as positions only the order of the axes tells which is which
    same(lambda z, a: value(f"nnf.cross_entropy({text}, reduction='none')", z, a), shape=(B, V, D))


@pytest.mark.parametrize("shape", [(D,), (4, D), (0, D), (1, D), (2, 3, D), (2, 1, 3, D), (2, 0, D)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_inputs_of_any_shape(shape, bias):
    def loss(z, a):
        return nnf.cross_entropy(z.reshape(-1, V), torch.arange(z.numel() // V), reduction="sum")

    same(lambda z, a: z + 0, torch.float64, bias, shape)
    same(loss, torch.float64, bias, shape)
    if len(shape) == 1:
        same(lambda z, a: nnf.cross_entropy(z / 2, a.y), torch.float64, bias, shape)
    if len(shape) == 2:
        same(lambda z, a: nnf.cross_entropy(z, a.y, reduction="none"), torch.float64, bias, shape)


@pytest.mark.parametrize(
    "target", [torch.arange(13), torch.arange(14) - 3, torch.arange(14), torch.rand(14, 10)], ids=range(4)
)
def test_bad_targets_are_refused_as_ever(target):
    for head, x in pair():
        with pytest.raises((ValueError, IndexError, RuntimeError)):
            _ = nnf.cross_entropy(head(x).view(-1, V), target)
