"""Rates of trials, by hand, and the table of them."""

from collections import Counter

import pytest

from dreamrl.trials import Tally, Trial, chance, print_trials, summarise


def trial(before, after, right, untrained="", agreed=True, kept=True, none=False):
    return Trial(
        before=before, after=after, right=frozenset(right), untrained=untrained, agreed=agreed, kept=kept, none=none
    )


TALLY = Tally(
    trials=[
        trial("a", "b", {"b", "B"}, untrained="B"),
        trial("a", "a", {"b"}, kept=False),
        trial("a", "c", {"b"}, agreed=False),
        trial("a", "b", {"c"}, none=True),
    ],
    left_out=Counter(no_dream=3, same_answer=1),
)


def test_rates_by_hand():
    found = summarise(TALLY, 200)
    assert found["cases"] == 4 and found["left_out"] == {"no_dream": 3, "same_answer": 1}
    names = ("predicted", "changed", "kept", "before", "untrained")
    assert [found[name] for name in names] == [0.25, 0.75, 0.75, 0.75, 0.25]
    assert found["none"] == 0.25 and found["other"] == pytest.approx(1 / 3)
    assert found["predicted_ci"][0] == 0 and 0.5 <= found["predicted_ci"][1] <= 1
    # answers of the other three that are right: 1 of b, a, c, b's others; then 2; 2; 1
    assert chance(TALLY.trials) == pytest.approx((1 + 2 + 2 + 1) / 3 / 4)


def test_no_case_is_no_rate(capsys):
    found = summarise(Tally(left_out=Counter(no_dream=2)), 10)
    assert found["cases"] == 0 and found["predicted"] is found["predicted_ci"] is found["other"] is None
    print_trials({"interventions": {"action": found, "step": summarise(TALLY, 10)}, "saved": ["a.png"]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["edit", "cases", "predicted"]
    assert lines[1].split()[:3] == ["action", "0", "-"] and lines[2].split()[:3] == ["step", "4", "0.250"]
    assert any(line.startswith("action") and "no dream was read" in line for line in lines)
    assert lines[-1] == "1 filmstrips, such as a.png"
