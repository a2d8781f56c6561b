"""The smoke test of an installed wheel: `python smoke.py`, with nothing but the wheel and NumPy in the environment.

The examples are those of the page docs/guide/worked-example.md: two answers to one picture, whose costs are −log 0.7
and −log 0.1. They are computed as measures, as losses with their gradients, as scores and by the command. Forms whose
packages are not installed are left out and named; with `--all` that is an error. The exit code is 1 at the first thing
that is wrong.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import crossent
from crossent import kernels

CHECKOUT = Path(__file__).resolve().parents[1]
ANSWERS = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]  # of cat, dog and bird; it is a cat
COSTS = [-math.log(answer[0]) for answer in ANSWERS]
MEAN = sum(COSTS) / len(COSTS)
TABLE = {"animal": ["cat", "cat"], "p_cat": [0.7, 0.1], "p_dog": [0.2, 0.3], "p_bird": [0.1, 0.6]}


def measure() -> list[float]:
    return [float(crossent.cross_entropy([1, 0, 0], answer)) for answer in ANSWERS]


def of_torch(losses: Callable[[Any, Any], Any]) -> list[float]:
    """Return the losses that a function of logits and labels gives, once their gradient is right."""
    import torch

    logits = torch.tensor(ANSWERS, dtype=torch.float64).log().requires_grad_()
    found = losses(logits, torch.tensor([0, 0]))
    found.sum().backward()
    expected = torch.tensor(ANSWERS, dtype=torch.float64) - torch.tensor([1.0, 0.0, 0.0])
    right = logits.grad is not None and torch.allclose(logits.grad, expected, rtol=1e-12)
    expect(right, f"the gradient of the loss is {logits.grad}")
    return found.tolist()


def loss() -> list[float]:
    import crossent.torch

    return of_torch(lambda logits, labels: crossent.torch.cross_entropy(logits, labels, reduction="none"))


def head() -> list[float]:
    import torch

    import crossent.torch

    weight = torch.eye(3, dtype=torch.float64)
    return of_torch(lambda x, labels: crossent.torch.linear_cross_entropy(x, weight, labels, reduction="none"))


def fused_head() -> list[float]:
    import torch

    import crossent.torch

    layer = torch.nn.Linear(3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        _ = layer.weight.copy_(torch.eye(3))
    crossent.torch.fuse_lm_head(layer)
    return of_torch(lambda x, labels: torch.nn.functional.cross_entropy(layer(x), labels, reduction="none"))


def compiled_loss() -> list[float]:
    import torch

    import crossent.torch

    def plain(logits: Any, labels: Any) -> Any:
        return crossent.torch.cross_entropy(logits, labels, reduction="none")

    return of_torch(torch.compile(plain, backend="aot_eager", fullgraph=True))  # needs no compiler of C++


def score() -> list[float]:
    result = crossent.score(["cat", "cat"], probs=ANSWERS, classes=["cat", "dog", "bird"])
    return sorted(row.loss for row in result.worst)


def score_of_csv() -> list[float]:
    rows = [",".join(TABLE), *(",".join(map(str, row)) for row in zip(*TABLE.values(), strict=True))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "animals.csv"
        _ = path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return score_of(path)


def score_of_parquet() -> list[float]:
    import pyarrow as pa
    from pyarrow import parquet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "animals.parquet"
        parquet.write_table(pa.table(TABLE), path)
        return score_of(path)


def score_of(path: Path) -> list[float]:
    """Return the mean that the command prints of a file."""
    command = [sys.executable, "-m", "crossent", "score", str(path), "--label", "animal", "--probs", "p_*", "--json"]
    return [json.loads(said(command))["loss"]]


def doctor() -> list[float]:
    _ = said([sys.executable, "-m", "crossent", "doctor"])
    return []


class Form(NamedTuple):
    """One way to the costs: its function, what that has to give, and the packages that it needs."""

    compute: Callable[[], list[float]]
    expected: list[float]
    needs: tuple[str, ...] = ()


COMMAND = ("matplotlib", "narwhals", "pyarrow", "rich", "scipy", "typer")
FORMS = (
    Form(doctor, []),
    Form(measure, COSTS),
    Form(loss, COSTS, ("torch",)),
    Form(head, COSTS, ("torch",)),
    Form(fused_head, COSTS, ("torch",)),
    Form(compiled_loss, COSTS, ("torch",)),
    Form(score, sorted(COSTS), ("narwhals", "scipy")),
    Form(score_of_csv, [MEAN], COMMAND),
    Form(score_of_parquet, [MEAN], COMMAND),
)


def said(command: list[str]) -> str:
    """Return what a command prints, once it has ended well."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"{' '.join(command)} has failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(right: bool, otherwise: str) -> None:
    if not right:
        sys.exit(f"smoke: {otherwise}")


def close(found: float, known: float) -> bool:
    return math.isclose(found, known, rel_tol=1e-12)


def main(everything: bool) -> None:
    home = Path(crossent.__file__).resolve()
    expect(not home.is_relative_to(CHECKOUT), f"crossent is imported from {home}, which is the checkout and no wheel")
    installed = metadata.version("crossent")
    expect(installed == crossent.__version__, f"crossent {crossent.__version__} is installed as {installed}")
    reason = kernels.why_not("cpu")
    expect(reason is None, f"the compiled core cannot be used: {reason}")

    checked, left_out = ["core"], list[str]()
    for form in FORMS:
        name = form.compute.__name__.replace("_", " ")
        if missing := [package for package in form.needs if find_spec(package) is None]:
            left_out.append(f"{name} (no {' and no '.join(missing)})")
            continue
        found = form.compute()
        right = len(found) == len(form.expected) and all(map(close, found, form.expected))
        expect(right, f"the {name} gives {found} for {form.expected}")
        checked.append(name)
    expect(not (everything and left_out), f"not checked: {', '.join(left_out)}")
    print(f"crossent {installed}: {', '.join(checked)} right{'; not checked: ' * bool(left_out)}{', '.join(left_out)}")


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
