"""Teach a small language model to count by threes, with GRPO, by crossent and with all logits, and compare.

    pip install '.[examples]'
    python examples/grpo.py                            # some minutes on two cores; --tiny: seconds

The model first learns to count by one, two or three, each as often, in a vocabulary as large as those of real models.
Then it answers numbers with responses that are sampled, and the reward of a response is the share of its tokens that
are the one before plus three: a third at first. Both ways of training begin with the same model and the same random
numbers. Each is a process of its own, so that its peak memory is its own, and they take turns. The results are
rewards.png and results.json.
"""

import json
import multiprocessing
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any, NamedTuple

import torch
from finetune_lm import died, forget_peak, peak, require
from smollm2 import UsageError
from torch import Tensor, nn

from crossent.torch import linear_cross_entropy, linear_logprobs, token_weights

TITLES = {False: "with all logits", True: "with crossent"}
WANTED = 3  # the difference of neighbours that is rewarded
LESSON = 64  # sequences
CLIP = 0.2
UPDATES = 2  # with each batch of responses: in the first, every ratio is 1


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of model and batches, and numbers of steps.

    Tokens below `numbers` are numbers, which go round; no other token is ever right. A step has `prompts` numbers, and
    `responses` to each, of `length` tokens.
    """

    classes: int
    numbers: int
    features: int
    prompts: int
    responses: int
    length: int
    lessons: int
    steps: int
    threads: int
    seed: int = 0


REAL = Options(
    classes=32768, numbers=256, features=128, prompts=12, responses=16, length=12, lessons=100, steps=16,
    threads=torch.get_num_threads(),
)  # fmt: skip
TINY = Options(
    classes=64, numbers=16, features=32, prompts=8, responses=8, length=6, lessons=100, steps=10,
    threads=1,  # a second thread does not help a model this small, and may have to wait on a busy machine
)  # fmt: skip


class Policy(nn.Module):
    """A causal transformer of two layers, from tokens (B, T) to hidden states (B, T, D); `head` is the last weight."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        D = options.features
        self.tokens, self.places = nn.Embedding(options.classes, D), nn.Embedding(options.length + 1, D)
        layer = nn.TransformerEncoderLayer(D, 4, 4 * D, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(D)
        self.head = nn.Parameter(torch.randn(options.classes, D) * D**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the hidden states, the input of the head."""
        T = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        return self.norm(self.layers(self.tokens(ids) + self.places.weight[:T], mask=mask, is_causal=True))


class Batch(NamedTuple):
    """Prompts with their responses (B, T + 1), and for each token of a response (B, T) the values in its loss."""

    ids: Tensor
    labels: Tensor
    weights: Tensor
    advantage: Tensor
    old: Tensor
    reward: float


# The loss, both ways


def grpo(rows: Any, old: Tensor, advantage: Tensor) -> Tensor:
    """Return the loss of each token: a closing of crossent, and a function of any value with a `logprob`."""
    ratio = (rows.logprob - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)


class Rows(NamedTuple):
    """Log-probabilities from all logits."""

    logprob: Tensor


def logprob_of(policy: Policy, hidden: Tensor, labels: Tensor, crossent: bool) -> Tensor:
    """Return the log-probability of each label."""
    if crossent:
        return linear_logprobs(hidden, policy.head, labels).logprob
    logits = nn.functional.linear(hidden, policy.head)
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def loss_of(policy: Policy, batch: Batch, crossent: bool) -> Tensor:
    """Return the loss of GRPO: the mean over responses of means over their tokens."""
    hidden = policy(batch.ids)[:, :-1]
    if crossent:
        return linear_cross_entropy(
            hidden, policy.head, batch.labels, closing=grpo, operands=(batch.old, batch.advantage),
            reduction="sum", sample_weight=batch.weights,
        )  # fmt: skip
    rows = Rows(logprob_of(policy, hidden, batch.labels, crossent=False))
    return (batch.weights * grpo(rows, batch.old, batch.advantage)).sum()


# Lessons, responses and rewards


def lesson(options: Options, random: torch.Generator) -> Tensor:
    """Return sequences (B, T + 1) that count by one, two or three."""
    differences = torch.randint(1, WANTED + 1, (LESSON, options.length), generator=random)
    first = torch.randint(options.numbers, (LESSON, 1), generator=random)
    return torch.cat((first, first + differences.cumsum(1)), 1) % options.numbers


def taught(options: Options, progress: Any) -> Policy:
    """Return a model that counts by one, two or three."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    policy, random = Policy(options), torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0.0)
    bar = progress.add_task("learning to count", total=options.lessons, state="")
    for _ in range(options.lessons):
        ids = lesson(options, random)
        loss = linear_cross_entropy(policy(ids)[:, :-1], policy.head, ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress.update(bar, advance=1, state=f", loss {loss.item():.3f}")
    return policy


def reward_of(ids: Tensor, numbers: int) -> Tensor:
    """Return the share of the tokens of each response (B, T + 1) that are the number before plus three, shape (B)."""
    before, found = ids[:, :-1], ids[:, 1:]
    return ((before < numbers) & (found == (before + WANTED) % numbers)).double().mean(1)


def drawn(logits: Tensor, random: torch.Generator) -> Tensor:
    """Return a token for each row of logits (B, V), drawn from their softmax, shape (B, 1).

    It is where the sum of the probabilities so far exceeds a random number. `torch.multinomial` would take a random
    number for each class, and more time than all the rest.
    """
    reached = logits.softmax(-1).cumsum(-1)
    level = torch.rand(len(logits), 1, generator=random) * reached[:, -1:]
    return torch.searchsorted(reached, level, right=True).clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def sampled(policy: Policy, options: Options, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return responses with their prompts, (B, T + 1), and their rewards, (prompts, responses)."""
    first = torch.randint(options.numbers, (options.prompts, 1), generator=random)
    ids = first.repeat_interleave(options.responses, 0)
    for _ in range(options.length):
        ids = torch.cat((ids, drawn(nn.functional.linear(policy(ids)[:, -1], policy.head), random)), 1)
    return ids, reward_of(ids, options.numbers).view(options.prompts, options.responses)


@torch.no_grad()
def batch_of(policy: Policy, ids: Tensor, rewards: Tensor, crossent: bool) -> Batch:
    """Return the values in the loss: advantages within the responses to a prompt, and current log-probabilities."""
    spread = rewards.std(1, keepdim=True).clamp(min=1e-6)  # equal rewards teach nothing
    advantage = ((rewards - rewards.mean(1, keepdim=True)) / spread).view(-1, 1).float()
    labels = ids[:, 1:].contiguous()
    old = logprob_of(policy, policy(ids)[:, :-1], labels, crossent)
    weights = token_weights(mask=torch.ones_like(labels), mean="sequence")
    return Batch(ids, labels, weights, advantage.expand(labels.shape), old, rewards.mean().item())


# Training


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training: per step the mean reward, the loss of the last update, and processor seconds.

    `sampling` are the seconds of the responses, the same work both ways, and `training` those of everything else, of
    all threads together: other work of the machine does not count. The size of the process in bytes, at first and at
    most, is None where the system has no record of it.
    """

    crossent: bool
    rewards: list[float]
    losses: list[float]
    sampling: list[float]
    training: list[float]
    resting: int | None
    peak: int | None


def train_here(options: Options, crossent: bool, file: Path, pipe: Any) -> None:
    """Train in this process: wait for the pipe before each step, answer each with its reward, the last with a `Run`."""
    torch.set_num_threads(options.threads)
    policy = Policy(options)
    policy.load_state_dict(torch.load(file, weights_only=True))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3, weight_decay=0.0)
    random = torch.Generator().manual_seed(options.seed + 1)
    forget_peak()
    resting = peak()
    rewards: list[float] = []
    losses: list[float] = []
    sampling: list[float] = []
    training: list[float] = []
    for _ in range(options.steps):
        pipe.recv()
        begin = process_time()
        ids, of_responses = sampled(policy, options, random)
        between = process_time()
        batch = batch_of(policy, ids, of_responses, crossent)
        loss = torch.tensor(0.0)
        for _ in range(UPDATES):
            loss = loss_of(policy, batch, crossent)
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        rewards.append(batch.reward)
        losses.append(loss.item())
        sampling.append(between - begin)
        training.append(process_time() - between)
        pipe.send(batch.reward)
    pipe.recv()
    pipe.send(Run(crossent, rewards, losses, sampling, training, resting, peak()))


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
                raise UsageError(died(title, process.exitcode, "--prompts")) from None
            if isinstance(event, Run):
                runs.append(event)
            else:
                progress.update(bar, advance=1, state=f", reward {event:.2f}")
    return runs


# Results


class Comparison(NamedTuple):
    """Differences between crossent and the way with all logits.

    The rewards are the same in the first `same_steps` steps. `memory` is the quotient of what the steps take at most
    beside the memory before them, or None where it was not measured; `speed` that of the times of all but sampling.
    """

    same_steps: int
    memory: float | None
    speed: float


def compared(runs: list[Run]) -> Comparison:
    """Return the differences of the runs."""
    logits, crossent = runs
    pairs = list(zip(logits.rewards, crossent.rewards, strict=True))
    same = next((k for k, (a, b) in enumerate(pairs) if a != b), len(pairs))
    speed = median(a / b for a, b in zip(logits.training, crossent.training, strict=True))
    memory = None
    if logits.peak and logits.resting and crossent.peak and crossent.resting:
        memory = (crossent.peak - crossent.resting) / (logits.peak - logits.resting)
    return Comparison(same, memory, speed)


def show(console: Any, runs: list[Run]) -> None:
    """Print rewards, time and memory of both ways, and how they differ."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(TITLES[run.crossent], justify="right")
    rows = {
        "mean reward, first step": [f"{run.rewards[0]:.3f}" for run in runs],
        "mean reward, last step": [f"{run.rewards[-1]:.3f}" for run in runs],
        "CPU seconds a step: sampling": [f"{median(run.sampling):.2f}" for run in runs],
        "CPU seconds a step: the rest": [f"{median(run.training):.2f}" for run in runs],
        "memory before": [_megabytes(run.resting) for run in runs],
        "peak memory": [_megabytes(run.peak) for run in runs],
    }
    for title, cells in rows.items():
        table.add_row(title, *cells)
    console.print(table, "")
    found, steps = compared(runs), len(runs[0].rewards)
    if found.same_steps == steps:
        sameness = f"In all {steps} steps the rewards are the same, to the last digit."
    else:
        sameness = (
            f"The rewards are the same in the first {found.same_steps} of {steps} steps. Then rounding in the last "
            "digits of the\nweights lets a sample be another token, and the ways part as with other random numbers."
        )
    memory = "" if found.memory is None else f"{found.memory:.2f} × the memory of the steps, "
    console.print(
        f"{sameness}\nWith crossent: {memory}{found.speed:.2f} × the speed of all but sampling (median of steps).\n",
        highlight=False,
    )


def _megabytes(size: int | None) -> str:
    return "not measured" if size is None else f"{size / 1e6:.0f} MB"


def draw(path: Path, runs: list[Run]) -> None:
    """Draw the mean reward of each step, and next to it memory and time per step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    rewards, memory, time = figure.subplots(1, 3, width_ratios=[3, 1.1, 1.1])
    colours, grey = {False: "#e2b488", True: "#1f5fa8"}, "#c9c9c9"
    rewards.axhline(1 / WANTED, color="#888888", linewidth=0.8, linestyle=(0, (4, 3)))
    rewards.annotate(
        "before: a third", (len(runs[0].rewards), 1 / WANTED - 0.02), ha="right", va="top", color="#666666"
    )
    for run in runs:
        steps, width = range(1, len(run.rewards) + 1), 1.5 if run.crossent else 5.0
        rewards.plot(steps, run.rewards, label=TITLES[run.crossent], color=colours[run.crossent], linewidth=width)
        name = TITLES[run.crossent].replace(" ", "\n", 1)
        resting, size = (run.resting or 0) / 1e6, (run.peak or 0) / 1e6
        parts = [
            (memory, resting, size, "not measured" if run.peak is None else f"{size:.0f}"),
            (time, median(run.sampling), median(run.sampling) + median(run.training), None),
        ]
        for axes, below, top, text in parts:
            axes.bar(name, below, color=grey, width=0.6)
            bar = axes.bar(name, top - below, bottom=below, color=colours[run.crossent], width=0.6)
            axes.bar_label(bar, [text or f"{top:.1f}"], padding=2)
    rewards.set(title="mean reward", xlabel="step", ylim=(0, 1.02), xlim=(1, len(runs[0].rewards)))
    rewards.xaxis.get_major_locator().set_params(integer=True)
    rewards.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.02))
    memory.set(title="peak memory, MB", xlabel="grey: before the first step")
    time.set(title="CPU seconds a step", xlabel="grey: sampling")
    for axes in (rewards, memory, time):
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
        require("matplotlib", "rich", "typer")
        import typer

        typer.run(_command())
    except UsageError as error:
        print(f"grpo: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _command() -> Any:
    import typer

    def grpo(
        steps: Annotated[int | None, typer.Option(min=1, help="Number of batches of responses.")] = None,
        prompts: Annotated[int | None, typer.Option(min=1, help="Prompts per batch.")] = None,
        output: Annotated[Path, typer.Option(help="Directory for rewards.png and results.json.")] = Path(
            "demo-output/grpo"
        ),
        tiny: Annotated[bool, typer.Option("--tiny", help="A small model with a small vocabulary.")] = False,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed of weights and samples.")] = 0,
    ) -> None:
        """Teach a small language model to count by threes, by crossent and with all logits, and compare."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        options = TINY if tiny else REAL
        options = replace(options, steps=steps or options.steps, prompts=prompts or options.prompts, seed=seed)
        console = Console()
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {output} ({error.strerror}); name a directory with --output") from None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("steps{task.fields[state]}"),
        )
        console.print(_described(options), highlight=False)
        with Progress(*columns, console=console) as progress, tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "taught.pt"
            torch.save(taught(options, progress).state_dict(), file)
            runs = train_live(progress, options, file)
        console.print()
        show(console, runs)
        paths = [output / "rewards.png", output / "results.json"]
        draw(paths[0], runs)
        comparison = compared(runs)._asdict()
        record = {"options": asdict(options), "runs": [asdict(run) for run in runs], "comparison": comparison}
        paths[1].write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.print("Written", style="bold")
        for path in paths:
            console.print(f"  {path}", soft_wrap=True, highlight=False)

    return grpo


def _described(options: Options) -> str:
    tokens = options.prompts * options.responses * options.length
    return (
        f"{options.classes} classes, {options.features} features; threads: {options.threads}\n"
        f"{options.prompts} prompts × {options.responses} responses × {options.length} tokens: {tokens} tokens a step, "
        f"{UPDATES} updates each"
    )


if __name__ == "__main__":
    main()
