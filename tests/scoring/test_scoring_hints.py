"""Every hint that a score can give, followed to the letter: the number that comes out is the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scoring.exact import close
from tests.scoring.hints.of_adapters import ADAPTERS
from tests.scoring.hints.of_calls import CALLS
from tests.scoring.hints.of_files import COMMANDS
from tests.scoring.hints.of_inputs import INPUTS
from tests.scoring.hints.of_logs import LOGS
from tests.scoring.hints.of_models import MODELS
from tests.scoring.hints.of_shapes import SHAPES
from tests.scoring.hints.source import hints
from tests.scoring.hints.table import Bench

OF_INPUT = {f"inputs: {name}": hinted for name, hinted in INPUTS.items()}
TABLE = {**CALLS, **COMMANDS, **OF_INPUT, **ADAPTERS, **LOGS, **MODELS, **SHAPES}
ROOT = Path(__file__).parents[2]
MODEL = "tests/scoring/lm/model"
ELSEWHERE = {
    "; unless the file is damaged, pass more": "tests/scoring/cli/test_memory.py",
    "that a row may take; is the file damaged, or are its axes swapped?": "tests/scoring/input/test_files_bombs.py",
    "the model reads tokens after the one that it predicts; pass a causal language model": (
        f"{MODEL}/test_evaluate.py"
    ),
    "--format is for logs; leave it out with --model, which scores texts": "tests/scoring/cli/test_lm.py",
    "the memory is full; pass a smaller --window or --batch": "tests/scoring/cli/test_lm_actions.py",
    "this is a chunk of a streamed answer; log whole answers, or join the chunks by their id": (
        "tests/scoring/lm/test_openai_logs.py"
    ),
    "documents are paired by their order, because their ids are random ids of server responses; log the request or a "
    "custom_id with each to pair them by id": "tests/scoring/lm/test_pairs.py",
    "neither ids of server responses nor the order of documents can pair them; log the request or a custom_id with "
    "each": "tests/scoring/lm/test_pairs.py",
    "these are ids of server responses; log the request or a custom_id with each": ("tests/scoring/lm/test_pairs.py"),
    "has no scored document; ask the server for log-probabilities": "tests/scoring/lm/test_pairs.py",
    "an archive cannot be read from standard input; pass the file": "tests/scoring/lm/test_records.py",
    "is an archive without samples of Inspect; unpack it and pass the logs in it": (
        "tests/scoring/lm/test_inspect_logs.py"
    ),
    "texts must be several texts; pass [text] to score one": f"{MODEL}/test_evaluate.py",
    "; pass a causal language model": f"{MODEL}/test_kinds.py",
    "; pass longer texts": f"{MODEL}/test_evaluate.py",
    "computes all its logits before it returns them, and they would fill the memory; log its log-probabilities and "
    "pass the log": f"{MODEL}/test_evaluate_memory.py",
    ", changes the tokens of a text when it adds special ones; score the texts with another tokenizer class, or "
    "log their log-probabilities and pass the log": f"{MODEL}/test_encoding.py",
    "here; pass --device cpu, or leave it out": f"{MODEL}/test_loading.py",
    "has no tokenizer (tokenizer.json); save the model's own into it: tokenizer.save_pretrained(FOLDER)": (
        f"{MODEL}/test_loading.py"
    ),
    "holds an adapter of PEFT; merge it (merge_and_unload), save the model and name that folder": (
        f"{MODEL}/test_loading.py"
    ),
    "comes with code of its own, which crossent does not run; convert it to a class of transformers, or log its "
    "log-probabilities and pass the log": f"{MODEL}/test_loading.py",
    "is not UTF-8; write the text as UTF-8": f"{MODEL}/test_texts.py",
    "; pass --text-key with the key that holds the text": f"{MODEL}/test_texts.py",
}
"""Hints that another test follows, because they need more memory, or a model, than a table should take."""


@pytest.mark.parametrize("name", TABLE)
def test_a_hint_leads_to_the_right_number(name, tmp_path, capsys):
    hinted, bench = TABLE[name], Bench(tmp_path, capsys)
    assert hinted.words in hinted.message(bench)
    close(hinted.followed(bench), hinted.right, 1e-9)


@pytest.mark.slow
def test_the_table_has_every_hint(tmp_path, capsys):
    """Each text in the source that tells the user to do something is in a message of the table."""
    said: list[str] = []
    for k, hinted in enumerate(TABLE.values()):
        folder = tmp_path / str(k)
        folder.mkdir()
        said.append(hinted.message(Bench(folder, capsys)))
    missing = [hint for hint in hints() if hint.text not in ELSEWHERE and not any(hint.text in text for text in said)]
    assert missing == []
    for text, test in ELSEWHERE.items():
        assert any(text == hint.text for hint in hints())
        assert (ROOT / test).is_file()


def test_the_search_sees_hints_wherever_they_stand(tmp_path):
    _ = (tmp_path / "room.py").write_text(
        '"""Pass this by: a docstring."""\n'
        "def f(x):\n"
        '    """Use it: a docstring too."""\n'
        '    option = Option(help="Pass what you like.")\n'
        '    _FORMAT = "name it {path}.gz"\n'
        "    raise InputError(f\"no {x}; pass \" + (\"drop it\" if x else 'nothing') + f'{x!r}: use another')\n"
    )
    assert {hint.text for hint in hints(tmp_path)} == {"name it", "; pass", "drop it", ": use another"}
