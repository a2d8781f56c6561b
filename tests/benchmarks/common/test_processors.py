"""Classes of processors, as records and machines have them."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import machine, pages, processors
from benchmarks.common.records import read

OLD = {"cpu": "Intel(R) Xeon(R) Processor", "isa": "avx512", "amx": True}
"""What records said of a machine before they named its vendor."""


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (OLD, "Intel, AVX-512, AMX"),
        (OLD | {"amx": False}, "Intel, AVX-512"),
        ({"cpu": "AMD EPYC 7B13", "isa": "avx2"}, "AMD, AVX2"),
        ({"cpu": "EPYC", "vendor": "AMD", "isa": "avx512", "widest": "avx512", "bf16": True}, "AMD, AVX-512, BF16"),
        ({"cpu": "?", "vendor": "Intel", "isa": "avx2", "widest": "avx512"}, "Intel, AVX-512, kept to AVX2"),
        ({"cpu": "Neoverse-N1", "vendor": "Ampere", "isa": "neon", "widest": "neon"}, "Ampere, NEON"),
        ({"cpu": "something else", "isa": "baseline"}, "unknown, no AVX2"),
    ],
)
def test_a_class_follows_from_what_a_record_says(of: dict[str, Any], name: str):
    assert processors.class_of(of) == name


def test_examples_run():
    assert doctest.testmod(processors) == (0, 2)


@pytest.mark.parametrize(
    ("cpuinfo", "vendor"),
    [
        ("vendor_id\t: GenuineIntel", "Intel"),
        ("vendor_id\t: AuthenticAMD", "AMD"),
        ("CPU implementer\t: 0x41", "Arm"),
        ("", "arm64"),
    ],
)
def test_a_vendor_is_read_from_what_linux_says(cpuinfo: str, vendor: str):
    assert processors.vendor_in(cpuinfo, "arm64") == vendor


def test_this_machine_is_what_linux_says_of_it():
    info = Path("/proc/cpuinfo")
    flags = (
        next((line for line in info.read_text().splitlines() if line.startswith("flags")), "") if info.exists() else ""
    )
    if not flags:
        pytest.skip("Linux lists no flags of an x86 processor here")
    words, about = set(flags.split()), machine.describe()["machine"]
    assert about["amx"] == ("amx_tile" in words)
    assert about["bf16"] == ("avx512_bf16" in words)
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= words
    assert about["widest"] == ("avx512" if wide else "avx2" if {"avx2", "fma"} <= words else "baseline")


def test_the_results_that_are_there_have_classes_that_their_files_do_not_mix():
    for path in pages.RESULTS.glob("*.jsonl"):
        machines = [record["run"]["machine"] for record in read([path])]
        assert len({processors.class_of(of) for of in machines if "gpu" not in of}) <= 1, path.name
