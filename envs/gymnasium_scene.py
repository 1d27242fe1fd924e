"""One seed of a Gymnasium environment as a pure function of (state, action).

Environments are stateful. A state here is a snapshot: a deep copy of the environment where that can be had, else
the list of actions since the reset, which are then taken again. States are equal when picture and observation are.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.scene import Outcome, Scene, WorldError, split_of
from envs.search import distance_table

CHANCES = 8
"""How often an action is tried, to see whether chance decides where it leads."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the scenes of a world have in common; see :class:`envs.gymnasium_world.GymnasiumWorld`."""

    new_env: Callable[[], Any]
    frame: Callable[[Any], np.ndarray]
    success: Callable[[Any, Any, float, bool], bool]
    distance: Callable[[Any], int | None] | None
    search: int
    first_action: int
    num_actions: int


@dataclass(frozen=True, order=True)
class Snapshot:
    """A situation of an environment; equal to another if picture, observation and outcome are."""

    digest: bytes
    outcome: Outcome
    frame: np.ndarray = field(compare=False, repr=False)
    path: tuple[int, ...] = field(compare=False)
    env: Any = field(compare=False, repr=False)
    """A copy to go on from; None where the environment cannot be copied."""


class GymnasiumScene(Scene):
    """One seed, after the ``moves`` that lead to its start."""

    def __init__(self, rules: Rules, grid: tuple[int, int], seed: int, moves: Sequence[int]):
        """Args: ``rules`` of the world, frame size in patches, ``seed`` of the reset, ``moves`` taken after it."""
        self.rules, self.grid, self.seed, self.moves = rules, grid, seed, tuple(moves)
        self._steps: dict[tuple[Snapshot, int], Snapshot] = {}
        self._distances: dict[Snapshot, int | None] | None = None
        env, observation, outcome = self._replay(())
        self.start = self._snapshot(env, observation, outcome, ())
        self.key = self.start.digest.hex()
        self.split = split_of(self.key)

    def step(self, state: Snapshot, action: int) -> tuple[Snapshot, Outcome]:
        """See :meth:`Scene.step`. What is over stays as it is."""
        if state.outcome is not Outcome.CONTINUE:
            return state, state.outcome
        known = self._steps.get((state, int(action)))
        if known is None:
            env = self._copy(state)
            observation, outcome = self._act(env, int(action))
            known = self._snapshot(env, observation, outcome, (*state.path, int(action)))
            self._steps[state, int(action)] = known
        return known, known.outcome

    def frame(self, state: Snapshot) -> np.ndarray:
        """See :meth:`Scene.frame`."""
        return state.frame

    def distance(self, state: Snapshot) -> int | None:
        """See :meth:`Scene.distance`: the user's own, else by searching ``search`` states around the start."""
        if self.rules.distance is not None:
            return 0 if state.outcome is Outcome.SUCCESS else self.look(state, self.rules.distance)
        if self._distances is None:
            self._distances = distance_table(
                self.start,
                range(self.rules.num_actions),
                lambda known, action: self.step(known, action)[0],
                lambda known: known.outcome is Outcome.SUCCESS,
                self.rules.search,
            )
        return self._distances.get(state)

    def look(self, state: Snapshot, at: Callable[[Any], Any]) -> Any:
        """``at(env)`` of the environment in ``state``."""
        return at(self._copy(state).unwrapped)

    def stochastic(self) -> bool:
        """See :meth:`Scene.stochastic`: the same action under other random numbers, several times."""
        for action in range(self.rules.num_actions):
            found = set()
            for seed in range(CHANCES):
                env = self._copy(self.start)
                env.unwrapped.np_random = np.random.default_rng(seed)
                observation, outcome = self._act(env, action)
                found.add(self._snapshot(env, observation, outcome, ()).digest)
            if len(found) > 1:
                return True
        return False

    def _replay(self, path: Sequence[int]) -> tuple[Any, Any, Outcome]:
        """A fresh environment after ``moves`` and ``path``, its last observation and outcome."""
        env = self.rules.new_env()
        observation, _ = env.reset(seed=self.seed)
        outcome = Outcome.CONTINUE
        for action in (*self.moves, *path):
            if outcome is not Outcome.CONTINUE:
                break
            observation, outcome = self._act(env, action)
        return env, observation, outcome

    def _act(self, env: Any, action: int) -> tuple[Any, Outcome]:
        observation, reward, terminated, _, _ = env.step(action + self.rules.first_action)
        try:
            success = bool(self.rules.success(env.unwrapped, observation, float(reward), bool(terminated)))
        except Exception as error:  # the user's own function
            raise WorldError(f"success(env, observation, reward, terminated) failed: {error!r}") from error
        return observation, Outcome.SUCCESS if success else Outcome.FAILURE if terminated else Outcome.CONTINUE

    def _snapshot(self, env: Any, observation: Any, outcome: Outcome, path: tuple[int, ...]) -> Snapshot:
        frame = self.rules.frame(env)
        digest = hashlib.blake2b(frame.tobytes(), digest_size=16)
        digest.update(_bytes(observation))
        return Snapshot(digest.digest(), outcome, frame, path, env if can_copy(env) else None)

    def _copy(self, state: Snapshot) -> Any:
        """An environment in ``state`` that may be changed."""
        return self._replay(state.path)[0] if state.env is None else copy_env(state.env)


def copy_env(env: Any) -> Any:
    """A deep copy that shares what only drawing needs: surfaces, fonts and clocks cannot be copied, or slowly."""
    return copy.deepcopy(env, {id(drawn): drawn for drawn in _drawn(env.unwrapped)})


def can_copy(env: Any) -> bool:
    """Whether :func:`copy_env` works; remembered for each class of environments."""
    kind = type(env.unwrapped)
    if kind not in _COPYABLE:
        try:
            copy_env(env)
            _COPYABLE[kind] = True
        except Exception:  # any object that an environment holds may refuse in its own way
            _COPYABLE[kind] = False
    return _COPYABLE[kind]


_COPYABLE: dict[type, bool] = {}


def _drawn(holder: Any, depth: int = 3) -> list[Any]:
    """Objects of pygame in the attributes, lists and dicts of ``holder``."""
    if type(holder).__module__.partition(".")[0] == "pygame":
        return [holder]
    if depth == 0:
        return []
    if isinstance(holder, dict):
        inner = list(holder.values())
    elif isinstance(holder, list | tuple):
        inner = list(holder)
    elif depth == 3 and hasattr(holder, "__dict__"):
        inner = list(vars(holder).values())
    else:
        return []
    return [found for part in inner for found in _drawn(part, depth - 1)]


def _bytes(observation: Any) -> bytes:
    """An observation as bytes that are equal exactly when it is."""
    if isinstance(observation, np.ndarray):
        return str(observation.shape).encode() + observation.tobytes()
    if isinstance(observation, dict):
        return b"".join(str(k).encode() + _bytes(v) for k, v in sorted(observation.items(), key=lambda kv: str(kv[0])))
    if isinstance(observation, list | tuple):
        return b"(" + b",".join(map(_bytes, observation)) + b")"
    return repr(observation).encode()


def render(env: Any, name: str) -> np.ndarray:
    """The frame that ``env`` renders, checked: uint8 (H, W, 3)."""
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise WorldError(f"{name}: render() must give a uint8 array (height, width, 3), it gave {got}")
    return frame
