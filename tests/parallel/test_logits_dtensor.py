"""cross_entropy of DTensor logits, whose classes and rows are spread over a mesh, against one process."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import loss_parallel

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.ranks import square
from tests.parallel.shards import ALL, KINDS, SMOOTH, STATS, WARM, Call, apart, axis_of, cut, leaf, nothing_wrong
from tests.torch import plain

pytestmark = pytest.mark.slow

ONE = [(Shard(1),), (Shard(0),), (Replicate(),)]
TWO = [
    (Shard(0), Shard(1)),
    (Shard(1), Shard(0)),
    (Shard(1), Shard(1)),
    (Replicate(), Shard(1)),
    (Shard(1), Replicate()),
    (Shard(0), Shard(0)),
]
WAYS = ("whole", "replicated", "placed")


def put(x: Tensor, mesh: Any, placements: Any, *, requires_grad: bool = False) -> Any:
    """A DTensor of what every rank has whole."""
    return distribute_tensor(x.detach().clone(), mesh, placements, src_data_rank=None).requires_grad_(requires_grad)


def without_classes(placements: Any, ndim: int, *, keeps_axis: bool) -> tuple[Any, ...]:
    """How rows are placed, in a tensor that has an axis in place of that of the classes, or none."""
    axis = min(ndim - 1, 1)
    rows = [Replicate() if p == Shard(axis) else p for p in placements]
    return tuple(Shard(p.dim - 1) if isinstance(p, Shard) and p.dim > 1 and not keeps_axis else p for p in rows)


def spread(call: Call, mesh: Any, placements: Any, way: str, padding: int = 0) -> Call:
    """Make the same call with DTensors."""
    ndim, axis, V = call.input.ndim, axis_of(call.input), call.classes
    nowhere = (Replicate(),) * len(placements)

    def given(x: Tensor, where: Any) -> Tensor:
        if way == "whole":
            return leaf(x, requires_grad=x.requires_grad)
        return put(x, mesh, where if way == "placed" else nowhere, requires_grad=x.requires_grad)

    of_rows, of_picks = (without_classes(placements, ndim, keeps_axis=keeps) for keeps in (False, True))
    target, options = call.target, dict(call.options)
    if isinstance(target, TopK):
        target = TopK(given(target.index, of_picks), given(target.prob, of_picks))
    elif target.is_floating_point():
        wide = cut(target, 0, V + padding).requires_grad_(target.requires_grad)
        target = given(wide, placements)
    else:
        target = given(target, of_rows)
    if "sample_weight" in options:
        options["sample_weight"] = given(options["sample_weight"], of_rows)
    if isinstance(options.get("temperature"), Tensor):
        options["temperature"] = given(options["temperature"], of_rows)
    if "weight" in options:
        options["weight"] = given(
            options["weight"], [Shard(0) if p == Shard(axis) else Replicate() for p in placements]
        )
    if padding:
        options["num_classes"] = V
    logits = put(cut(call.input, 0, V + padding, math.nan), mesh, placements, requires_grad=True)
    return Call(logits, target, options)


def everything(call: Call) -> dict[str, Tensor]:
    out, leaves = call.outputs(), call.leaves()
    smooth = [out[name] for name in SMOOTH if name in out]
    cotangents = [put(plain.cotangent_like(x, k), x.device_mesh, x.placements) for k, x in enumerate(smooth)]
    grads = torch.autograd.grad(smooth, list(leaves.values()), cotangents)
    return out | {f"gradient of {name}": g for name, g in zip(leaves, grads, strict=True)}


def compare(label: str, got: Any, want: Tensor, placements: Any, mesh: Any) -> list[str]:
    """Hold a DTensor, or a tensor that every rank has whole if there are no placements, against the whole."""
    if placements is None:
        return [f"{label} is a DTensor"] if isinstance(got, DTensor) else apart(label, got, want)
    if not isinstance(got, DTensor):
        return [f"{label} is no DTensor"]
    if tuple(got.placements) != tuple(placements) or got.shape != want.shape:
        return [f"{label} is {tuple(got.shape)} {got.placements} instead of {tuple(want.shape)} {placements}"]
    return apart(label, got.to_local(), put(want, mesh, placements).to_local())


def check(mesh: Any, call: Call, placements: Any, way: str, padding: int = 0) -> list[str]:
    want = call.everything()
    here = spread(call, mesh, placements, way, padding)
    got = everything(here)
    V, ndim = call.classes, call.input.ndim
    nowhere = (Replicate(),) * len(placements)
    of_rows = without_classes(placements, ndim, keeps_axis=False)
    wheres: dict[str, Any] = dict.fromkeys(STATS, of_rows)
    wheres["loss"] = of_rows if call.options.get("reduction") == "none" else nowhere
    found = [] if got.keys() == want.keys() else [f"{sorted(got)} instead of {sorted(want)}"]
    leaves = here.leaves()
    for name, x in want.items():
        where = (
            wheres[name] if name in wheres else getattr(leaves[name.removeprefix("gradient of ")], "placements", None)
        )
        dense = name == "gradient of input" or (name == "gradient of target" and not isinstance(call.target, TopK))
        label = f"{tuple(mesh.shape)} {placements} {way} {padding} {call}: {name}"
        found += compare(label, got[name], cut(x, 0, V + padding) if dense else x, where, mesh)
    return found


def one_dimension(group):
    _ = torch.manual_seed(20)
    mesh = DeviceMesh.from_group(group, "cpu")
    found: list[str] = []
    turns = itertools.count()
    for kind, shape, placements in itertools.product(KINDS, ((5, 11), (3, 5), (2, 11, 3), (11,)), [*ONE, (Shard(2),)]):
        if placements[0].is_shard() and placements[0].dim >= len(shape):
            continue
        turn = next(turns)
        options = {
            "reduction": ("mean", "none", "sum")[turn % 3],
            "return_stats": turn % 4 < 3,
            **(ALL if turn % 2 else {}),
        }
        call = Call.draw(shape, kind, **options)
        found += check(mesh, call, placements, WAYS[turn % 7 % 3], padding=int(turn % 3 == 1 and 11 in shape))
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_one_dimension_of_a_mesh(ranks, n):
    nothing_wrong(ranks.run(n, one_dimension))


def two_dimensions(_group, placements):
    _ = torch.manual_seed(21)
    mesh = square()
    found: list[str] = []
    for turn, (kind, shape, way) in enumerate(itertools.product(KINDS, ((5, 11), (1, 3), (3, 10, 2)), WAYS)):
        options = {"reduction": ("mean", "none", "sum")[turn % 7 % 3], "return_stats": turn % 4 < 3}
        call = Call.draw(shape, kind, **options, **(ALL if turn % 2 else {}))
        found += check(mesh, call, placements, way, padding=(0, 1)[turn % 5 % 2])
    return found


@pytest.mark.parametrize("placements", TWO, ids=str)
def test_two_dimensions_of_a_mesh(ranks, placements):
    nothing_wrong(ranks.run(4, two_dimensions, placements))


def temperatures(_group):
    _ = torch.manual_seed(28)
    mesh = square()
    found: list[str] = []
    for turn, (kind, way, placements) in enumerate(itertools.product(KINDS, WAYS, TWO)):
        options = {"reduction": ("mean", "none", "sum")[turn % 3], "return_stats": turn % 2 < 1}
        call = Call.draw(((5, 11), (3, 10, 2))[turn % 5 % 2], kind, **options, **WARM)
        found += check(mesh, call, placements, way, padding=(0, 1)[turn % 5 % 2])
    y, T = torch.randint(7, (6,)), put(torch.rand(6) + 0.5, mesh, (Shard(0), Replicate()))
    z = put(torch.randn(6, 7), mesh, (Shard(0), Shard(1)))
    for wrong, words in ((T.detach().requires_grad_(), "gradient"), (torch.ones(5), "(6,)")):
        try:
            _ = F.cross_entropy(z, y, temperature=wrong)
            found.append(f"{words} is no error")
        except ValueError as error:
            found += [] if words in str(error) else [str(error)]
    return found


def test_temperatures_of_rows(ranks):
    nothing_wrong(ranks.run(4, temperatures))


def pixels(_group):
    _ = torch.manual_seed(22)
    mesh = square()
    found: list[str] = []
    for kind, way in itertools.product(KINDS, WAYS):
        for placements in ((Shard(2), Shard(1)), (Shard(1), Shard(3)), (Shard(2), Shard(3)), (Shard(0), Shard(2))):
            call = Call.draw((3, 5, 3, 2), kind, reduction="none", return_stats=True, **ALL)
            found += check(mesh, call, placements, way)
    return found


def test_shards_of_a_spatial_axis(ranks):
    nothing_wrong(ranks.run(4, pixels))


def only_padding(group):
    _ = torch.manual_seed(23)
    mesh = DeviceMesh.from_group(group, "cpu")
    found: list[str] = []
    for kind, way in itertools.product(KINDS, WAYS):
        for V, padding in ((5, 1), (5, 3), (1, 4), (3, 9)):
            found += check(mesh, Call.draw((3, V), kind, return_stats=True, **ALL), (Shard(1),), way, padding)
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_ranks_that_hold_only_padding(ranks, n):
    nothing_wrong(ranks.run(n, only_padding))


def rows_of_some_ranks(group):
    _ = torch.manual_seed(24)
    n = dist.get_world_size(group)
    mesh = DeviceMesh.from_group(group, "cpu")
    found: list[str] = []
    for placements, reduction, N in itertools.product(
        ((Shard(0),), (Shard(1),)), ("mean", "none"), (1, n - 1, 2 * n + 1)
    ):
        for ignored in (slice(0, 3), slice(3, None), slice(None)):
            y = torch.randint(7, (N,))
            y[ignored] = -100
            z = torch.randn(N, 7, dtype=torch.float64)
            z[ignored] = math.nan
            call = Call(z.requires_grad_(), y, {"reduction": reduction, "return_stats": True, "z_loss": 0.1})
            found += check(mesh, call, placements, "placed")
    z = plain.logits_of((6, 7))
    with torch.no_grad():
        z[1, 3] = math.nan
    call = Call(z, torch.randint(7, (6,)), {"reduction": "none", "return_stats": True})
    return found + check(mesh, call, (Shard(0),), "whole") + check(mesh, call, (Shard(1),), "whole")


def test_ranks_without_rows_with_ignored_rows_and_with_nan(ranks):
    nothing_wrong(ranks.run(4, rows_of_some_ranks))


def twice(_group, kind):
    _ = torch.manual_seed(25)
    mesh = square()
    found: list[str] = []
    for way, placements in zip(WAYS, TWO, strict=False):
        call = Call.draw((3, 5), kind, return_stats=True, **ALL)
        here = spread(call, mesh, placements, way)
        sides = []
        for side in (call, here):
            out, leaves = side.outputs(), side.leaves()
            squares = [(out[name] ** 2).sum() for name in SMOOTH]
            first, again = (torch.autograd.grad(squares, side.input, create_graph=True)[0] for _ in range(2))
            v = plain.cotangent_like(call.input, 9)
            v = v if side is call else put(v, mesh, placements)
            hessian = torch.autograd.grad(first, list(leaves.values()), v)
            sides.append({"first": first, "again": again} | dict(zip(leaves, hessian, strict=True)))
        leaves = here.leaves()
        for name, x in sides[0].items():
            where = getattr(leaves[name if name in leaves else "input"], "placements", None)
            found += compare(f"{kind} {way} {placements}: {name}", sides[1][name], x, where, mesh)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_second_backward_and_second_derivatives(ranks, kind):
    nothing_wrong(ranks.run(4, twice, kind))


def layer(_group):
    # what column-parallel linear layers make, and a backward pass to the weight as a user writes it
    _ = torch.manual_seed(26)
    mesh = square()
    x, w = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, 11, dtype=torch.float64, requires_grad=True)
    y = torch.randint(11, (6,))
    want = nnf.cross_entropy(x @ w, y, label_smoothing=0.1)
    (wanted,) = torch.autograd.grad(want, w)
    here = put(w, mesh, (Replicate(), Shard(1)), requires_grad=True)
    loss: Any = F.cross_entropy(put(x, mesh, (Shard(0), Replicate())) @ here, y, label_smoothing=0.1)
    _ = loss.backward()
    found = compare("loss", loss, want, (Replicate(), Replicate()), mesh)
    return found + apart("gradient", here.grad.full_tensor(), wanted)


def test_backward_through_a_layer(ranks):
    nothing_wrong(ranks.run(4, layer))


def parallel_loss_of_torch(group):
    _ = torch.manual_seed(27)
    mesh = DeviceMesh.from_group(group, "cpu")
    found: list[str] = []
    for reduction in ("mean", "sum"):
        y = torch.randint(8, (6,))
        y[2] = -100
        z: Any = put(torch.randn(6, 8, dtype=torch.float64), mesh, (Shard(1),), requires_grad=True)
        with loss_parallel():
            want: Any = nnf.cross_entropy(z, y, reduction=reduction)
            _ = want.backward()
        slope, z.grad = z.grad, None
        got: Any = F.cross_entropy(z, y, reduction=reduction)
        _ = got.backward()
        found += apart("loss", got.full_tensor(), want.full_tensor())
        found += compare("gradient", z.grad, slope.full_tensor(), (Shard(1),), mesh)
    return found


def test_what_the_parallel_loss_of_torch_has(ranks):
    nothing_wrong(ranks.run(2, parallel_loss_of_torch))
