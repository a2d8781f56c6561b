"""A score of a language model as text: units, slices, many values."""

from __future__ import annotations

import math

from crossent.scoring.lm import Document, Token, score_tokens
from crossent.scoring.show import lm_text


def score(values=3, **more):
    documents = [
        Document(f"d{k}", "plain", (Token(0, "ab", -1.0 - k, -1.0 - k, 2),), by=(("lang", str(k % values)),))
        for k in range(2 * values)
    ]
    return score_tokens(documents, **more)


def test_losses_in_bits_are_those_in_nats_over_log_2():
    nats, bits = (lm_text.text(score(), in_bits=in_bits) for in_bits in (False, True))
    assert "loss per token (nats)    3.5000" in " ".join(nats.split()).replace("(nats) 3.5", "(nats)    3.5")
    assert f"{3.5 / math.log(2):.4f}" in bits
    assert "loss per token (bits)" in bits
    assert "bits per byte" in nats


def test_slices_are_a_table_in_the_order_in_which_they_came():
    lines = lm_text.text(score()).splitlines()
    at = lines.index("by lang")
    assert lines[at + 1].split()[:4] == ["lang", "documents", "nats", "per"]
    assert [line.split()[0] for line in lines[at + 2 : at + 5]] == ["0", "1", "2"]


def test_of_many_values_those_with_the_largest_losses_are_listed():
    table = lm_text.slice_table("lang", score(100).by["lang"])
    assert table.title == "by lang: the 40 of 100 with the largest loss"
    assert len(table.rows) == 41
    assert table.rows[1][0] == "99"


def test_a_notebook_escapes_what_comes_from_logs():
    document = Document("<b>", "plain", (Token(0, "<i>", -1.0, -1.0, 3),), by=(("<k>", "<v>"),))
    page = lm_text.notebook_html(score_tokens([document]).with_facts("<fact>"))
    for text in ("<b>", "<i>", "<k>", "<v>", "<fact>"):
        assert text not in page
