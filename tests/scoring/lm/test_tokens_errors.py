"""Logs that are broken: one line that says where and why, and never another exception."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossent.scoring.lm import LogError, read, score_tokens
from crossent.scoring.lm import records as reading
from crossent.scoring.lm.formats import READERS
from tests.scoring.lm import records

GOOD = json.dumps(records.GENERIC)
CHOICE = records.CHAT["choices"][0]


def chat(**entry):
    return {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": -1.0, "bytes": [97], **entry}]}}]}


def completion(**logprobs):
    return {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], **logprobs}}]}


def prompt(positions, **more):
    return {"prompt_logprobs": positions, **more}


def answers(**more):
    return {**records.multiple_choice([-3.0, -1.0, -2.0], "1", 1.0), **more}


BROKEN = [
    ("", "is empty"),
    ("\n \n", "is empty"),
    (f"{GOOD}\n{GOOD[:-9]}\n", "line 2: not JSON: .* at character .*cut off"),
    (f"{GOOD[:-9]}\n{GOOD}\n", "line 1: not JSON"),
    (json.dumps(records.CHAT, indent=1)[:-20], "in one JSON value: not JSON: .* at line"),
    (b'{"logprobs": [-1], "tokens": ["\xff"]}', "line 1: byte 31 is not UTF-8"),
    (gzip.compress(GOOD.encode() * 9)[:-9], "is compressed, and damaged"),
    (gzip.compress(GOOD.encode())[:5] + b"no", "is compressed, and damaged"),
    (gzip.compress(b""), "is empty"),
    (b"PK\x03\x04 but no archive", "is an archive that cannot be read"),
    (GOOD.encode("utf-16"), "not UTF-8"),
    ("[" * 100_000, "line 1: nested too deeply"),
    ('{"logprobs": [-' + "9" * 5000 + "]}", "line 1: not JSON that can be read: Exceeds the limit"),
    ("7", "line 1: this is 7, not an object; write one JSON object per line"),
    ("[-1.0, -2.0]", "line 1, entry 1: this is -1.0, not an object"),
    ({"text": "a", "score": 1}, "line 1: this object with 'text', 'score' has no log-probabilities.*or pass format="),
    ({"results": {}, **{f"k{n}": 0 for n in range(20)}}, "'k6', … has no log-probabilities"),
    ({"logprobs": [0.5]}, "line 1: the log-probability of token 0 is 0.5; are these log-probabilities"),
    ({"logprobs": [-1.0, float("nan")]}, "the log-probability of token 1 is NaN"),
    ({"logprobs": [float("inf")]}, "is inf; are these"),
    ({"logprobs": [10**400]}, "is inf; are these"),
    ({"logprobs": [True]}, "token 0 must be a number, not True"),
    ({"logprobs": ["-1.0"]}, "must be a number, not '-1.0'"),
    (
        {"logprobs": [-1.0], "tokens": ["a", "b"]},
        "`tokens` has 2 entries for 1 log-probabilities; was the line cut off",
    ),
    ({"logprobs": [-1.0], "tokens": [7]}, "a token's text must be a string, not 7"),
    ({"logprobs": [-1.0], "tokens": "a"}, "`tokens` must be a list, not 'a'"),
    ({"logprobs": [-1.0], "id": [1]}, "an id must be a string or an integer, not a list of 1"),
    ({"logprobs": [-9999], "top_logprobs": [{"a": -0.1, "b": -0.2}]}, "probabilities add up to 1.724; are these"),
    ({"logprobs": [None], "top_logprobs": [{"a": 2}]}, "a log-probability in `top_logprobs` is 2; are these"),
    (
        {"logprobs": [None], "top_logprobs": [["a"]]},
        "an entry of `top_logprobs` must have `token` and `logprob`, not 'a'",
    ),
    ({"logprobs": [None], "top_logprobs": [7]}, "`top_logprobs` must hold objects or lists, not 7"),
    ({"logprobs": [None, None]}, "no scored token in 1 record"),
    (chat(logprob="x"), "must be a number, not 'x'"),
    (chat(bytes=[300]), "`bytes` must be a list of integers below 256, not a list of 1"),
    (chat(bytes="a"), "`bytes` must be a list"),
    ({"choices": [{"logprobs": {"content": ["a"]}}]}, "a token must be an object with `token` and `logprob`, not 'a'"),
    ({"choices": [{"delta": {"content": "a"}, "logprobs": None}]}, "no scored token .*logprobs=True"),
    ({"choices": ["a"]}, "`a choice` must be an object, not 'a'"),
    ({"choices": [{"message": {"content": "a"}, "logprobs": None}]}, "no scored token .*logprobs=True"),
    (completion(token_logprobs=-1), "`token_logprobs` must be a list, not -1"),
    (completion(top_logprobs=[{}, {}]), "`top_logprobs` has 2 entries for 1 log-probabilities"),
    ({"custom_id": "a", "response": {"body": [1]}}, "`response.body` must be an object, not a list of 1"),
    (prompt({"1": 2}), "`prompt_logprobs` must be a list, not an object with '1'"),
    (prompt([None, {}]), "position 1 of `prompt_logprobs` must be an object, not an empty object"),
    (prompt([None, {"1": "a"}]), "the log-probability of token 1 must be a number, not 'a'"),
    (
        prompt([None, {"1": {"logprob": -1}}], prompt_token_ids=[1]),
        "is a list of 1, but `prompt_logprobs` has 2 positions",
    ),
    (
        prompt([None, {"1": records.candidate(-1, 1, "a"), "2": records.candidate(-9, 70, "b")}]),
        "position 1 of `prompt_logprobs` does not begin with the prompt's token, .*log `prompt_token_ids` too",
    ),
    (answers(filtered_resps=[]), "`filtered_resps` must be a list with an entry for each request"),
    (answers(filtered_resps=[["a", "True"]] * 3), "`filtered_resps` holds 'a' where a log-likelihood belongs"),
    (answers(filtered_resps=[["1.5", "True"]] * 3), "a log-likelihood in `filtered_resps` is 1.5; are these"),
    (answers(filtered_resps=[["nan", "True"]] * 3), "is NaN"),
    (answers(filtered_resps=None, resps={}), "`resps` must be a list with an entry"),
    (answers(arguments=[["a", "b"]]), "`arguments` must have an entry for each of the 3 requests, not a list of 1"),
    (answers(arguments={"a": 1, "b": 2, "c": 3}), "an entry of `arguments` must hold a request's texts, not 1"),
    (
        {**records.rolling(0, -1.0, "x"), "arguments": {"gen_args_0": {"arg_0": "x", "arg_1": {"until": []}}}},
        "generate_until samples hold no log-probabilities",
    ),
]


@pytest.mark.parametrize(("content", "said"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_log_says_where_and_why(tmp_path, content, said):
    path = tmp_path / "log.jsonl"
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    _ = path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(LogError, match=said) as error:
        _ = score_tokens(read(path))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith((str(path), "no scored token"))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        _ = list(read(tmp_path / "none.jsonl"))
    with pytest.raises(OSError, match=r"(?i)directory|denied"):
        _ = list(read(tmp_path))


def test_an_unknown_format_is_refused_at_once():
    with pytest.raises(LogError, match=r"format must be one of auto, chat, .* not 'csv'"):
        _ = read("log.jsonl", format="csv")


def test_a_line_has_a_longest(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    monkeypatch.setattr(reading, "LONGEST", 2 * len(GOOD))
    _ = path.write_text(f"{GOOD}\n{GOOD}\n{' ' * len(GOOD)}{GOOD}!\n")
    with pytest.raises(LogError, match=r"line 3: longer than \d+ bytes; write one JSON object per line"):
        _ = list(read(path))
    _ = path.write_text(f"[{GOOD},\n{GOOD},\n{GOOD}]")
    with pytest.raises(LogError, match=r"one JSON value of more than \d+ bytes"):
        _ = list(read(path))


def attempt(content, source="auto"):
    """Score a file of these bytes; whatever is wrong with it must come out as one of these errors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        _ = path.write_bytes(content)
        try:
            score = score_tokens(read(path, format=source))
        except (LogError, OSError) as error:
            said = str(error)
        else:
            said = repr(score._repr_html_())
            _ = json.loads(score.to_json(), parse_constant=pytest.fail)
            _ = repr(score).encode()
    assert "\n" not in said


LINES = [json.dumps(record).encode() for record in records.EVERY]


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=3), st.data())
def test_changed_bytes_raise_nothing_else(lines, data):
    content = bytearray(b"\n".join(lines))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content)))
        upto = min(len(content), at + data.draw(st.integers(0, 12)))
        content[at:upto] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"[", b"}", b"null", b"-1e999", b"9"])
        )
    attempt(bytes(content))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["bytes:\\xe2", "token_id:3", "\ud800", "-1.5", "inf", -9999.0, -0.5])
)
KEYS = sorted(
    {"logprobs", "tokens", "top_logprobs", "choices", "resps", "target", "acc", "text", "bytes", "id", "rank", "filter"}
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.sampled_from(records.EVERY), st.sampled_from(["auto", *READERS]), st.data())
def test_changed_structures_raise_nothing_else(record, source, data):
    for _ in range(data.draw(st.integers(1, 3))):
        record = replaced(record, data.draw(st.sampled_from(list(places(record)))), data.draw(VALUES))
    attempt(json.dumps(record).encode() + b"\n" + GOOD.encode(), source)
