"""Triton's interpreter made faithful, so that what it computes is what a GPU would: for Triton 3.6 to 3.9.

As it comes, the interpreter truncates where a GPU rounds to bfloat16; it turns a boolean that is broadcast into an
integer; it has no mathematical library; and numbers stay Python's own, where a kernel expects tensors. It also prepares
`triton.language` anew at every call of a function, and works out shapes anew at every operation: without either, it
takes a third of the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from tests.data import decode, encode
from tests.kernels.triton import programs

FUNCTIONS = {
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "fast_dividef": np.divide,
}


_installed = False


def install() -> None:
    """Change the interpreter of this process for good."""
    global _installed  # noqa: PLW0603
    if _installed:
        return
    _installed = True
    convert, splat, number = InterpreterBuilder.cast_impl, InterpreterBuilder.create_splat, interpreter._implicit_cvt

    def cast(self: Any, source: Any, kind: Any) -> Any:
        if source.dtype.scalar == tl.bfloat16:
            wide = TensorHandle(decode(source.data).astype(np.float32), tl.float32)
            return wide if kind.scalar == tl.float32 else convert(self, wide, kind)
        if kind.scalar == tl.bfloat16:
            return TensorHandle(encode(source.data, "bfloat16"), tl.bfloat16)
        return convert(self, source, kind)

    def broadcast(self: Any, kind: Any, source: Any) -> Any:
        result = splat(self, kind, source)
        if source.data.dtype == np.bool_:
            result.data = result.data.astype(np.bool_)
        return result

    def convert_number(argument: Any) -> Any:
        if type(argument) is float:
            return tl.tensor(TensorHandle(np.array([argument], np.float64), tl.float64), tl.float64)
        return number(argument)

    prepare, prepared = interpreter._patch_lang, set()

    def prepare_once(function: Any) -> Any:
        if id(function.__globals__) not in prepared:
            prepared.add(id(function.__globals__))
            prepare(function)
        return interpreter._LangPatchScope()  # restores nothing

    interpreter._patch_lang = prepare_once
    InterpreterBuilder.cast_impl = cast
    InterpreterBuilder.create_fp_trunc = InterpreterBuilder.create_fp_ext = cast
    InterpreterBuilder.create_fp_to_fp = lambda self, source, kind, _mode: cast(self, source, kind)
    InterpreterBuilder.create_splat = broadcast
    interpreter._implicit_cvt = convert_number
    for name, function in FUNCTIONS.items():
        setattr(libdevice, name, _in_numpy(function))
    _remember_shapes()
    programs.install()


def _remember_shapes() -> None:
    """Let types and tensors of a shape that was seen before take over what was worked out then."""
    of_block, of_tensor, dtype_of = tl.block_type.__init__, tl.tensor.__init__, interpreter._get_np_dtype
    blocks: dict[Any, Any] = {}
    tensors: dict[str, Any] = {}
    dtypes: dict[str, Any] = {}

    def block(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(getattr(x, "value", x) for x in getattr(shape, "values", shape)))
        if key not in blocks:
            of_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))
        vars(self).update(blocks[key], element_ty=element_ty)

    def tensor(self: Any, handle: Any, kind: Any) -> None:
        if kind.name not in tensors:
            of_tensor(self, handle, kind)
            tensors[kind.name] = {name: x for name, x in vars(self).items() if name in {"shape", "numel"}}
        vars(self).update(tensors[kind.name], handle=handle, type=kind, dtype=kind.scalar)

    def np_dtype(kind: Any) -> Any:
        if kind.name not in dtypes:
            dtypes[kind.name] = dtype_of(kind)
        return dtypes[kind.name]

    tl.block_type.__init__, tl.tensor.__init__, interpreter._get_np_dtype = block, tensor, np_dtype


def _in_numpy(function: Any) -> Any:
    def call(*arguments: Any) -> Any:
        *_, x = arguments  # numbers come first
        given = [a.handle.data if isinstance(a, tl.tensor) else a for a in arguments]
        with np.errstate(all="ignore"):
            values = np.asarray(function(*given)).astype(x.handle.data.dtype)
        return tl.tensor(TensorHandle(values, x.handle.dtype.scalar), x.type)

    return call
