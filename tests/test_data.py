"""Random-play batches: the same everywhere, and every target in them checked against the simulator."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from dreamrl.data import RandomPlay
from dreamrl.nn.text import TextTokenizer
from dreamrl.records import CORRUPTED_SHARE
from dreamrl.settings import load_settings
from envs.world import Outcome, QuestionKind, Split, roll, split_of
from envs.worlds.frozen_lake import ACTIONS, NO_PLAN, FrozenLake, outcome_text, parse_plan

SCENES = 40


class WatchedLake(FrozenLake):
    """FrozenLake that keeps the questions that it was asked to answer, with the rollouts shown."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def true_answer(self, question, rollouts):
        self.asked.append((question, list(rollouts)))
        return super().true_answer(question, rollouts)


@pytest.fixture
def make(loaded, tile_codec):
    def make(seed=0, split=Split.TRAIN, **pretrain):
        run = dataclasses.replace(loaded.run, seed=seed, pretrain=dataclasses.replace(loaded.run.pretrain, **pretrain))
        return RandomPlay(run, WatchedLake(), loaded.text, tile_codec, split)

    return make


@pytest.fixture
def drawn(make):
    """A batch of both kinds of questions, where they came from, and how many dreams were read."""
    data = make(predict_share=0.5)
    batch = data.batch(2, SCENES)
    return data, batch, data.world.asked, batch["focus_target"].shape[1] - 1


def codes(data, scene, state):
    return data.encoder.codec.encode(scene.frame(state))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_batch_is_a_function_of_seed_and_index(make):
    batch = make().batch(3, SCENES)
    data = make()
    data.batch(7, 4)  # what was drawn before plays no part
    assert same(data.batch(3, SCENES), batch)
    for other in (make(seed=1).batch(3, SCENES), make().batch(4, SCENES), make().batch(3, SCENES, key=5)):
        assert not torch.equal(other["frames"], batch["frames"])


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_share_the_batch_of_one(make, workers):
    whole = make().batch(1, 12)
    parts = [make().batch(1, 12, rank, workers) for rank in range(workers)]
    dreams = make().config.model.num_dream_sequences
    for name, tensor in whole.items():
        if name == "noise_seed":  # every worker hides other things
            assert len({int(part[name]) for part in parts}) == workers
            continue
        rows = dreams if name.startswith("pair_") else 1
        for rank, part in enumerate(parts):
            expected = tensor.unflatten(0, (12, rows))[rank::workers].flatten(0, 1)
            assert torch.equal(part[name], expected), name


def test_scenes_of_different_numbers_are_different(make):
    data = make()
    data.batch(0, SCENES)
    data.batch(1, SCENES)
    assert len({question.scene.key for question, _ in data.world.asked}) > 1.5 * SCENES


@pytest.mark.parametrize("split", list(Split))
def test_only_scenes_of_the_split(make, split):
    data = make(split=split)
    data.batch(0, SCENES)
    assert {split_of("/".join(q.scene.desc)) for q, _ in data.world.asked} == {split}


def test_frames_actions_and_beliefs_are_what_the_simulator_does(drawn):
    data, batch, asked, _ = drawn
    outcomes = set()
    for index, (question, _) in enumerate(asked):
        scene = question.scene
        cells = scene.grid[0] * scene.grid[1]
        assert data.text.decode(batch["text"][index].tolist()) == question.text
        assert batch["grid"][index].tolist() == list(scene.grid)
        assert bool(batch["script"][index]) == (question.kind is QuestionKind.PREDICT)
        for n in range(3):
            length = int(batch["lengths"][index, n])
            actions = batch["actions"][index, n, :length].tolist()
            state = scene.start
            for t in range(length + 1):
                frame = batch["frames"][index, n, t].tolist()
                assert frame[:cells] == codes(data, scene, state).tolist()
                assert set(frame[cells:]) <= {data.config.model.num_codes}
                if t == length:
                    break
                state, outcome = scene.step(state, actions[t])
                last = question.kind is QuestionKind.PREDICT and t + 1 == len(question.script)
                expected = Outcome.STOP if outcome is Outcome.CONTINUE and last else outcome
                assert int(batch["beliefs"][index, n, t]) == expected
                assert outcome is Outcome.CONTINUE or t == length - 1
                outcomes.add(expected)
            assert (batch["frames"][index, n, length + 1 :] == data.config.model.num_codes).all()
    assert outcomes == set(Outcome)


def test_focus_and_answer_equal_brute_force(drawn):
    data, batch, asked, read = drawn
    kinds = {"no plan": 0, "plan": 0, "predict": 0}
    for index, (question, rollouts) in enumerate(asked):
        assert len(rollouts) == read
        answer = data.text.decode(batch["answer"][index].tolist())
        target = batch["focus_target"][index].tolist()
        assert any(target)
        if question.kind is QuestionKind.PREDICT:
            kinds["predict"] += 1
            truth = roll(question.scene, question.script)
            assert target == [r.actions == question.script for r in rollouts] + [False]
            assert answer == outcome_text(truth)
            assert data.world.verify(question, answer).exact
            continue
        winners = {
            n: len(r.actions)
            for n, r in enumerate(rollouts)
            if r.outcome is Outcome.SUCCESS and all(a != b for a, b in zip(r.states, r.states[1:], strict=False))
        }
        shortest = min(winners.values(), default=None)
        assert target == [winners.get(n) == shortest is not None for n in range(read)] + [not winners]
        if not winners:
            kinds["no plan"] += 1
            assert answer == NO_PLAN
        else:
            kinds["plan"] += 1
            plan = tuple(parse_plan(answer))
            assert plan == rollouts[target.index(True)].actions
            assert roll(question.scene, plan).outcome is Outcome.SUCCESS and len(plan) == shortest
            assert data.world.verify(question, answer).success
    assert min(kinds.values()) > 3


def test_both_wordings_of_a_plan_are_taught(make):
    data = make(predict_share=0.0)
    answers = [data.text.decode(a) for index in range(8) for a in data.batch(index, SCENES)["answer"].tolist()]
    plans = [answer for answer in answers if len(parse_plan(answer)) > 1]
    then = [plan for plan in plans if " then " in plan]
    assert len(plans) > 20 and 0.25 < len(then) / len(plans) < 0.75
    assert not any(", " in plan for plan in then)


def test_returns_are_discounted_successes(drawn):
    data, batch, asked, _ = drawn
    paid = 0
    for index, (question, _) in enumerate(asked):
        for n in range(3):
            length = int(batch["lengths"][index, n])
            actions = tuple(batch["actions"][index, n, :length].tolist())
            success = roll(question.scene, actions).outcome is Outcome.SUCCESS
            if question.kind is QuestionKind.PREDICT:
                success = actions == question.script
            expected = [data.config.ppo.gamma ** (length - 1 - t) * success for t in range(length)]
            found = batch["returns"][index, n].tolist()
            assert found == pytest.approx(expected + [0.0] * (len(found) - length), rel=1e-6)
            paid += success
    assert 5 < paid < 100


def test_only_random_play_and_asked_moves_are_cloned(drawn):
    _, batch, asked, read = drawn
    for index, (question, _) in enumerate(asked):
        cloned = batch["cloned"][index].tolist()
        if question.kind is QuestionKind.PLAN:
            assert cloned == [True] * 3
            continue
        assert any(cloned[:read])
        for n in range(3):
            length = int(batch["lengths"][index, n])
            actions = tuple(batch["actions"][index, n, :length].tolist())
            assert not cloned[n] or actions == question.script


def test_answers_are_read_from_all_dreams_in_half_of_the_batches(make):
    data = make()
    read = [data.batch(index, 1)["focus_target"].shape[1] - 1 for index in range(200)]
    assert set(read) == {1, 2, 3}
    assert 0.55 < np.mean(np.array(read) == 3) < 0.78  # 1/2 + 1/2 * 1/3


def pairs(data, batch):
    """(scene, state, what codes, result codes, class) of every inverse-dynamics pair."""
    for i, action in enumerate(batch["pair_action"].tolist()):
        scene = data.world.asked[i // 3][0].scene
        cells = scene.grid[0] * scene.grid[1]
        assert batch["pair_grid"][i].tolist() == list(scene.grid)
        what, result = batch["pair_what"][i, :cells].tolist(), batch["pair_result"][i, :cells].tolist()
        [state] = [
            s for s in range(cells) if codes(data, scene, s).tolist() == what and scene.outcomes[s] is Outcome.CONTINUE
        ]
        yield scene, state, what, result, action


def results(data, scene, state):
    """Pictures that each action makes of ``state``."""
    return [codes(data, scene, scene.step(state, a)[0]).tolist() for a in range(4)]


def test_inverse_pairs_are_explained_by_their_action_or_by_none(make):
    data = make()
    wrong, none, total = [], 0, 0
    for index in range(10):
        data.world.asked.clear()
        batch = data.batch(index, SCENES)
        for scene, state, _, result, action in pairs(data, batch):
            reachable = results(data, scene, state)
            total += 1
            if action < 4:
                assert reachable[action] == result
                continue
            none += 1
            if result in reachable:
                wrong.append((scene.desc, state, reachable.index(result)))
    assert none / total == pytest.approx(CORRUPTED_SHARE, abs=0.05)
    assert not wrong, f"{len(wrong)} of {none} pairs of class none are what an action does, e.g. {wrong[0]}"


def test_moves_in_words_and_the_picture_are_there_when_the_model_asks_for_them(loaded, tile_codec):
    model = dataclasses.replace(loaded.run.model, use_contrastive_loss=True, vision_backbone="lite")
    plain = RandomPlay(loaded.run, WatchedLake(), loaded.text, tile_codec).batch(2, 8)
    data = RandomPlay(dataclasses.replace(loaded.run, model=model), WatchedLake(), loaded.text, tile_codec)
    batch = data.batch(2, 8)
    assert batch.keys() - plain.keys() == {"moves", "pixels", "picture_size"}
    assert all(torch.equal(batch[k], plain[k]) for k in plain)
    assert batch["pixels"].shape == (8, 1, 64, 64, 3)
    for index, (question, _) in enumerate(data.world.asked):
        for n in range(3):
            moves = batch["actions"][index, n, : batch["lengths"][index, n]].tolist()
            assert data.text.decode(batch["moves"][index, n].tolist()) == ", ".join(ACTIONS[a] for a in moves)
        frame = torch.from_numpy(question.scene.frame(question.scene.start))
        height, width = frame.shape[:2]
        assert batch["picture_size"][index].tolist() == [[height, width]]
        assert torch.equal(batch["pixels"][index, 0, :height, :width], frame)
        assert not batch["pixels"][index, 0, height:].any() and not batch["pixels"][index, 0, :, width:].any()


def test_some_inverse_pairs_are_teleports(make):
    data = make()
    batch = data.batch(0, SCENES)
    teleports = 0
    for scene, state, _, result, action in pairs(data, batch):
        if action == 4 and result not in results(data, scene, state):
            teleports += result in [codes(data, scene, s).tolist() for s in range(scene.grid[0] * scene.grid[1])]
    assert teleports > 3


PINNED = {
    "default": (["world.sizes=3,4"], ["fa7a7f3e17ddfb5b", "c670fa5aa7e832a5", "7c1aa043e777755a"]),
    "moves in words and pixels": (
        ["world.sizes=2,5", "model.use_contrastive_loss=true", "model.vision_backbone=lite"],
        ["de7327265f14b50c", "022d544169197978", "dbe8f8abf092bbde"],
    ),
    "predictions": (
        ["world.sizes=3", "pretrain.predict_share=1.0", "model.code_levels=[8]", "model.num_dream_sequences=2"],
        ["07b0135ba4298028", "7f0674634bfd5ba9", "2e32410dd9c91339"],
    ),
}
"""Settings -> digests of three batches. Who changes what is drawn makes them anew, and says so in the changelog."""


@pytest.mark.parametrize("kind", PINNED)
def test_batches_stay_what_they_were(kind, tile_codec):
    overrides, expected = PINNED[kind]
    run = load_settings("nano", None, overrides, 3)
    world = FrozenLake(run.model.patch_size)
    world.sizes = run.world.sizes
    text = TextTokenizer.train(world.corpus(), run.model.vocab_size)
    data = RandomPlay(run, world, text, tile_codec)
    found = [digest(data.batch(*choice)) for choice in ((0, 12), (5, 7, 1, 3), (2, 4, 0, 1, 5))]
    assert found == expected


def digest(batch):
    whole = hashlib.blake2b(digest_size=8)
    for name in sorted(batch):
        array = batch[name].numpy()
        whole.update(f"{name} {array.dtype} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
