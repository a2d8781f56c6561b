"""The losses on the page of papers against their formulas, one token after the other in torch's float64.

Nothing here is of crossent: log-probabilities are those of `log_softmax`, sequences are lists of tokens, and means are
divisions. Values and gradients of the page must agree to 1e-6; its weights are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.docs.blocks import ROOT, blocks

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "guide" / "papers.md"
CLIP, BONUS, BETA_KL = 0.2, 0.01, 0.04


class Text:
    """The responses of the page: tokens that are scored, and their log-probabilities under each model."""

    def __init__(self, page: dict[str, Any]) -> None:
        self.hidden = page["hidden"].detach().clone().requires_grad_()
        self.head = page["head"].detach().clone().requires_grad_()
        self.rewards = page["rewards"].tolist()
        self.advantages = page["advantage"].tolist()
        ids, begin, self.sequences = page["ids"].tolist(), 0, []
        for n in page["lengths"].tolist():
            # each position predicts the next token; the first two tokens are a prompt
            self.sequences.append([(t, ids[t + 1]) for t in range(begin + 1, begin + n - 1)])
            begin += n
        self.policy = (self.hidden @ self.head.t()).log_softmax(1)
        with torch.no_grad():
            self.old, self.reference = (self.of(page[name]) for name in ("near", "far"))
            self.mismatched, self.distant = (self.of(page[name]) for name in ("mismatched", "distant"))

    def of(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.head.t()).log_softmax(1)

    def log(self, model: Tensor, i: int) -> Tensor:
        """log π of the tokens of response i."""
        return torch.stack([model[t, y] for t, y in self.sequences[i]])

    def ratios(self, i: int) -> Tensor:
        return (self.log(self.policy, i) - self.log(self.old, i)).exp()

    def groups(self) -> list[list[int]]:
        return [[0, 1, 2], [3, 4, 5]]

    def pairs(self) -> list[tuple[int, int]]:
        """Chosen and rejected."""
        return [(0, 1), (2, 3), (4, 5)]

    def standardized(self, i: int) -> float:
        rewards = [self.rewards[j] for j in self.groups()[i // 3]]
        mean = sum(rewards) / 3
        return (self.rewards[i] - mean) / math.sqrt(sum((r - mean) ** 2 for r in rewards) / 2)

    def centered(self, i: int) -> float:
        return self.rewards[i] - sum(self.rewards[j] for j in self.groups()[i // 3]) / 3


def clipped(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    """min(r A, clip(r, 1 − ε_low, 1 + ε_high) A)."""
    bounded = torch.clip(ratio, 1 - low, 1 + high)
    return torch.where(ratio * advantage < bounded * advantage, ratio * advantage, bounded * advantage)


def ppo(text: Text) -> Tensor:
    terms = []
    for i in range(6):
        for (t, _), ratio in zip(text.sequences[i], text.ratios(i), strict=True):
            q = text.policy[t]
            terms.append(-clipped(ratio, text.advantages[t], CLIP, CLIP) - BONUS * -(q.exp() * q).sum())
    return torch.stack(terms).mean()


def grpo(text: Text) -> Tensor:
    responses = []
    for i in range(6):
        quotient = (text.log(text.reference, i) - text.log(text.policy, i)).exp()
        kl = quotient - torch.log(quotient) - 1
        responses.append((clipped(text.ratios(i), text.standardized(i), CLIP, CLIP) - BETA_KL * kl).mean())
    return -torch.stack(responses).mean()


def dr_grpo(text: Text) -> Tensor:
    return -sum(clipped(text.ratios(i), text.centered(i), CLIP, CLIP).sum() for i in range(6)) / 6


def dapo(text: Text) -> Tensor:
    return -torch.cat([clipped(text.ratios(i), text.standardized(i), 0.2, 0.28) for i in range(6)]).mean()


def cispo(text: Text) -> Tensor:
    terms = [text.ratios(i).detach().clip(max=1.1) * text.standardized(i) * text.log(text.policy, i) for i in range(6)]
    return -torch.cat(terms).mean()


def gspo(text: Text) -> Tensor:
    responses = []
    for i in range(6):
        power = (text.log(text.policy, i).sum() - text.log(text.old, i).sum()) / len(text.sequences[i])
        responses.append(clipped(power.exp(), text.standardized(i), 3e-4, 4e-4))
    return -torch.stack(responses).mean()


def rloo(text: Text) -> Tensor:
    terms = []
    for group in text.groups():
        for i in group:
            baseline = sum(text.rewards[j] for j in group if j != i) / 2
            terms.append((text.rewards[i] - baseline) * text.log(text.policy, i).sum())
    return -torch.stack(terms).mean()


def log_ratio(text: Text, i: int) -> Tensor:
    """log π(y|x) / π_ref(y|x)."""
    return text.log(text.policy, i).sum() - text.log(text.reference, i).sum()


def dpo(text: Text) -> Tensor:
    terms = [-torch.log(torch.sigmoid(0.1 * (log_ratio(text, w) - log_ratio(text, r)))) for w, r in text.pairs()]
    return torch.stack(terms).mean()


def ipo(text: Text) -> Tensor:
    return torch.stack([(log_ratio(text, w) - log_ratio(text, r) - 1 / (2 * 0.1)) ** 2 for w, r in text.pairs()]).mean()


def simpo(text: Text) -> Tensor:
    terms = []
    for w, r in text.pairs():
        chosen, rejected = (2.0 * text.log(text.policy, i).mean() for i in (w, r))
        terms.append(-torch.log(torch.sigmoid(chosen - rejected - 0.5)))
    return torch.stack(terms).mean()


def orpo(text: Text) -> Tensor:
    terms = []
    for w, r in text.pairs():
        chosen, rejected = (text.log(text.policy, i).mean().exp() for i in (w, r))
        odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
        terms.append(-torch.log(chosen) - 0.1 * torch.log(torch.sigmoid(torch.log(odds_ratio))))
    return torch.stack(terms).mean()


def kto(text: Text) -> Tensor:
    gaps = [(text.log(text.mismatched, i) - text.log(text.distant, i)).sum() for i in range(6)]
    zero = max(0.0, float(sum(gaps)) / 6)
    terms = []
    for i in range(6):
        gain = log_ratio(text, i) - zero
        weight, value = (1.0, torch.sigmoid(0.1 * gain)) if i % 2 == 0 else (1.5, torch.sigmoid(-0.1 * gain))
        terms.append(weight - weight * value)
    return torch.stack(terms).mean()


def sft(text: Text) -> Tensor:
    weights = [r + 0.1 for r in text.rewards]
    total = sum(weights[i] * -text.log(text.policy, i).sum() for i in range(6))
    return total / sum(weights[i] * len(text.sequences[i]) for i in range(6))


def focal(text: Text) -> Tensor:
    q = torch.cat([text.log(text.policy, i).exp() for i in range(6)])
    return (-((1 - q) ** 2) * torch.log(q)).mean()


FORMULAS: list[Callable[[Text], Tensor]] = [
    ppo, grpo, dr_grpo, dapo, cispo, gspo, rloo, dpo, ipo, simpo, orpo, kto, sft, focal,
]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names of the page after its scripts ran."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.language == "python" and ">>>" not in block.text:
            exec(compile(block.text, f"papers.md, line {block.line}", "exec"), names)
    return names


def gradients(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs, retain_graph=True))


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_a_loss_of_the_page_is_that_of_its_paper(page: dict[str, Any], formula: Callable[[Text], Tensor]) -> None:
    text, found = Text(page), page[f"{formula.__name__}_loss"]
    wanted = formula(text)
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-6, atol=0)
    pairs = zip(
        gradients(found, [page["hidden"], page["head"]]), gradients(wanted, [text.hidden, text.head]), strict=True
    )
    for gradient, expected in pairs:
        assert expected.norm() > 0
        assert (gradient - expected).norm() <= 1e-6 * expected.norm()


def test_every_loss_of_the_page_has_its_formula_here(page: dict[str, Any]) -> None:
    losses = {name for name, value in page.items() if name.endswith("_loss") and isinstance(value, Tensor)}
    assert losses == {f"{formula.__name__}_loss" for formula in FORMULAS}


def test_some_tokens_of_the_page_are_clipped_and_some_are_not(page: dict[str, Any]) -> None:
    """Else a loss that forgets to clip would agree."""
    text = Text(page)
    ratios = torch.cat([text.ratios(i) for i in range(6)])
    for bound in (ratios > 1.2, ratios < 0.8, ratios > 1.1):
        assert 0 < int(bound.sum()) < len(ratios)
    assert page["zero"] > 0


@pytest.mark.parametrize("wrong", ["unclipped", "token for sequence", "sequence for token", "without the reference"])
def test_a_wrong_loss_is_found_out(page: dict[str, Any], wrong: str) -> None:
    text, F = Text(page), page["F"]

    def loss(closing: Any, operands: tuple[Any, ...], weights: str) -> Tensor:
        return F.linear_cross_entropy(
            page["hidden"], page["head"], page["labels"], closing=closing, operands=operands, reduction="sum",
            sample_weight=page[weights],
        )  # fmt: skip

    old, reference, advantage = page["old"], page["reference"], page["standardized"]
    found, wanted = {
        "unclipped": lambda: (
            loss(lambda rows, old, a: -(rows.logprob - old).exp() * a, (old, advantage), "over_tokens"), dapo(text)
        ),
        "token for sequence": lambda: (
            loss(page["grpo"], (old, reference, advantage), "over_tokens"), grpo(text)
        ),
        "sequence for token": lambda: (loss(page["dapo"], (old, advantage), "over_sequences"), dapo(text)),
        "without the reference": lambda: (loss(page["clipped"], (old, advantage), "over_sequences"), grpo(text)),
    }[wrong]()  # fmt: skip
    assert abs(found.item() / wanted.item() - 1) > 1e-3
