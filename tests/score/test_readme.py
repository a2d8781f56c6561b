"""The README's table is what the command prints for the predictions of `crossent demo`."""

from __future__ import annotations

from pathlib import Path

from crossent.cli import run
from crossent.demo import data
from crossent.demo.predictions import write_predictions
from crossent.demo.train import fit

README = Path(__file__).parents[2] / "README.md"


def test_the_table_of_the_readme(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_predictions(Path("predictions.csv"), fit(data.digits(0), epochs=60, seed=0, on_epoch=lambda *_: None))
    command, shown = README.read_text(encoding="utf-8").split("```sh\ncrossent score ", 1)[1].split("\n```", 1)
    arguments = [part.strip("'") for part in command.split()]
    assert run(["score", *arguments]) == 0
    assert capsys.readouterr().out.strip() == shown.split("```text\n", 1)[1].split("\n```", 1)[0].strip()
    assert Path("score.html").stat().st_size > 10_000
