"""Every token is scored once, with the context that was promised, by windows no longer than the model reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossent.errors import InputError
from crossent.scoring.lm.model.windows import WindowPlan


@given(st.integers(0, 200), st.integers(0, 3), st.integers(1, 40), st.data())
def test_every_token_is_scored_once(tokens, prefix, room, data):
    stride = data.draw(st.integers(1, room))
    plan = WindowPlan.of(prefix + room, stride, prefix=prefix, positions=None)
    scored: list[int] = []
    for number, window in enumerate(plan.windows(tokens)):
        assert prefix + window.end - 1 - window.begin <= plan.window
        scored += range(window.first, window.end)
        for place in range(window.first, window.end):
            assert place > window.begin or (prefix and place == 0)
            if number:
                assert place - window.begin >= plan.context
                assert window.end - window.first <= stride
    assert scored == list(range(0 if prefix else 1, tokens))


def test_defaults_are_half_a_window_and_no_more_than_the_model_reads():
    assert WindowPlan.of(None, None, prefix=0, positions=None) == WindowPlan(1024, 512, 0)
    assert WindowPlan.of(None, None, prefix=1, positions=64) == WindowPlan(64, 32, 1)
    assert WindowPlan.of(2, None, prefix=1, positions=64) == WindowPlan(2, 1, 1)
    assert WindowPlan.of(1, None, prefix=0, positions=None) == WindowPlan(1, 1, 0)


@pytest.mark.parametrize(
    ("window", "stride", "prefix", "positions", "said"),
    [
        (65, None, 0, 64, "window must be at most 64, the number of positions of the model, not 65"),
        (0, None, 0, 64, "window must be 1 or more, not 0"),
        (1, None, 1, 64, "window must be 2 or more, not 1"),
        (8, 9, 0, 64, "stride must lie between 1 and the window, 8, not 9"),
        (8, 8, 1, 64, "stride must lie between 1 and the window less the 1 that begin each window, 7, not 8"),
        (8, 0, 0, 64, "stride must lie between 1 and the window, 8, not 0"),
    ],
)
def test_what_does_not_fit_is_refused(window, stride, prefix, positions, said):
    with pytest.raises(InputError) as error:
        _ = WindowPlan.of(window, stride, prefix=prefix, positions=positions)
    assert str(error.value) == said
