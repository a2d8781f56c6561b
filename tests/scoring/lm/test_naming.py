"""Ids of responses are told from those of documents, and requests name the documents that have no id of their own."""

from __future__ import annotations

import pytest

from crossent.scoring.lm.formats import documents
from crossent.scoring.lm.naming import names_response, request_of


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("chatcmpl-8c1f03b7", True),
        ("cmpl-8c1f, choice 1", True),
        ("resp_67ccd2bed1ec", True),
        ("gen-1740000000-x", True),
        ("0b9f7c52-2f0a-4d4e-9c0e-0a4c5f1d2b3a", True),
        ("0b9f7c522f0a4d4e9c0e0a4c5f1d2b3a", True),
        ("d7", False),
        ("line 3", False),
        ("request-7", False),
        ("respiration", False),
        ("general knowledge 5", False),
        ("12", False),
    ],
)
def test_ids_of_responses(name, drawn):
    assert names_response(name) is drawn


def test_a_request_is_named_by_its_last_text_and_told_from_others_by_all_of_it():
    one, other = (
        request_of(
            {"request": {"messages": [{"role": "system", "content": x}, {"role": "user", "content": "Hi  you"}]}}
        )
        for x in ("short", "long")
    )
    assert one is not None
    assert one.startswith("Hi you #")
    assert one != other
    assert request_of({"response": {"prompt": "A"}}) == request_of({"prompt": "A"}) == request_of({"request": "A"})
    long = request_of({"prompt": "word " * 100})
    assert long is not None
    assert len(long) < 60
    assert request_of({"prompt": [1, 2]}) is not None
    assert request_of({"request": {"model": "m"}}) is None
    assert request_of({"id": "x"}) is None


def test_documents_are_named_by_custom_id_then_their_id_then_the_request():
    body = {"id": "chatcmpl-1", "choices": [{"message": {"content": "a"}, "logprobs": {"content": []}}]}

    def named(record):
        return [document.id for document in documents(record, "line 1", None)]

    assert named(body) == ["chatcmpl-1"]
    assert named({**body, "custom_id": "c"}) == ["c"]
    assert named({"request": {"prompt": "Hi"}, "response": body}) == [request_of({"prompt": "Hi"})]
    assert named({"request": {"prompt": "Hi"}, "response": {**body, "id": "mine"}}) == ["mine"]
