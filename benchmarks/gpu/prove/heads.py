"""The stage of heads: time, phases and memory with chunks of several sizes, and by every plan that one may choose.

Plans differ in how many rows of gradients they keep, in which classes they multiply twice, and in the number of sweeps
(docs/decisions/0026). The choice is made from the number of rows, 4 F / B, from which on one sweep is held to be faster
than two. Each plan that some number of rows leads to is measured, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from benchmarks.common.losses import Data, Key
from benchmarks.common.records import Record
from benchmarks.gpu.cases import HeadCase
from benchmarks.gpu.prove import phases
from benchmarks.gpu.prove.ceilings import heads
from benchmarks.gpu.prove.lab import Item, Lab, beside
from benchmarks.gpu.trial import WARMUP, Entry, Trial
from crossent.torch import linear_cross_entropy
from crossent.torch.sources import linear, plan

ROUNDS = 8
CHUNKS = (None, 2**29, 2**31)
ROWS = (None, 512, 1024, 64, 8192)
"""From how many rows on one sweep is taken: what `plan.GPU` says, what has been proposed, and what leads elsewhere."""


def items(lab: Lab) -> Iterator[Item]:
    """Yield the parts of the stage."""
    for case in heads(lab):
        yield Item(case.name, partial(times, lab, case))


def times(lab: Lab, case: HeadCase) -> Iterator[Record]:
    """Yield the times, phases and peaks of crossent with each chunk and plan, of eager, and of the three products."""
    trial = Trial(dataclasses.replace(case, chunk_bytes=()), lab.device, compiled=False)
    trial.entries, trial.absent = {"eager": trial.entries["eager"]}, {}
    about: dict[str, Record] = {}
    for choice in choices(lab, trial.data):
        name = f"crossent {choice.chunk_bytes} {choice.rows}"
        loss = partial(linear_cross_entropy, chunk_bytes=choice.chunk_bytes)
        trial.entries[name] = Entry(loss, trial.data, around=partial(one_sweep_from, choice.rows))
        about[name] = choice._asdict()
    trial.check()
    for name, entry in trial.entries.items():
        if name in about:
            entry.about["phases"] = of_phases(lab, entry)
            entry.about |= about[name]
    calls = {key: call for key, call in trial.calls().items() if key.measure == "both"}
    done = trial.add_floor(calls, case)
    # eager is slow and known: once is enough to compare with
    once = trial.sample({key: calls.pop(key) for key in [Key("both", "eager")] if key in calls}, 1, warmup=1)
    samples = trial.sample(calls, lab.pick(ROUNDS, 1), lab.pick(WARMUP, 0))
    samples.device.update(once.device)
    samples.host.update(once.host)
    for record in trial.records(case, samples, done):
        yield beside(record | {"contender": record["contender"].partition(" ")[0]})


def of_phases(lab: Lab, entry: Entry) -> dict[str, float]:
    """Return the seconds of each phase of one call, and of the rest of it."""
    with phases.marked(lab.device) as spans:
        begin = lab.device.mark()
        _ = entry.both()
        end = lab.device.mark()
    found = phases.seconds(lab.device, spans)
    return found | {"rest": lab.device.between(begin, end) - sum(found.values())}


class Choice(NamedTuple):
    """Memory for the logits, from how many rows on one sweep is taken, and the plan in words; None as it comes."""

    chunk_bytes: int | None
    rows: int | None
    plan: str


def choices(lab: Lab, data: Data) -> list[Choice]:
    """Return a choice for each plan."""
    found: dict[tuple[object, ...], Choice] = {}
    for chunk_bytes in CHUNKS:
        size = chunk_bytes if chunk_bytes is None else lab.pick(chunk_bytes, chunk_bytes >> 19)
        for number in ROWS:
            rows = number if number is None else lab.pick(number, number >> 8)
            with one_sweep_from(rows):
                costs = linear.costs_of(*data.leaves)
                most = plan.default_chunk_bytes(costs) if size is None else size
                sweep = plan.one_sweep(costs, most)
            _ = found.setdefault((sweep, most if sweep is None else None), Choice(size, rows, in_words(sweep)))
    return list(found.values())


def in_words(sweep: plan.Sweep | None) -> str:
    """Return a plan in words."""
    if sweep is None:
        return "two sweeps"
    kept = f", gradients of {sweep.kept} kept" if sweep.kept else ""
    twice = f", {sweep.rest.logits} classes twice" if sweep.rest else ""
    return f"one sweep, chunks of {sweep.rows} rows{kept}{twice}"


@contextmanager
def one_sweep_from(rows: int | None) -> Iterator[None]:
    """Let plans of GPUs hold one sweep for faster than two from so many rows on; None changes nothing."""
    before = linear.GPU, linear.CPU
    if rows is not None:
        linear.GPU = dataclasses.replace(linear.GPU, fewest_rows=rows, operations_per_byte=max(1, rows // 4))
        if not linear.CPU.is_cpu:  # in a rehearsal
            linear.CPU = linear.GPU
    try:
        yield
    finally:
        linear.GPU, linear.CPU = before
