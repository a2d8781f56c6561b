"""Errors of a bfloat16 head by its labels: what the page says of torch's chunks and of crossent's is what they show."""

from __future__ import annotations

import pytest
import torch

from benchmarks.linear import labels

pytestmark = pytest.mark.slow


def test_more_chunks_cost_torch_more_digits_where_few_classes_are_labels_and_crossent_none():
    least, *_, most = labels.CHUNKS
    growth = dict[int, float]()
    for classes in (labels.V, labels.FEW):
        found = labels.errors(classes)
        growth[classes] = found[most][0]["dW"] / found[least][0]["dW"]
        ours = {errors[1]["dW"] for errors in found.values()}
        assert max(ours) <= torch.finfo(torch.bfloat16).eps / 2  # rounded once
        assert min(errors[0]["dW"] for errors in found.values()) > max(ours)
        assert max(errors[1]["loss"] for errors in found.values()) < min(errors[0]["loss"] for errors in found.values())
    assert growth[labels.FEW] > growth[labels.V] > 1


def test_the_table_has_a_line_for_each_number_of_chunks():
    lines = [line.split("|")[1:3] for line in labels.table().splitlines()[2:]]
    assert [(a.strip(), int(b)) for a, b in lines] == [
        (f"{classes:,} classes", chunks) for classes in (labels.V, labels.FEW) for chunks in labels.CHUNKS
    ]
