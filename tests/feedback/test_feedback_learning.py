"""The whole on a model that was trained a little: people's wording is learned, a coin's is not."""

import copy
import dataclasses

import pytest
import torch

from dreamrl.bench.feedback import Exam, examples, wording_of
from dreamrl.config import DreamingConfig, PretrainConfig, RunConfig, WorldConfig
from dreamrl.feedback.examples import learn_from_feedback
from dreamrl.feedback.training import FeedbackSettings
from dreamrl.losses import pretrain_loss
from dreamrl.pretrain import batches, learning_rate
from dreamrl.saving import new_model
from envs.world import Split, split_of

RUN = RunConfig(
    model=DreamingConfig(
        embedding_dim=32, num_heads=2, expert_num_heads=2, graph_num_heads=2, code_levels=(3, 3), codec_hidden=16,
        num_experts=2, trunk_loops=1, graph_reasoning_hops=1, decoder_layers=1, dream_length=4, max_prompt_tokens=24,
        max_answer_tokens=12,
    ),
    world=WorldConfig(sizes=(3,)),
    pretrain=PretrainConfig(steps=250, scenes_per_step=12, codec_steps=100, lr=5e-3, predict_share=0.0),
)  # fmt: skip
SETTINGS = FeedbackSettings(
    questions=96, updates=4, lr=3e-4, replay_scenes=4, scorer_steps=60, boards=32, calibration_boards=16
)
THEN = 1


@pytest.fixture(scope="module")
def pretrained():
    loaded = new_model(RUN)
    model, optimizer = loaded.model, None
    for step, batch in enumerate(batches(loaded, RUN.pretrain.steps, RUN.pretrain.scenes_per_step)):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = optimizer or torch.optim.AdamW(trained, lr=RUN.pretrain.lr)
        loss, _ = pretrain_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, RUN.pretrain.grad_clip)
        optimizer.param_groups[0]["lr"] = learning_rate(RUN, step)
        optimizer.step()
    return loaded


@pytest.fixture(scope="module")
def exam(pretrained):
    return Exam(pretrained, 300, 0)


@pytest.mark.slow
def test_the_wording_that_people_like_is_learned_and_a_coin_is_not(pretrained, exam):
    before, after = exam(pretrained, THEN), {}
    assert 0.15 < before["sampled_liked"] < 0.75 and sum(before["greedy_styles"].values()) > 20
    for kind in ("preferences", "shuffled"):
        loaded = dataclasses.replace(pretrained, model=copy.deepcopy(pretrained.model))
        metrics = learn_from_feedback(loaded, examples(loaded, kind, THEN, 150, 0), 4, settings=SETTINGS)
        after[kind] = exam(loaded, THEN) | metrics
    liked, coin = after["preferences"], after["shuffled"]
    assert liked["greedy_liked"] > 0.9 and liked["sampled_liked"] > before["sampled_liked"] + 0.15
    assert liked["score_after"] > liked["score_before"] + 0.2 and liked["scorer_accuracy"] == 1
    assert liked["greedy_exact"] > before["greedy_exact"] - 0.03
    # Two wordings that are about equally probable: which of them is greedy says nothing.
    assert coin["trust"] < 0.1 and coin["sampled_liked"] < before["sampled_liked"] + 0.1


def test_simulated_people_say_what_they_should(loaded):
    for kind, liked in (("preferences", 1), ("preferences", 0), ("ratings", 1), ("ratings", 0)):
        for example in examples(loaded, kind, liked, 12, 0):
            scene = loaded.world.scene(example["options"])
            assert split_of("/".join(scene.desc)) is Split.TRAIN
            question = loaded.world.interpret(example["prompt"], scene)
            texts = [example[key] for key in ("chosen", "rejected", "answer") if key in example]
            assert all(loaded.world.verify(question, text).exact for text in texts)
            if kind == "ratings":
                assert example["reward"] == (1 if (" then " in texts[0]) == bool(liked) else -1)
            else:
                assert [" then " in text for text in texts] == [bool(liked), not liked]
    coin = [" then " in example["chosen"] for example in examples(loaded, "shuffled", 1, 100, 0)]
    assert 35 < sum(coin) < 65


@pytest.mark.parametrize(
    ("text", "wording"),
    [("right, down", "commas"), ("right then down then up", "then"), ("right then down, up", "mixed"),
     ("right,down", "mixed"), ("right", None), ("no dream reaches the gift", None), ("", None)],
)  # fmt: skip
def test_wordings_are_told_apart(loaded, text, wording):
    assert wording_of(loaded, text) == wording
