"""The training, against the same with torch's losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crossent.demo import train
from tests.demo.runs import EPOCHS, SEED, nothing


class TestTraining:
    def test_starts_at_equal_probabilities(self, fit: train.Fit) -> None:
        first = math.log(len(fit.task.classes))
        assert (fit.train_curve[0], fit.test_curve[0]) == pytest.approx((first, first), rel=1e-14)

    def test_one_value_per_epoch_and_the_loss_falls(self, fit: train.Fit) -> None:
        assert len(fit.train_curve) == len(fit.test_curve) == EPOCHS + 1
        assert fit.train_curve[-1] < 0.2 * fit.train_curve[0]
        assert fit.test_curve[-1] < 0.2 * fit.test_curve[0]

    def test_same_as_with_torchs_losses(self, fit: train.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train, "CrossEntropyLoss", torch.nn.CrossEntropyLoss)
        monkeypatch.setattr(train, "BCEWithLogitsLoss", torch.nn.BCEWithLogitsLoss)
        rival = train.fit(fit.task, epochs=EPOCHS, seed=SEED, on_epoch=nothing)
        np.testing.assert_allclose(fit.train_curve, rival.train_curve, rtol=1e-9)
        np.testing.assert_allclose(fit.test_curve, rival.test_curve, rtol=1e-9)

    def test_leaves_torch_as_it_was(self, fit: train.Fit) -> None:
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        again = train.fit(fit.task, epochs=1, seed=SEED, on_epoch=nothing)
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == threads
        assert again.train_curve == fit.train_curve[:2]

    def test_seed_decides_the_order(self, fit: train.Fit) -> None:
        other = train.fit(fit.task, epochs=1, seed=SEED + 1, on_epoch=nothing)
        assert other.train_curve[1] != fit.train_curve[1]

    def test_reports_every_epoch(self, fit: train.Fit) -> None:
        seen: list[tuple[float, float]] = []
        _ = train.fit(fit.task, epochs=2, seed=SEED, on_epoch=lambda *losses: seen.append(losses))
        assert seen == list(zip(fit.train_curve[1:3], fit.test_curve[1:3], strict=True))
