"""Every metric's name, defined and explained once, and the writer that accepts no other.

A misspelt name would make a curve that nobody finds, so it raises. Only scalars and pictures are kept;
histograms and hyper-parameters are left out: ``config.yaml`` has the latter.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from tensorboardX import SummaryWriter

from dreamrl.files import write_atomically

GLOSSARY: dict[str, str] = {
    "pretrain/loss/frame": "cross-entropy of the next picture's codes, in nats per patch",
    "pretrain/loss/belief": "cross-entropy of the outcome (continue, success, failure, stop)",
    "pretrain/loss/action": "negative log-likelihood of the actions worth cloning from random play",
    "pretrain/loss/chance": "cross-entropy of whether random play succeeds after an action, discounted",
    "pretrain/loss/value": "squared error of the return expected at a dream step",
    "pretrain/loss/routing": "weighted load-balance and z-loss of the router",
    "pretrain/loss/picture": "cross-entropy of the answer drawn as a picture from a damaged one, in nats per patch",
    "pretrain/loss/contrastive": "weighted contrastive loss of pictures with actions in words, and their results",
    "pretrain/contrastive_temperature": "learned temperature of the contrastive loss",
    "pretrain/contrastive_accuracy": "share of pictures with actions matched with their result among the batch",
    "pretrain/max_vio": "largest expert load over the mean load, minus 1; 0 is balanced (arXiv:2408.15664)",
    "pretrain/router_entropy": "mean entropy of the router's probabilities, in nats; ln num_experts is undecided",
    "pretrain/dead_experts": "experts that no dream step of the batch chose",
    "pretrain/loss/focus": "negative log-probability of choosing a dream that supports the answer",
    "pretrain/loss/answer": "cross-entropy of the answer's tokens, in nats per token",
    "pretrain/loss/inverse": "cross-entropy of the action inferred from two pictures",
    "pretrain/loss/codec": "squared error of the image codec's reconstruction, plus the crowding of its codes",
    "pretrain/loss/total": "sum of the losses that are minimised together",
    "pretrain/exact_frame": "share of next pictures predicted with every patch right, on held-out random play",
    "pretrain/exact_frame/*": "the same, in one world of a mixture (* is e.g. spatial.minigrid)",
    "pretrain/script_accuracy": "share of moves named in a question that the dream makes when its turn comes",
    "pretrain/focus_accuracy": "share of questions for which a dream that supports the answer is chosen",
    "pretrain/answer_accuracy": "share of questions answered with every token right",
    "pretrain/focus_accuracy/*": "the same, in one world of a mixture",
    "pretrain/answer_accuracy/*": "the same, in one world of a mixture",
    "pretrain/inverse_accuracy": "share of actions inferred right from two pictures",
    "pretrain/grad_norm": "gradient norm before clipping",
    "pretrain/lr": "learning rate",
    "pretrain/scenes_per_second": "scenes learned from per second, over all workers",
    "pretrain/expert_usage/*": "share of routing choices that went to expert *; 1 / num_experts when balanced",
    "ppo/policy_loss": "clipped PPO objective, negated",
    "ppo/value_loss": "squared error of the value head against the GAE targets",
    "ppo/entropy": "mean entropy of the action choice in a dream step, in nats",
    "ppo/approx_kl": "mean of (ratio - 1) - log ratio: how far the update moved the policy",
    "ppo/clip_fraction": "share of samples whose probability ratio is outside of 1 +- clip",
    "ppo/max_ratio_error": "largest |probability ratio - 1| of a minibatch; above 1e-4 in the first means a wrong logp",
    "ppo/explained_variance": "share of the returns' variance that the values explain; 1 is perfect, <= 0 useless",
    "ppo/exact_match": "share of sampled answers that the verifier accepts as exact",
    "ppo/exact_match/*": "the same, among the questions about one world of a mixture (* is e.g. spatial.minigrid)",
    "ppo/success": "share of sampled answers that reach the goal, optimal or not",
    "ppo/faithfulness": "mean share of changed patches that a dream step gets right",
    "ppo/coherence": "mean agreement of the claimed action with the one inferred from the two pictures",
    "ppo/correctness": "mean score by the verifier of what a dream leads to: 1 exact, 1/2 works, 0 wrong or unbelieved",
    "ppo/creativity": "mean difference of a dream from its faithful siblings",
    "ppo/progress": "mean sum of the progress over a dream; potential-based unless reward.shaping says otherwise",
    "ppo/dream_length": "mean steps of a dream",
    "ppo/dream_return": "mean sum of the weighted rewards of a dream",
    "ppo/exact_frame": "share of dreamed pictures that equal the simulator's in every patch",
    "ppo/replay_frame_loss": "cross-entropy of the next picture on replayed true transitions, in nats per patch",
    "ppo/world_loss": "cross-entropy of picture and belief against the simulator, on the dreams just sampled",
    "ppo/replay_exact_frame": "share of replayed true transitions predicted with every patch right",
    "ppo/balance": "load-balance loss of the experts; 1 when balanced, num_experts / top_k at worst",
    "ppo/grad_norm": "gradient norm before clipping",
    "ppo/lr": "learning rate",
    "ppo/env_steps_per_second": "environment steps sampled and learned from per second",
    "ppo/episodes": "questions answered since the start of PPO",
    "ppo/env_steps": "environment steps since the start of PPO",
    "ppo/time/sample": "seconds spent sampling in this update",
    "ppo/time/learn": "seconds spent learning in this update",
    "ppo/expert_usage/*": "share of routing choices that went to expert *; 1 / num_experts when balanced",
    "ppo/router_entropy": "mean entropy of the router's probabilities, in nats; ln num_experts is undecided",
    "ppo/dead_experts": "experts that no dream step of a minibatch chose, on average",
    "ppo/max_vio": "largest expert load over the mean load, minus 1; 0 is balanced (arXiv:2408.15664)",
    "ppo/curriculum/stage": "stage of the curriculum in this update, from 1",
    "ppo/curriculum/success": "share of the stage's latest curriculum.window questions answered exactly",
    "ppo/curriculum/iterations": "updates in the stage so far",
    "ppo/curriculum/mastered": "stages left so far because their target was reached",
    "ppo/curriculum/forced": "stages left so far because their most updates were used up, target or not",
    "eval/exact_match/*": "share of held-out questions answered exactly, by model and dreams (* is e.g. ppo_4)",
    "eval/progress_rate/*": "mean share of correct leading steps, by model and dreams",
    "eval/valid/*": "share of answers that parse and break no rule, by model and dreams",
    "eval/exact_frame/*": "share of dreamed pictures that equal the simulator's in every patch, by model and dreams",
    "eval/exact_picture/*": "share of answers as pictures that show what the simulator shows, by model and dreams",
    "eval/confidence/*": "mean confidence in the answers, by model and dreams; calibrated if it is the exact match",
    "eval/ece/*": "expected calibration error of the confidence (arXiv:1706.04599), by model and dreams",
    "eval/items_per_second/*": "held-out questions answered per second, by model and dreams",
}
"""Name -> one line. ``*`` stands for one part of a name (between slashes)."""

PICTURES: dict[str, str] = {
    "dreams/filmstrip": "what is dreamed about one held-out question, each result above what the simulator shows, "
    "differences outlined in red",
    "dreams/graph": "the graph in which these dreams are read: steps, and what was heard along each type of edge",
}
"""What is shown as pictures, in TensorBoard only. Behind their stage in a tag, before the world of a mixture, as in
"ppo/dreams/graph" or "ppo/dreams/graph/spatial.minigrid"."""

EVENT_SECONDS = 2
"""Seconds of TensorBoard events that a kill -9 may lose; metrics.jsonl loses nothing."""


def pattern_of(name: str) -> str:
    """The glossary's key for ``name``, which may fill in a ``*``; KeyError for a name that nobody defined."""
    pattern = name if name in GLOSSARY else f"{name.rpartition('/')[0]}/*"
    if pattern not in GLOSSARY or name.endswith(("/", "*")):
        raise KeyError(f"metric {name!r} is not in dreamrl.metrics.GLOSSARY; add it there or correct its name")
    return pattern


def explain(name: str) -> str:
    """The glossary's line for ``name``, see :func:`pattern_of`."""
    return GLOSSARY[pattern_of(name)]


def expand(pattern: str, values: Iterable[SupportsFloat], names: Iterable[str] | None = None) -> dict[str, float]:
    """Name each of several values of one metric.

    Example:
        >>> expand("ppo/expert_usage/*", [0.75, 0.25])
        {'ppo/expert_usage/0': 0.75, 'ppo/expert_usage/1': 0.25}

    Args:
        pattern: a key of ``GLOSSARY`` with a ``*``.
        values: numbers in order.
        names: what takes the place of ``*``; 0, 1, ... when left out.
    """
    if pattern not in GLOSSARY or "*" not in pattern:
        raise KeyError(f"{pattern!r} is not a name with * in dreamrl.metrics.GLOSSARY")
    values = [float(value) for value in values]
    filled = [str(index) for index in range(len(values))] if names is None else list(names)
    return {pattern.replace("*", name): value for name, value in zip(filled, values, strict=True)}


class MetricsWriter:
    """Writes metrics twice: as JSON lines for programs, as TensorBoard events for people.

    Where Ray runs, they are on its dashboard as well (``dreamrl.ray_metrics``), under the directory's name.

    A line of ``metrics.jsonl`` reads ``{"stage": "ppo", "step": 3, "ppo/success": 0.4}``; a value that is not
    finite is null. Every stage has its own folder of events, because each counts its steps from 0.

    Args:
        directory: where ``metrics.jsonl`` and ``tensorboard/`` are.
        resume: append to what is there; else an existing ``metrics.jsonl`` raises FileExistsError.
    """

    def __init__(self, directory: Path, resume: bool):
        """See the class."""
        self.directory = Path(directory)
        self.path = self.directory / "metrics.jsonl"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._boards: dict[str, SummaryWriter] = {}
        if resume and self.path.exists():
            write_atomically(self.path, "".join(_complete_lines(self.path)))
        self._file = self.path.open("a" if resume else "x", encoding="utf-8")

    def write(self, step: int, stage: str, values: Mapping[str, SupportsFloat]) -> None:
        """Log ``values`` by name; numpy and torch scalars are fine. KeyError for a name not in the glossary."""
        for name in values:
            pattern_of(name)
        numbers = {name: float(value) for name, value in values.items()}
        known = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._file.write(json.dumps({"stage": stage, "step": int(step), **known}) + "\n")
        self._file.flush()
        board = self._board(stage)
        for name, value in known.items():
            if value is not None:
                board.add_scalar(name, value, int(step))
        if "ray" in sys.modules:  # else it cannot run, and a plain Python stays without it
            from dreamrl.ray_metrics import show

            show(numbers, self._run)

    def image(self, tag: str, array: np.ndarray, step: int) -> None:
        """Show a picture, uint8 (H, W, 3), in TensorBoard; KeyError for a ``tag`` that is not of ``PICTURES``."""
        stage, *name = tag.split("/")
        if "/".join(name[:2]) not in PICTURES or len(name) > 3:
            raise KeyError(f"picture {tag!r} is not in dreamrl.metrics.PICTURES; add it there or correct its name")
        self._board(stage).add_image(tag, array, int(step), dataformats="HWC")

    def truncate_after(self, stage: str, step: int) -> None:
        """Forget what ``stage`` logged after ``step``: a resumed run will log it again."""
        self._file.close()
        lines = _complete_lines(self.path)
        records = [json.loads(line) for line in lines]
        kept = [line for line, r in zip(lines, records, strict=True) if r["stage"] != stage or r["step"] <= step]
        write_atomically(self.path, "".join(kept))
        self._file = self.path.open("a", encoding="utf-8")
        if stage in self._boards:
            self._boards.pop(stage).close()
        self._boards[stage] = self._open_board(stage, purge_step=int(step) + 1)

    def close(self) -> None:
        """Close all files."""
        self._file.close()
        for board in self._boards.values():
            board.close()
        if "dreamrl.ray_metrics" in sys.modules:
            from dreamrl.ray_metrics import forget

            forget(self._run)

    @property
    def _run(self) -> str:
        return self.directory.resolve().name

    def _board(self, stage: str) -> SummaryWriter:
        if stage not in self._boards:
            self._boards[stage] = self._open_board(stage)
        return self._boards[stage]

    def _open_board(self, stage: str, purge_step: int | None = None) -> SummaryWriter:
        """Events of ``stage``; TensorBoard hides what it logged before from ``purge_step`` on."""
        folder = self.directory / "tensorboard" / stage
        # Files are named by the second: without a number a quick restart would overwrite the last one.
        number = len(list(folder.glob("events.*")))
        return SummaryWriter(
            str(folder), purge_step=purge_step, flush_secs=EVENT_SECONDS, filename_suffix=f".{number:03}"
        )


def _complete_lines(path: Path) -> list[str]:
    """Lines with their line ends; a last one without, cut off by a kill, is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return lines[:-1] if lines and not lines[-1].endswith("\n") else lines
