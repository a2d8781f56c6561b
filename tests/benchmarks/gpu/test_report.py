"""What is printed of a GPU."""

from __future__ import annotations

from benchmarks.gpu import report


def test_a_table_shows_times_shares_memory_and_reasons():
    run = {"machine": dict.fromkeys(("gpu", "driver", "cpu", "platform")), "versions": {}, "commit": "", "date": ""}
    common = {"suite": "gpu-logits", "case": "c", "shape": [2, 3], "dtype": "float32", "run": run, "status": "ok"}
    medians = {"forward": 0.001, "both": 0.0025}
    ours = {"contender": "crossent", "median_seconds": medians, "host_seconds": medians, "rounds": {"both": 25}}
    ours |= {"share_of_copy": {"forward": 0.9, "both": 0.85}, "over_crossent": {"forward": 1.0, "both": 1.0}}
    ours |= {"peak_bytes": 5_000_000, "extra_bytes": -2_000_000, "difference": {"from": "eager", "largest": 3e-4}}
    gone = {"contender": "liger", "status": "missing", "reason": "not there"}
    lines = report.tables([{**common, **ours}, {**common, **gone}]).splitlines()
    (row,) = [line for line in lines if line.startswith("c 2×3 float32")]
    cells = ["1.00 ms  2.50 ms   2.50 ms", "90    85", "1.00  1.00", "5.00  -2.00", "3e-04      25"]
    assert [cell.strip() for cell in row.split("│")][1:] == cells
    assert "liger missing (not there): c" in lines
