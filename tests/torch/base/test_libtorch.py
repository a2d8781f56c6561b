"""Access to libtorch: C functions that it has, and functions that it has not."""

from __future__ import annotations

import ctypes

import pytest

from crossent.torch.base.libtorch import torch_function

BODY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def test_a_function_that_there_is_not_is_none():
    assert torch_function("crossent_has_no_function_of_this_name") is None


def test_a_function_of_torch_s_interface_for_c_does_what_it_says():
    # torch/csrc/inductor/aoti_torch/c/shim.h; the numbers are those of c10::ScalarType, the same in every torch
    for dtype, number in (("uint8", 0), ("int64", 4), ("float32", 6), ("float64", 7), ("bfloat16", 15)):
        function = torch_function(f"aoti_torch_dtype_{dtype}")
        assert function is not None
        assert function() == number


@pytest.mark.skipif(torch_function("torch_parallel_for") is None, reason="this torch lends no threads")
def test_torch_s_loop_runs_over_everything_once():
    seen: list[int] = []

    @BODY
    def body(begin: int, end: int, context: int | None) -> None:
        assert context is None
        seen.extend(range(begin, end))

    loop = torch_function("torch_parallel_for")
    loop.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, BODY, ctypes.c_void_p]
    _ = loop(3, 1000, 10, body, None)
    assert sorted(seen) == list(range(3, 1000))
