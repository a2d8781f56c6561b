"""Registration of an operator, seen with a small one: with and without the dispatcher it is the same function."""

from __future__ import annotations

import contextlib
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, in_plain_backward, register
from crossent.torch.base.transforms import is_watched
from tests.torch.operators.watching import Watching


@operator_call
class Factors(OperatorCall):
    """A constant, and a tensor that may be missing."""

    scale: float
    y: Tensor | None


@operator_call
class Product(OperatorCall):
    """x · y · scale."""

    x: Tensor
    factors: Factors


class Products(NamedTuple):
    """The product, and its square."""

    product: Tensor
    square: Tensor


WANTED: list[frozenset[str]] = []
"""What each backward was asked for."""
PLAIN: list[bool] = []
"""Whether each backward was told that it runs in plain eager mode."""


def multiply(call: Product) -> Products:
    y = 1.0 if call.factors.y is None else call.factors.y
    product = call.x.exp() * y * call.factors.scale
    return Products(product, product * product)


def fake(call: Product) -> Products:
    return Products(torch.empty_like(call.x), torch.empty_like(call.x))


def save(ctx, call, output):
    keep(ctx, call, output[0])
    ctx.set_materialize_grads(False)


def backward(ctx, wants, g_product, g_square=None):
    call, (product,) = kept(ctx)
    WANTED.append(wants)
    PLAIN.append(in_plain_backward(ctx))
    g = 0.0 if g_product is None else g_product
    g = g if g_square is None else g + 2 * product * g_square
    found = {"x": g * product}
    if "y" in wants:
        found["y"] = g * product / call.factors.y
    return found


PLAINLY: list[Product] = []
"""The calls that were computed in plain torch operations."""


def plainly(call: Product) -> Products:
    PLAINLY.append(call)
    return multiply(call)


FORWARD, BACKWARD = Forward(multiply, fake, plainly), Backward(save, backward)
product = register("test_product", Product, Products, FORWARD, BACKWARD)
first_product = register("test_first", Product, Products, FORWARD, BACKWARD, first=True)
constant_product = register("test_constant", Product, Products, FORWARD)
ops = torch.ops.crossent


def call_of(*, x_grad=True, y_grad=True, y=True, dtype=torch.float64):
    x = torch.randn(4, dtype=dtype, requires_grad=x_grad)
    return Product(x, Factors(1.5, torch.rand(4, dtype=dtype, requires_grad=y_grad) if y else None))


def leaves(call):
    return [x for x in (call.x, call.factors.y) if x is not None and x.requires_grad]


def results(function, call):
    """Outputs of a function and gradients of a sum of them all, in bits."""
    outputs = function(call)
    total = sum(k * out.sum() for k, out in enumerate(outputs, 1))
    return [*outputs, *torch.autograd.grad(total, leaves(call))]


class Tagged(torch.Tensor):
    pass


WAYS = {
    "flat": lambda call: ops.test_product.default(*call.flatten()),
    "watched": lambda call: watched(product, call),
    "subclass": lambda call: product(Product(call.x.as_subclass(Tagged), Factors(call.factors.scale, call.factors.y))),
}


def watched(function, call):
    with Watching() as watching:
        assert is_watched()
        out = function(call)
    assert "crossent.test_product.default" in watching.seen
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("y", [True, False])
def test_a_direct_call_is_one_of_the_dispatcher_to_the_last_bit(way, y, dtype):
    call = call_of(y=y, dtype=dtype)
    direct, other = results(product, call), results(WAYS[way], call)
    assert type(product(call)) is Products
    for a, b in zip(direct, other, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype == dtype


def test_values_and_gradients_are_those_of_torch():
    call = call_of()
    want = call.x.exp() * call.factors.y * 1.5
    wants = torch.autograd.grad(want.sum() + 2 * (want * want).sum(), leaves(call))
    for a, b in zip(results(product, call), [want, want * want, *wants], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def test_the_first_output_alone():
    call = call_of()
    want = multiply(call).product
    for out in (first_product(call), watched_first(call)):
        assert type(out) is Tensor
        assert torch.equal(out, want)
        grads = torch.autograd.grad(out.sum(), leaves(call))
        torch.testing.assert_close(grads[0], want, rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(first_product(call), want)


def watched_first(call):
    with Watching():
        return first_product(call)


def test_one_output_is_a_tensor():
    @operator_call
    class One(OperatorCall):
        x: Tensor

    def doubled(call):
        return call.x * 2

    double = register("test_one", One, Tensor, Forward(doubled, lambda call: torch.empty_like(call.x), doubled))
    x = torch.randn(3)
    assert torch.equal(double(One(x)), 2 * x)
    with Watching():
        assert torch.equal(double(One(x)), 2 * x)


@pytest.mark.parametrize("way", ["direct", "flat", "watched"])
@pytest.mark.parametrize(
    ("x_grad", "y_grad", "names"), [(True, True, {"x", "y"}), (True, False, {"x"}), (False, True, {"y"})]
)
def test_a_backward_is_told_the_names_of_what_wants_a_gradient(x_grad, y_grad, names, way):
    call = call_of(x_grad=x_grad, y_grad=y_grad)
    WANTED.clear()
    out = (product if way == "direct" else WAYS[way])(call)
    out[0].sum().backward()
    (wanted,) = WANTED
    assert wanted == names
    assert (call.x.grad is not None) == x_grad
    assert (call.factors.y.grad is not None) == y_grad


def test_where_nothing_wants_a_gradient_there_is_none():
    call = call_of(x_grad=False, y_grad=False)
    assert not any(out.requires_grad for out in product(call))
    call = call_of()
    with torch.no_grad():
        assert not any(out.requires_grad for out in product(call))
    with torch.inference_mode():
        assert not any(out.requires_grad for out in product(call))


def goes_through_the_dispatcher(x: Tensor) -> bool:
    """Whether torch's profiler saw the operator."""
    with profile(activities=[ProfilerActivity.CPU]) as events:
        out = product(Product(x, Factors(1.0, None))).product
    torch.testing.assert_close(out.detach().as_subclass(Tensor), x.detach().as_subclass(Tensor).clone().exp())
    return any(event.name == "crossent::test_product" for event in events.events() or ())


def test_plain_tensors_are_called_directly():
    assert not goes_through_the_dispatcher(torch.randn(4))
    assert not goes_through_the_dispatcher(torch.nn.Parameter(torch.randn(4)))


def test_subclasses_and_negated_views_go_through_the_dispatcher():
    negated = torch.randn(4, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    assert goes_through_the_dispatcher(negated)
    assert goes_through_the_dispatcher(torch.randn(4).as_subclass(Tagged))


def test_fake_tensors_have_shapes_and_no_kernel():
    with FakeTensorMode():
        out = product(Product(torch.empty(4, device="cpu", requires_grad=True), Factors(1.0, None)))
        assert out.square.shape == (4,)
        (g,) = torch.autograd.grad(out.product.sum(), [out.product])
        assert g.shape == (4,)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_operator_keeps_its_contract_with_torch():
    for call in (call_of(), call_of(y=False)):
        _ = torch.library.opcheck(ops.test_product.default, tuple(call.flatten()))


DUAL_FILTER = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
"""Of the first dual number of a process."""


@DUAL_FILTER
@pytest.mark.parametrize("function", [product, first_product, constant_product], ids=["two", "first", "constant"])
@pytest.mark.parametrize("of", ["x", "y"])
def test_a_tangent_goes_through_plain_operations(function, of):
    call = call_of(x_grad=False, y_grad=False)
    with forward_ad.dual_level():
        point, slope = torch.rand(2, 4, dtype=torch.float64)
        dual = forward_ad.make_dual(point, slope)
        call = Product(dual, call.factors) if of == "x" else Product(call.x, Factors(1.5, dual))
        want = call.x.exp() * call.factors.y * 1.5
        for watch in (contextlib.nullcontext(), Watching()):
            PLAINLY.clear()
            with watch:
                out = function(call)
            assert [call] == PLAINLY
            first = out if function is first_product else out.product
            torch.testing.assert_close(forward_ad.unpack_dual(first).tangent, forward_ad.unpack_dual(want).tangent)
        PLAINLY.clear()
        _ = function(call_of(x_grad=False, y_grad=False))
        assert not PLAINLY


@pytest.mark.parametrize("transform", ["grad", "vmap", "trace"])
def test_transforms_and_tracers_see_plain_operations(transform):
    x = torch.rand(4, dtype=torch.float64)

    def f(x):
        return product(Product(x, Factors(2.0, None))).product.sum()

    PLAINLY.clear()
    if transform == "grad":
        torch.testing.assert_close(torch.func.grad(f)(x), 2 * x.exp())
    elif transform == "vmap":
        torch.testing.assert_close(torch.vmap(f)(x[:, None]), 2 * x.exp())
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(f, x, check_trace=False)
        torch.testing.assert_close(traced(x + 1), 2 * (x + 1).exp().sum())
    assert len(PLAINLY) == 1


def test_profilers_show_the_name_of_the_operator():
    call = call_of()
    with profile(activities=[ProfilerActivity.CPU]) as events:
        product(call).product.sum().backward()
        with torch.no_grad():
            _ = constant_product(call)
    names = [event.name for event in events.events() or ()]
    assert {"test_product", "test_productBackward", "test_constant"} <= set(names)


@DUAL_FILTER
def test_a_backward_knows_whether_it_runs_in_plain_eager_mode():
    call, g = call_of(), torch.rand(4, dtype=torch.float64)
    out, flat = product(call), WAYS["flat"](call)
    negated = torch.randn(4, dtype=torch.complex128).conj().imag
    PLAIN.clear()
    for loss, cotangent, again in (
        (out.product, g, False),
        (out.product, g, True),
        (out.product, g.as_subclass(Tagged), False),
        (out.product, negated, False),
        (flat[0], g, False),
    ):
        _ = torch.autograd.grad(loss, leaves(call), cotangent, retain_graph=True, create_graph=again)
    with Watching():
        _ = torch.autograd.grad(out.product, leaves(call), g, retain_graph=True)
    with forward_ad.dual_level():
        _ = torch.autograd.grad(out.product, leaves(call), g, retain_graph=True)
    assert PLAIN == [True, False, False, False, False, False, False]


def test_a_caller_that_has_looked_gets_what_the_kernel_returns():
    call = call_of(x_grad=False, y_grad=False)
    assert all(torch.equal(a, b) for a, b in zip(product(call, plain=True), multiply(call), strict=True))
