"""The calls that `make test` compiles: few that hold each value of each option of each kernel, and all with a budget.

Options of a kernel are its constants, those of the compiler, the dtypes of its arrays, and the layout of the logits.
Most faults show with one value of one option. `make test-all` compiles all calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch

from tools.covering import fewest
from tools.gpu_build.budgets import BUDGETED_CHIP, budget_at
from tools.gpu_build.calls import Call, calls
from tools.gpu_build.chips import CHIPS
from tools.gpu_build.launches import Launched, launches

Option = tuple[str, str, Hashable]
"""A kernel, the name of one of its options, and a value."""


def brief(target: str) -> list[Call]:
    """Return the calls for a target, in the order of all; calls with a budget are among those for its chip."""
    whole = list(calls())
    chosen = set(fewest([held for _, held in options_of(target, whole)]))
    if target == BUDGETED_CHIP:
        chosen.update(place for place, call in enumerate(whole) if has_budget(call))
    return [whole[place] for place in sorted(chosen)]


def has_budget(call: Call) -> bool:
    """Return whether one of the kernels that a call launches has a budget."""
    return budget_at(call.function, call.kind, call.layout, call.dtype) is not None


def options_of(target: str, wanted: Iterable[Call]) -> list[tuple[Call, set[Option]]]:
    """Return calls with the options of the kernels that they launch for a target. Nothing is compiled."""
    found: list[tuple[Call, set[Option]]] = []
    with launches(CHIPS[target], lambda _: False) as made:
        for call in wanted:
            made.clear()
            _ = call.run()
            found.append((call, {option for launched in made for option in _options(call, launched)}))
    return found


def _options(call: Call, launched: Launched) -> set[Option]:
    values = {name: x.dtype for name, x in launched.arguments.items() if isinstance(x, torch.Tensor)}
    values |= launched.constants | {"layout": call.layout}
    kernel = f"{launched.name} wide" if launched.constants.get("WIDE") else launched.name  # twins have one name
    return {(kernel, name, value) for name, value in values.items()}
