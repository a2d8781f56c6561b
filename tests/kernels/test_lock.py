"""A free-threaded Python: what its user sees, and that the core refuses to run without the lock."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossent.kernels import lock

LIKE_FREE_THREADED = """
import sys, sysconfig, types, warnings
sysconfig.get_config_vars()["Py_GIL_DISABLED"] = 1
sys._is_gil_enabled = lambda: False
sys.flags = types.SimpleNamespace(**{{name: getattr(sys.flags, name) for name in dir(sys.flags)
                                     if name[0] != "_" and not name.startswith("n_")}}, gil={gil})
"""


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sysconfig.get_config_vars(), "Py_GIL_DISABLED", 1)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)


def held(monkeypatch: pytest.MonkeyPatch, gil: int | None) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(gil=gil))


def test_an_ordinary_python_is_not_spoken_of() -> None:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python is free-threaded")
    assert not lock.is_free_threaded()
    assert lock.why_not() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lock.switched_on():
            pass


@pytest.mark.usefixtures("free")
def test_the_import_says_that_it_switches_the_lock_on_in_place_of_python() -> None:
    with pytest.warns(RuntimeWarning, match="importing it switches the lock on") as caught, lock.switched_on():
        warnings.warn("The global interpreter lock (GIL) has been enabled to load module", RuntimeWarning, stacklevel=1)
    assert len(caught) == 1


@pytest.mark.usefixtures("free")
def test_other_warnings_of_the_import_are_seen() -> None:
    with pytest.warns(RuntimeWarning) as caught, lock.switched_on():
        warnings.warn("something else", RuntimeWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught][1:] == ["something else"]


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(("gil", "refused"), [(0, True), (1, False), (None, False)])
def test_a_lock_that_is_kept_off_is_refused(gil: int | None, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    held(monkeypatch, gil)
    reason = lock.why_not()
    assert (reason is not None) == refused
    assert reason is None or "PYTHON_GIL=0" in reason


@pytest.mark.parametrize(("gil", "said"), [("0", "PYTHON_GIL=0 or -X gil=0 keeps it off"), ("None", "right 1")])
def test_a_whole_python_that_calls_itself_free_threaded(gil: str, said: str) -> None:
    code = LIKE_FREE_THREADED.format(gil=gil) + (
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    from crossent import kernels\n"
        "    reason = kernels.why_not('cpu')\n"
        "print(reason or f'right {len([w for w in seen if w.category is RuntimeWarning])}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert said in done.stdout


def test_the_core_does_not_declare_that_it_does_without_the_lock() -> None:
    spec = importlib.util.find_spec("crossent._core")
    assert spec is not None
    source = (Path(__file__).parents[2] / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "FREE_THREADED" not in source
