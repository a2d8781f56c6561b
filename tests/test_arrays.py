"""The array library of an object: found by the object, and never imported for it."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from crossent.arrays import is_freed, log, namespace, readable, total, weighted


def test_numpy_takes_whatever_is_of_no_other_library():
    for thing in (np.ones(2), [1.0, 2.0], 1.0, None):
        assert namespace(thing) is np
    assert namespace() is np


@pytest.mark.parametrize(("library", "module"), [("torch", "torch"), ("jax.numpy", "jax.numpy")])
def test_the_library_of_an_array_takes_it_beside_numbers(library, module):
    xp = pytest.importorskip(library)
    array = xp.ones(2)
    for arrays in ((array,), (1.0, array), (np.ones(2), array)):
        assert namespace(*arrays) is sys.modules[module]


def test_a_subclass_of_a_tensor_is_torchs():
    torch = pytest.importorskip("torch", reason="torch is an option, and this is about its tensors")

    class Mine(torch.Tensor):
        pass

    assert namespace(torch.ones(2).as_subclass(Mine)) is torch


def test_nothing_is_imported_for_an_array():
    code = (
        "import sys, numpy, crossent.arrays as a; a.log(numpy.ones(2)); assert not {'torch', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_logarithm_of_nothing_is_minus_infinity_without_a_warning():
    np.testing.assert_array_equal(log(np.array([0.0, 1.0])), [-np.inf, 0.0])
    torch = pytest.importorskip("torch", reason="torch is an option, and this is about its tensors")
    assert log(torch.tensor([0.0, 1.0])).tolist() == [-math.inf, 0.0]


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 100_000])
def test_a_total_is_the_sum(size):
    x = np.random.default_rng(size).normal(size=size)
    assert abs(float(total(x)) - math.fsum(x)) <= 1e-13 * (1 + math.fsum(np.abs(x)))


def test_a_total_does_not_depend_on_the_number_of_threads():
    torch = pytest.importorskip("torch", reason="torch is an option, and this is about its tensors")
    x, before = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)), torch.get_num_threads()
    try:
        sums = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums.append(total(x).item())
    finally:
        torch.set_num_threads(before)
    assert len(set(sums)) == 1


def test_readable_arrays_are_returned_as_they_are():
    torch = pytest.importorskip("torch", reason="torch is an option, and this is about its tensors")
    for array in (
        np.zeros(2),
        torch.zeros(2),
        torch.zeros(0),
        torch.zeros(2, device="meta"),
        torch.zeros(2).bfloat16(),
    ):
        assert readable("p", array) is array


@pytest.mark.filterwarnings("ignore")
def test_unreadable_tensors_are_refused_by_name():
    torch = pytest.importorskip("torch", reason="torch is an option, and this is about its tensors")
    for made, words in (
        (torch.eye(3).to_sparse(), r"p is a sparse_coo tensor.*p\.to_dense\(\)"),
        (torch.eye(3).to_mkldnn(), "p is a mkldnn tensor"),
        (torch.nested.nested_tensor([torch.ones(2)]), r"p is a nested tensor.*to_padded_tensor\(p"),
        (torch.masked.masked_tensor(torch.ones(2), torch.ones(2).bool()), r"p is a MaskedTensor; use p\.get_data\(\)"),
    ):
        with pytest.raises(TypeError, match=words):
            _ = readable("p", made)


def test_freed_tensors_are_noticed():
    torch = pytest.importorskip("torch", reason="torch is an option, and this is about its tensors")
    tensor = torch.ones(4)
    assert not is_freed(tensor)
    tensor.untyped_storage().resize_(0)
    assert is_freed(tensor)
    with pytest.raises(RuntimeError, match="p has elements but no memory"):
        _ = readable("p", tensor)
    assert not is_freed(torch.zeros(0))


def test_a_weight_of_0_removes_what_it_weighs():
    torch = pytest.importorskip("torch", reason="torch is an option, and this is about its tensors")
    weight, values = [0.0, 0.0, 0.0, 2.0, 2.0], [np.nan, np.inf, -np.inf, 3.0, np.inf]
    for array in (np.array, torch.tensor):
        assert weighted(array(weight), array(values)).tolist() == [0.0, 0.0, 0.0, 6.0, np.inf]
        assert weighted(0.0, array(values)).tolist() == [0.0] * 5
        assert np.isnan(weighted(1.0, array(values)).tolist()[0])
