"""Lazy logits: the output of a linear layer, computed only when its numbers are needed.

`LazyLogits` is a tensor without memory that holds input, weight and bias of the layer, and later operations on its
output, as long as these are a temperature, a softcap, a change of dtype or a choice of rows. A cross-entropy of it is a
`linear_cross_entropy`; anything else gets the numbers: the very operations that were put off, carried out then.

Lazy logits have a node in the graph of autograd (`graph`), and everything that is made of them hangs on it: losses, the
numbers, scaled logits and views. So torch's hooks work on them as on any tensor.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor

from crossent.torch.base.overrides import KNOWN
from crossent.torch.base.values import without_autocast
from crossent.torch.lazy.deferred import Deferred
from crossent.torch.lazy.engines import freed_by
from crossent.torch.lazy.gradient import LazyGradient
from crossent.torch.lazy.names import GRAPH, METADATA, RAW_MEMORY, name_of, with_numbers

LAZILY: dict[str, Callable[..., Any]] = {}
"""Functions that keep logits lazy, by the name of torch's function; filled by `lazily`.

Each takes the arguments of torch's function, and returns NotImplemented where the numbers are needed after all.
"""


def lazily(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the implementation of these torch functions for lazy logits."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        LAZILY.update(dict.fromkeys(names, function))
        return function

    return register


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Derivation of logits from other logits.

    `make` makes the numbers from the numbers, and `rows` the layer's input from the input (None: it stays the same).
    `back` computes the gradient of the original numbers from the gradient of these; None: it needs the numbers. `added`
    is the bias that was added.
    """

    logits: LazyLogits
    make: Callable[[Tensor], Tensor]
    shares_memory: bool
    rows: Callable[[Tensor], Tensor] | None = None
    back: Callable[[Tensor], Tensor] | None = None
    added: Tensor | None = None


class LazyLogits(Tensor):
    """Logits of a fused head: a tensor in every respect, whose numbers are computed when they are first asked for."""

    _deferred: Deferred
    _origin: Origin | None
    _versions: tuple[tuple[int, int], ...]
    _node: Any
    """The node that we gave these logits; another one is of an autograd.Function that returned them."""
    _in_use: bool
    """Whether the gradient at the node is needed, or something lazy depends on it."""
    _real: Tensor | None
    _apart: bool
    """Whether the numbers were made from the origin's numbers, so that their gradient does not come to the node."""
    _read_node: Any
    """The node of the numbers when they were made: writing to them gives them another."""
    _version_read: int
    _exposed: bool

    @classmethod
    def __torch_function__(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, name_of(func)
        if name in ("add", "mul") and len(args) == 2 and not kwargs and not isinstance(args[0], LazyLogits):
            args = args[::-1]  # a bias or a factor first
        first = args[0] if args and isinstance(args[0], LazyLogits) else None
        if first is not None:
            if name in METADATA and not first.was_read():
                return _native(func, *args, **kwargs)
            if name in GRAPH:
                return _in_graph(name, func, first, args[1:], kwargs)
            if name in LAZILY and first.stays_lazy():
                result = LAZILY[name](*args, **kwargs)
                if result is not NotImplemented:
                    return result
            if name in RAW_MEMORY:
                first.expose()
        if func is torch.autograd.grad:
            return _gradients(*args, **kwargs)
        if func is torch.autograd.backward and kwargs.get("inputs") is not None:
            kwargs["inputs"] = [_retained(x) if isinstance(x, LazyLogits) else x for x in kwargs["inputs"]]
        unread = _unread((*args, *kwargs.values()))
        result = func(*with_numbers(args, LazyLogits), **with_numbers(kwargs, LazyLogits))
        if unread is not None:
            unread._deferred.notice.made(name, unread, result)  # pyright: ignore[reportOptionalMemberAccess]
        return result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Only calls that bypass __torch_function__ come here, from an autograd.Function for example, below autograd.
        if func is torch.ops.aten.detach.default and not args[0].was_read():
            return alias(args[0])
        if func._schema.is_mutable:
            raise RuntimeError(f"{func} would write to logits that are not computed yet; use logits + 0 instead")
        unread = _unread(args)
        if unread is not None:
            unread._deferred.notice.made(str(func), unread, None)  # pyright: ignore[reportOptionalMemberAccess]
        return func(*with_numbers(args, LazyLogits), **with_numbers(kwargs or {}, LazyLogits))

    # What became of them ---------------------------------------------------------------------------------------------

    def was_read(self) -> bool:
        """Return whether the numbers of these logits exist, or of the logits that they are a view of."""
        origin = self._origin
        return self._real is not None or (origin is not None and origin.shares_memory and origin.logits.was_read())

    def stays_lazy(self) -> bool:
        """Return whether results of these logits may stay lazy too.

        Not once their numbers exist: these may be written to, or need a gradient.
        """
        transformed = torch._C._are_functorch_transforms_active()  # pyright: ignore
        return not (self.was_read() or transformed or self._is_bound_to_numbers())

    def _was_written(self) -> bool:
        """Return whether the graph records a write to the numbers."""
        origin = self._origin
        if origin is not None and origin.shares_memory and origin.logits._was_written():
            return True
        return self._real is not None and self._real.grad_fn is not self._read_node

    def _may_differ(self) -> bool:
        """Return whether the numbers may differ from the layer's output by now."""
        origin = self._origin
        if origin is not None and origin.shares_memory and origin.logits._may_differ():
            return True
        return self._real is not None and (self._exposed or version_of(self._real) != self._version_read)

    def expose(self) -> None:
        """Record that the bare memory is exposed, so that writes leave no trace."""
        self._exposed = True
        if self._origin is not None and self._origin.shares_memory:
            self._origin.logits.expose()

    def _is_foreign(self) -> bool:
        """Return whether an autograd.Function returned these logits, and put a node of its own between."""
        return _native(_GRAD_FN, self) is not self._node

    def _is_bound_to_numbers(self) -> bool:
        """Return whether gradients must go to the numbers of the original logits, not to the node."""
        origin = self._origin
        if origin is None or self._is_foreign():
            return False
        other, written = origin.logits, origin.logits._was_written()
        if written or (not origin.shares_memory and other._may_differ()):
            return written and origin.shares_memory
        return other._apart if other._real is not None else other._is_bound_to_numbers()

    def use(self) -> Any:
        """Note that the gradient at the node counts from now on, and return the node."""
        logits: LazyLogits | None = self
        while logits is not None and not logits._in_use:
            logits._in_use = True
            logits = None if logits._origin is None else logits._origin.logits
        return self._node

    def stand_in(self) -> Tensor:
        """Return the tensor that represents these logits in the graph: themselves, or their numbers."""
        if self._real is None and not self._is_bound_to_numbers():
            _ = self.use()
            return self
        real = self.numbers()
        return real if self._apart or self._was_written() else self

    # The numbers -----------------------------------------------------------------------------------------------------

    def numbers(self) -> Tensor:
        """Return the logits as an ordinary tensor, always the same one; made as if nothing had been put off."""
        if self._real is None or (self._is_bound_to_numbers() and not self._apart):
            grad = _native(_REQUIRES_GRAD, self)
            with (
                _outside_transforms(),
                torch.inference_mode(_native(Tensor.is_inference, self)),
                torch.set_grad_enabled(grad),
                without_autocast(self._deferred.hidden),
            ):
                real, apart = self._made()
            if real.requires_grad != grad:  # autograd is out of sight here
                return real
            self._real, self._apart = real, apart
            self._read_node, self._version_read = real.grad_fn, version_of(real)
            if _native(_RETAINS_GRAD, self):  # after a write to the numbers, their gradient counts
                real.retain_grad()
        return self._real

    def _made(self) -> tuple[Tensor, bool]:
        """Return numbers, and whether they were made from the origin's numbers by an ordinary operation."""
        d, origin = self._deferred, self._origin
        if origin is not None:
            shares, other = origin.shares_memory, origin.logits
            alone = self._is_foreign() or not (shares or not other._may_differ())
            if self._is_bound_to_numbers() or not (alone or self._in_use):
                return origin.make(other.numbers()), True
            if shares:
                real = other.numbers().detach()
                return read(self, lambda: origin.make(real)), False
        self.check()
        return read(self, lambda: d.compute().data), False  # .data: not a view, which would be read-only

    def recomputed(self) -> Tensor:
        """Return the numbers that the layer made, outside of every graph, without keeping them."""
        if self._real is not None and not self._may_differ():
            return self._real.detach()
        self.check()
        d = self._deferred
        with torch.no_grad(), without_autocast(d.hidden):
            return d.compute()

    def check(self) -> None:
        """Raise if the operands changed since the layer was called."""
        if self._origin is not None:
            self._origin.logits.check()
        if _versions(self._deferred) != self._versions:
            engine = freed_by(self._deferred.operands)
            if engine is not None:
                raise RuntimeError(
                    f"{engine} has freed the weight of the fused head between the forward of the head and the use of "
                    "its logits; leave the head in the unit of the whole model, which keeps its weights until the "
                    "backward, or use unfuse_lm_head(model)"
                )
            raise_changed()


def with_numbers_of(x: Any, operation: str) -> Any:
    """Return the numbers of lazy logits for an operation, and other values unchanged."""
    if not isinstance(x, LazyLogits):
        return x
    unread, numbers = _unread((x,)), x.numbers()
    if unread is not None:
        unread._deferred.notice.made(operation, unread, numbers)  # pyright: ignore[reportOptionalMemberAccess]
    return numbers


def _unread(arguments: Sequence[Any]) -> LazyLogits | None:
    """Return the first lazy logits among arguments whose numbers are about to be made in training."""
    for x in arguments:
        if isinstance(x, LazyLogits):
            if x._deferred.notice is not None and not x.was_read():
                return x
        elif isinstance(x, (list, tuple)):
            found = _unread(x)  # pyright: ignore[reportUnknownArgumentType]
            if found is not None:
                return found
    return None


def raise_changed() -> NoReturn:
    """Raise because an operand of the logits was changed."""
    raise RuntimeError(
        "these logits were never computed, and the input, the weight or a bias of their layer has been changed in "
        "place since (by an optimizer's step?); read them before that, or use unfuse_lm_head(model)"
    )


KNOWN.add(LazyLogits)


class _Read(torch.autograd.Function):
    """The numbers of lazy logits, which hang on their node."""

    @staticmethod
    def forward(ctx: Any, logits: LazyLogits, compute: Callable[[], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return compute()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None


def read(logits: LazyLogits, compute: Callable[[], Tensor] | None = None) -> Tensor:
    """Return numbers of lazy logits, new ones with each call, whose gradient goes to the node of the logits."""
    found: Any = _Read.apply(logits, logits.recomputed if compute is None else compute)
    return found


def _outside_transforms() -> AbstractContextManager[Any]:
    """Return a context without torch's function transforms, for tensors from before them."""
    if not torch._C._are_functorch_transforms_active():  # pyright: ignore
        return nullcontext()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


_GRAD_FN: Any = Tensor.grad_fn.__get__  # pyright: ignore
_REQUIRES_GRAD: Any = Tensor.requires_grad.__get__  # pyright: ignore
_RETAINS_GRAD: Any = Tensor.retains_grad.__get__  # pyright: ignore


def _native(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function of torch that needs no numbers."""
    with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
        return func(*args, **kwargs)


def _in_graph(name: str, func: Any, logits: LazyLogits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function of torch that concerns the place of logits in the graph."""
    place = logits.stand_in()
    if name == "retain_grad" and place is logits and logits._real is not None:
        logits._real.retain_grad()  # in case of a write to the numbers
    return _native(func, place, *args, **kwargs)


def _gradients(outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any) -> tuple[Tensor | None, ...]:
    """Return the result of torch.autograd.grad if outputs or inputs are lazy logits."""
    places = [x.stand_in() if isinstance(x, LazyLogits) else x for x in inputs]
    edges: Any = [torch.autograd.graph.get_gradient_edge(x) if isinstance(x, LazyLogits) else x for x in places]
    filled = options.pop("materialize_grads", False)
    if filled:
        options["allow_unused"] = True
    outputs, grad_outputs = with_numbers((outputs, grad_outputs), LazyLogits)
    found = [
        g.numbers() if isinstance(g, LazyGradient) else g
        for g in torch.autograd.grad(outputs, edges, grad_outputs, **options)
    ]
    again = options.get("create_graph", False)
    return tuple(
        torch.zeros(x.shape, dtype=x.dtype, device=x.device, requires_grad=again) if filled and g is None else g
        for g, x in zip(found, inputs, strict=True)
    )


def _retained(logits: LazyLogits) -> Any:
    """Return an input of torch.autograd.backward, which keeps the gradients of its inputs."""
    logits.retain_grad()
    place = logits.stand_in()
    return torch.autograd.graph.get_gradient_edge(place) if isinstance(place, LazyLogits) else place


def new_logits(deferred: Deferred) -> Any:
    """Return the tensor of lazy logits, which has no place in the graph and no past yet."""
    return Tensor._make_wrapper_subclass(
        LazyLogits, deferred.shape, dtype=deferred.dtype, device=deferred.hidden.device
    )  # pyright: ignore


def remember(logits: Any, deferred: Deferred, origin: Origin | None) -> LazyLogits:
    """Return logits that hold their origin, but not their uses."""
    logits._deferred, logits._origin = deferred, origin
    logits._versions = _versions(deferred)
    logits._node = _native(_GRAD_FN, logits)
    logits._in_use = logits._apart = logits._exposed = False
    logits._real = logits._read_node = None
    logits._version_read = -1
    return logits


def alias(logits: LazyLogits) -> LazyLogits:
    """Return the same logits without a place in the graph."""
    deferred = logits._deferred
    return remember(new_logits(deferred), deferred, Origin(logits, torch.detach, shares_memory=True))


def _versions(deferred: Deferred) -> tuple[tuple[int, int], ...]:
    return tuple((0, 0) if x is None else (version_of(x), x.data_ptr()) for x in deferred.tensors)


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to."""
    return -1 if tensor.is_inference() else tensor._version  # pyright: ignore
