"""Feedback of people: a JSON Lines file of ratings, or of preferences between two answers.

A rating is ``{"prompt": "...", "reward": 0.5}``, from -1 (bad) to 1 (good), of the ``"answer"`` beside it, or of
whatever the model answers if there is none. A preference is ``{"prompt": "...", "chosen": "...", "rejected": "..."}``.
Either may say what it is about in ``"scene"``, as options of the world: ``{"desc": ["SFF", "FHF", "FFG"]}``.

Here everything is read and checked, without torch; how it is learned from is in :mod:`dreamrl.feedback.training`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamrl.checkpoint import TOKENIZER, check_model_files, present
from dreamrl.dreaming_config import DreamingConfig
from dreamrl.errors import UserError, nearest
from dreamrl.nn.text import TextTokenizer
from dreamrl.settings import from_dict
from envs.registry import make_world
from envs.world import World, WorldError

if TYPE_CHECKING:
    from dreamrl.saving import Loaded

SCENE_KEYS = ("scene", "options")
"""Two names of one thing: what ``generate`` and what the command line call it."""
RATED_KEYS = ("prompt", "reward", "answer", *SCENE_KEYS)
PREFERENCE_KEYS = ("prompt", "chosen", "rejected", *SCENE_KEYS)
KINDS = "a rating has prompt and reward, a preference has prompt, chosen and rejected"
MAX_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True)
class Rated:
    """What somebody thinks of an answer.

    Example:
        >>> Rated(line=1, prompt="Give the shortest way to the gift.", answer="right", reward=-1.0, scene=None).reward
        -1.0
    """

    line: int
    """Where it stands in its file or among the examples, from 1."""
    prompt: str
    reward: float
    """-1 (bad) to 1 (good)."""
    answer: str | None
    """What is rated; None for whatever the model answers."""
    scene: dict[str, Any] | None
    """Options of the world's scene; None if the prompt is about no scene in particular."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Which of two answers somebody prefers.

    Example:
        >>> Preference(line=1, prompt="Which way?", chosen="right, down", rejected="left", scene=None).chosen
        'right, down'
    """

    line: int
    """Where it stands in its file or among the examples, from 1."""
    prompt: str
    chosen: str
    rejected: str
    scene: dict[str, Any] | None
    """Options of the world's scene; None if the prompt is about no scene in particular."""


class _Problem(ValueError):
    """What is wrong with one line or example; where it stands is put before it."""


def learn_from_feedback(
    loaded: Loaded, examples: Sequence[dict[str, Any]], num_epochs: int = 3, *, seed: int = 0, **options: Any
) -> dict[str, float]:
    """Change how ``loaded.model`` words its answers towards what people like, in place.

    Args:
        loaded: a trained model.
        examples: ratings or preferences, all of one kind, as in the lines of a feedback file.
        num_epochs: passes over the questions of :class:`dreamrl.feedback.training.FeedbackSettings`.
        seed: of everything random.
        options: ``settings`` and ``progress`` of :func:`dreamrl.feedback.training.learn`.

    Returns:
        metrics by name, see :func:`dreamrl.feedback.training.learn`.

    Raises:
        UserError: Naming the example (counted from 1), the key and what to change.
    """
    if not isinstance(num_epochs, int) or not 1 <= num_epochs <= MAX_EPOCHS:
        raise UserError(f"num_epochs ({num_epochs}) must be a whole number between 1 and {MAX_EPOCHS}")
    records = check_examples(examples, loaded.world)
    check_lengths(None, records, loaded.text, loaded.run.model)

    from dreamrl.feedback.training import learn

    return learn(loaded, records, num_epochs, seed, **options)


def read_feedback(path: Path, world_name: str) -> list[Rated] | list[Preference]:
    """The feedback in ``path``, all of one kind; empty lines are skipped.

    Raises:
        UserError: Naming the file, the line (counted from 1), the key and what to change.
        WorldError: For a world that does not exist.
    """
    world = make_world(world_name)
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read feedback {path}: {error.strerror}") from error
    records = _records(path, ((number, line) for number, line in enumerate(lines, 1) if line.strip()), world)
    if not records:
        raise UserError(
            f'{path} holds no feedback; put {{"prompt", "reward"}} or {{"prompt", "chosen", "rejected"}} on each line'
        )
    return records


def read_feedback_for(model_dir: Path, path: Path) -> list[Rated] | list[Preference]:
    """The feedback in ``path`` about the world of the model in ``model_dir``, all of which that model can read."""
    config = check_model_files(model_dir)
    if not isinstance(config.get("run"), dict):
        raise UserError(f'{model_dir}/config.json has no "run": it was not written by dreamrl, or edited')
    run = from_dict(config["run"], f"{model_dir}/config.json")
    records = read_feedback(path, run.world.name)
    check_lengths(path, records, TextTokenizer.load(present(model_dir) / TOKENIZER), run.model)
    return records


def check_examples(examples: Sequence[dict[str, Any]], world: World) -> list[Rated] | list[Preference]:
    """The same for feedback that is already at hand, as the objects that the lines of a file hold."""
    if isinstance(examples, dict | str) or not isinstance(examples, Iterable):
        raise UserError(f"examples ({_show(examples)}) must be a list of objects; {KINDS}")
    records = _records(None, enumerate(examples, 1), world)
    if not records:
        raise UserError(f"there are no examples to learn from; {KINDS}")
    return records


def _records(
    path: Path | None, items: Iterable[tuple[int, bytes | dict[str, Any]]], world: World
) -> list[Rated] | list[Preference]:
    """Numbered lines of the file ``path``, or numbered examples, as records of one kind."""
    rated: list[Rated] = []
    preferences: list[Preference] = []
    unit, whole = ("example", "calls") if path is None else ("line", "files")
    for number, item in items:
        try:
            given = _parse(item) if isinstance(item, bytes) else _object(item)
            if _is_preference(given):
                preferences.append(_preference(number, given, world))
            else:
                rated.append(_rated(number, given, world))
            if rated and preferences:
                other = f"{unit} {rated[0].line} is a rating, {unit} {preferences[0].line} a preference"
                raise _Problem(f"kinds are mixed ({other}); put them in two {whole}")
        except (_Problem, WorldError) as error:
            raise UserError(f"{_place(path, number)}: {error}") from error
    return rated or preferences


def _place(path: Path | None, number: int) -> str:
    return f"example {number}" if path is None else f"{path} line {number}"


def check_lengths(
    path: Path | None, records: Sequence[Rated | Preference], text: TextTokenizer, config: DreamingConfig
) -> None:
    """A UserError that names the line and the key of the first text that the model has no room for.

    ``path`` is the file that the records are from; None for examples.
    """
    for record in records:
        answers = ("answer",) if isinstance(record, Rated) else ("chosen", "rejected")
        for key in ("prompt", *answers):
            words = getattr(record, key)
            length = config.max_prompt_tokens if key == "prompt" else config.max_answer_tokens
            try:
                text.encode(words or "", length, end=key != "prompt")
            except ValueError as error:
                raise UserError(f'{_place(path, record.line)}: "{key}": {error}; shorten it') from error


def _parse(line: bytes) -> dict[str, Any]:
    try:
        item = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise _Problem("not UTF-8 text; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise _Problem(f"not valid JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise _Problem("not valid JSON (nested too deeply)") from error
    except _Problem:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise _Problem(f"not valid JSON ({error})") from error
    return _object(item)


def _object(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise _Problem(f'must be an object like {{"prompt": "...", "reward": 0.5}}, not {_show(item)}')
    return item


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys is given twice: JSON would keep the last one in silence."""
    item: dict[str, Any] = {}
    for key, value in pairs:
        if key in item:
            raise _Problem(f"key {_show(key)} is given twice; drop one of them")
        item[key] = value
    return item


def _is_preference(item: dict[str, Any]) -> bool:
    """What kind of feedback ``item`` means to be; its keys are checked against that kind."""
    compares, rates = {"chosen", "rejected"} & item.keys(), {"reward", "answer"} & item.keys()
    if compares and rates:
        both = f"{_show(min(compares))} and {_show(min(rates))}"
        raise _Problem(f"has {both}; {KINDS}")
    return bool(compares)


def _rated(line: int, item: dict[str, Any], world: World) -> Rated:
    _check_keys(item, RATED_KEYS, ("prompt", "reward"))
    reward = item["reward"]
    number = isinstance(reward, int | float | np.integer | np.floating) and not isinstance(reward, bool)
    if not number or not -1 <= reward <= 1:
        raise _Problem(f'"reward" ({_show(reward)}) must be a number from -1 (bad) to 1 (good)')
    answer = _words(item, "answer") if "answer" in item else None
    scene = _scene(item, world)
    return Rated(line=line, prompt=_words(item, "prompt"), reward=float(reward), answer=answer, scene=scene)


def _preference(line: int, item: dict[str, Any], world: World) -> Preference:
    _check_keys(item, PREFERENCE_KEYS, ("prompt", "chosen", "rejected"))
    chosen, rejected = _words(item, "chosen"), _words(item, "rejected")
    if chosen.split() == rejected.split():
        raise _Problem(f'"chosen" and "rejected" are the same ({_show(chosen)}); nothing can be learned: drop the line')
    scene = _scene(item, world)
    return Preference(line=line, prompt=_words(item, "prompt"), chosen=chosen, rejected=rejected, scene=scene)


def _check_keys(item: dict[str, Any], known: Sequence[str], required: Sequence[str]) -> None:
    for key in item:
        if key not in known:
            raise _Problem(f"unknown key {_show(key)}; {nearest(str(key), known)}")
    for key in required:
        if key not in item:
            raise _Problem(f'"{key}" is missing; {KINDS}')


def _words(item: dict[str, Any], key: str) -> str:
    value = item[key]
    if not isinstance(value, str) or not value.strip():
        raise _Problem(f'"{key}" ({_show(value)}) must be text that is not empty')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Problem(f'"{key}" ({_show(value)}) is not valid Unicode; write the character itself') from error
    return value


def _scene(item: dict[str, Any], world: World) -> dict[str, Any] | None:
    given = [key for key in SCENE_KEYS if key in item]
    if not given:
        return None
    if len(given) > 1:
        raise _Problem('"scene" and "options" mean the same; drop one of them')
    options = item[given[0]]
    if not isinstance(options, dict):
        raise _Problem(f'"{given[0]}" ({_show(options)}) must be an object of world options')
    try:
        world.scene(options)
    except WorldError as error:
        raise _Problem(f'"{given[0]}": {error}') from error
    return options


def _show(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
