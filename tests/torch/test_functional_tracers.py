"""Tracers: a graph of a loss gives the numbers of the loss on new inputs, or there is a clear error."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain
from tests.torch.transforming import CASES, Case, Rival

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

Tensors = tuple[Tensor, ...]


class Loss(torch.nn.Module):
    """A loss as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*x)


class Labels(torch.nn.Module):
    """All losses of class indices that are inputs, as one vector."""

    def __init__(self, home: Any = F) -> None:
        super().__init__()
        self.home = home

    def forward(self, z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        f, soft = self.home, self.home.cross_entropy
        index = torch.stack([y, y.flip(0)], 1).clamp(0)
        return torch.stack([
            soft(z, y), soft(z, y, w[:, 0], label_smoothing=0.1, reduction="sum"), soft(z, y, z_loss=0.1),
            soft(z, y, reduction="none", softcap=2.0).mean(), soft(z, TopK(index, z[:, :2].sigmoid())),
            f.linear_cross_entropy(z, w, y), f.linear_cross_entropy(z, w, y, temperature=0.5, reduction="none").sum(),
        ])  # fmt: skip


def labelled() -> Tensors:
    y = torch.randint(5, (4,))
    y[torch.randint(4, ())] = -100
    return torch.randn(4, 5), y, torch.rand(5, 5)


def inputs_of(name: str, case: Case) -> Tensors:
    x = case.inputs(torch.float32)
    return (torch.rand_like(x[0]), *x[1:]) if name.startswith("binary ") and "logits" not in name else x


def agree(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-6)


def quietly(trace: Any, *args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace(*args, **options)


# torch.jit.trace -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_torchscript_trace(name):
    case = CASES[name]
    traced, x = torch.jit.trace(case.ours, inputs_of(name, case)), inputs_of(name, case)
    agree(traced(*x), case.rival(*x))
    assert "crossent::" not in str(traced.graph), "a graph that ONNX and other runtimes cannot read"
    leaves = [a.clone().requires_grad_() for a in x]
    sides = [f(*leaves) for f in (traced, case.rival)]
    for a, b in zip(*(torch.autograd.grad(s, leaves, torch.ones_like(s)) for s in sides), strict=True):
        agree(a, b)


def test_a_torchscript_trace_reads_its_labels():
    traced, x = torch.jit.trace(Labels(), labelled()), labelled()
    agree(traced(*x), Labels(Rival)(*x))


def test_a_torchscript_trace_of_modules():
    z, y, t, w = torch.randn(4, 5), torch.randint(5, (4,)), torch.rand(4, 5), torch.rand(5)
    for ours, twin, target in (
        (F.CrossEntropyLoss(w), torch.nn.CrossEntropyLoss(w), y),
        (F.BCEWithLogitsLoss(pos_weight=w), torch.nn.BCEWithLogitsLoss(pos_weight=w), t),
    ):
        agree(torch.jit.trace(ours, (z, target))(z * 2, target), twin(z * 2, target))
    layer = F.LinearCrossEntropyLoss(5, 5)
    agree(torch.jit.trace(layer, (z, y))(z * 2, y), nnf.cross_entropy(layer.linear(z * 2), y))


def test_a_class_that_does_not_exist_is_nan_in_a_graph():
    z, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    traced = torch.jit.trace(lambda z, y: F.cross_entropy(z, y, reduction="none"), (z, y))
    agree(traced(z, torch.tensor([0, 5, 2, -1])).isnan(), torch.tensor([False, True, False, True]))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fused_head_is_traced_as_a_plain_one():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(6, 9)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.head(x), y, temperature=2.0) + nnf.cross_entropy(self.head(x).float(), y)

    model, (x, a), (y, b) = Model(), torch.randn(2, 5, 6), torch.randint(9, (2, 5))
    want = plain.cross_entropy(model.head(a), b, temperature=2.0) + nnf.cross_entropy(model.head(a), b)
    _ = F.fuse_lm_head(model.head)
    for graph in (torch.jit.trace(model, (x, y)), torch.fx.symbolic_trace(model), make_fx(model)(x, y)):
        agree(graph(a, b), want)


# torch.fx ----------------------------------------------------------------------------------------------------------


class Symbolic(torch.nn.Module):
    """A loss of three arguments, which a symbolic tracer can count."""

    def __init__(self, function: Any, number: int) -> None:
        super().__init__()
        self.function, self.number = function, number

    def forward(self, a: Any, b: Any, c: Any) -> Any:
        return self.function(*(a, b, c)[: self.number])


@pytest.mark.parametrize("name", CASES)
def test_a_symbolic_trace(name):
    case = CASES[name]
    x = inputs_of(name, case)
    graph = torch.fx.symbolic_trace(Symbolic(case.ours, len(x)))
    agree(graph(*x, *[None] * (3 - len(x))), case.rival(*x))


def test_a_symbolic_trace_of_modules_and_top_k():
    z, y = torch.randn(4, 5), torch.randint(5, (4,))
    loss = F.CrossEntropyLoss(torch.rand(5), temperature=2.0)
    graph = torch.fx.symbolic_trace(loss, concrete_args={"sample_weight": None})
    agree(graph(z, y), loss(z, y))
    assert any(node.target is F.cross_entropy for node in graph.graph.nodes), "the loss is not one node"
    graph = torch.fx.symbolic_trace(lambda z, i, p: F.cross_entropy(z, TopK(i, p), return_stats=True)[1].lse)
    index, prob = torch.randint(5, (4, 2)), torch.rand(4, 2)
    agree(graph(z, index, prob), z.logsumexp(1))


# make_fx, torch.export, fake tensors -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_graph_of_make_fx(name):
    case = CASES[name]
    graph, x = make_fx(case.ours)(*inputs_of(name, case)), inputs_of(name, case)
    agree(graph(*x), case.rival(*x))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_graph_of_make_fx_reads_its_labels(mode):
    graph, x = make_fx(Labels(), tracing_mode=mode)(*labelled()), labelled()
    agree(graph(*x), Labels(Rival)(*x))


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_reads_its_labels(strict):
    x = labelled()
    program = quietly(torch.export.export, Labels(), labelled(), strict=strict)
    agree(program.module()(*x), Labels(Rival)(*x))


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_an_exported_program(name, strict):
    case = CASES[name]
    x = inputs_of(name, case)
    program = quietly(torch.export.export, Loss(case.ours), inputs_of(name, case), strict=strict)
    agree(program.module()(*x), case.rival(*x))


@pytest.mark.parametrize("name", CASES)
def test_shapes_of_fake_tensors(name):
    case = CASES[name]
    x = inputs_of(name, case)
    want = case.ours(*x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(a).requires_grad_() for a in x]
        got = case.ours(*fakes)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        for g, a in zip(torch.autograd.grad(got.sum(), fakes), x, strict=True):
            assert (g.shape, g.dtype) == (a.shape, a.dtype)


# ONNX --------------------------------------------------------------------------------------------------------------


def run_onnx(model: bytes, x: Tensors) -> Tensor:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the graphs of this test")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    assert len(names) == len(x), "an input became a constant"
    return torch.from_numpy(session.run(None, {n: a.numpy() for n, a in zip(names, x, strict=True)})[0])


def to_onnx(module: torch.nn.Module, x: Tensors, *, dynamo: bool) -> bytes:
    _ = pytest.importorskip("onnx", reason="torch's exporter makes graphs of it")
    if dynamo:
        _ = pytest.importorskip("onnxscript", reason="torch's exporter is written in it")
        return quietly(torch.onnx.export, module, x, dynamo=True, verbose=False).model_proto.SerializeToString()
    out = io.BytesIO()
    quietly(torch.onnx.export, module, x, out, dynamo=False)
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_onnx_graph_of_a_trace(name):
    case = CASES[name]
    x = inputs_of(name, case)
    agree(run_onnx(to_onnx(Loss(case.ours), inputs_of(name, case), dynamo=False), x), case.rival(*x))


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True], ids=["trace", "dynamo"])
def test_an_onnx_graph_reads_its_labels(dynamo):
    x = labelled()
    agree(run_onnx(to_onnx(Labels(), labelled(), dynamo=dynamo), x), Labels(Rival)(*x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index mean", "pixels", "statistics", "binary logits mean", "binary sum"])
def test_an_onnx_graph_of_an_exported_program(name):
    case = CASES[name]
    x = inputs_of(name, case)
    agree(run_onnx(to_onnx(Loss(case.ours), inputs_of(name, case), dynamo=True), x), case.rival(*x))


@pytest.mark.slow
def test_an_onnx_graph_of_large_logits():
    x, t = torch.tensor([-200.0, 0.0, 200.0, 30.0]), torch.tensor([1.0, 0.5, 0.0, 0.0])
    model = to_onnx(Loss(F.binary_cross_entropy_with_logits), (x.flip(0), t), dynamo=False)
    agree(run_onnx(model, (x, t)), nnf.binary_cross_entropy_with_logits(x, t))
    z, y = torch.tensor([[500.0, -500.0, -torch.inf], [0.0, 1.0, 2.0]]), torch.tensor([1, 0])
    model = to_onnx(Loss(F.cross_entropy), (torch.randn(2, 3), y), dynamo=False)
    agree(run_onnx(model, (z, y)), nnf.cross_entropy(z, y))
