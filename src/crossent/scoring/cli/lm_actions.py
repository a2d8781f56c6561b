"""The command `crossent lm`: documents of logs, or of a model that scores texts, become a score."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crossent.errors import UsageError, one_line
from crossent.scoring.cli.bar import Shown, bar
from crossent.scoring.lm import LanguageModelScore, score_tokens
from crossent.scoring.lm.document import Document, LogError
from crossent.scoring.lm.reading import documents_of

LONG = 1 << 24
"""Bytes of logs beyond which progress is shown."""


def score_logs(files: Sequence[Path], *, format: str, by: Sequence[str], ci: float, worst: int) -> LanguageModelScore:
    """Return the score of logs."""
    sizes = sum(file.stat().st_size for file in files if file.is_file())
    with bar("reading", wanted=sizes > LONG) as shown:
        return score_tokens(documents_of(files, format=format, by=by, done=shown), ci=ci, worst=worst)


def score_texts(
    model: Path, files: Sequence[Path], *, load: dict[str, Any], key: str | None, by: Sequence[str],
    windows: dict[str, Any], ci: float, worst: int,
) -> LanguageModelScore:  # fmt: skip
    """Return the score of the texts in files by a model."""
    from crossent.scoring.lm.model.evaluate import NamedText, evaluated, said_of
    from crossent.scoring.lm.model.loading import load as loaded
    from crossent.scoring.lm.model.texts import ReadText, texts_of

    with bar("loading the model"):
        found = loaded(model, **load)
    with bar("scoring") as shown:
        track = _Track(shown)

        def texts() -> Iterator[NamedText]:
            read: ReadText
            for read in texts_of(files, key=key, by=by):
                track.begins(len(read.text.encode("utf-8", "surrogatepass")), read.done)
                yield NamedText(read.name, read.text, read.by, read.notes)

        plan, documents = evaluated(*found, texts(), said=track.scored, **windows)
        said = said_of(plan)
        return score_tokens(_with_memory(documents), ci=ci, worst=worst).with_facts(said)


def _with_memory(documents: Iterator[Document]) -> Iterator[Document]:
    """Yield documents; torch's out-of-memory error becomes one line."""
    try:
        yield from documents
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error) or "out of memory" in str(error):
            raise LogError("the memory is full; pass a smaller --window or --batch") from error
        raise


class _Track:
    """The part of all texts that is scored: files report the end of each text, the model the bytes done so far."""

    def __init__(self, shown: Shown | None) -> None:
        self.shown = shown
        self.waiting: deque[tuple[int, float]] = deque()
        self.begin, self.bytes = 0.0, 0

    def begins(self, size: int, end: float) -> None:
        """Take note of a text of so many bytes, whose end is at this part of all files."""
        self.waiting.append((size, end))

    def scored(self, size: int) -> None:
        """Take note of scored bytes, and show the part that is done."""
        self.bytes += size
        while len(self.waiting) > 1 and self.bytes >= self.waiting[0][0]:
            done, self.begin = self.waiting.popleft()
            self.bytes -= done
        if self.shown is not None and self.waiting:
            whole, end = self.waiting[0]
            self.shown(self.begin + (end - self.begin) * min(1.0, self.bytes / whole if whole else 1.0))


def write_report(score: LanguageModelScore, path: Path, files: Sequence[Path], model: Path | None) -> None:
    """Write the report of a score."""
    several = f" and {len(files) - 1} more" if len(files) > 1 else ""
    source = f"{files[0]}{several}"
    title = f"Loss of {files[0].name}{several}" + ("" if model is None else f" under {model.name}")
    try:
        _ = score.to_html(path, title=title, source=source)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror or error}") from error
    print(f"wrote {one_line(path)}", file=sys.stderr)
