"""An entry of the table of hints: what gives the hint, what follows it to the letter, and the number that is right."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

import crossent
from tests.scoring.exact import made, softmax
from tests.scoring.written import Ran, run

N = 60
Y, Z = made(3, N, 3)
P = softmax(Z)
NAMES = np.array(["cat", "dog", "emu"])
LOSS = float(log_loss(Y, P))
Y2 = Y % 2
M = np.random.default_rng(1).normal(size=N) * 2 + 3 * (Y2 - 0.5)  # log-odds of class 1
Q = 1.0 / (1.0 + np.exp(-M))
LOSS2 = float(log_loss(Y2, Q))


@dataclass(frozen=True)
class Bench:
    """A folder to work in, and the command to run."""

    path: Path
    capsys: Any

    def run(self, *arguments: object) -> Ran:
        return run(self.capsys, *arguments)

    def said(self, *arguments: object) -> str:
        """Return what a run of the command that fails prints."""
        ran = self.run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        return ran.err

    def loss(self, *arguments: object) -> float:
        """Return the loss of a run of the command that does not fail."""
        ran = self.run("score", *arguments, "--json")
        assert (ran.code, ran.err) == (0, "")
        return float(json.loads(ran.out)["loss"])


@dataclass(frozen=True)
class Hinted:
    """A message with a hint, the number that comes out where the hint is followed, and the number that is right.

    `message` makes the text of an error or a warning; `words` are the hint in it. `followed` does what it says.
    """

    message: Callable[[Bench], str]
    words: str
    followed: Callable[[Bench], float]
    right: float


def refused(call: Callable[[], Any]) -> Callable[[Bench], str]:
    """Return what makes the text of an error."""

    def message(_: Bench) -> str:
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        return str(caught.value)

    return message


def warned(call: Callable[[], crossent.Score]) -> Callable[[Bench], str]:
    """Return what makes the text of all warnings of a score."""
    return lambda _: "; ".join(call().warnings)


def loss(*y: Any, **more: Any) -> Callable[[Bench], float]:
    """Return what makes the loss of a call of `score`."""
    return lambda _: crossent.score(*y, **more).loss


def options(text: str, begin: str, end: str) -> list[str]:
    """Return the options of a command in a message, as they would be pasted into a shell."""
    return shlex.split(text.rsplit(begin, maxsplit=1)[-1].split(end, maxsplit=1)[0])
