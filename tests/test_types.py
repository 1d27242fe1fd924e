"""Tests of dreamrl/types.py."""

import doctest

import numpy as np
import pytest

from dreamrl import types
from envs.world import Outcome

ICE = np.zeros((32, 32, 3), np.uint8)


def triplet(action: str, belief: str) -> types.Triplet:
    return types.Triplet(
        what=ICE, action=action, result=ICE, belief=belief, true_result=None, faithful=None, experts=(1.0,)
    )


def test_examples_in_docstrings_are_true():
    result = doctest.testmod(types)
    assert result.attempted >= 6 and result.failed == 0


def test_beliefs_are_the_worlds_outcomes():
    assert types.BELIEFS == tuple(outcome.name.lower() for outcome in Outcome)


def test_dream_lists_its_actions_and_last_belief():
    dream = types.Dream(triplets=(triplet("left", "continue"), triplet("up", "failure")), value=0.0, focus=False)
    assert dream.actions == ("left", "up")
    assert dream.belief == "failure"


def test_records_cannot_be_changed_and_compare_without_comparing_pictures():
    first, second = triplet("left", "stop"), triplet("left", "stop")
    assert first == first and first != second
    with pytest.raises(AttributeError):
        first.action = "up"  # type: ignore[misc]


def test_unknown_belief_and_empty_dream_are_rejected():
    with pytest.raises(ValueError, match="'won'.*continue, success, failure, stop"):
        triplet("left", "won")
    with pytest.raises(ValueError, match="at least one step"):
        types.Dream(triplets=(), value=0.0, focus=False)
