"""Enabling and disabling: which of TRL's names change, and that all come back."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from crossent.integrations import trl as ours
from crossent.integrations.trl import PLACES, VERSIONS, disable, enable, is_enabled

pytestmark = pytest.mark.slow  # TRL takes seconds to import

OURS = "crossent.integrations"


@pytest.fixture(autouse=True)
def disabled():
    disable()
    yield
    disable()


def names():
    """What each name of each loaded module of TRL is."""
    return {
        (name, key): value
        for name, module in list(sys.modules.items())
        if name == "trl" or name.startswith("trl.")
        for key, value in list(vars(module).items())
    }


def replaced():
    """The names that are crossent's, and what they are."""
    return {at: x for at, x in names().items() if str(getattr(x, "__module__", "")).startswith(OURS)}


def load():
    """Every module of TRL that holds one of the names by value."""
    for name in ("sft", "dpo", "kto", "grpo", "rloo", "reward", "distillation"):
        _ = importlib.import_module(f"trl.trainer.{name}_trainer")
    for name in ("sdpo", "a2po", "tpo", "orpo", "sdft", "cpo"):
        _ = importlib.import_module(f"trl.experimental.{name}.{name}_trainer")


def test_every_name_changes_and_comes_back():
    load()
    before = names()
    _ = enable()
    homes = {(place.module, place.name) for place in PLACES}
    found = replaced()
    assert homes <= found.keys()
    assert found.keys() >= {
        ("trl.trainer.utils", "_ChunkedLogProbFunction"),
        ("trl.trainer.utils", "_fused_logprob_entropy"),
        ("trl.kernels", "ChunkedLogProbFunction"),
        ("trl.trainer.distillation_trainer", "ChunkedDivergenceFunction"),
        ("trl.experimental.sdpo.sdpo_trainer", "selective_log_softmax"),
        ("trl.experimental.tpo.tpo_trainer", "selective_log_softmax_and_entropy"),
        ("trl.trainer.sft_trainer", "BaseTunerLayer"),
    }
    # nothing but these functions, and the question after adapters
    replacements = {id(x) for x in found.values()}
    assert len(replacements) == len(PLACES) + 1
    during = names()
    assert {at for at, x in before.items() if during[at] is not x} == found.keys()
    disable()
    after = names()
    assert after.keys() == before.keys()
    assert all(after[at] is x for at, x in before.items())


def test_both_may_be_called_twice():
    before = importlib.import_module("trl.trainer.utils").selective_log_softmax
    disable()
    _ = enable()
    once = replaced()
    _ = enable()
    assert replaced() == once
    disable()
    disable()
    assert not replaced()
    assert importlib.import_module("trl.trainer.utils").selective_log_softmax is before


def test_contexts_nest():
    with enable():
        assert is_enabled()
        with enable():
            assert is_enabled()
        assert is_enabled()
    assert not is_enabled()
    _ = enable()
    with enable():
        pass
    assert is_enabled()
    with enable():
        disable()
    assert not is_enabled()


def test_a_context_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), enable():
        _ = 1 / 0
    assert not is_enabled()
    assert not replaced()


AFTER = """
import os, sys
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
from crossent.integrations import trl as ours
assert not {"trl", "torch", "transformers", "peft"} & set(sys.modules)
context = ours.enable()
late = "trl.experimental.cpo.cpo_trainer"
assert late not in sys.modules
import trl.experimental.cpo.cpo_trainer as cpo
assert cpo.selective_log_softmax.__module__ == "crossent.integrations.trl_functions"
with context:
    pass
import trl.trainer.utils as utils
assert cpo.selective_log_softmax is utils.selective_log_softmax
assert utils.selective_log_softmax.__module__ == "trl.trainer.utils"
"""


def python(text):
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300, check=False)


def test_modules_that_are_loaded_later():
    found = python(AFTER)
    assert found.returncode == 0, found.stderr[-2000:]


def test_crossent_imports_nothing_of_trl():
    text = (
        "import sys, crossent, crossent.torch, crossent.integrations.trl; assert not {'trl', 'peft'} & set(sys.modules)"
    )
    found = python(text)
    assert found.returncode == 0, found.stderr[-2000:]


# What is refused


@pytest.mark.parametrize("version", ["1.14.2", "1.16.1", "2.0.0", "unknown"])
def test_other_versions_are_refused(version, monkeypatch):
    monkeypatch.setattr(importlib.import_module("trl"), "__version__", version)
    with pytest.raises(RuntimeError, match=rf"TRL {version} is not supported, only TRL .*pip install trl=="):
        _ = enable()
    assert not is_enabled()
    assert not replaced()


def test_the_installed_version_is_known():
    assert importlib.import_module("trl").__version__ in VERSIONS


def test_trl_is_not_installed(monkeypatch):
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs TRL, which is not installed; use pip install trl=="):
        _ = enable()
    assert not is_enabled()


def test_somebody_else_was_here_before(monkeypatch):
    def theirs(*args):
        return args

    theirs.__module__ = "somebody.else"
    utils = importlib.import_module("trl.trainer.utils")
    monkeypatch.setattr(utils, "entropy_from_logits", theirs)
    with pytest.raises(RuntimeError, match=r"entropy_from_logits was replaced by one of somebody\.else.*use only one"):
        _ = enable()
    assert utils.entropy_from_logits is theirs
    assert not replaced()


@pytest.mark.parametrize("missing", ["triton", "peft"])
def test_without_what_trl_can_do_without(missing, monkeypatch):
    real = ours.find_spec
    monkeypatch.setattr(ours, "find_spec", lambda name: None if name == missing else real(name))
    before = names()
    _ = enable()
    assert len({id(x) for x in replaced().values()}) == len(PLACES)
    disable()
    after = names()
    assert all(after[at] is x for at, x in before.items())


def test_an_older_version_needs_triton(monkeypatch):
    monkeypatch.setattr(importlib.import_module("trl"), "__version__", "1.15.0")
    monkeypatch.setattr(ours, "find_spec", lambda name: None if name == "triton" else True)
    with pytest.raises(RuntimeError, match=r"TRL 1\.15\.0 needs Triton.*pip install trl==1\.16\.0"):
        _ = enable()


def test_a_gradient_outlives_its_function():
    """Of a loss that was computed before crossent is disabled, and of one that was computed before it is enabled."""
    torch = importlib.import_module("torch")
    utils = importlib.import_module("trl.trainer.utils")
    x, w = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    call = (x, w, None, torch.arange(5), 1.0, 4)
    before = utils._ChunkedLogProbFunction.apply(*call)[0]
    with enable():
        inside = utils._ChunkedLogProbFunction.apply(*call)[0]
        want = torch.autograd.grad(before.sum(), (x, w))
    for got, its in zip(torch.autograd.grad(inside.sum(), (x, w)), want, strict=True):
        torch.testing.assert_close(got, its)
