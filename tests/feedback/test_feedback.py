"""Feedback files: good lines come back as they were meant, every mistake names its line and its key."""

import dataclasses
import json

import numpy as np
import pytest

from dreamrl.errors import UserError
from dreamrl.feedback.examples import (
    Preference,
    Rated,
    check_examples,
    check_lengths,
    learn_from_feedback,
    read_feedback,
)
from envs.world import WorldError

BOARD = {"desc": ["SFF", "FHF", "FFG"]}
RATED = {"prompt": "Give the shortest way to the gift.", "reward": 0.5}
PREFERS = {"prompt": "Which way?", "chosen": "right, down", "rejected": "left"}


def write(tmp_path, *items):
    file = tmp_path / "feedback.jsonl"
    lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    file.write_bytes(b"\n".join(lines))
    return file


def test_ratings_come_back_in_order_with_their_lines(tmp_path):
    full = {**RATED, "answer": "right", "scene": BOARD, "reward": -1}
    file = write(tmp_path, b"\xef\xbb\xbf" + json.dumps(RATED).encode() + b"\r", b"", full)
    first, second = read_feedback(file, "frozen_lake")
    assert first == Rated(line=1, prompt=RATED["prompt"], reward=0.5, answer=None, scene=None)
    assert second == Rated(line=3, prompt=RATED["prompt"], reward=-1.0, answer="right", scene=BOARD)
    assert isinstance(second.reward, float)


def test_preferences_come_back(tmp_path):
    file = write(tmp_path, PREFERS, {**PREFERS, "options": BOARD})
    plain = Preference(line=1, prompt="Which way?", chosen="right, down", rejected="left", scene=None)
    assert read_feedback(file, "frozen_lake") == [plain, dataclasses.replace(plain, line=2, scene=BOARD)]


BAD_RATINGS = [
    ({**RATED, "reward": 1.5}, '"reward" (1.5) must be a number from -1 (bad) to 1 (good)'),
    ({**RATED, "reward": -2}, '"reward" (-2) must be a number from -1'),
    ({**RATED, "reward": True}, '"reward" (true) must be a number from -1'),
    ({**RATED, "reward": "0.5"}, '"reward" ("0.5") must be a number from -1'),
    ({**RATED, "reward": None}, '"reward" (null) must be a number from -1'),
    (b'{"prompt": "a", "reward": NaN}', '"reward" (NaN) must be a number from -1'),
    (b'{"prompt": "a", "reward": 1e999}', '"reward" (Infinity) must be a number from -1'),
    (b'{"prompt": "a", "reward": ' + b"1" * 5000 + b"}", "not valid JSON (Exceeds the limit"),
    ({**RATED, "prompt": " "}, '"prompt" (" ") must be text that is not empty'),
    ({**RATED, "prompt": 3}, '"prompt" (3) must be text'),
    ({**RATED, "prompt": "\ud800"}, '"prompt" ("\\ud800") is not valid Unicode'),
    ({**RATED, "answer": None}, '"answer" (null) must be text'),
    ({"prompt": "a"}, '"reward" is missing; a rating has prompt and reward, a preference has prompt, chosen'),
    ({"reward": 1}, '"prompt" is missing; a rating has'),
    ({**RATED, "rewards": 1}, 'unknown key "rewards"; did you mean "reward"?'),
    ({**RATED, "chosen": "a"}, 'has "chosen" and "reward"; a rating has'),
    ({**RATED, "scene": BOARD, "options": BOARD}, '"scene" and "options" mean the same; drop one of them'),
    ({**RATED, "scene": ["SG"]}, '"scene" (["SG"]) must be an object of world options'),
    ({**RATED, "scene": {}}, '"scene": "desc" is missing'),
    ({**RATED, "options": {"desc": ["SFF", "FHF", "FFF"]}}, '"options": board has 0 G (goal)'),
    (b'{"prompt": "a", "reward": 1, "reward": 0}', 'key "reward" is given twice; drop one of them'),
    (b'{"prompt": "a", "reward": 1', "not valid JSON (Expecting ',' delimiter, column 28)"),
    (b'{"prompt": "\xe9", "reward": 1}', "not UTF-8 text; save the file as UTF-8"),
    (b'["a", 1]', 'must be an object like {"prompt": "...", "reward": 0.5}, not ["a", 1]'),
    (b"[" * 100_000, "not valid JSON ("),
    (PREFERS, "kinds are mixed (line 1 is a rating, line 3 a preference); put them in two files"),
]
BAD_PREFERENCES = [
    ({**PREFERS, "rejected": "right,  down"}, '"chosen" and "rejected" are the same ("right, down")'),
    ({**PREFERS, "chosen": ""}, '"chosen" ("") must be text that is not empty'),
    ({"prompt": "a", "chosen": "b"}, '"rejected" is missing; a rating has'),
    ({**PREFERS, "weight": 1}, 'unknown key "weight"; '),
    ({**PREFERS, "answer": "b"}, 'has "chosen" and "answer"; a rating has'),
    ({**PREFERS, "scene": {"desc": ["SG"]}}, '"scene": board is 1x2'),
    (RATED, "kinds are mixed (line 3 is a rating, line 1 a preference); put them in two files"),
]


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [(RATED, *case) for case in BAD_RATINGS] + [(PREFERS, *case) for case in BAD_PREFERENCES],
)
def test_a_bad_line_is_named(tmp_path, good, bad, message):
    file = write(tmp_path, good, b" ", bad, good)
    with pytest.raises(UserError) as caught:
        read_feedback(file, "frozen_lake")
    assert str(caught.value).startswith(f"{file} line 3: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path, content):
    with pytest.raises(UserError, match=r'feedback.jsonl holds no feedback; put {"prompt", "reward"} or {"prompt"'):
        read_feedback(write(tmp_path, content), "frozen_lake")


def test_an_unreadable_file_and_an_unknown_world(tmp_path):
    with pytest.raises(UserError, match=r"cannot read feedback .*none.jsonl: No such file or directory"):
        read_feedback(tmp_path / "none.jsonl", "frozen_lake")
    with pytest.raises(UserError, match=r"cannot read feedback .*: Is a directory"):
        read_feedback(tmp_path, "frozen_lake")
    with pytest.raises(WorldError, match="unknown world"):
        read_feedback(write(tmp_path, RATED), "frozen_lakes")


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ({**RATED, "prompt": "z" * 25}, "prompt"),
        ({**RATED, "answer": "z" * 12}, "answer"),  # the end mark takes a token of the 12
        ({**PREFERS, "chosen": "z" * 12}, "chosen"),
        ({**PREFERS, "rejected": "z" * 12}, "rejected"),
    ],
)
def test_texts_that_the_model_has_no_room_for_are_named(tmp_path, loaded, item, key):
    fits = {**item, key: item[key][1:]}
    file = write(tmp_path, fits)
    check_lengths(file, read_feedback(file, "frozen_lake"), loaded.text, loaded.run.model)
    file = write(tmp_path, fits, b"", item)
    with pytest.raises(UserError, match=rf'feedback.jsonl line 3: "{key}": text of \d+ tokens .*; shorten it'):
        check_lengths(file, read_feedback(file, "frozen_lake"), loaded.text, loaded.run.model)


def test_examples_are_what_the_lines_of_a_file_hold(tmp_path, loaded):
    for items in ([RATED, {**RATED, "answer": "up", "scene": BOARD}], [PREFERS, {**PREFERS, "options": BOARD}]):
        found = read_feedback(write(tmp_path, *items), "frozen_lake")
        assert check_examples(items, loaded.world) == found and [record.line for record in found] == [1, 2]
    assert check_examples([{**RATED, "reward": np.float32(0.5)}], loaded.world)[0].reward == 0.5


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "there are no examples to learn from; a rating has prompt and reward"),
        (PREFERS, 'examples ({"prompt": "Which way?"'),
        (None, "examples (null) must be a list of objects"),
        ([PREFERS, "right"], 'example 2: must be an object like {"prompt": "...", "reward": 0.5}, not "right"'),
        ([PREFERS, {**PREFERS, "chosen": ""}], 'example 2: "chosen" ("") must be text that is not empty'),
        ([PREFERS, RATED], "example 2: kinds are mixed (example 2 is a rating, example 1 a preference); put them in"),
        ([RATED, {**RATED, "reward": 2}], 'example 2: "reward" (2) must be a number from -1 (bad) to 1 (good)'),
        ([{**RATED, "reward": np.float32(2)}], 'example 1: "reward" ("'),
        ([{**RATED, "reward": 10**400}], 'example 1: "reward" (1000'),
        ([{**RATED, "options": {"desc": ["SG"]}}], 'example 1: "options": board is 1x2'),
        ([{**RATED, 3: 1}], "example 1: unknown key 3; known: "),
        ([RATED, {**RATED, "answer": "z" * 12}], 'example 2: "answer": text of 13 tokens is longer than 12'),
        ([{**PREFERS, "prompt": "z" * 25}], 'example 1: "prompt": text of 25 tokens is longer than 24'),
    ],
)
def test_bad_examples_are_named(loaded, examples, message):
    with pytest.raises(UserError) as caught:
        learn_from_feedback(loaded, examples)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epochs", [0, 1001, 1.5, "3"])
def test_bad_numbers_of_epochs(loaded, epochs):
    with pytest.raises(UserError, match=r"num_epochs \(.*\) must be a whole number between 1 and 1000"):
        learn_from_feedback(loaded, [PREFERS], epochs)
