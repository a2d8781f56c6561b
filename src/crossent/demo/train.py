"""Training of the two classifiers with crossent's losses; one linear layer each, in float64."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from crossent.demo.data import Rows, Task
from crossent.torch import BCEWithLogitsLoss, CrossEntropyLoss

BATCH = 64
LEARNING_RATE = 0.02


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """Compute with one thread: tables this small gain nothing from two, and wait for them on a busy machine (50 ×)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted task: logits (N, V), or (N,) if binary, and the losses in nats before training and after each epoch."""

    task: Task
    train_logits: Any
    test_logits: Any
    train_curve: tuple[float, ...]
    test_curve: tuple[float, ...]


def mean_loss(logits: Any, y: Any) -> float:
    """Return crossent's loss in nats of logits (N, V) against classes (N,), or of logits (N,) against 0 and 1."""
    logits, target = torch.as_tensor(logits), torch.as_tensor(y)
    if logits.ndim == 1:
        return BCEWithLogitsLoss()(logits, target.to(logits.dtype)).item()
    return CrossEntropyLoss()(logits, target).item()


@one_thread()
def fit(task: Task, *, epochs: int, seed: int, on_epoch: Callable[[float, float], None]) -> Fit:
    """Train on the task's training rows and return the fit; the same seed gives the same numbers.

    Parameters
    ----------
    epochs
        How often every training row is seen.
    seed
        Decides the order of the rows.
    on_epoch
        Called with the training and the test loss in nats after each epoch.
    """
    model = torch.nn.utils.skip_init(
        torch.nn.Linear, task.train.x.shape[1], 1 if task.binary else len(task.classes), dtype=torch.float64
    )
    for parameter in model.parameters():  # zeros know nothing: the first loss is that of equal probabilities, log V
        torch.nn.init.zeros_(parameter)
    loss = BCEWithLogitsLoss() if task.binary else CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    order = torch.Generator().manual_seed(seed)

    def logits(x: Any) -> Any:
        return model(x).squeeze(-1) if task.binary else model(x)

    def tensors(rows: Rows) -> tuple[Any, Any]:
        y = torch.from_numpy(rows.y)
        return torch.from_numpy(rows.x), y.double() if task.binary else y

    (x, y), (test_x, test_y) = tensors(task.train), tensors(task.test)

    @torch.no_grad()
    def measure() -> tuple[float, float]:
        return loss(logits(x), y).item(), loss(logits(test_x), test_y).item()

    curve = [measure()]
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss(logits(x[batch]), y[batch]).backward()
            optimizer.step()
        curve.append(measure())
        on_epoch(*curve[-1])
    train_curve, test_curve = zip(*curve, strict=True)
    with torch.no_grad():
        return Fit(task, logits(x).numpy(), logits(test_x).numpy(), train_curve, test_curve)
