"""The smoke test of an installed wheel: `python smoke.py`, with nothing but the wheel and NumPy in the environment.

The examples are those of the page docs/guide/worked-example.md: two answers to one picture, whose costs are −log 0.7
and −log 0.1, as a measure, as a loss and as a score. The last two are left out, and named, where their packages are
not installed; with `--all` that is an error. The exit code is 1 at the first thing that is wrong.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import crossent
from crossent import kernels

CHECKOUT = Path(__file__).resolve().parents[1]
ANSWERS = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]  # of cat, dog and bird; it is a cat
COSTS = [-math.log(answer[0]) for answer in ANSWERS]


def measure() -> list[float]:
    return [float(crossent.cross_entropy([1, 0, 0], answer)) for answer in ANSWERS]


def loss() -> list[float]:
    import torch

    import crossent.torch

    logits = torch.tensor(ANSWERS, dtype=torch.float64).log().requires_grad_()
    losses = crossent.torch.cross_entropy(logits, torch.tensor([0, 0]), reduction="none")
    losses.sum().backward()
    expected = torch.tensor(ANSWERS, dtype=torch.float64) - torch.tensor([1.0, 0.0, 0.0])
    expect(torch.allclose(logits.grad, expected, rtol=1e-12), f"the gradient of the loss is {logits.grad.tolist()}")
    return losses.tolist()


def score() -> list[float]:
    result = crossent.score(["cat", "cat"], probs=ANSWERS, classes=["cat", "dog", "bird"])
    return sorted(row.loss for row in result.worst)


FORMS: dict[Callable[[], list[float]], tuple[str, ...]] = {measure: (), loss: ("torch",), score: ("narwhals", "scipy")}


def expect(right: bool, otherwise: str) -> None:
    if not right:
        sys.exit(f"smoke: {otherwise}")


def main(everything: bool) -> None:
    home = Path(crossent.__file__).resolve()
    expect(not home.is_relative_to(CHECKOUT), f"crossent is imported from {home}, which is the checkout and no wheel")
    installed = metadata.version("crossent")
    expect(installed == crossent.__version__, f"crossent {crossent.__version__} is installed as {installed}")
    reason = kernels.why_not("cpu")
    expect(reason is None, f"the compiled core cannot be used: {reason}")
    doctor = subprocess.run([sys.executable, "-m", "crossent", "doctor"], capture_output=True, text=True, check=False)
    expect(doctor.returncode == 0, f"crossent doctor has found something:\n{doctor.stdout}{doctor.stderr}")

    checked, left_out = ["core"], list[str]()
    for form, needs in FORMS.items():
        if missing := [name for name in needs if find_spec(name) is None]:
            left_out.append(f"{form.__name__} (no {' and no '.join(missing)})")
            continue
        found = form()
        right = all(math.isclose(cost, known, rel_tol=1e-12) for cost, known in zip(found, COSTS, strict=True))
        expect(right, f"the {form.__name__} gives {found} for {COSTS}")
        checked.append(form.__name__)
    expect(not (everything and left_out), f"not checked: {', '.join(left_out)}")
    print(f"crossent {installed}: {', '.join(checked)} right{'; not checked: ' * bool(left_out)}{', '.join(left_out)}")


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
