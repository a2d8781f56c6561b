"""Training of the two classifiers with crossent's losses: one linear layer each, in float64."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from crossent.demo.data import LearningTask, TaskRows
from crossent.torch import BCEWithLogitsLoss, CrossEntropyLoss

BATCH = 64
LEARNING_RATE = 0.02


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """Compute with one thread; on a busy machine a second one makes tables this small up to 50 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted model: its logits (N, V), or (N,) if binary, and the losses in nats before and after each epoch."""

    task: LearningTask
    train_logits: Any
    test_logits: Any
    train_curve: tuple[float, ...]
    test_curve: tuple[float, ...]


def mean_loss(logits: Any, y: Any) -> float:
    """Return the mean loss in nats of logits (N, V) against classes (N,), or of logits (N,) against 0 and 1."""
    logits, target = torch.as_tensor(logits), torch.as_tensor(y)
    if logits.ndim == 1:
        return BCEWithLogitsLoss()(logits, target.to(logits.dtype)).item()
    return CrossEntropyLoss()(logits, target).item()


class EpochLosses(NamedTuple):
    """Mean losses in nats after an epoch."""

    train: float
    test: float


@one_thread()
def fit(task: LearningTask, *, epochs: int, seed: int, on_epoch: Callable[[float, float], None]) -> Fit:
    """Train a model on the training rows of a task; equal seeds give equal numbers.

    Parameters
    ----------
    task
        The table to learn.
    epochs
        Passes over the training rows.
    seed
        Seed of the order of the rows.
    on_epoch
        Called with the training and the test loss in nats after each epoch.
    """
    model = torch.nn.utils.skip_init(
        torch.nn.Linear, task.train.x.shape[1], 1 if task.binary else len(task.classes), dtype=torch.float64
    )
    for parameter in model.parameters():  # zeros give equal probabilities: the first loss is log V
        torch.nn.init.zeros_(parameter)
    loss = BCEWithLogitsLoss() if task.binary else CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    order = torch.Generator().manual_seed(seed)

    def logits(x: Any) -> Any:
        return model(x).squeeze(-1) if task.binary else model(x)

    def target(rows: TaskRows) -> Any:
        y = torch.from_numpy(rows.y)
        return y.double() if task.binary else y

    x, y = torch.from_numpy(task.train.x), target(task.train)
    test_x, test_y = torch.from_numpy(task.test.x), target(task.test)

    @torch.no_grad()
    def measure() -> EpochLosses:
        return EpochLosses(loss(logits(x), y).item(), loss(logits(test_x), test_y).item())

    curve = [measure()]
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss(logits(x[batch]), y[batch]).backward()
            optimizer.step()
        curve.append(measure())
        on_epoch(*curve[-1])
    with torch.no_grad():
        return Fit(
            task,
            train_logits=logits(x).numpy(),
            test_logits=logits(test_x).numpy(),
            train_curve=tuple(losses.train for losses in curve),
            test_curve=tuple(losses.test for losses in curve),
        )
