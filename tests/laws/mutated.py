"""Mutated files: damaged predictions in every format that the commands read, each met by a result or by one line.

    python -m tests.laws.mutated --files 100000 --seed 1
    python -m tests.laws.mutated --seed 1 --only 4711 --keep build/case     one file once more, kept in a folder

A file is whole until one to three of its bytes, runs of bytes, words or ends are changed; its number and the seed say
how. The commands `score`, `compare` and `lm` read it in one process, as `crossent.cli.run` does for the command line.
What counts as a fault: an exception, an exit code other than 0, 1 and 2, more than one line on standard error, no name
of the file in it, a character that a terminal would act on, more than `SECONDS`, memory beyond `MEGABYTES`.

A crash of a reader ends the process, so the work is done by children, a batch of files each; the file that a child
stopped at counts as a fault, and the next child goes on behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from tests.laws import lm_logs
from tests.scoring.written import LISTS, SCALARS, columns, lists, peak_memory, predictions

ROOT = Path(__file__).parents[2]
SECONDS = 10
LIMIT = "1G"
MEGABYTES = 1024 + 200
"""The limit, and what the libraries' own files take."""
BATCH = 2000
"""Files that one child reads, so that its memory starts anew."""
WORDS = [
    b"nan", b"-1e999", b"1e-400", b'"', b'""', b"\n", b",", b"\r", b"{", b"[", b"null", b"\\u0000", b"\xff", b"true",
    b"\t", b"\x1b[2J", "\u202e".encode(), b"NA", b"'", b"99999999999999999999", b"\x00",
]  # fmt: skip
HUGE = [2**31 - 1, 2**62, 2**40, 10**9, -1, -(2**63), 0, 2**32]


class Original(NamedTuple):
    """A whole file: the end of its name, its bytes, and the arguments of the command behind the file's name."""

    end: str
    data: bytes
    command: str
    options: tuple[str, ...]


class Outcome(NamedTuple):
    """How the command met a file: its exit code, and what is wrong with that, "" if nothing is."""

    code: int
    fault: str


def _parquet(made: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(pa.table(made), sink, row_group_size=17, **options)
    return sink.getvalue()


def _arrow(made: dict[str, Any], compression: str | None, *, stream: bool = False) -> bytes:
    sink, table = io.BytesIO(), pa.table(made)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=17)
    return sink.getvalue()


def _logs() -> dict[str, bytes]:
    """Return logs of language models as five programs write them."""
    tokens, values = ["The", " cat", " sat", "."], [-1.5, -0.25, -3.0, -0.125]
    entries = [
        {"token": t, "logprob": x, "bytes": list(t.encode()), "top_logprobs": [{"token": t, "logprob": x}]}
        for t, x in zip(tokens, values, strict=True)
    ]
    chat = {"id": "c", "choices": [{"message": {"content": "The cat sat."}, "logprobs": {"content": entries}}]}
    legacy = {"tokens": tokens, "token_logprobs": [None, *values[1:]], "top_logprobs": [None] * 4}
    positions = [None, *({str(k): {"logprob": x, "rank": 1, "decoded_token": t}} for k, (t, x) in enumerate(
        zip(tokens[1:], values[1:], strict=True)))]  # fmt: skip
    records = {
        "chat": chat,
        "completions": {"id": "l", "choices": [{"text": "The cat sat.", "logprobs": legacy}]},
        "vllm": {"request_id": "v", "prompt_logprobs": positions},
        "lm-eval": {
            "doc_id": 0, "target": "0", "arguments": [["a", " b"], ["a", " c"]],
            "resps": [[[-1.5, True]], [[-2.0, False]]],
            "filtered_resps": [[-1.5, True], [-2.0, False]], "acc": 1.0, "filter": "none",
        },
        "plain": {"id": "p", "tokens": tokens, "logprobs": values, "text": "The cat sat."},
    }  # fmt: skip
    return {name: (json.dumps(record) + "\n").encode() * 3 for name, record in records.items()}


@cache
def originals() -> dict[str, Original]:
    """Return the whole files by name."""
    y, p = predictions(40, 3, seed=2)
    roles = {"w": np.ones(40), "g": np.array(["de", "en"] * 20), "k": np.array([f"row-{k}" for k in range(40)])}
    wide, narrow = {**columns(y, p), **roles}, {**lists(y, p), **roles}
    options = ("--label", "y", "--weight", "w", "--by", "g", "--id", "k", "--cluster", "g", "--json")
    made: dict[str, Original] = {}
    for name, write in SCALARS.items():
        end = name.split(".", 1)[1]
        made[f"score {name}"] = Original(end, write(wide), "score", ("--probs", "p_*", *options))
    for name, write in LISTS.items():
        end = name.split(".", 1)[1]
        made[f"score {name} of lists"] = Original(end, write(narrow), "score", ("--probs", "p", *options))
    texts = {**wide, "k": pa.array(roles["k"].tolist()).dictionary_encode()}
    for compression in ("none", "snappy", "gzip", "brotli", "zstd", "lz4"):
        data = _parquet(texts, compression=compression)
        made[f"score parquet {compression}"] = Original("parquet", data, "score", ("--probs", "p_*", *options))
    plain = {
        "y": "DELTA_BINARY_PACKED",
        "k": "DELTA_BYTE_ARRAY",
        "g": "DELTA_LENGTH_BYTE_ARRAY",
        "w": "BYTE_STREAM_SPLIT",
    }
    for version in ("1.0", "2.0"):
        data = _parquet(wide, use_dictionary=False, column_encoding=plain, data_page_version=version)
        made[f"score parquet encoded {version}"] = Original("parquet", data, "score", ("--probs", "p_*", *options))
        data = _parquet(narrow, use_dictionary=["g"], data_page_version=version, write_page_checksum=True)
        made[f"score parquet of lists {version}"] = Original("parquet", data, "score", ("--probs", "p", *options))
    for compression in ("lz4", "zstd"):
        for stream in (False, True):
            data = _arrow(texts, compression, stream=stream)
            made[f"score arrow {compression} {stream}"] = Original("arrow", data, "score", ("--probs", "p_*", *options))
    quoted = b"y,p_0,p_1,p_2,g\n" + b'0,0.5,0.25,0.25,"a ""b"",\nc"\r\n1,0.25,0.5,0.25,"d"\n' * 20
    named = ("--label", "y", "--probs", "p_*", "--by", "g", "--json")
    made["score csv quoted"] = Original("csv", quoted, "score", named)
    made["score csv quoted.gz"] = Original("csv.gz", gzip.compress(quoted), "score", named)
    fields = np.rec.fromarrays([y, *p.T], names="y,p_0,p_1,p_2")
    sink = io.BytesIO()
    np.save(sink, np.asarray(fields))
    made["score npy"] = Original("npy", sink.getvalue(), "score", ("--label", "y", "--probs", "p_*", "--json"))
    for name in ("a.csv", "a.parquet", "a.jsonl", "a.npz"):
        data = SCALARS[name](wide)
        pairs = ("--label", "y", "--probs", "p_*", "--id", "k", "--json")
        made[f"compare {name}"] = Original(name.split(".", 1)[1], data, "compare", pairs)
    for name, data in {**_logs(), **lm_logs.logs()}.items():
        made[f"lm {name}"] = Original("jsonl", data, "lm", ())
    return made


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Return the bytes with one to three kinds of damage."""
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        at, size = dice.randrange(len(data) + 1), dice.choice([1, 1, 2, 4, 8, 32, 200])
        if dice.random() < 0.3:  # where Arrow, Parquet and zip keep what describes the rest
            at = max(0, len(data) - dice.randrange(min(len(data), 600) + 1))
        middle = data[at : at + size]
        kind = dice.randrange(9)
        if kind == 0 and dice.random() < 0.3:
            return data[:at]
        if kind == 1:
            middle = bytes(value ^ (1 << dice.randrange(8)) for value in middle)
        elif kind == 2:
            middle = dice.randbytes(size)
        elif kind == 3:
            middle = b""
        elif kind == 4:
            middle = middle * 2
        elif kind == 5:
            middle = dice.choice([b"\xff", b"\x7f", b"\x00", b"\x80"]) * size
        elif kind == 6:
            size = dice.choice([4, 8])
            middle = struct.pack("<q", dice.choice(HUGE))[:size]
        elif kind == 7:
            other = dice.randrange(len(data) + 1)
            middle = data[other : other + size]
        else:
            middle = dice.choice(WORDS)
            size = dice.choice([0, len(middle)])
        data = data[:at] + middle + data[at + size :]
    return data


def case(seed: int, number: int) -> tuple[str, Original, bytes]:
    """Return the name of a whole file, the file, and the bytes of a mutation of it."""
    dice = random.Random(f"{seed} {number}")
    names = list(originals())
    name = names[number % len(names)]
    original = originals()[name]
    return name, original, mutated(original.data, dice)


def attempt(path: Path, whole: Path, original: Original, run: Callable[[list[str]], int] | None = None) -> Outcome:
    """Let the command read a file in this process; `whole` is an unharmed one for `compare`."""
    if run is None:
        from crossent.cli import run
    files = [str(path), str(whole)] if original.command == "compare" else [str(path)]
    arguments = [original.command, *files, *original.options, "--max-memory", LIMIT]
    out, err = io.StringIO(), io.StringIO()
    began = time.process_time()  # by the clock, other work on the machine would count
    faulthandler.dump_traceback_later(12 * SECONDS, exit=True)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(arguments)
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(-1, f"{type(error).__name__}: {str(error)[:160]} at {Path(frame.filename).name}:{frame.lineno}")
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds, megabytes = time.process_time() - began, peak_memory()
    if seconds > SECONDS:
        return Outcome(code, f"took {seconds:.1f} s")
    if megabytes > MEGABYTES and (alone := _peak_alone(arguments)) > MEGABYTES:
        return Outcome(code, f"took {megabytes} MB, and {alone} MB in a process of its own")
    return Outcome(code, _wrong(code, out.getvalue(), err.getvalue(), path))


def _peak_alone(arguments: list[str]) -> int:
    """Return the peak in MB of a command in a process of its own; in this one, earlier files may have left the most."""
    code = "import sys; from crossent.cli import run; run(sys.argv[1:]); print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", code, *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


def _wrong(code: int, out: str, err: str, path: Path) -> str:
    """Return what is wrong with the output of a run, "" if nothing is."""
    if code == 0:
        return f"exit code 0, and on standard error {err[:200]!r}" if err else ""
    if code != 2:
        return f"exit code {code}: {err[:300]!r}"
    if out:
        return f"exit code 2, and {len(out)} characters on standard output"
    if err.count("\n") != 1 or not err[:-1].isprintable() or len(err) > 1000:
        return f"no line: {err[:300]!r}"
    return "" if path.name in err else f"no name of the file: {err[:300]!r}"


def child(seed: int, first: int, end: int) -> None:
    """Attempt the files of some numbers; print a line of JSON about each."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, end):
            print(json.dumps([number]), flush=True)
            name, original, data = case(seed, number)
            path, whole = Path(folder) / f"f{number}.{original.end}", Path(folder) / f"whole.{original.end}"
            _ = path.write_bytes(data)
            if original.command == "compare":
                _ = whole.write_bytes(original.data)
            found = attempt(path, whole, original)
            path.unlink()
            print(json.dumps([number, name, found.code, found.fault]), flush=True)


def attempts(seed: int, files: int, first: int = 0) -> Iterator[tuple[int, str, Outcome]]:
    """Yield number, name and outcome of each file."""
    at, stop = first, first + files
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    environment["MIMALLOC_ARENA_EAGER_COMMIT"] = "0"  # as a command sets it, before anything imports pyarrow
    while at < stop:
        end = min(stop, at + BATCH)
        code = f"from tests.laws.mutated import child; child({seed}, {at}, {end})"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=environment,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            begun = at
            for line in process.stdout:
                answer = json.loads(line)
                begun = answer[0]
                if len(answer) > 1:
                    at = begun + 1
                    yield begun, answer[1], Outcome(*answer[2:])
            said = process.stderr.read()
        if at < end:
            name = case(seed, begun)[0]
            at = begun + 1
            yield (
                begun,
                name,
                Outcome(process.returncode, f"ended the process with {process.returncode}: {said[:400]!r}"),
            )


def soak(seed: int, files: int, first: int = 0) -> tuple[dict[int, str], dict[int, int]]:
    """Return the faults by the number of the file, and how often each exit code came."""
    faults: dict[int, str] = {}
    codes: dict[int, int] = {}
    for number, name, outcome in attempts(seed, files, first):
        codes[outcome.code] = codes.get(outcome.code, 0) + 1
        if outcome.fault:
            faults[number] = f"{name}: {outcome.fault}"
            print(f"file {number}, {faults[number]}", flush=True)
    return faults, codes


def main() -> int:
    """Attempt as many files as the command line says; return how many met a fault, at most 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    _ = parser.add_argument("--files", type=int, default=1000)
    _ = parser.add_argument("--seed", type=int, default=0)
    _ = parser.add_argument("--first", type=int, default=0)
    _ = parser.add_argument("--only", type=int)
    _ = parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    if asked.keep is not None:
        name, original, data = case(asked.seed, asked.only or 0)
        asked.keep.mkdir(parents=True, exist_ok=True)
        _ = (asked.keep / f"case.{original.end}").write_bytes(data)
        print(name, original.command, asked.keep / f"case.{original.end}", *original.options)
    began = time.monotonic()
    faults, codes = soak(
        asked.seed, asked.files if asked.only is None else 1, asked.first if asked.only is None else asked.only
    )
    print(f"{sum(codes.values()):,} files, {len(faults)} faults, exit codes {codes}, {time.monotonic() - began:.0f} s")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
