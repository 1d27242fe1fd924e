"""What every world must hold to, measured: `dreamrl worlds check WORLD`.

Each check is a function of the world that returns what it found, and raises :class:`WorldError` where the world does
not hold to the interface. Anything else that a world raises counts as broken, too.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from envs.questions import draw_question, stream
from envs.scene import Question, QuestionKind, Scene, Split, WorldError, random_play
from envs.world import World, action_problem, shortest_plan

SCENES, QUESTIONS, LENGTH = 12, 200, 8
SECONDS = 5.0
"""CPU time for finding true answers: where a plan must be searched for, one can take a second."""
WIDE_VOCABULARY = 2000
"""Distinct patches above which an image code for each of them is hard to learn."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Example:
        ``Finding(check="frames", ok=True, message="uint8, 48x48 to 64x64 pixels, 7 distinct patches")``
    """

    check: str
    ok: bool
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_world(world: World) -> list[Finding]:
    """Run all checks, in order."""
    findings = []
    for name, check in CHECKS.items():
        try:
            findings.append(Finding(check=name, ok=True, message=check(world)))
        except WorldError as broken:
            findings.append(Finding(check=name, ok=False, message=str(broken)))
        except Exception as error:  # a world is foreign code: whatever it raises is a finding
            text = " ".join(f"{type(error).__name__}: {error}".split())
            findings.append(Finding(check=name, ok=False, message=text[:300]))
    return findings


def print_findings(world: World, findings: list[Finding]) -> None:
    """A line for each check."""
    print(f"{world.name} (family {world.family})")
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        print(f"  {'ok  ' if finding.ok else 'FAIL'}  {finding.check:<{width}}  {finding.message}")


def _scenes(world: World, split: Split = Split.TRAIN, count: int = SCENES) -> list[Scene]:
    drawn = [stream(0, 21, i) for i in range(count)]
    return [world.sample_scene(rng, split, int(rng.choice(world.sizes))) for rng in drawn]


def _questions(world: World, count: int = QUESTIONS) -> list[Question]:
    out = []
    for i in range(count):
        rng = stream(0, 22, i)
        scene = world.sample_scene(rng, Split.TRAIN, int(rng.choice(world.sizes)))
        out.append(draw_question(world, scene, bool(i % 2), LENGTH, rng))
    return out


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise WorldError(message)


def _actions(world: World) -> str:
    names = world.actions
    problem = action_problem(names)
    _require(not problem, problem)
    for name in names:
        _require(
            QuestionKind.PLAN not in world.kinds or world.parse_plan(name) == [names.index(name)],
            f'parse_plan("{name}") does not give that action',
        )
    return ", ".join(names)


def _frames(world: World) -> str:
    sizes, patches = set(), set()
    for scene in _scenes(world):
        rollout = random_play(scene, len(world.actions), LENGTH, stream(0, 23))
        for state in rollout.states:
            frame = scene.frame(state)
            _require(
                frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3, "a frame is no uint8 (H, W, 3)"
            )
            shape = tuple(side * world.patch_size for side in scene.grid)
            _require(frame.shape[:2] == shape, f"a frame is {frame.shape[:2]} pixels, its scene's grid says {shape}")
            sizes.add(shape)
            rows, columns = scene.grid
            tiled = frame.reshape(rows, world.patch_size, columns, world.patch_size, 3).transpose(0, 2, 1, 3, 4)
            patches |= {patch.tobytes() for patch in tiled.reshape(rows * columns, -1)}
        largest = world.max_patches
        _require(scene.grid[0] * scene.grid[1] <= largest, f"a frame has more patches than grid_at says ({largest})")
    rare = f" (more than {WIDE_VOCABULARY}: hard to code)" if len(patches) > WIDE_VOCABULARY else ""
    shown = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
    return f"uint8, {shown} pixels, {len(patches)} distinct patches{rare}"


def _deterministic(world: World) -> str:
    """Two copies of everything drawn from equal random streams are equal."""
    chance = any(scene.stochastic() for scene in _scenes(world))
    _require(not chance, "chance decides where actions lead, which no dream can know; make the simulator deterministic")
    for first, second in zip(_scenes(world), _scenes(world), strict=True):
        _require(first.key == second.key, "the same random numbers gave two different scenes")
        actions = random_play(first, len(world.actions), LENGTH, stream(0, 24)).actions
        states = first.start, second.start
        for action in actions:
            steps = first.step(states[0], action), second.step(states[1], action)
            _require(
                steps[0][1] == steps[1][1], f'"{world.actions[action]}" had two different outcomes in one situation'
            )
            states = steps[0][0], steps[1][0]
            same = np.array_equal(first.frame(states[0]), second.frame(states[1]))
            _require(same, f'"{world.actions[action]}" led to two different pictures from one situation')
    texts = [[q.text for q in _questions(world, 20)] for _ in range(2)]
    _require(texts[0] == texts[1], "the same random numbers gave two different questions")
    return f"{SCENES} scenes and their rollouts are the same twice"


def _restore(world: World) -> str:
    """Stepping from a state changes neither it nor what follows from it."""
    for scene in _scenes(world):
        rollout = random_play(scene, len(world.actions), LENGTH, stream(0, 25))
        before = [scene.frame(state).copy() for state in rollout.states]
        for state in rollout.states[:-1]:  # wander off from every state
            for action in range(len(world.actions)):
                scene.step(state, action)
        for index, action in enumerate(rollout.actions):
            after, _ = scene.step(rollout.states[index], action)
            _require(after == rollout.states[index + 1], "going back to a state and on as before led elsewhere")
        for state, frame in zip(rollout.states, before, strict=True):
            _require(np.array_equal(scene.frame(state), frame), "a state's picture changed after other steps")
            hash(state)  # raises where it cannot be
        sorted(rollout.states)  # raises where states have no order
    return "every state can be gone back to"


def _splits(world: World) -> str:
    keys = {split: {scene.key for scene in _scenes(world, split, 40)} for split in Split}
    for first in Split:
        for second in Split:
            both = first is not second and keys[first] & keys[second]
            _require(not both, f"{first.value} and {second.value} share a scene")
    return f"disjoint; {', '.join(f'{len(found)} of 40 {split.value} scenes differ' for split, found in keys.items())}"


def _verifier(world: World) -> str:
    """The true answer of each question is exact, those of other questions about other scenes mostly are not."""
    known = _answered(world)
    _require(len(known) > 0, "no true answer was found for any question")
    for question, answer in known:
        verdict = world.verify(question, answer)
        _require(verdict.exact, f'the true answer "{answer}" to "{question.text}" is rejected')
        for wording in world.wordings(answer):
            _require(world.verify(question, wording).exact, f'"{wording}" is a wording of the truth, but rejected')
        for wrong in ("", "zzz", world.no_plan if question.kind is QuestionKind.PLAN else f"{answer} zzz"):
            _require(
                not world.verify(question, wrong).exact, f'"{wrong}" is accepted as an answer to "{question.text}"'
            )
    others = [world.verify(q, known[(i + 1) % len(known)][1]).exact for i, (q, _) in enumerate(known)]
    return (
        f"accepts {len(known)} of {len(known)} true answers, and another question's in {np.mean(others):.0%} of cases"
    )


@functools.lru_cache(maxsize=1)
def _answered(world: World) -> list[tuple[Question, str]]:
    """Questions with their true answers: as many as :data:`QUESTIONS`, or what :data:`SECONDS` are enough for."""
    started, out = time.process_time(), []
    for question in _questions(world):
        answer = truth(world, question)
        if answer is not None:
            out.append((question, answer))
        if time.process_time() - started > SECONDS:
            break
    return out


def truth(world: World, question: Question) -> str | None:
    """The true answer to ``question``; None where no short plan is known."""
    if question.kind is QuestionKind.PREDICT:
        return world.true_answer(question, [])[1]
    actions = shortest_plan(question.scene, len(world.actions))
    return world.plan_text(actions) if actions else None


def _understood(world: World) -> str:
    """Free text is understood as the world itself means it."""
    questions = _questions(world)
    for question in questions:
        found = world.interpret(question.text, question.scene)
        _require(found is not None, f'interpret does not understand "{question.text}"')
        assert found is not None
        same = (found.kind, found.script, found.topic) == (question.kind, question.script, question.topic)
        _require(same, f'interpret takes "{question.text}" for another question')
    _require(
        world.interpret("What is the capital of France?", questions[0].scene) is None, "interpret accepts anything"
    )
    return f"{len({q.text for q in questions})} wordings"


def _balanced(world: World) -> str:
    """How far one gets with one answer for everything; reported, never an error."""
    groups: dict[str, Counter[str]] = {}
    for question, answer in _answered(world):
        groups.setdefault(question.topic or question.kind.value, Counter())[answer] += 1
    parts = []
    for topic, counts in sorted(groups.items()):
        best, times = counts.most_common(1)[0]
        parts.append(f'{topic} {times / counts.total():.2f} ("{best}", {len(counts)} answers)')
    return "best constant answer: " + "; ".join(parts)


def _speed(world: World) -> str:
    scenes = _scenes(world, count=8)
    rng, steps, started = stream(0, 26), 0, time.process_time()
    while time.process_time() - started < 0.5:
        for scene in scenes:
            rollout = random_play(scene, len(world.actions), LENGTH, rng)
            for state in rollout.states:
                scene.frame(state)
            steps += len(rollout.actions)
    return f"{steps / (time.process_time() - started):,.0f} transitions with frames a second"


CHECKS: dict[str, Callable[[World], str]] = {
    "actions": _actions,
    "frames": _frames,
    "determinism": _deterministic,
    "restore": _restore,
    "splits": _splits,
    "verifier": _verifier,
    "questions": _understood,
    "balance": _balanced,
    "speed": _speed,
}
"""Name -> check: what was found in words; :class:`WorldError` if the world does not hold to it."""
