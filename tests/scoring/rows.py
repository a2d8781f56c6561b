"""Predictions for the adapters, and what it means that two scores are of the same rows."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass

import numpy as np
import pandas as pd

ANIMALS = ["cat", "dog", "emu"]
WHOLE = 1e-13
"""How far sums may be off, whatever the parts: the bar of `ScoreState`."""


def frame(n=700, seed=3):
    """A table of n rows: y, p_cat … p_emu, z_cat … z_emu, the weight w, the cluster doc, the slice lang, a name."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, (n, 3))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = [draw.choice(3, p=p) for p in probs**0.7 / (probs**0.7).sum(1, keepdims=True)]
    table = pd.DataFrame({"y": np.array(ANIMALS)[truth], "number": np.array(truth)})
    for k, animal in enumerate(ANIMALS):
        table[f"p_{animal}"], table[f"z_{animal}"] = probs[:, k], logits[:, k]
    table["w"], table["doc"] = draw.gamma(1.0, 1.0, n), draw.integers(0, n // 12, n)
    table["lang"], table["name"] = draw.choice(["de", "en", "fr"], n), [f"row{k}" for k in range(n)]
    return table


def columns(table, prefix):
    return table[[name for name in table.columns if name.startswith(prefix)]]


def leaves(value, path=""):
    """The numbers of nested tuples, lists, dictionaries and dataclasses, by where they are."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in leaves(part, f"{path}.{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for place, part in enumerate(value) for k, v in leaves(part, f"{path}[{place}]").items()}
    return {path: value}


def facts(score):
    """All that a score says, except the state that it was made from."""
    names = [name for name in type(score).__dataclass_fields__ if name != "state"]
    parts = {name: getattr(score, name) for name in names}
    for name in ("per_class", "reliability", "histogram", "worst"):
        parts[name] = [asdict(part) for part in parts[name]]
    parts["by"] = {name: [asdict(part) for part in slices] for name, slices in score.by.items()}
    parts["calibration"] = None if score.calibration is None else asdict(score.calibration)
    return leaves(parts)


def assert_same(found, wanted, but=()):
    """Assert that two scores say the same, numbers to 1e-13; `but` are parts that may differ."""
    mine, theirs = facts(found), facts(wanted)
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        if any(path.startswith(f".{name}") for name in but):
            continue
        other = theirs[path]
        if isinstance(value, float) and isinstance(other, float):
            np.testing.assert_allclose(value, other, rtol=WHOLE, atol=WHOLE, err_msg=path)
        else:
            assert value == other, path
