"""The report of the demonstration: one HTML page without anything to load from the network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from string import Template

import numpy as np

from crossent.demo.numbers import (
    SCALES,
    Cost,
    ScaleCurves,
    Summary,
    log_likelihood,
    predicted_class,
    probabilities,
    row_costs,
    row_text,
)
from crossent.demo.pictures import likelihood, loss_curves, penalty_curve, pixels
from crossent.demo.train import Fit
from crossent.html import figure, stylesheet, table, template
from crossent.version import __version__

WORST = 12


def render(
    costs: Sequence[Cost],
    fits: Sequence[Fit],
    summaries: Sequence[Summary],
    scaled: Sequence[ScaleCurves],
    *,
    seed: int,
) -> str:
    """Return the report as a page of HTML; equal results give equal text.

    Parameters
    ----------
    costs
        Losses of the textbook example.
    fits, summaries, scaled
        One of each per data set, in the same order; the first fit with pictures provides the gallery.
    seed
        Seed of the run.
    """
    shown = list(zip(fits, summaries, strict=True))
    pictured = next(fit for fit in fits if fit.task.pictures is not None)
    page = Template(template("crossent.demo", "page.html"))
    return page.substitute(
        style=stylesheet(),
        headlines="\n".join(_headline(summary) for summary in summaries),
        textbook=_textbook(costs),
        curves="\n".join(figure(fit.task.title, loss_curves(fit, summary)) for fit, summary in shown),
        curves_text=" ".join(_curve_sentence(fit) for fit in fits),
        penalties="\n".join(figure(fit.task.title, penalty_curve(fit, summary)) for fit, summary in shown),
        penalties_text=" ".join(_penalty_sentence(fit) for fit in fits),
        likelihoods="\n".join(
            figure(fit.task.title, likelihood(fit, curves)) for fit, curves in zip(fits, scaled, strict=True)
        ),
        likelihoods_text=_likelihood_text(fits, summaries, scaled),
        worst="\n".join(_worst(pictured)),
        numbers=_numbers(summaries),
        footer=f"Made by crossent {__version__} with <code>crossent demo <span>--seed {seed}</span> "
        f"<span>--epochs {len(fits[0].test_curve) - 1}</span></code>. Both models are one linear layer in float64, "
        "trained with Adam on features scaled to standard deviation 1; a quarter of the rows, drawn by the seed and "
        "stratified by class, is the test set. The predictions are beside this page in <code>predictions.csv</code> "
        "and <code>predictions_breast_cancer.csv</code>.",
    )


def _headline(summary: Summary) -> str:
    return (
        f'<div class="card"><h3>{html.escape(summary.title)}</h3>'
        f'<div class="figure">{summary.loss:.3f} <small>nats per test row, {summary.bits:.3f} bits</small></div>'
        f"<p>Always predicting the class frequencies costs <b>{summary.guess:.3f}</b>; the model saves "
        f"<b>{summary.skill:.1%}</b> of that. Its loss is that of a model which gives the truth "
        f"<b>{summary.typical:.1%}</b> every time. The class it finds most probable is right for "
        f"<b>{summary.accuracy:.1%}</b> of {summary.rows} rows.</p></div>"
    )


def _textbook(costs: Sequence[Cost]) -> str:
    rows = [
        (row_text(c.prediction), *(f"{number:.3f}" for number in (c.measure, c.one_hot, c.index, c.bits)))
        for c in costs
    ]
    return table(("prediction", "measure", "one-hot", "class", "bits"), rows, caption="Cost of each prediction")


def _numbers(summaries: Sequence[Summary]) -> str:
    rows = [
        ("test rows", *(f"{s.rows}" for s in summaries)),
        ("loss, nats", *(f"{s.loss:.6f}" for s in summaries)),
        ("loss, bits", *(f"{s.bits:.6f}" for s in summaries)),
        ("scikit-learn’s log_loss", *(f"{s.log_loss:.6f}" for s in summaries)),
        ("guessing", *(f"{s.guess:.6f}" for s in summaries)),
        ("skill", *(f"{s.skill:.2%}" for s in summaries)),
        ("accuracy", *(f"{s.accuracy:.2%}" for s in summaries)),
    ]
    return table(("", *(s.title for s in summaries)), rows, caption="Both data sets")


def _curve_sentence(fit: Fit) -> str:
    best, last = int(np.argmin(fit.test_curve)), len(fit.test_curve) - 1
    title = html.escape(fit.task.title)
    if best == last:
        return f"<b>{title}:</b> the test loss is lowest at the end, {fit.test_curve[best]:.3f} (the dot)."
    return (
        f"<b>{title}:</b> the test loss is lowest after epoch {best}, {fit.test_curve[best]:.3f} (the dot), and ends "
        f"at {fit.test_curve[last]:.3f}."
    )


def _penalty_sentence(fit: Fit) -> str:
    cost = row_costs(fit.test_logits, fit.task.test.y)
    most = max(1, len(cost) // 20)
    share = np.sort(cost)[-most:].sum() / cost.sum()
    title = html.escape(fit.task.title)
    return f"<b>{title}:</b> the {most} most expensive rows of {len(cost)} make {share:.0%} of the loss."


def _likelihood_text(fits: Sequence[Fit], summaries: Sequence[Summary], scaled: Sequence[ScaleCurves]) -> str:
    fit, summary, curves = fits[0], summaries[0], scaled[0]
    total = log_likelihood(fit.test_logits, fit.task.test.y)
    best = curves.smallest_loss
    if best in (SCALES[0], SCALES[-1]):
        lesson = "The best factor lies outside the range drawn."
    elif best < 1:
        lesson = "A best factor below 1 means that the model is over-confident."
    else:
        lesson = "A best factor of 1 or more means that the model is not over-confident."
    return (
        f"For the {summary.rows} test rows of the digits the product is 10<sup>−{-total / math.log(10):.1f}</sup>, "
        f"its logarithm −{-total:.4f}, and {-total:.4f} / {summary.rows} = {-total / summary.rows:.6f} is the "
        f"loss, {summary.loss:.6f}. The pictures multiply all fitted weights by a factor s, which makes the model more "
        "confident (s&nbsp;&gt;&nbsp;1) or less confident (s&nbsp;&lt;&nbsp;1) without changing the predicted class. "
        "The "
        f"likelihood is largest at s&nbsp;=&nbsp;{curves.largest_likelihood:.2f}, and the loss is smallest at "
        f"s&nbsp;=&nbsp;{best:.2f}. {lesson}"
    )


def _worst(fit: Fit) -> list[str]:
    y, said = fit.task.test.y, predicted_class(fit.test_logits)
    cost, p = row_costs(fit.test_logits, y), probabilities(fit.test_logits)
    cards: list[str] = []
    for k in np.argsort(-cost, kind="stable")[:WORST]:
        description = f"a handwritten {y[k]}, taken for {said[k]}"
        verdict = "wrong" if said[k] != y[k] else "right"
        cards.append(
            f'<div class="card">{pixels(fit.task.pictures[k], f"digit-{fit.task.test.id[k]}", description)}'
            f'<p><b>{y[k]}</b>, taken for <b class="{verdict}">{said[k]}</b><br>'
            f"{said[k]} got {p[k, said[k]]:.2%}<br>{y[k]} got {p[k, y[k]]:.2%}<br><b>{cost[k]:.2f} nats</b></p></div>"
        )
    return cards
