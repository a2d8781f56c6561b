"""The loss part of a step of TRL's SFTTrainer on the head of SmolLM2-135M: `python -m benchmarks.sft` records it.

The model is TRL's: `add_fused_lm_head` of a Llama without layers, called as the trainer calls it, so that what is
measured is the head's forward, its backward, and what TRL does around them. Times alternate between both ways; peaks of
memory are those of a fresh process, gradients of input and weight included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import machine, memory, pages
from benchmarks.common.records import Record, write

SIZES, TINY = (512, 576, 49152), (16, 8, 301)
"""Tokens, features and classes: those of SmolLM2-135M, and some for tests."""

CASES = {
    "whole": "every token has a label, and all weights learn",
    "completions": "half of the tokens are a prompt",
    "frozen": "the head is frozen, as beside adapters elsewhere",
}
WAYS = ("trl", "crossent")


def step_of(case: str, sizes: tuple[int, int, int]) -> Callable[[], Tensor]:
    """Return the loss part of a step: the loss of a batch of one sequence, and its gradients."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    tokens, D, V = sizes
    _ = torch.manual_seed(0)
    layers: dict[str, Any] = {
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "intermediate_size": 1,
        "initializer_range": D**-0.5,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=D, tie_word_embeddings=False, **layers))
    model.model.embed_tokens = torch.nn.Embedding(1, D)  # inputs are passed as features, and the memory is not needed
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    _ = model.lm_head.requires_grad_(case != "frozen")
    features = torch.randn(1, tokens + 1, D, requires_grad=True)
    labels = torch.randint(V, (1, tokens + 1))
    if case == "completions":
        labels[:, : 1 + tokens // 2] = -100

    def step() -> Tensor:
        model.zero_grad()
        features.grad = None
        outputs = model(inputs_embeds=features, labels=labels, fused_lm_head=True)
        loss = -outputs.log_probs.sum() / outputs.label_mask.sum()
        _ = outputs.entropy.detach().sum(), outputs.is_top1.sum()
        loss.backward()
        return loss.detach()

    return step


def under(way: str) -> AbstractContextManager[Any]:
    """Return the context in which the steps of a way run."""
    from crossent.integrations import trl

    return trl.enable() if way == "crossent" else nullcontext()


def times(case: str, sizes: tuple[int, int, int], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each step, both ways in turn after one round that is not counted."""
    step = step_of(case, sizes)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    losses = dict[str, float]()
    for k in range(rounds + 1):
        for way in WAYS if k % 2 else WAYS[::-1]:
            with under(way):
                begin = time.perf_counter()
                losses[way] = float(step())
                spent = time.perf_counter() - begin
            if k:
                found[way].append(spent)
    if abs(losses["crossent"] - losses["trl"]) > 1e-5 * abs(losses["trl"]):
        raise RuntimeError(f"the losses differ: {losses}; no time is worth anything")
    return found


def peak(case: str, way: str, sizes: tuple[int, int, int]) -> int:
    """Return the peak of memory of one step, in this process, after one of few tokens."""
    few, step = step_of(case, TINY), step_of(case, sizes)
    with under(way):
        _ = few()
        return memory.peak(step)


def weigh(case: str, way: str, *, tiny: bool) -> int | None:
    """Return the peak of memory of a step in a process of its own, None where it cannot be read."""
    if memory.why_not() is not None:
        return None
    command = [sys.executable, "-m", "benchmarks.sft", "--weigh", case, way, *(["--tiny"] if tiny else [])]
    environment = os.environ | memory.ALLOCATOR
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=pages.ROOT, env=environment)
    return int(json.loads(done.stdout.splitlines()[-1]))


def measure(case: str, *, rounds: int, tiny: bool) -> Record:
    """Return the record of a case."""
    sizes = TINY if tiny else SIZES
    seconds = times(case, sizes, rounds)
    peaks = {way: weigh(case, way, tiny=tiny) for way in WAYS}
    ratios = [a / b for a, b in zip(seconds["trl"], seconds["crossent"], strict=True)]
    known = all(peaks.values())
    return {
        "suite": "sft", "case": case, "model": CASES[case], "shape": list(sizes), "threads": torch.get_num_threads(),
        "seconds": {way: statistics.median(x) for way, x in seconds.items()}, "speedup": statistics.median(ratios),
        "peak_bytes": peaks, "peak_ratio": peaks["crossent"] / peaks["trl"] if known else None,  # pyright: ignore
        "run": machine.describe(),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sft", description=__doc__)
    _ = parser.add_argument("--tiny", action="store_true", help="few tokens and classes, recorded nowhere")
    _ = parser.add_argument("--dry", action="store_true", help="print only")
    _ = parser.add_argument("--rounds", type=int, default=9, help="how many steps are timed (9)")
    _ = parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (a file of benchmarks/results)")
    _ = parser.add_argument("--weigh", nargs=2, metavar=("CASE", "WAY"), help="print the peak of memory of one step")
    options = parser.parse_args(arguments)
    if options.weigh:
        case, way = options.weigh
        print(peak(case, way, TINY if options.tiny else SIZES))
        return
    records = [measure(case, rounds=options.rounds, tiny=options.tiny) for case in CASES]
    for record in records:
        seconds, peaks = record["seconds"], record["peak_bytes"]
        each = "  ".join(f"{way} {seconds[way]:.3f} s {(peaks[way] or 0) / 1e6:.0f} MB" for way in WAYS)
        print(f"{record['case']:12} {each}  ×{record['speedup']:.2f}  memory ×{record['peak_ratio'] or 0:.2f}")
    path = options.out or (None if options.tiny or options.dry else pages.path_of(records[0]["run"], "sft"))
    if path is not None:
        write(path, records)
        print(f"written to {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
