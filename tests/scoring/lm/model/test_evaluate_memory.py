"""Scoring takes the memory of a chunk beside the model, not that of all logits; measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scoring.lm.model.tiny import bytewise, model

pytestmark = pytest.mark.slow

ROOM = 200 << 20
VOCABULARY, WINDOW = 150_000, 2048
SCRIPT = """
import sys
from pathlib import Path
from crossent.scoring.lm import score_model
from crossent.scoring.lm.model.loading import load

def kilobytes(name):
    return int(next(line for line in open('/proc/self/status') if line.startswith(name)).split()[1])

found = load(Path(sys.argv[1]))
_ = score_model(*found, ['warm'], window=16)
Path('/proc/self/clear_refs').write_text('5')
before = kilobytes('VmRSS')
score = score_model(*found, ['text ' * 1200], window=int(sys.argv[2]))
print(score.tokens, (kilobytes('VmHWM') - before) << 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_the_memory_is_that_of_a_chunk(tmp_path: Path):
    tokenizer = bytewise(bos=True)
    model(VOCABULARY, positions=WINDOW).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(WINDOW)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    tokens, more = map(int, done.stdout.split())
    assert tokens == 6000
    assert VOCABULARY * WINDOW * 4 > 4 * ROOM  # what the logits of a window would take
    assert more <= ROOM
