"""What the learned reward model can tell: true dreams from corrupted ones, on boards that it never saw."""

from __future__ import annotations

import time

from dreamrl.data import RandomPlay
from dreamrl.pretrain import train_codec
from dreamrl.reward_model import VerifiedDreams, evaluate_reward_model, train_reward_model
from dreamrl.saving import new_model
from dreamrl.settings import load_settings
from envs.world import Split


def bench(steps: int = 800, seed: int = 0, questions: int = 512, preset: str = "nano") -> dict[str, float]:
    """Train a reward model on random play and its corruptions, then judge held-out ones.

    Args:
        steps: updates.
        seed: of the weights and the boards.
        questions: TEST boards to judge on, with the preset's number of dreams each.
        preset: sizes of the networks.

    Returns:
        ``cpu_seconds`` of training, and what :func:`dreamrl.reward_model.evaluate_reward_model` finds.
    """
    loaded = new_model(load_settings(preset, seed=seed))
    codec = loaded.model.codec
    train_codec(loaded, RandomPlay(loaded.run, loaded.world, loaded.text, codec))
    started = time.process_time()
    model = train_reward_model(loaded.run, loaded.world, loaded.text, codec, steps, seed)
    seconds = time.process_time() - started
    data = VerifiedDreams(loaded.run, loaded.world, loaded.text, codec, Split.TEST)
    return {"cpu_seconds": round(seconds, 1), **evaluate_reward_model(model, data, questions, seed)}
