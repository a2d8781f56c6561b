"""What Linux says of a processor's caches, as several processors and virtual machines say it."""

from __future__ import annotations

import pytest
import torch

from crossent.torch.sources import processor
from crossent.torch.sources.processor import THIS, USUAL, Processor, cache_sizes, this_processor

KIB, MIB = 2**10, 2**20


def caches(folder, *entries):
    """Files of caches as Linux shows them: (level, type, size) each, None for a file that is missing."""
    for number, entry in enumerate(entries):
        place = folder / f"index{number}"
        place.mkdir()
        for name, value in zip(("level", "type", "size"), entry, strict=True):
            if value is not None:
                _ = (place / name).write_text(f"{value}\n")
    return folder


SEEN = {
    "Intel Emerald Rapids": (
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"), (3, "Unified", "266240K")],
        {2: 2 * MIB, 3: 260 * MIB},
    ),
    "AMD Zen 3": (
        [(1, "Data", "32K"), (1, "Instruction", "32K"), (2, "Unified", "512K"), (3, "Unified", "32768K")],
        {2: 512 * KIB, 3: 32 * MIB},
    ),
    "Apple M1 under Linux": ([(1, "Data", "128K"), (2, "Unified", "12M")], {2: 12 * MIB}),
    "sizes in bytes": ([(2, "Unified", "1048576")], {2: MIB}),
    "files that a virtual machine leaves out or empty": (
        [(1, "Data", None), (2, "Unified", ""), (None, None, None), (3, "Unified", "0K"), ("x", "Unified", "1K")],
        {},
    ),
    "none": ([], {}),
}


@pytest.mark.parametrize("name", SEEN)
def test_caches_are_read_as_linux_shows_them(name, tmp_path):
    entries, sizes = SEEN[name]
    assert cache_sizes(caches(tmp_path, *entries)) == sizes


def test_the_largest_cache_counts_and_a_usual_one_where_the_system_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_CACHES", tmp_path / "nowhere")
    assert this_processor().cache_bytes == max(USUAL.values())
    monkeypatch.setattr(processor, "_CACHES", caches(tmp_path, (2, "Unified", "512K"), (3, "Unified", "16384K")))
    assert this_processor().cache_bytes == 16 * MIB


@pytest.mark.parametrize(
    ("machine", "supported", "lanes", "units"),
    [
        ("x86_64", {"avx2", "avx512", "amx_tile"}, 16, True),
        ("x86_64", {"avx2", "avx512"}, 16, False),
        ("AMD64", {"avx2"}, 8, False),
        ("x86_64", set(), 4, False),
        ("aarch64", {"avx2", "avx512", "amx_tile"}, 4, False),
        ("arm64", set(), 4, False),
    ],
)
def test_the_instruction_set_is_that_of_torch(machine, supported, lanes, units, monkeypatch):
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    for name in ("avx2", "avx512", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in supported, raising=False)
    found = this_processor()
    assert (found.lanes, found.matrix_units) == (lanes, units)


def test_an_older_torch_without_these_functions_has_the_least(monkeypatch):
    for name in ("avx2", "avx512", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert (this_processor().lanes, this_processor().matrix_units) == (4, False)


def test_facts_stay_the_same_while_a_process_runs():
    assert this_processor() == THIS
    assert isinstance(THIS, Processor)
