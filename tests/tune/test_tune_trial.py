"""One trial without Ray: it can be stopped at any measurement and ends the same; what goes wrong is said."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from dreamrl.checkpoint import newest_checkpoint
from dreamrl.evaluate import held_out
from dreamrl.saving import load_pretrained, new_model, save_pretrained, weights
from dreamrl.settings import load_settings
from dreamrl.tune.plan import Measure
from dreamrl.tune.trial import STAGE, TrialFailed, boards, finite, run_trial, save_best
from envs.world import Split

TINY = [
    "world.sizes=[2]", "model.embedding_dim=16", "model.num_heads=2", "model.graph_num_heads=2",
    "model.expert_num_heads=2", "model.dream_length=4", "pretrain.codec_steps=40", "pretrain.steps=4",
    "pretrain.scenes_per_step=4", "pretrain.num_workers=1", "ppo.iterations=3", "ppo.questions_per_iteration=8",
    "ppo.minibatch_size=8", "ppo.num_learners=1", "ppo.replay_scenes=1",
]  # fmt: skip
MEASURE = Measure(boards=4, every=2, dreams=2)


class Recorder:
    """Keeps what a trial reports, checkpoints included; ``stop_at`` ends it as a kill would."""

    def __init__(self, folder, stop_at=None):
        self.folder, self.stop_at, self.numbers, self.checkpoints = folder, stop_at, [], []

    def __call__(self, numbers, checkpoint):
        place = self.folder / f"{len(self.checkpoints)}"
        shutil.copytree(checkpoint, place)
        self.numbers.append(numbers)
        self.checkpoints.append(place)
        if numbers["iteration"] == self.stop_at:
            raise KeyboardInterrupt


def final(recorder):
    return newest_checkpoint(recorder.checkpoints[-1], STAGE)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    recorder = Recorder(root / "kept")
    run_trial(load_settings(overrides=TINY), MEASURE, root / "work", recorder)
    return root, recorder


def test_a_trial_is_measured_on_the_way_and_at_its_end(whole):
    _, recorder = whole
    assert [numbers["iteration"] for numbers in recorder.numbers] == [2, 3]
    assert all(math.isfinite(value) for numbers in recorder.numbers for value in numbers.values())
    assert {"exact_match", "progress_rate", "valid", "exact_frame", "faithfulness"} <= recorder.numbers[0].keys()


def test_a_trial_that_was_killed_ends_like_one_that_was_not(whole, tmp_path):
    _, uncut = whole
    run, cut = load_settings(overrides=TINY), Recorder(tmp_path / "cut", stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        run_trial(run, MEASURE, tmp_path / "work", cut)
    shutil.rmtree(tmp_path / "work")  # the checkpoint alone is enough
    again = Recorder(tmp_path / "again")
    run_trial(run, MEASURE, tmp_path / "work", again, checkpoint=cut.checkpoints[-1])
    assert again.numbers == uncut.numbers[1:]
    resumed = final(again)
    for name, value in final(uncut).items():  # weights and optimizer
        assert torch.equal(value, resumed[name]), name


def test_trials_with_a_shared_model_start_from_its_weights(whole, tmp_path):
    root, uncut = whole
    shared = Recorder(tmp_path / "kept")
    run_trial(
        load_settings(overrides=TINY), MEASURE, tmp_path / "work", shared, pretrained=root / "work" / "pretrained"
    )
    assert not (tmp_path / "work").exists()
    trained = final(shared)
    for name, value in final(uncut).items():
        assert torch.equal(value, trained[name]), name


def test_other_settings_give_another_model(whole, tmp_path):
    root, uncut = whole
    other = Recorder(tmp_path / "kept", stop_at=2)
    run = load_settings(overrides=[*TINY, "ppo.lr=0.01"])
    with pytest.raises(KeyboardInterrupt):
        run_trial(run, MEASURE, tmp_path / "work", other, pretrained=root / "work" / "pretrained")
    first = newest_checkpoint(uncut.checkpoints[0], STAGE)[1]
    assert any(not torch.equal(value, first[name]) for name, value in final(other).items())


def test_the_boards_are_of_the_validation_split():
    run = load_settings(overrides=[*TINY, "world.sizes=[3]"])
    loaded = new_model(run)
    keys = [question.scene.key for question in boards(loaded, Measure(boards=40))]
    test = {q.scene.key for q in held_out(loaded.world, [3], 400, 0, Split.TEST, 4)}
    validation = {q.scene.key for q in held_out(loaded.world, [3], 400, 0, Split.VALIDATION, 4)}
    assert set(keys) <= validation and not set(keys) & test


def test_a_trial_that_diverges_says_where(whole, tmp_path):
    root, _ = whole
    loaded = load_pretrained(root / "work" / "pretrained")
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "value" in name:
                parameter.fill_(1e30)  # its square is beyond what a float holds
    save_pretrained(loaded, tmp_path / "pretrained")
    recorder = Recorder(tmp_path / "kept")
    with pytest.raises(TrialFailed, match=r"^diverged: \w+ is (nan|inf) in PPO iteration 1$"):
        run_trial(loaded.run, MEASURE, tmp_path / "work", recorder, pretrained=tmp_path / "pretrained")
    assert recorder.numbers == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_end_a_trial(value):
    finite({"loss": 1e30, "other": -1.0}, "pretraining update 10")
    with pytest.raises(TrialFailed, match=rf"diverged: loss is {value} in pretraining update 10"):
        finite({"other": 0.0, "loss": value}, "pretraining update 10")


def test_the_best_checkpoint_becomes_a_model(whole, tmp_path):
    _, recorder = whole
    run = load_settings(overrides=TINY)
    save_best(run, recorder.checkpoints[-1], tmp_path / "best")
    loaded = load_pretrained(tmp_path / "best")
    assert loaded.run == run
    saved = final(recorder)
    for name, value in weights(loaded.model).items():
        assert name == "calibration" or torch.equal(value, saved[name]), name


def test_a_damaged_checkpoint_is_said(whole, tmp_path):
    _, recorder = whole
    broken = tmp_path / "broken"
    shutil.copytree(recorder.checkpoints[0], broken)
    file = next(Path(broken).rglob("tensors.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TrialFailed, match="no undamaged checkpoint"):
        run_trial(load_settings(overrides=TINY), MEASURE, tmp_path, Recorder(tmp_path / "k"), checkpoint=broken)
