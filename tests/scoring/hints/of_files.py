"""Hints of the commands `score` and `compare`, and of the files that they read."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
from sklearn.metrics import log_loss

from crossent.scoring.cli import memory
from tests.scoring.hints.table import LOSS, LOSS2, NAMES, Y2, Bench, Hinted, M, N, P, Q, Y, Z, options
from tests.scoring.written import csv, parquet, saved

NAMED = {"y": NAMES[Y], **{f"p_{name}": P[:, k] for k, name in enumerate(NAMES)}}
PLAIN = {"y": Y, **{f"p_{k}": P[:, k] for k in range(3)}}
CALL = ("--label", "y", "--probs", "p_*")
SHORT = float(log_loss(Y[:-1], P[:-1]))


def file(name: str, made: dict[str, Any] = PLAIN) -> Callable[[Bench], Path]:
    return lambda bench: saved(bench.path / name, made)


def says(made: Callable[[Bench], Path], *call: object) -> Callable[[Bench], str]:
    return lambda bench: bench.said("score", made(bench), *(call or CALL))


def scores(made: Callable[[Bench], Path], *call: object) -> Callable[[Bench], float]:
    return lambda bench: bench.loss(made(bench), *(call or CALL))


def pasted(
    made: Callable[[Bench], Path], begin: str, end: str, *call: str, without: str = ""
) -> Callable[[Bench], float]:
    """Return what runs the command again with the options that stand between two words of its message."""

    def followed(bench: Bench) -> float:
        path, asked = made(bench), list(call or CALL)
        found = options(bench.said("score", path, *asked), begin, end)
        if without:
            place = asked.index(without)
            found += asked[place + 1 : place + 2] if len(found) == 1 else []
            del asked[place : place + 2]
        return bench.loss(path, *asked, *found)

    return followed


def renamed(first: str, data: bytes, second: str) -> dict[str, Callable[[Bench], Any]]:
    """Return the message about a file with the wrong name, and the loss of the same file with the right one."""

    def message(bench: Bench) -> str:
        _ = (bench.path / first).write_bytes(data)
        return bench.said("score", bench.path / first, *CALL)

    def followed(bench: Bench) -> float:
        return bench.loss((bench.path / first).rename(bench.path / second), *CALL)

    return {"message": message, "followed": followed}


def feather_one(bench: Bench) -> Path:
    with pytest.warns(DeprecationWarning, match="Feather V1"):
        pyarrow.feather.write_feather(pa.table(PLAIN), bench.path / "a.feather", version=1)
    return bench.path / "a.feather"


def utf16(bench: Bench) -> Path:
    _ = (bench.path / "a.csv").write_bytes(csv(PLAIN).decode().encode("utf-16"))
    return bench.path / "a.csv"


def arrays(y: Any, p: Any, method: int = zipfile.ZIP_STORED) -> Callable[[Bench], Path]:
    def made(bench: Bench) -> Path:
        path = bench.path / "a.npz"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, array in (("y", y), ("p", p)):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(array))
        return path

    return made


def elsewhere(bench: Bench) -> str:
    """Return what a system without a limit of memory says to --max-memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.sys, "platform", "darwin")
        return bench.said("score", saved(bench.path / "a.csv", PLAIN), *CALL, "--max-memory", "1G")


def compared(bench: Bench, *more: str) -> float:
    other = {**PLAIN, **{f"p_{k}": np.roll(P, 1, axis=0)[:, k] for k in range(3)}, "i": np.arange(N)}
    new, old = saved(bench.path / "a.csv", {**PLAIN, "i": np.arange(N)}), saved(bench.path / "b.csv", other)
    ran = bench.run("compare", new, old, *CALL, "--json", *more)
    assert (ran.code, ran.err) == (0, "")
    return float(json.loads(ran.out)["difference"])


LABELLED = {"y_a": Y2, "y_b": 1 - Y2, "p_a": Q, "p_b": 1.0 - Q}


def of_labels(bench: Bench) -> float:
    """Return the loss of two labels in a row."""
    ran = bench.run("score", file("a.csv", LABELLED)(bench), "--labels", "y_*", "--probs", "p_*", "--json")
    assert (ran.code, ran.err) == (0, "")
    return float(json.loads(ran.out)["micro"]["loss"])


def unpaired(bench: Bench) -> str:
    new = saved(bench.path / "a.csv", {**PLAIN, "i": np.arange(N)})
    old = saved(bench.path / "b.csv", {name: column[::-1] for name, column in {**PLAIN, "i": np.arange(N)}.items()})
    return bench.said("compare", new, old, *CALL)


ONE_HOT = {"y": [list(row) for row in np.eye(3)[Y].tolist()], "p": P.tolist()}
FILES = {
    "gzip": Hinted(**renamed("a.csv", gzip.compress(csv(PLAIN)), "a.csv.gz"), words="name it a.csv.gz", right=LOSS),
    "another format": Hinted(**renamed("a.csv", parquet(PLAIN), "a.parquet"), words="name it a.parquet", right=LOSS),
    "a compressed file": Hinted(
        **{**renamed("a.parquet.gz", gzip.compress(parquet(PLAIN)), ""),
           "followed": scores(file("a.parquet"))},
        words="decompress it first",
        right=LOSS,
    ),
    "feather 1": Hinted(says(feather_one), "write it anew as Feather 2 or parquet", scores(file("a.feather")), LOSS),
    "UTF-16": Hinted(says(utf16), "save it as UTF-8", scores(file("a.csv")), LOSS),
    "Fortran's order": Hinted(
        says(arrays(Y, np.asfortranarray(P)), "--label", "y", "--probs", "p"),
        "save it with order C",
        scores(arrays(Y, np.ascontiguousarray(P)), "--label", "y", "--probs", "p"),
        LOSS,
    ),
    "zip's other methods": Hinted(
        says(arrays(Y, P, zipfile.ZIP_BZIP2), "--label", "y", "--probs", "p"),
        "save it by np.savez_compressed",
        scores(file("compressed.npz", {"y": Y, "p": P}), "--label", "y", "--probs", "p"),
        LOSS,
    ),
    "one-hot lists": Hinted(
        says(file("a.parquet", ONE_HOT), "--label", "y", "--probs", "p"),
        "for one-hot rows, store the index of the 1, numpy.argmax(rows, 1)",
        scores(
            file("a.parquet", {"y": np.argmax(ONE_HOT["y"], 1), "p": P.tolist()}), "--label", "y", "--probs", "p"
        ),
        LOSS,
    ),
    "a mistyped column": Hinted(
        says(file("a.csv"), "--label", "Y", "--probs", "p_*"), "did you mean 'y'", scores(file("a.csv")), LOSS
    ),
    "an option twice": Hinted(
        says(file("a.csv"), *CALL, "--label", "y"),
        "--label was passed twice; pass it once",
        scores(file("a.csv")),
        LOSS,
    ),
    "columns apart": Hinted(
        says(file("a.csv"), "--label", "y", *(part for k in range(3) for part in ("--probs", f"p_{k}"))),
        "--probs was passed 3 times; separate columns by commas: --probs p_0,p_1,p_2",
        scores(file("a.csv"), "--label", "y", "--probs", "p_0,p_1,p_2"),
        LOSS,
    ),
    "a wide pattern": Hinted(
        says(file("a.csv"), "--label", "y", "--probs", "*"), "choose a narrower pattern", scores(file("a.csv")), LOSS
    ),
    "one label or several": Hinted(
        says(file("a.csv"), *CALL, "--labels", "y"),
        "pass --label with the column of true classes, or --labels with several columns of 0 and 1",
        scores(file("a.csv")),
        LOSS,
    ),
    "classes of several labels": Hinted(
        says(file("a.csv", LABELLED), "--labels", "y_*", "--probs", "p_*", "--classes", "no,yes"),
        "each of several labels has the classes 0 and 1; leave this out",
        of_labels,
        LOSS2,
    ),
    "two kinds": Hinted(
        says(file("a.csv"), *CALL, "--logits", "p_*"),
        "pass exactly one of --probs, --logits",
        scores(file("a.csv")),
        LOSS,
    ),
    "too little memory": Hinted(
        says(file("a.csv"), *CALL, "--max-memory", "1M"),
        "pass 256M or more",
        lambda bench: bench.loss(bench.path / "a.csv", *CALL),
        LOSS,
    ),
    "a limit elsewhere": Hinted(elsewhere, "leave it out", lambda bench: bench.loss(bench.path / "a.csv", *CALL), LOSS),
}  # fmt: skip

OPTIONS = {
    "no value": Hinted(
        says(file("a.csv", {**PLAIN, "y": [*Y[:-1].tolist(), ""]})),
        "or pass --ignore nan to skip them",
        pasted(file("a.csv", {**PLAIN, "y": [*Y[:-1].tolist(), ""]}), "or pass ", " to skip"),
        SHORT,
    ),
    "no value beside a class nan": Hinted(
        says(file("a.csv", {"y": [*np.array(["nan", "x", "z"])[Y[:-1]], ""],
                            **{f"p_{name}": P[:, k] for k, name in enumerate(["nan", "x", "z"])}})),
        "or pass --ignore '' to skip them",
        pasted(
            file("a.csv", {"y": [*np.array(["nan", "x", "z"])[Y[:-1]], ""],
                           **{f"p_{name}": P[:, k] for k, name in enumerate(["nan", "x", "z"])}}),
            "or pass ", " to skip",
        ),
        SHORT,
    ),
    "a label with blanks": Hinted(
        says(file("a.csv", {**NAMED, "y": [*NAMES[Y[:-1]], "no one's"]})),
        "use --ignore ",
        pasted(file("a.csv", {**NAMED, "y": [*NAMES[Y[:-1]], "no one's"]}), "; use ", " to skip"),
        SHORT,
    ),
    "a negative label": Hinted(
        says(file("a.npz", {"y": [*Y[:-1].tolist(), -100], "p": P}), "--label", "y", "--probs", "p"),
        "use --ignore -100 to skip such rows",
        pasted(
            file("a.npz", {"y": [*Y[:-1].tolist(), -100], "p": P}), "use ", " to skip", "--label", "y", "--probs", "p"
        ),
        SHORT,
    ),
    "logits": Hinted(
        says(file("a.csv", {"y": Y, **{f"p_{k}": Z[:, k] for k in range(3)}})),
        "if these are logits, pass --logits",
        pasted(
            file("a.csv", {"y": Y, **{f"p_{k}": Z[:, k] for k in range(3)}}), "logits, pass ", "\n", *CALL,
            without="--probs",
        ),
        LOSS,
    ),
    "margins": Hinted(
        says(file("a.parquet", {"y": Y2, "p_0": 1 - M, "p_1": M})),
        "pass the second column alone as --logits",
        scores(file("a.parquet", {"y": Y2, "p_0": 1 - M, "p_1": M}), "--label", "y", "--logits", "p_1"),
        LOSS2,
    ),
    "counts": Hinted(
        says(file("a.csv", {"y": Y, **{f"p_{k}": 9 * P[:, k] for k in range(3)}})),
        "if they are weights or counts, pass --normalize",
        pasted(file("a.csv", {"y": Y, **{f"p_{k}": 9 * P[:, k] for k in range(3)}}), "counts, pass ", "\n"),
        LOSS,
    ),
    "names of lists": Hinted(
        says(file("a.jsonl", {"y": NAMES[Y], "p": P.tolist()}), "--label", "y", "--probs", "p"),
        "pass --classes with the 3 names in the order of the columns",
        scores(
            file("a.jsonl", {"y": NAMES[Y], "p": P.tolist()}), "--label", "y", "--probs", "p",
            "--classes", "cat,dog,emu",
        ),
        LOSS,
    ),
    "names of one column": Hinted(
        says(file("a.csv", {"y": NAMES[Y2], "p_dog": Q})),
        "pass --classes with the 2 names in the order of the columns, the positive class last",
        scores(file("a.csv", {"y": NAMES[Y2], "p_dog": Q}), *CALL, "--classes", "cat,dog"),
        LOSS2,
    ),
    "pairs": Hinted(
        unpaired,
        "pass --id to pair them",
        lambda bench: compared(bench, "--id", "i"),
        float(np.log(np.roll(P, 1, axis=0)[np.arange(N), Y]).mean() - np.log(P[np.arange(N), Y]).mean()),
    ),
}  # fmt: skip

COMMANDS = {f"files: {name}": hinted for name, hinted in FILES.items()} | {
    f"options: {name}": hinted for name, hinted in OPTIONS.items()
}
"""Every hint of the commands, by a name."""
