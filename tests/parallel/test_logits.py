"""cross_entropy of classes that are spread over ranks, as in Megatron, against the same function on one process."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.shards import (
    ALL,
    KINDS,
    LAYOUTS,
    SMOOTH,
    Call,
    apart,
    check,
    differences,
    join,
    layout_of,
    nothing_wrong,
    part_of,
)
from tests.torch import plain

pytestmark = pytest.mark.slow

counts = pytest.mark.parametrize("n", [1, 2, 3, 4])
SHAPES = ((5, 11), (2, 11, 3), (11,), (1, 11, 2, 2))
GRID = {
    "weight": (False, True),
    "label_smoothing": (0.0, 0.2),
    ("temperature", "softcap"): ((1.0, None), (0.6, None), (1.7, 3.0), (True, 3.0)),
    "z_loss": (0.0, 0.01),
    "sample_weight": (False, True),
    "reduction": ("mean", "sum", "none"),
    "return_stats": (False, True),
}


def every_option(group, share):
    _ = torch.manual_seed(0)
    calls = list(itertools.product(KINDS, itertools.product(*GRID.values())))
    order = random.Random(dist.get_world_size(group))
    found: list[str] = []
    for kind, values in order.sample(calls, int(share * len(calls))):
        options: dict[str, Any] = {}
        for key, value in zip(GRID, values, strict=True):
            options |= zip(key, value, strict=True) if isinstance(key, tuple) else {key: value}
        call = Call.draw(order.choice(SHAPES), kind, **options)
        found += check(group, call, order.choice(("padded", "uneven", "empty", "backwards")))
    return found


@pytest.mark.parametrize(("n", "share"), [(1, 0.1), (2, 1), (3, 0.15), (4, 0.15)])
def test_every_option_is_that_of_one_process(ranks, n, share):
    nothing_wrong(ranks.run(n, every_option, share))


def all_together(group, layout):
    _ = torch.manual_seed(1)
    found: list[str] = []
    for turn, (kind, shape) in enumerate(itertools.product(KINDS, ((4, 11), (2, 12, 3), (13,)))):
        if layout == "default":
            shape = tuple(12 if size > 10 else size for size in shape)  # noqa: PLW2901
        options = {"reduction": ("mean", "none")[turn % 2], "return_stats": True, **ALL}
        found += check(group, Call.draw(shape, kind, **options), layout, (math.nan, math.inf)[turn % 2])
    return found


@counts
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_of_any_length_in_any_order(ranks, n, layout):
    nothing_wrong(ranks.run(n, all_together, layout))


def what_torch_has(group):
    _ = torch.manual_seed(2)
    found: list[str] = []
    for shape, weight, smoothing, reduction in itertools.product(
        ((5, 11), (2, 11, 3)), (False, True), (0.0, 0.15, 1.0), ("mean", "sum", "none")
    ):
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        for kind in ("index", "ignored", "dense"):
            found += check(group, Call.draw(shape, kind, **options), "uneven", function=nnf.cross_entropy)
        found += check(
            group, Call.draw(shape, "index", ignore_index=10, **options), "padded", function=nnf.cross_entropy
        )
    return found


@pytest.mark.parametrize("n", [2, 3])
def test_what_torch_has_is_that_of_torch(ranks, n):
    nothing_wrong(ranks.run(n, what_torch_has))


def in_precision(group, dtype):
    _ = torch.manual_seed(3)
    extras = ({}, {"label_smoothing": 0.2, "weight": True}, {"softcap": 4.0, "temperature": 1.7}, ALL)
    found: list[str] = []
    for turn, (shape, kind, extra) in enumerate(itertools.product(((5, 7), (3, 700)), KINDS, extras)):
        options = extra | {"reduction": ("mean", "none", "sum")[turn % 3], "return_stats": turn % 2 == 0}
        call = Call.draw(shape, kind, 3.0, **options).cast(dtype)
        want, rival = (x.everything(plain.cross_entropy) for x in (call.cast(torch.float64), call))
        got = call.of(group, "uneven").everything()
        first, _ = layout_of("uneven", dist.get_world_size(group), call.classes)[0][dist.get_rank(group)]
        narrow = torch.float64 if dtype == torch.float64 else torch.float32
        for name, x in got.items():
            if name in ("correct", "predicted"):
                found += apart(f"{call}: {name}", x, want[name])
                continue
            gradient = name.startswith("gradient")
            dtypes = {dtype} if gradient else {narrow}
            found += [] if x.dtype in dtypes else [f"{call}: {name} is {x.dtype}"]
            cut_up = name == "gradient of input" or (name == "gradient of target" and kind == "dense")
            whole = join(x, group, first, call.classes) if cut_up else x
            try:
                plain.agree(name, whole, want[name], rival[name], plain.FLOOR[dtype if gradient else narrow])
            except AssertionError as error:
                found += [f"{call}: {error}"]
    return found


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
def test_other_precisions_keep_the_bounds_of_one_process(ranks, dtype):
    nothing_wrong(ranks.run(3, in_precision, dtype))


# Arguments


def integers(group):
    _ = torch.manual_seed(12)
    found: list[str] = []
    z = torch.randn(20, 250, dtype=torch.float64).requires_grad_()
    y = torch.randint(125, (20,))
    y[0], y[1], y[2] = 7, 124, 3
    unsigned = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64, *unsigned):
        high = y if dtype == torch.int8 else torch.where(y > 7, 249 - y, y)
        for options in ({}, {"weight": torch.rand(250, dtype=torch.float64), "label_smoothing": 0.1}):
            for ignore in (-100, 7):
                told = {"ignore_index": ignore, **options}
                want = nnf.cross_entropy(z, high, **told)
                call = Call(z, high.to(dtype), told | {"return_stats": True})
                found += check(group, call, "uneven")
                found += apart(f"{dtype} {told}", call.of(group, "uneven").outputs()["loss"], want)
        top = TopK(torch.stack([high, y], 1).to(dtype), torch.rand(20, 2, dtype=torch.float64))
        found += check(group, Call(z, top, {}), "uneven")
    return found


def test_classes_of_every_integer_dtype(ranks):
    nothing_wrong(ranks.run(3, integers))


LAYS = {
    "columns of all": lambda x: torch.cat([x + 9, x, x + 9], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "classes last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "sliced": lambda x: torch.stack([x, x + 9], -1)[..., 0],
    "every other row": lambda x: torch.stack([x, x + 9], 1).flatten(0, 1)[::2],
}


def views(group):
    _ = torch.manual_seed(13)
    found: list[str] = []
    for (name, lay), kind, shape in itertools.product(LAYS.items(), KINDS, ((5, 11), (2, 11, 3))):
        call = Call.draw(shape, kind, reduction="none", return_stats=True, **ALL)
        want = part_of(call.everything(), group, "uneven", call)
        leaves = call.of(group, "uneven")
        target = lay(leaves.target) if kind == "dense" else leaves.target
        out = Call(lay(leaves.input), target, leaves.options).outputs()
        cotangents = [plain.cotangent_like(out[key], k) for k, key in enumerate(SMOOTH)]
        cotangents = [torch.stack([g, g + 1], -1)[..., 0] for g in cotangents]
        grads = torch.autograd.grad([out[key] for key in SMOOTH], list(leaves.leaves().values()), cotangents)
        got = out | {f"gradient of {key}": g for key, g in zip(leaves.leaves(), grads, strict=True)}
        found += differences(f"{name} {kind}", got, want)
    return found


def test_shards_and_cotangents_that_are_views(ranks):
    nothing_wrong(ranks.run(3, views))


def written_to(group):
    _ = torch.manual_seed(14)
    found: list[str] = []
    for kind, reduction in itertools.product(KINDS, ("mean", "none")):
        call = Call.draw((5, 11), kind, reduction=reduction, return_stats=True, **ALL).of(group, "padded", math.nan)
        target = [call.target.index, call.target.prob] if isinstance(call.target, TopK) else [call.target]
        given = [call.input, *target, call.options["weight"], call.options["sample_weight"]]
        before = [x.detach().clone() for x in given]
        out = call.outputs()
        cotangents = [plain.cotangent_like(out[key]) for key in SMOOTH]
        copies = [g.clone() for g in cotangents]
        torch.autograd.backward([out[key] for key in SMOOTH], cotangents)
        for x, y in zip([*given, *cotangents], [*before, *copies], strict=True):
            found += apart(f"{kind} {reduction}: an argument", x, y, 0.0)
    return found


def test_arguments_are_never_written_to(ranks):
    nothing_wrong(ranks.run(2, written_to))


# Modes


def results(group):
    _ = torch.manual_seed(15)
    call = Call.draw((50, 1003), "dense", 10.0, reduction="none", return_stats=True, **ALL).cast(torch.float32)
    return {name: x.detach() for name, x in call.of(group, "uneven").outputs().items()}


def test_all_ranks_have_the_same_bits(ranks):
    first, *others = ranks.run(4, results)
    for other in others:
        for name, x in first.items():
            assert torch.equal(x, other[name]), name


def without_gradients(group):
    _ = torch.manual_seed(16)
    found: list[str] = []
    for mode, kind in itertools.product((torch.no_grad, torch.inference_mode), KINDS):
        call = Call.draw((5, 11), kind, return_stats=True, **ALL)
        with mode():
            got = call.of(group, "uneven").outputs()
        found += [name for name, x in got.items() if x.requires_grad]
        found += differences(f"{mode} {kind}", got, call.outputs())
    return found


def test_without_gradients(ranks):
    nothing_wrong(ranks.run(2, without_gradients))


def compiled(group, kind, stats):
    _ = torch.manual_seed(17)
    _ = torch.compiler.reset()
    call = Call.draw((5, 12), kind, return_stats=stats, label_smoothing=0.1, z_loss=0.1)
    want = part_of(call.everything(), group, "default", call)
    function = torch.compile(F.cross_entropy, fullgraph=True, backend="aot_eager")
    return differences(kind, call.of(group, "default").everything(function), want)


@pytest.mark.parametrize(("kind", "stats"), [("index", True), ("topk", False), ("dense", True)])
def test_compiled_without_graph_breaks(ranks, kind, stats):
    nothing_wrong(ranks.run(2, compiled, kind, stats))
