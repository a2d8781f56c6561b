"""Reader of logs of Inspect (inspect_ai): a whole log with its samples, or one sample of an archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from crossent.scoring.lm.document import Document, JsonObject, LogError
from crossent.scoring.lm.fields import mapping, name_of, sequence
from crossent.scoring.lm.openai_logs import chat


def is_inspect(record: JsonObject) -> bool:
    """Return whether a record is a log of Inspect, or a sample of one."""
    output = record.get("output")
    whole = "samples" in record and isinstance(record.get("eval"), Mapping)
    return whole or ("epoch" in record and (output is None or isinstance(output, Mapping)))


def inspect_log(record: JsonObject, name: str) -> Iterator[Document]:
    """Yield a document for each sample; the epochs of a sample are not independent of each other."""
    if "samples" not in record:
        yield from _sample(record, name)
        return
    for k, one in enumerate(sequence(record.get("samples"), "samples"), 1):
        yield from _sample(mapping(one, "a sample"), f"sample {k}")


def _sample(record: JsonObject, name: str) -> Iterator[Document]:
    own = name_of(record.get("id")) or name
    epoch = record.get("epoch")
    output = mapping(record.get("output"), "output")
    label = f"{own}, epoch {epoch}" if type(epoch) is int and epoch > 1 else own
    if not output.get("choices"):
        failed = record.get("error") is not None or output.get("error") is not None
        yield Document(label, "inspect", notes=frozenset({"failed"}) if failed else frozenset())
        return
    try:
        for document in chat(output, label):
            yield replace(document, source="inspect", cluster=own)
    except LogError as error:
        raise LogError(f"sample {own}: {error}") from None
