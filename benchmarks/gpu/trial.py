"""Measures one case on a device: who is right, what they need, how long they take, and who is out for what reason.

What is timed, under a key of measure and contender:

    forward    the loss where no gradient is wanted (not of torch.compile, which would have to compile once more)
    both       the loss and its gradients in fresh memory
    backward   the gradients alone, of crossent's and eager's losses of logits
    floor      copy: of the logits, one read and one write;  gemms: the three products of a linear layer's step
"""

from __future__ import annotations

import contextlib
import gc
import random
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.common.losses import Call, Data, Key, Loss, forward
from benchmarks.common.records import Record, Times, ratio, rounded
from benchmarks.gpu.cases import AnyCase, ErrorCase, HeadCase, head, make
from benchmarks.gpu.contenders import KNOWN_LOOSE, OVERWRITE, floor, gradients, losses, reason
from benchmarks.gpu.device import Device, Seconds
from benchmarks.gpu.errors import distance, reference
from benchmarks.logits.contenders import work

Samples = dict[Key, Times]

WARMUP, FEWEST = 3, 5
"""Rounds before the measured ones, and measured rounds that even the slowest contender takes part in."""

PATIENCE = 4.0
"""Seconds that the measured rounds of one contender may take; who is slow takes part in the first of them only."""

BACKWARD = ("crossent", "eager")
"""Whose gradients of logits are timed alone too; a compiled loss cannot be differentiated twice."""

SAME, LOOSE = 0.03, 0.2
"""By how much losses and gradients may differ, relative to their norm, and those of rivals that are known to.

Eager in bfloat16 with a softcap is itself off by a hundredth; a gradient without its softmax by more than a tenth.
"""


class Results(NamedTuple):
    """The loss and gradients of a contender, with which those of others are compared."""

    contender: str
    values: list[Tensor]


class Sampled(NamedTuple):
    """The times of the device, and those that the host took to queue the same calls."""

    device: Samples
    host: Samples


@dataclass(slots=True)
class Entry:
    """A contender in a case: its loss, its arguments, and the logits to restore if it writes over them.

    Calls with gradients are made within `around`, a new context each time.
    """

    loss: Loss
    data: Data
    pristine: Tensor | None = None
    about: Record = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    value: Tensor | None = None

    def restore(self) -> None:
        """Undo what a call has done to the logits."""
        if self.pristine is not None:
            with torch.no_grad():
                _ = self.data.logits.copy_(self.pristine)

    def forward(self) -> Tensor:
        """Return the loss where no gradient is wanted."""
        return forward(self.loss, self.data)

    def both(self) -> list[Tensor]:
        """Return the loss and its gradients."""
        with self.around():
            return gradients(self.loss, self.data)

    def backward(self) -> tuple[Tensor, ...]:
        """Return the gradients alone, of a loss that is computed once."""
        if self.value is None:
            self.value = self.loss(*self.data.leaves, self.data.target, **self.data.options)
        return torch.autograd.grad(self.value, self.data.leaves, retain_graph=True)


class Trial:
    """The contenders of one case on a device. Those who fail leave `entries`, and `absent` says why."""

    def __init__(self, case: AnyCase, device: Device, *, compiled: bool) -> None:
        self.device, self.data = device, make(case, device.device)
        found, missing = losses(case, compiled=compiled)
        self.entries = {name: self._entry(name, loss, case) for name, loss in found.items()}
        self.absent: dict[str, Record] = {n: {"status": "missing", "reason": why} for n, why in missing.items()}

    def _entry(self, name: str, loss: Loss, case: AnyCase) -> Entry:
        if name not in OVERWRITE or isinstance(case, HeadCase):
            return Entry(loss, self.data)
        logits = self.data.logits.detach()
        return Entry(loss, Data((logits.clone().requires_grad_(),), self.data.target, self.data.options), logits)

    def drop(self, name: str, error: Exception) -> None:
        """Take a contender out."""
        error.__traceback__ = None  # it holds what the call had in memory
        self.absent[name] = {"status": "failed", "reason": reason(error)}
        _ = self.entries.pop(name, None)
        with contextlib.suppress(RuntimeError):  # on a device that no longer works, all others fail in their turn
            self.device.clear()

    def check(self) -> None:
        """Call everyone, compare them with the first, eager if it runs, and look at what they need."""
        first: Results | None = None
        for name in sorted(self.entries, key=lambda name: (name != "eager", name != "crossent")):
            try:
                first = self._compare(name, first)
                self._look(self.entries[name])
            except Exception as error:
                self.drop(name, error)

    def _compare(self, name: str, first: Results | None) -> Results:
        entry = self.entries[name]
        found = entry.both()
        expected = first or Results(name, found)
        differences = [distance(a, b) for a, b in zip(found, expected.values, strict=True)]
        entry.restore()
        if not all(d <= (LOOSE if name in KNOWN_LOOSE else SAME) for d in differences):  # NaN is not
            words = ", ".join(f"{d:.2g}" for d in differences)
            raise ArithmeticError(
                f"loss and gradients differ from those of {expected.contender} by {words}; run `make test-gpu`"
            )
        entry.about["difference"] = {"from": expected.contender, "largest": rounded(max(differences))}
        return expected

    def _look(self, entry: Entry) -> None:
        peak = self.device.peak(entry.both)
        entry.restore()
        if peak is not None:
            own = sum(x.nbytes for x in entry.data.leaves)
            entry.about |= {"peak_bytes": peak, "gradient_bytes": own, "extra_bytes": peak - own}

    def calls(self) -> dict[Key, Call]:
        """Return what is timed of those who are left."""
        entries = self.entries
        found: dict[Key, Call] = {Key("both", name): entry.both for name, entry in entries.items()}
        found |= {Key("forward", name): entry.forward for name, entry in entries.items() if name != "compile"}
        alone = [name for name in BACKWARD if name in entries and len(self.data.leaves) == 1]
        return found | {Key("backward", name): entries[name].backward for name in alone}

    def add_floor(self, calls: dict[Key, Call], case: AnyCase) -> Record:
        """Put the floor among the calls, if there is memory for it, and return what it does."""
        name = "gemms" if isinstance(case, HeadCase) else "copy"
        try:
            found = floor(case, self.data, self.device.memory)
            _ = found.call()
        except Exception as error:
            self.drop(name, error)
            return {}
        calls[Key("floor", name)] = found.call
        return found.work

    def sample(self, calls: dict[Key, Call], rounds: int, warmup: int = WARMUP) -> Sampled:
        """Return the times of the device and of the host, contenders in random order in every round."""
        times, host = ({key: list[float]() for key in calls} for _ in range(2))
        shuffle, order, most = random.Random(0).shuffle, list(calls), dict.fromkeys(calls, rounds)
        _ = gc.collect()
        gc.disable()
        try:
            for turn in range(-warmup, rounds):
                shuffle(order)
                for key in [key for key in order if turn < most[key] and key.contender not in self.absent]:
                    seconds = self._timed(key, calls[key])
                    if seconds is None:
                        continue
                    if turn < 0:
                        most[key] = min(rounds, max(FEWEST, int(PATIENCE / max(*seconds, 1e-9))))
                    else:
                        times[key].append(rounded(seconds.device))
                        host[key].append(rounded(seconds.host))
        finally:
            gc.enable()
        kept = [key for key in calls if key.contender not in self.absent]
        return Sampled({key: times[key] for key in kept}, {key: host[key] for key in kept})

    def records(self, case: AnyCase, samples: Sampled, done: Record) -> list[Record]:
        """Return one record for each contender that was timed, one for the floor, and one for who is out."""
        found: list[Record] = []
        for name in dict.fromkeys(key.contender for key in samples.device):
            about = self.entries[name].about if name in self.entries else done
            times = {**of_times(samples, name), **beside_floor(case, self.data, samples.device, name)}
            found.append({**head(case), "contender": name, "status": "ok", **about, **times})
        return found + [{**head(case), "contender": name, **why} for name, why in self.absent.items()]

    def _timed(self, key: Key, call: Call) -> Seconds | None:
        try:
            seconds = self.device.seconds(call)
            if key.contender in self.entries:
                self.entries[key.contender].restore()
        except Exception as error:
            self.drop(key.contender, error)
            return None
        return seconds


def measure(case: AnyCase, device: Device, rounds: int, *, compiled: bool = True, warmup: int = WARMUP) -> list[Record]:
    """Return one record for each contender in this case, and one for the floor."""
    trial = Trial(case, device, compiled=compiled)
    trial.check()
    calls = trial.calls()
    done = trial.add_floor(calls, case)
    return trial.records(case, trial.sample(calls, rounds, warmup), done)


def errors(case: ErrorCase, device: Device) -> list[Record]:
    """Return one record for each contender, with the errors of loss and gradients beside float64."""
    data = make(case, device.device)
    exact = reference(data)
    found, missing = losses(case, compiled=False)
    del missing["compile"]  # it rounds as eager does, or better
    records = [{"contender": name, "status": "missing", "reason": why} for name, why in missing.items()]
    for name, loss in found.items():
        record: Record = {"contender": name, "status": "ok"}
        try:
            distances = [distance(a, b) for a, b in zip(gradients(loss, data), exact, strict=True)]
            record["errors"] = dict(zip(("loss", "dX", "dW"), map(rounded, distances), strict=True))
        except Exception as error:
            record |= {"status": "failed", "reason": reason(error)}
        records.append(record)
    return [{**head(case), **record} for record in records]


def of_times(samples: Sampled, name: str) -> Record:
    """Return a contender's times, their medians, and how many times crossent's they are, round by round."""
    times, host = samples
    own = {key.measure: value for key, value in times.items() if key.contender == name}
    return {
        "rounds": {measure: len(value) for measure, value in own.items()},
        "median_seconds": {measure: statistics.median(value) for measure, value in own.items()},
        "host_seconds": {measure: statistics.median(host[Key(measure, name)]) for measure in own},
        "over_crossent": {
            measure: ratio(value, times[Key(measure, "crossent")])
            for measure, value in own.items()
            if Key(measure, "crossent") in times
        },
        "seconds": own,
    }


def beside_floor(case: AnyCase, data: Data, times: Samples, name: str) -> Record:
    """Return the work of a contender, and how fast that is beside the floor."""
    own = {key.measure: value for key, value in times.items() if key.contender == name}
    limit = next((value for key, value in times.items() if key.measure == "floor"), None)
    if isinstance(case, HeadCase):
        each = 2 * case.N * case.D * case.V
        flops = {measure: each if measure == "forward" else 3 * each for measure in own}
        found: Record = {
            "flops": flops,
            "tflops": {measure: rounded(flops[measure] / statistics.median(own[measure]) / 1e12) for measure in own},
        }
        if limit is not None and "both" in own:
            found["over_floor"] = ratio(own["both"], limit)
        return found
    copied = 2 * data.logits.nbytes
    moved = {measure: copied if measure == "floor" else work(data, measure)["bytes"] for measure in own}
    found = {"bytes": moved}
    if limit is not None:
        found["share_of_copy"] = {
            measure: rounded(moved[measure] / copied * ratio(limit, value)) for measure, value in own.items()
        }
    return found
