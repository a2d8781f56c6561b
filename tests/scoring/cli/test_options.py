"""Options of the commands as arguments of a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossent.errors import UsageError
from crossent.scoring.cli.options import amount, state_options
from tests.scoring.cli.runs import THREE
from tests.scoring.written import run, saved


def test_classes_with_commas_and_blanks() -> None:
    found = state_options('a, "b, c" ,d', None, normalize=False, zero="inf", ci=0.95, worst=10)
    assert found["classes"] == ["a", "b, c", "d"]


@pytest.mark.parametrize(("zero", "charged"), [("inf", "inf"), ("1e-6", 1e-6)])
def test_zero_is_a_number_or_inf(zero: str, charged: object) -> None:
    assert state_options(None, [], normalize=True, zero=zero, ci=0.9, worst=0) == {
        "classes": None, "ignore": None, "normalize": True, "zero": charged, "ci": 0.9, "worst": 0,
    }  # fmt: skip


def test_what_is_no_probability_is_said() -> None:
    with pytest.raises(UsageError, match="--zero must be inf or a probability between 0 and 1; got 'small'"):
        _ = state_options(None, None, normalize=False, zero="small", ci=0.95, worst=10)


@pytest.mark.parametrize("command", ["score", "calibrate", "compare", "lm"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ci", "0.9", "--ci=0.95"), "--ci was passed twice; pass it once"),
        (("--max-memory", "4G") * 3, "--max-memory was passed 3 times; pass it once"),
    ],
)
def test_an_option_of_one_value_is_passed_once(command: str, options: Any, said: str, capsys: Any) -> None:
    """The error comes before any file is read, and before other errors."""
    ran = run(capsys, command, "nowhere.csv", *options)
    assert (ran.code, ran.out, ran.err) == (2, "", f"crossent: {said}\n")


@pytest.mark.parametrize("command", ["score", "calibrate"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--probs", "cat", "--probs", "dog"), "--probs was passed twice; separate columns by commas: --probs cat,dog"),
        (("--logits=a b", "--logits", "c"), "separate columns by commas: --logits 'c,a b'"),
        (("--classes", "a", "--classes", "b"), "separate names by commas: --classes a,b"),
    ],
)
def test_several_values_are_separated_by_commas(command: str, options: Any, said: str, capsys: Any) -> None:
    ran = run(capsys, command, "nowhere.csv", *options)
    assert (ran.code, said in ran.err) == (2, True)


def test_options_of_several_values_and_flags_may_be_repeated(tmp_path: Path, capsys: Any) -> None:
    path = saved(tmp_path / "a.csv", THREE)
    options = ("--label", "y", "--probs", "p_*", "--ignore", "0", "--ignore", "2", "--json", "--json")
    ran = run(capsys, "score", path, *options)
    assert (ran.code, ran.err, ran.json()["n"]) == (0, "", 1)
    several = ("--label", "y", "--probs", "p_*", "--probs", "p_0,p_1,p_2")
    ran = run(capsys, "compare", path, *several, "--json")
    assert (ran.code, ran.json()["difference"]) == (0, 0.0)


def test_one_of_a_unit_is_singular() -> None:
    assert [amount(1.0, "nats"), amount(1.0000001, "bits"), amount(1.5, "bits")] == ["1 nat", "1 bit", "1.5 bits"]


def test_a_missing_file_says_what_it_is_for(capsys: Any) -> None:
    said = "Missing option '--out': the file to write the calibrated predictions to (see crossent calibrate --help)"
    assert run(capsys, "calibrate", "nowhere.csv").err == f"crossent: {said}\n"
