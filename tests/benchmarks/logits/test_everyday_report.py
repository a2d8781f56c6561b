"""Tables of few classes and small calls: a line for each shape and dtype."""

from __future__ import annotations

from typing import Any

from benchmarks.logits import everyday_report


def case(name: str, *, target: str = "index", ignored: float = 0.0, repeat: int = 1, eager: float = 2.0) -> list[Any]:
    dtype = "bfloat16" if "-bf16" in name else "float32"
    about = {"case": name, "shape": [100, 3], "dtype": dtype, "target": target, "ignored": ignored, "repeat": repeat}
    about |= {"rows": 100, "threads": 1}
    seconds = {"crossent": 1e-3, "eager": eager * 1e-3}
    timed = {"speedup_over": {"eager": eager}, "times_limit": {"limit": 1.5}, "median_seconds": seconds, "bytes": 1.2e6}
    errors = {"crossent": {"loss": 1e-8, "dlogits": 2e-8}, "eager": {"loss": 1e-7, "dlogits": 2e-7}}
    memory = {
        "resolution_bytes": 1,
        "extra_bytes": {"crossent": 10**6, "eager": 2 * 10**6},
        "kept_bytes_per_row": {"crossent": 4.0, "eager": 12.0},
        "held_bytes_per_row": {"crossent": 16.0, "eager": 12.0},
    }
    of = {"forward": timed, "both": timed, "memory": memory, "error": {"errors": errors}}
    return [about | {"measure": measure} | of[measure] for measure in of if measure != "memory" or not ignored]


RECORDS = [
    *case("few"),
    *case("few-ignored", ignored=0.9, eager=3.0),
    *case("few-soft", target="prob", eager=4.0),
    *case("few-bf16", eager=5.0),
    *case("small", repeat=10, eager=0.5),
]


def test_targets_of_a_shape_stand_in_one_line():
    lines = everyday_report.times(RECORDS)
    assert list(lines.values()) == [
        [["100 × 3 (few)", "2.00", "3.00", "4.00", "–", "–", "1.50"]],
        [["100 × 3, bfloat16 (few)", "5.00", "–", "–", "–", "–", "1.50"]],
    ]
    assert {len(line) for of in lines.values() for line in of} == {len(everyday_report.TIMES)}


def test_small_calls_have_a_table_of_their_own():
    assert list(everyday_report.small(RECORDS).values()) == [[["100 × 3 (small)", "0.50", "1.00 ms", "500 µs", "0.50"]]]


def test_memory_is_that_of_both_kinds_of_targets():
    (first, second) = everyday_report.kept(RECORDS).values()
    assert first[0][1:] == ["4.00", "12.0", "4.00", "12.0", "16.0", "12.0"]
    assert second[0][1:] == ["4.00", "12.0", "–", "–", "16.0", "12.0"]
    assert len(first[0]) == len(everyday_report.KEPT)
    (first, _) = everyday_report.peaks(RECORDS).values()
    assert first[0][1:] == ["1.00", "2.00", "1.00", "2.00", "1.20"]
    assert len(first[0]) == len(everyday_report.PEAKS)


def test_errors_are_of_all_shapes():
    lines = list(everyday_report.errors(RECORDS).values())
    assert [line[0][0] for line in lines] == [
        "100 × 3 (few)",
        "100 × 3, bfloat16 (few)",
        "100 × 3 (small)",
    ]
    assert lines[0][0][1:] == ["1.0·10⁻⁸", "1.0·10⁻⁷", "2.0·10⁻⁸", "2.0·10⁻⁷", "2.0·10⁻⁸", "2.0·10⁻⁷"]
    assert lines[1][0][5:] == ["–", "–"]
