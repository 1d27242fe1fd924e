"""PPO without Ray learns where to go, on boards of 2x2 cells."""

import numpy as np
import pytest
import torch

from dreamrl.config import DreamingConfig, PPOConfig, PretrainConfig, RunConfig, WorldConfig
from dreamrl.ppo import PPOTrainer
from dreamrl.pretrain import batches
from dreamrl.saving import new_model
from envs.questions import stream
from envs.world import QuestionKind, Split

RUN = RunConfig(
    world=WorldConfig(sizes=(2,)),
    model=DreamingConfig(
        embedding_dim=16,
        num_heads=2,
        codec_hidden=32,
        num_experts=2,
        moe_top_k=1,
        trunk_loops=1,
        decoder_layers=1,
        graph_reasoning_hops=1,
        dream_length=3,
        max_prompt_tokens=24,
        max_answer_tokens=12,
    ),
    pretrain=PretrainConfig(codec_steps=120),
    ppo=PPOConfig(
        iterations=40, questions_per_iteration=32, minibatch_size=24, num_learners=0, predict_share=0.0, lr=1e-2
    ),
)


@torch.no_grad()
def chance_of_going_nearer(loaded, boards=40):
    """Probability that the first move of a dream leads nearer to the gift: under the model, and in random play."""
    found, random = [], []
    for index in range(boards):
        rng = stream(99, index)
        scene = loaded.world.sample_scene(rng, Split.TRAIN, 2)
        question = loaded.world.ask(scene, QuestionKind.PLAN, rng)
        prompt = loaded.model.ask({"text": torch.from_numpy(loaded.text.encode(question.text, 24))[None]})
        what = torch.from_numpy(loaded.model.codec.encode(scene.frame(scene.start)))[None]
        zero = torch.zeros(1, dtype=torch.long)
        logits = loaded.model.dream_generator.look(what, torch.tensor([scene.grid]), zero, zero, prompt).action_logits
        after = [scene.distance(scene.step(scene.start, action)[0]) for action in range(4)]
        nearer = torch.tensor([d is not None and d < scene.distance(scene.start) for d in after])
        found.append(float(logits[0].softmax(-1)[nearer].sum()))
        random.append(float(nearer.float().mean()))
    return np.mean(found), np.mean(random)


@pytest.mark.slow
def test_dreams_go_nearer_to_the_gift_and_are_paid_for_it():
    loaded = new_model(RUN)
    data = batches(loaded, 120, scenes=8)
    first = next(data)
    optimizer = torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=1e-2)
    for batch in (first, *data):
        loss, _ = loaded.model.compute_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
        optimizer.step()
    pretrained, random = chance_of_going_nearer(loaded)
    assert pretrained == pytest.approx(random, abs=0.05)  # random play shows no way
    trainer = PPOTrainer(loaded)
    metrics = [trainer.iterate() for _ in range(20)]
    assert chance_of_going_nearer(loaded)[0] > random + 0.2
    correct = [m["correctness"] for m in metrics]
    assert np.mean(correct[-3:]) > np.mean(correct[:3]) + 0.2
