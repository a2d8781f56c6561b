"""Documents of logs: `read` one or several files of any known program, with the keys to slice by."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from crossent.errors import Message, quoted
from crossent.scoring.lm import formats
from crossent.scoring.lm.document import Document, LogError, LogSource, described
from crossent.scoring.lm.fields import at
from crossent.scoring.lm.records import Done, records
from crossent.scoring.lm.streams import joined

Format = Literal["auto"] | LogSource
LogPath = str | os.PathLike[str]
"""A file; "-" is standard input."""


def read(
    path: LogPath | Sequence[LogPath], *, format: Format = "auto", by: str | Sequence[str] = ()
) -> Iterator[Document]:
    r"""Read the documents of a log, one at a time.

    The file holds one JSON object per line, or is one JSON value: an object or an array of them. It may be compressed
    (gz, bz2, xz, zst, lz4), a stream of server-sent events, or a log of Inspect (.eval).

    ============= ==================================================================================================
    `chat`        chat completions; the answers to one prompt are one document
    `completions` completions; each choice is a document. The first token of an echoed prompt, a null, is not scored;
                  nor are generated tokens, if the usage has their number
    `responses`   the Responses API
    `vllm`        `prompt_logprobs`, of a server's response or of a dumped `RequestOutput`; not the generated tokens
    `sglang`      `/generate` of SGLang: the prompt where its tokens are logged, else the answer
    `tgi`         TGI with `details`: the prompt with `decoder_input_details`, else the answer
    `llama.cpp`   `completion_probabilities` of llama.cpp's server
    `gemini`      `logprobsResult` of Gemini, also in the spelling of its SDK
    `ollama`      `logprobs` of Ollama
    `inspect`     logs of Inspect, .json or .eval; the epochs of a sample count as one document
    `lm-eval`     samples of lm-eval: loglikelihood, loglikelihood_rolling, multiple choice
    `plain`       ``{"logprobs": [−0.1, …], "tokens": ["a", …], "top_logprobs": […], "text": "a…", "id": "x"}``
                  or ``{"target": " a", "top_logprobs": {" b": −0.1, …}}``
    ============= ==================================================================================================

    Lines of the batch API (`custom_id`, `response.body`) are unwrapped. Chunks of streamed answers are put together: by
    their id, or in their order where the server sends no id. A `plain` object needs `logprobs`, or
    `top_logprobs` alone; its `text` is the text of the scored tokens, and lines with the same `id` are parts of one
    document. Servers write −∞, −100, or −9999 and less, for a token that is not among the most probable ones. Such a
    token is outside the log, and so is a null after the first scored token.

    Tokens may be spelled as in a tokenizer's vocabulary, where Ġ or ▁ stands for a blank and <0xE2> for a byte. The
    text of the log decides, if it has one; else the tokens themselves, with a warning in the score.

    Parameters
    ----------
    path
        The file; "-" is standard input. Of several files the names of documents begin with the task, and documents are
        scored by task too.
    format
        One of the names above, or "auto" to recognise the format of each object by its keys.
    by
        Keys of the records whose values get a score each, `meta.lang` for one in an object; "task" is the task of a
        record, of its log, or of the name of the file (`samples_TASK_….jsonl` of lm-eval, else without its ending).

    Yields
    ------
    Document
        One at a time; a failed request is a document without tokens.

    Raises
    ------
    LogError
        If a line cannot be read, with file, line, cause and fix; a ValueError.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "log.jsonl"
    ...     _ = path.write_text('{"id": "a", "tokens": ["Hi", "!"], "logprobs": [null, -0.5]}\n')
    ...     [(d.id, d.tokens[0].text, d.tokens[0].logprob) for d in read(path)]
    [('a', '!', -0.5)]
    """
    several = isinstance(path, Sequence) and not isinstance(path, str | bytes)
    paths = [Path(one) for one in (cast("Sequence[LogPath]", path) if several else [cast("LogPath", path)])]
    return documents_of(paths, format=format, by=[by] if isinstance(by, str) else list(by))


def documents_of(
    paths: Sequence[Path], *, format: str = "auto", by: Sequence[str] = (), done: Done | None = None
) -> Iterator[Document]:
    """Return the documents of logs; `done` is called with the part of all files that has been read."""
    if format not in ("auto", *get_args(LogSource)):
        raise LogError(
            f"format must be one of auto, {', '.join(get_args(LogSource))}, not {described(format)}", argument="format"
        )
    if not paths:
        raise LogError("there is no file to read")
    source = None if format == "auto" else cast("LogSource", format)
    if len(paths) == 1:
        return _documents(_Log(paths[0], task_of(paths[0]), tuple(by)), source, done)
    logs = [_Log(path, task, tuple(by) or ("task",), own=True) for path, task in zip(paths, _tasks(paths), strict=True)]
    return chain.from_iterable(
        _documents(log, source, None if done is None else partial(_part, done, k, len(logs)))
        for k, log in enumerate(logs)
    )


def _part(done: Done, k: int, files: int, part: float) -> None:
    done((k + part) / files)


def task_of(path: Path) -> str:
    """Return the task in a file name: the task of lm-eval's samples, else the name without its endings.

    Examples
    --------
    >>> task_of(Path("out/samples_gsm8k_cot_2026-01-31T10-20-30.123456.jsonl")), task_of(Path("a.b.jsonl.gz"))
    ('gsm8k_cot', 'a.b')
    """
    if found := _SAMPLES.fullmatch(path.name):
        return found[1]
    name = path.name
    for ending in (*_COMPRESSED, ".json", ".jsonl", ".ndjson", ".eval", ".txt", ".log"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
    return name


def _tasks(paths: Sequence[Path]) -> list[str]:
    """Return the tasks of files; where two have the same, the whole paths."""
    found = [task_of(path) for path in paths]
    seen = Counter(found)
    return [str(path) if seen[task] > 1 else task for path, task in zip(paths, found, strict=True)]


_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_SAMPLES = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d.:-]+\.jsonl?(?:\.\w+)?")


class _Log(NamedTuple):
    """A file, its task, its slice keys, and whether its documents need names of their own."""

    path: Path
    task: str
    by: tuple[str, ...]
    own: bool = False


def _documents(log: _Log, source: LogSource | None, done: Done | None) -> Iterator[Document]:
    """Yield the documents of a file, but only of lm-eval's first filter."""
    first: Any = None
    found: set[str] = set()
    keys: list[str] = []
    for where, record, task in joined(records(log.path, done)):
        if isinstance(record, dict) and "filter" in record:
            first = record["filter"] if first is None else first
            if record["filter"] != first:
                yield Document(where, "lm-eval", notes=frozenset({"filtered"}))
                continue
        try:
            by = tuple((key, value_at(record, key, task or log.task, found)) for key in log.by)
            keys = keys or sorted(map(str, record))[:12] if isinstance(record, Mapping) else keys
            for document in formats.documents(record, where, source):
                yield _named(document, log, by)
        except LogError as error:
            raise LogError(Message(f"{log.path}, {where}: ", error.message)) from None
    missing = [key for key in log.by if key not in found]
    if missing and not log.own:
        said = f"; its records have {', '.join(map(quoted, keys))}" if keys else ""
        raise LogError(f"{log.path}: no record has {quoted(missing[0])}{said}", argument="by")


def _named(document: Document, log: _Log, by: tuple[tuple[str, str | None], ...]) -> Document:
    """Return a document with the values for its slices, and a name that no other file has."""
    if not log.own:
        return replace(document, by=by) if by else document
    cluster = None if document.cluster is None else f"{log.task}: {document.cluster}"
    return replace(document, by=by, id=f"{log.task}: {document.id}", cluster=cluster)


def value_at(record: Any, key: str, task: str, found: set[str]) -> str | None:
    """Return the value of a record at a key, such as `meta.lang`; a key with a dot in it comes first."""
    value = at(record, key)
    if value is None and key == "task":
        value = _task_of_record(record) or task
    if value is None:
        return None
    found.add(key)
    if isinstance(value, bool | int | float | str):
        return str(value)
    raise LogError(
        f"{quoted(key)} is {described(value)}, which cannot be a slice; name a text or a number", argument="by"
    )


def _task_of_record(record: Any) -> str | None:
    """Return the task that a record names itself, as a whole log of Inspect does."""
    about = record.get("eval") if isinstance(record, Mapping) else None
    named = about.get("task") if isinstance(about, Mapping) else None
    return named if isinstance(named, str) else None
