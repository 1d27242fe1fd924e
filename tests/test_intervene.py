"""The causal test itself, on readers of which it is known what they read, and on trained and untrained ones."""

import math

import numpy as np
import pytest
from PIL import Image

from dreamrl.edits import INTERVENTIONS
from dreamrl.imagine import Imagined
from dreamrl.intervene import (
    Pair,
    Read,
    intervene,
    make_cases,
    questions_on,
    rewrite,
    save_pair,
    told_dreams,
)
from dreamrl.nn.codec import FrameCodes
from dreamrl.trials import Tally, summarise
from envs.questions import stream
from envs.reasoning_batch import Phase, ReasoningBatch
from envs.world import Outcome, QuestionKind, Split, roll
from envs.worlds.frozen_lake import NO_PLAN, tileset

NAMES = ("left", "down", "right", "up")
LENGTH = 4
"""Of the longest dream of the small model."""


class TileJudge:
    """One code a tile; no opinion on actions."""

    def __init__(self, codec):
        self.codes = FrameCodes(codec)

    def action_probs(self, what, result, grid):
        return np.full((len(what), 5), 0.2)


def play(loaded, codec, boards, dreams):
    """Random play as dreams, all of them true: a PLAN and a PREDICT question on each of ``boards`` boards."""
    scenes = [loaded.world.sample_scene(stream(1, i), Split.TEST, 3) for i in range(boards)]
    plans = [loaded.world.ask(scene, QuestionKind.PLAN, stream(1)) for scene in scenes]
    questions = questions_on(loaded.world, plans, LENGTH, seed=0)
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, TileJudge(codec), dreams)
    batch.make_room(questions)
    batch.reset(questions)
    moves = stream(2).integers(4, size=(len(questions), dreams, LENGTH))
    for q, question in enumerate(questions):
        moves[q, 0, : len(question.script)] = question.script
    for t in range(LENGTH):
        result = np.full((len(questions), dreams, batch.num_patches), loaded.run.model.num_codes)
        belief = np.zeros((len(questions), dreams), int)
        for q, n in np.argwhere(batch.active == 1):
            scene = questions[q].scene
            state, outcome = scene.step(batch.states[q][n][-1], moves[q, n, t])
            result[q, n, :9] = batch.judge.codes(scene, state)
            belief[q, n] = questions[q].belief(outcome, t + 1)
        ended = batch.phase == Phase.ANSWER
        batch.phase[ended] = Phase.OVER
        batch.step({"action": moves[:, :, t], "result": result, "belief": belief})
        batch.phase[ended] = Phase.ANSWER
    experts = np.zeros((len(questions), dreams, batch.length, 4), np.float32)
    return Imagined(batch=batch, prompt=None, experts=experts, values=np.zeros((len(questions), dreams)))


@pytest.fixture(scope="module")
def played(loaded, tile_codec):
    return play(loaded, tile_codec, boards=40, dreams=8)


# --- readers of which it is known what they read


def best_of(stories):
    """The answer to a PLAN question: ``stories`` are (actions, reaches the gift, always moves) of each dream."""
    good = [(len(actions), n) for n, (actions, success, legal) in enumerate(stories) if success and legal]
    if not good:
        return NO_PLAN, len(stories)
    _, focus = min(good)
    actions = stories[focus][0]
    return (" then " if actions[0] % 2 else ", ").join(NAMES[a] for a in actions), focus


def sentence(belief, moves):
    ends = {Outcome.SUCCESS: "reaches the gift after", Outcome.FAILURE: "falls into a hole after"}
    return f"the elf {ends[belief]} {moves} moves" if belief in ends else "the elf is still on the ice"


def dreams_in(batch, q):
    """(actions, frames, beliefs) of every dream of a question."""
    for n, length in enumerate(batch.lengths[q]):
        yield (
            tuple(batch.actions[q, n, :length]),
            batch.frames[q, n, : length + 1, :9],
            batch.beliefs[q, n, :length],
        )


def moved(frames):
    return all((a != b).any() for a, b in zip(frames, frames[1:], strict=False))


def everything(batch, q):
    """Reads actions, pictures and beliefs."""
    question, dreams = batch.questions[q], list(dreams_in(batch, q))
    if question.kind is QuestionKind.PLAN:
        return best_of([(actions, b[-1] == Outcome.SUCCESS, moved(frames)) for actions, frames, b in dreams])
    for n, (actions, _, b) in enumerate(dreams):
        ended = b[-1] in (Outcome.SUCCESS, Outcome.FAILURE)
        if actions == question.script[: len(actions)] and (ended or len(actions) == len(question.script)):
            return sentence(b[-1], len(actions)), n
    return "the elf is still on the ice", len(dreams)


def first_picture(batch, q):
    """Ignores the dreams: knows the board."""
    question, focus = batch.questions[q], everything(batch, q)[1]
    if question.kind is QuestionKind.PREDICT:
        truth = roll(question.scene, question.script)
        return sentence(truth.outcome, len(truth.actions)), focus
    scene, state, plan = question.scene, question.scene.start, []
    while scene.distance(state):
        plan.append(
            min(range(4), key=lambda a: math.inf if (d := scene.distance(scene.step(state, a)[0])) is None else d)
        )
        state = scene.step(state, plan[-1])[0]
    return ", ".join(NAMES[a] for a in plan), focus


def actions_only(batch, q):
    """Looks at no picture and no belief: follows the claimed actions on the board."""
    question = batch.questions[q]
    if question.kind is QuestionKind.PREDICT:
        return first_picture(batch, q)
    rollouts = [roll(question.scene, actions) for actions, _, _ in dreams_in(batch, q)]
    return best_of([(r.actions, r.outcome is Outcome.SUCCESS, r.moves_always) for r in rollouts])


def pictures_only(batch, q):
    """Looks at no action: infers each from where the elf is."""
    if batch.questions[q].kind is QuestionKind.PREDICT:
        return everything(batch, q)
    steps = {-1: 0, 3: 1, 1: 2, -3: 3, 0: 0}
    elves = {batch.judge.codes.codec.codes[tile.tobytes()] for tile in tileset(16)[1]}
    stories = []
    for _, frames, b in dreams_in(batch, q):
        places = [int(np.isin(frame, list(elves)).argmax()) for frame in frames]
        inferred = [steps.get(b - a, 0) for a, b in zip(places, places[1:], strict=False)]
        stories.append((inferred, b[-1] == Outcome.SUCCESS, moved(frames)))
    return best_of(stories)


def first_dream_first(batch, q):
    """Knows the order of the dreams: reads the first that succeeds at all."""
    if batch.questions[q].kind is QuestionKind.PREDICT:
        return everything(batch, q)
    for n, (actions, _, b) in enumerate(dreams_in(batch, q)):
        if b[-1] == Outcome.SUCCESS:
            return ", ".join(NAMES[a] for a in actions), n
    return NO_PLAN, batch.dreams


def reader(one):
    def read(imagined):
        answers = [one(imagined.batch, q) for q in range(len(imagined.batch.questions))]
        return Read([text for text, _ in answers], np.array([focus for _, focus in answers]))

    return read


def run(imagined, world, one, show=lambda pair: None):
    tallies = {name: Tally() for name in INTERVENTIONS}
    intervene(imagined, world, reader(one), reader(first_picture), 0, 0, tallies, show)
    return tallies


@pytest.fixture(scope="module")
def full(loaded, played):
    """Tallies and edited questions of the reader of everything."""
    pairs = []
    return run(played, loaded.world, everything, pairs.append), pairs


def rates(tallies, key="predicted"):
    return {name: summarise(tally, 50)[key] for name, tally in tallies.items()}


def test_a_reader_of_everything_does_what_every_edit_predicts(full):
    tallies, _ = full
    assert all(len(tallies[name].trials) >= 12 for name in INTERVENTIONS), {
        n: len(t.trials) for n, t in tallies.items()
    }
    assert set(rates(tallies).values()) == {1.0}
    assert set(rates(tallies, "before").values()) == {1.0}
    controls = {name for name, i in INTERVENTIONS.items() if i.control}
    assert rates(tallies, "changed") == {name: 0.0 if name in controls else 1.0 for name in INTERVENTIONS}
    assert rates(tallies, "kept")["result"] == 0 and rates(tallies, "kept")["action"] == 1
    for name, tally in tallies.items():
        kinds = 80 if name in controls else 40
        assert len(tally.trials) + sum(tally.left_out.values()) == kinds


@pytest.mark.parametrize(
    ("one", "high", "low"),
    [
        (first_picture, {"order", "copy"}, {"action", "step", "result", "swap", "outcome"}),
        (actions_only, {"step", "order", "copy"}, {"action", "result", "outcome"}),
        (pictures_only, {"step", "result", "swap", "outcome", "order", "copy"}, {"action"}),
        (first_dream_first, {"action", "outcome", "copy"}, {"order"}),
    ],
)
def test_what_a_reader_does_not_read_is_found_out(loaded, played, one, high, low):
    found = rates(run(played, loaded.world, one))
    assert all(found[name] == 1 for name in high), found
    assert all(found[name] < (1 if name == "order" else 0.25) for name in low), found


def test_chance_and_another_reader_are_below_a_reader(full):
    """The "untrained" reader of these trials looks at no dream."""
    for name in ("action", "step", "result", "swap", "outcome"):
        found = summarise(full[0][name], 50)
        assert found["chance"] < 0.7 and found["untrained"] < 0.25, (name, found)


def test_edits_depend_on_seed_and_question_only(loaded, tile_codec):
    imagined = play(loaded, tile_codec, boards=12, dreams=4)

    def edited(seed):
        pairs = []
        tallies = {name: Tally() for name in INTERVENTIONS}
        intervene(imagined, loaded.world, reader(everything), reader(everything), seed, 0, tallies, pairs.append)
        return [(p.name, p.index, p.after[0].batch.actions[p.index].tolist()) for p in pairs]

    assert edited(0) == edited(0) != edited(1)


def test_only_the_dreams_of_edited_questions_change(played, full):
    batch = played.batch
    before = {name: getattr(batch, name).copy() for name in ("frames", "actions", "beliefs", "lengths")}
    same = rewrite(played, {q: told_dreams(batch, q) for q in range(len(batch.questions))}).batch
    for name, array in before.items():
        assert (getattr(same, name) == array).all() and getattr(same, name).dtype == array.dtype
    assert [[s.exact for s in row] for row in same.scores] == [[s.exact for s in row] for row in batch.scores]
    pairs = full[1]
    for pair in pairs:
        after = pair.after[0].batch
        assert (after.frames[pair.index] != before["frames"][pair.index]).any() or (
            after.actions[pair.index] != before["actions"][pair.index]
        ).any()
        if pair.name != "swap":
            assert (after.frames[:, :, 0] == before["frames"][:, :, 0]).all()
    for name in INTERVENTIONS:
        edited = {p.index: p.after[0].batch for p in pairs if p.name == name}
        others = [q for q in range(len(batch.questions)) if q not in edited]
        for array in before:
            assert all((getattr(b, array)[others] == before[array][others]).all() for b in edited.values())
    assert all((getattr(batch, name) == array).all() for name, array in before.items())


def test_foreign_dreams_come_from_boards_of_the_same_size(loaded, played):
    cases = make_cases(played, reader(everything)(played), loaded.world)
    assert any(case.foreign for case in cases)
    for case in cases:
        for told in case.foreign:
            assert told.question is not case.question and told.question.kind is QuestionKind.PLAN
            assert told.question.scene.grid == case.question.scene.grid and told.beliefs[-1] == Outcome.SUCCESS


def test_filmstrips_show_the_dreams_before_and_after(loaded, tile_codec, tmp_path):
    pairs: dict[str, Pair] = {}
    run(play(loaded, tile_codec, 20, 2), loaded.world, everything, lambda pair: pairs.setdefault(pair.name, pair))
    paths = save_pair(loaded, pairs["action"], 1, tmp_path / "new")
    assert [p.rsplit("/", 1)[1] for p in paths] == ["action-1-before.png", "action-1-after.png"]
    before, after = (np.asarray(Image.open(path)) for path in paths)
    assert before.shape[1] == after.shape[1] and before.shape[0] > 200
    common = min(len(before), len(after))
    assert (before[:common] != after[:common]).any()
