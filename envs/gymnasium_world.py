"""Any Gymnasium environment with discrete actions and rendered frames as a world to dream about.

Description: a scene is one seed of the environment, after some random moves if the user wants them.
Action Space: the environment's own, by the names that the user gives.
Observation: what the environment renders, resized to a whole number of patches. Nothing else is seen.
Rewards: none of its own; ``success`` says when a question is solved.
Termination: success, or an end of the episode without it (failure). Time limits do not count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from PIL import Image

from envs.gymnasium_scene import GymnasiumScene, Rules, render
from envs.scene import Outcome, QuestionKind, Split, WorldError, random_play
from envs.world import World, action_problem

MAX_SIDE = 8
"""Patches along the longer side of a frame, unless ``frame_size`` says otherwise."""
MAX_TRIES = 200
"""Seeds that are tried until one belongs to the split that is asked for."""
OUTCOME_TEXT = {
    Outcome.CONTINUE: "it is not decided yet",
    Outcome.SUCCESS: "it succeeds after {n} moves",
    Outcome.FAILURE: "it fails after {n} moves",
}


class GymnasiumWorld(World):
    """A world made of a Gymnasium environment.

    Args:
        env: id of a registered environment, or a function that makes one with ``render_mode="rgb_array"``.
        actions: names of the environment's actions, in its order.
        question: what is asked, in one or several wordings; the answer is a list of actions.
        success: ``success(env, observation, reward, terminated) -> bool`` after each step.
        describe: ``describe(env) -> str``: what the situation is, in words; answers "what happens if ...?". By
            default that is whether and when it succeeded.
        name: for logs and ``--world``; by default made of the id.
        family: what it takes to answer (spatial, temporal, causal, abstract, ...), for the logs.
        frame_size: (height, width) in pixels that frames are resized to; by default as they are, at most 8 patches.
        patch_size: side of an image patch in pixels.
        warm_up: most random moves before a scene begins; needed where every seed starts alike.
        distance: ``distance(env) -> int | None``: fewest actions to success, None if there is no way. Without it the
            states around the start are searched, which costs time in PPO.
        search: how many states are searched.
        before_render: ``before_render(env)``: hide what a picture must not tell, such as the last action.
        make: keyword arguments for ``gymnasium.make``.

    Example:
        >>> world = GymnasiumWorld(
        ...     "CliffWalking-v1",
        ...     actions=["up", "right", "down", "left"],
        ...     question="Find the shortest way to the cookie.",
        ...     success=lambda env, observation, reward, terminated: terminated,
        ...     warm_up=8,
        ... )
        >>> world.grid_at(1), len(world.actions)
        ((3, 8), 4)
    """

    min_size = max_size = 1
    default_sizes = (1,)
    predict_texts = ("What happens after {moves}?", "Then {moves}. What happens?")
    no_plan = "no dream succeeds"

    def __init__(
        self,
        env: str | Callable[[], gym.Env],
        *,
        actions: Sequence[str],
        question: str | Sequence[str],
        success: Callable[[Any, Any, float, bool], bool],
        describe: Callable[[Any], str] | None = None,
        name: str | None = None,
        family: str = "custom",
        frame_size: tuple[int, int] | None = None,
        patch_size: int = 16,
        warm_up: int = 0,
        distance: Callable[[Any], int | None] | None = None,
        search: int = 500,
        before_render: Callable[[Any], None] | None = None,
        make: dict[str, Any] | None = None,
    ):
        """See the class."""
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        self.name = name or (
            env.rpartition("/")[2].lower() if isinstance(env, str) else getattr(env, "__name__", "env")
        )
        self.family, self.patch_size, self.describe, self.warm_up = family, patch_size, describe, warm_up
        self.actions = tuple(actions)
        self.plan_texts = (question,) if isinstance(question, str) else tuple(question)
        self._env, self._make = env, dict(make or {})
        made = self._new_env()
        self._check_actions(made)
        self._raw: tuple[int, ...] | None = None
        self.frame_size = frame_size
        self._before_render = before_render
        self.rules = Rules(
            new_env=self._new_env, frame=self._frame, success=success, distance=distance, search=search,
            first_action=int(made.action_space.start), num_actions=len(self.actions),
        )  # fmt: skip
        made.reset(seed=0)
        height, width = self._frame(made).shape[:2]
        self._grid = height // patch_size, width // patch_size
        made.close()

    def _new_env(self) -> Any:
        """A fresh environment, without a time limit."""
        if not isinstance(self._env, str):
            made = self._env()
            if getattr(made, "render_mode", None) != "rgb_array":
                raise WorldError(f'{self.name}: the function must make an environment with render_mode="rgb_array"')
            return made
        try:
            modes = _render_modes(self._env)
            if modes is not None and "rgb_array" not in modes:
                raise WorldError(f"{self._env} has no frames: it renders {modes or 'nothing'}, not rgb_array")
            return gym.make(self._env, render_mode="rgb_array", disable_env_checker=True, **self._limits())
        except (gym.error.Error, ImportError) as error:
            raise WorldError(f"{self._env}: {' '.join(str(error).split())}") from error

    def _limits(self) -> dict[str, Any]:
        return {"max_episode_steps": -1, **self._make}

    def _check_actions(self, env: Any) -> None:
        space = env.action_space
        if not isinstance(space, gym.spaces.Discrete):
            raise WorldError(f"{self.name} has actions {space}; wrap it so that they are Discrete, a few named choices")
        if len(self.actions) != int(space.n):
            raise WorldError(f"{self.name} has {space.n} actions, {len(self.actions)} names were given: {self.actions}")
        problem = action_problem(self.actions)
        if problem:
            raise WorldError(problem)
        if not all(self.plan_texts):
            raise WorldError("question must not be empty")

    def _frame(self, env: Any) -> np.ndarray:
        """What ``env`` shows now, a whole number of patches each way."""
        if self._before_render is not None:
            self._before_render(env.unwrapped)
        raw = render(env, self.name)
        if self._raw is None:
            self._raw = raw.shape
            self.frame_size = self._fitting(raw.shape[0], raw.shape[1])
        if raw.shape != self._raw:
            first, now = (f"{shape[1]}x{shape[0]}" for shape in (self._raw, raw.shape))
            raise WorldError(f"{self.name}: frames change their size, {first} then {now}; give them one size")
        assert self.frame_size is not None
        if raw.shape[:2] == self.frame_size:
            return raw
        height, width = self.frame_size
        return np.asarray(Image.fromarray(raw).resize((width, height), Image.Resampling.BOX))

    def _fitting(self, height: int, width: int) -> tuple[int, int]:
        patch = self.patch_size
        if self.frame_size is not None:
            if any(side < patch or side % patch for side in self.frame_size):
                raise WorldError(
                    f"frame_size {self.frame_size} must be multiples of patch_size ({patch}), at least one"
                )
            return self.frame_size
        if height % patch == 0 and width % patch == 0 and max(height, width) <= MAX_SIDE * patch:
            return height, width
        scale = MAX_SIDE / max(height, width)
        return max(1, round(height * scale)) * patch, max(1, round(width * scale)) * patch

    def grid_at(self, size):
        """See :meth:`World.grid_at`; the same for every scene."""
        return self._grid

    def scene(self, options):
        """See :meth:`World.scene`. Options: ``{"seed": 7, "moves": ["left"]}``, moves being optional."""
        unknown = sorted(set(options) - {"seed", "moves"})
        if unknown:
            raise WorldError(f'unknown option "{unknown[0]}"; give {{"seed": 7, "moves": ["{self.actions[0]}"]}}')
        seed, moves = options.get("seed"), options.get("moves", [])
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
            raise WorldError(f'"seed" ({seed!r}) must be a whole number between 0 and {2**31 - 1}')
        if not isinstance(moves, list) or any(move not in self.actions for move in moves):
            raise WorldError(f'"moves" ({moves!r}) must be a list of {", ".join(self.actions)}')
        scene = GymnasiumScene(self.rules, self._grid, seed, [self.actions.index(move) for move in moves])
        if scene.start.outcome is not Outcome.CONTINUE:
            raise WorldError(f"{self.name}: the episode is over after {moves}; give fewer moves")
        return scene

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`."""
        for _ in range(MAX_TRIES):
            seed = int(rng.integers(2**31))
            moves = rng.integers(len(self.actions), size=int(rng.integers(self.warm_up + 1))).tolist()
            scene = GymnasiumScene(self.rules, self._grid, seed, moves)
            if scene.start.outcome is Outcome.CONTINUE and scene.split is split:
                return scene
        raise WorldError(
            f"{self.name}: none of {MAX_TRIES} seeds gave a scene for {split.value}; if it always starts alike, "
            f"give warm_up=N random moves (it is {self.warm_up})"
        )

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        if self.describe is None:
            return OUTCOME_TEXT[rollout.outcome].format(n=len(rollout.actions))
        scene = question.scene
        assert isinstance(scene, GymnasiumScene), f"{type(scene).__name__} is no scene of {self.name}"
        return str(scene.look(rollout.states[-1], self.describe))

    def corpus(self):
        """See :meth:`World.corpus`. Descriptions are collected from random play."""
        texts = super().corpus()
        if self.describe is None:
            return texts + [t.format(n=n) for t in OUTCOME_TEXT.values() for n in range(1, 17)]
        rng = np.random.default_rng(0)
        for _ in range(50):
            scene = self.sample_scene(rng, Split.TRAIN, 1)
            question = self.ask(scene, QuestionKind.PREDICT, rng, [0])
            texts.append(self.tell(question, random_play(scene, len(self.actions), 8, rng)))
        return texts


def _render_modes(env_id: str) -> list[str] | None:
    """The render modes that an environment's class declares; None if it cannot be told without making it."""
    entry = gym.spec(env_id).entry_point
    found = load_env_creator(entry) if isinstance(entry, str) else entry
    modes = getattr(found, "metadata", {}).get("render_modes")
    return None if modes is None else list(modes)
