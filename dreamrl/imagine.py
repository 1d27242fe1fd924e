"""Dream about questions with a trained model, outside of training: what evaluation and ``generate`` share.

The first dream takes the most probable action at every step, the others sample. Dream n of a question depends
on the seed, the question's number and n only, so the first 4 of 16 dreams are the 4 dreams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dreamrl import policy
from dreamrl.judge import Judge
from dreamrl.nn.graph import Edges, Reading
from dreamrl.nn.input_tokenizer import Prompt
from dreamrl.saving import Loaded
from envs.questions import stream
from envs.reasoning_batch import Phase, ReasoningBatch
from envs.world import Question


@dataclass(kw_only=True)
class Imagined:
    """Finished dreams of Q questions, not yet answered."""

    batch: ReasoningBatch
    """The questions, the dreams and what the simulator says of them."""
    prompt: Prompt
    """Encoded prompts."""
    experts: np.ndarray
    """(Q, N, T, E) weight of every expert in every step."""
    values: np.ndarray
    """(Q, N) what the model expected of each dream at its first step."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How the words of an answer are chosen."""

    temperature: float = 0.0
    """0 takes the most probable word each time."""
    top_p: float = 1.0
    """Nucleus to sample from."""
    max_length: int | None = None
    """Longest answer in tokens; None: the model's own limit."""
    seed: int = 0
    """Of the sampled words."""


GREEDY = Wording()


@dataclass(kw_only=True)
class Answers:
    """Answers of Q questions from their first N dreams."""

    texts: list[str]
    focus: np.ndarray
    """(Q,) the dream that was read; N for none."""
    confidence: np.ndarray
    """(Q,) probability in [0, 1] that the answer is exact."""
    evidence: np.ndarray
    """(Q, 3) what the confidence rests on, see :meth:`DreamingReasoningLLM.evidence`."""
    pictures: np.ndarray
    """(Q, P) codes of the answer as a picture."""
    reading: Reading
    """What the graph reasoner made of the dreams."""


@torch.no_grad()
def imagine(
    loaded: Loaded,
    questions: Sequence[Question],
    dreams: int,
    seed: int,
    temperature: float,
    judge: Judge | None = None,
    first: int = 0,
    on_step: Callable[[Imagined], None] = lambda imagined: None,
) -> Imagined:
    """Imagine ``dreams`` dreams of every question.

    Args:
        loaded: the model.
        questions: what to dream about.
        dreams: N.
        seed: of the sampled dreams.
        temperature: of their actions.
        judge: scores the dreams; by default made of the model itself.
        first: number of the first question, for the random streams.
        on_step: called after each step with the dreams so far.
    """
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, judge or Judge(loaded.model), dreams)
    imagined = begin(loaded, batch, questions)
    dice = dice_of(batch, [(seed, first + q, dreams) for q in range(len(questions))])
    heat = heat_of(loaded, [temperature] * len(questions), dreams)
    while (batch.phase == Phase.DREAM).any():
        dream_step(loaded, imagined, dice, heat)
        on_step(imagined)
    return imagined


def begin(loaded: Loaded, batch: ReasoningBatch, questions: Sequence[Question]) -> Imagined:
    """``batch`` reset to ``questions``, the prompts read, no step dreamed yet."""
    model = loaded.model
    batch.make_room(questions)
    batch.reset(questions)
    shape = (len(questions), batch.dreams)
    return Imagined(
        batch=batch,
        prompt=model.ask({k: torch.from_numpy(v).to(model.device) for k, v in batch.asked().items()}),
        experts=np.zeros((*shape, batch.length, model.config.num_experts), np.float32),
        values=np.zeros(shape, np.float32),
    )


def dream_step(loaded: Loaded, imagined: Imagined, dice: np.ndarray, heat: torch.Tensor, padding: int = 0) -> None:
    """One step of every dream that goes on, of which there must be one.

    Args:
        loaded: the model.
        imagined: the dreams so far; they are changed.
        dice: (Q, N, T, P + 2) random numbers in [0, 1), float32.
        heat: (Q, N) temperature of the dreams' actions.
        padding: see :func:`dreamrl.losses.size_groups`.
    """
    batch, model = imagined.batch, loaded.model
    obs = batch.observation()
    step = np.minimum(obs["step"], batch.length - 1)
    tensors = {k: torch.from_numpy(v).to(model.device) for k, v in obs.items()}
    action = policy.empty_action(tensors, model.config.max_answer_tokens)
    uniform = torch.from_numpy(dice[np.arange(len(step)), :, step]).to(model.device)
    rows = policy.dream(model, tensors, imagined.prompt, action, uniform, heat, padding=padding)
    assert rows is not None, "no dream goes on"
    q, n = rows.question.cpu().numpy(), rows.dream.cpu().numpy()
    weights = torch.zeros_like(rows.routing.probs).scatter(1, rows.routing.experts, rows.routing.weights)
    imagined.experts[q, n, step[q]] = weights.cpu().numpy()
    start = step[q] == 0
    imagined.values[q[start], n[start]] = rows.value.cpu().numpy()[start]
    # Questions in the answer phase wait there: nothing of the action is theirs.
    answering = batch.phase == Phase.ANSWER
    batch.phase[answering] = Phase.OVER
    batch.step({k: v.cpu().numpy() for k, v in action.items()})
    batch.phase[answering] = Phase.ANSWER


def dice_of(batch: ReasoningBatch, drawn: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """(Q, N, T, P + 2) random numbers in [0, 1), float32; each dream has its own stream.

    Args:
        batch: reset to its questions.
        drawn: of each question the seed, its number, and how many dreams it gets; what is left over is 0.
    """
    dice = np.zeros((len(drawn), batch.dreams, batch.length, batch.num_patches + 2), np.float32)
    for q, (seed, number, dreams) in enumerate(drawn):
        rows, columns = batch.questions[q].scene.grid
        shape = batch.horizon[q], rows * columns + 2
        for n in range(dreams):
            dice[q, n, : shape[0], : shape[1]] = stream(seed, 7, number, n).random(shape)
    return dice


def heat_of(loaded: Loaded, temperatures: Sequence[float], dreams: int) -> torch.Tensor:
    """(Q, N) temperature of each dream's actions: the first is greedy."""
    heat = torch.tensor(temperatures, dtype=torch.float32, device=loaded.model.device).unsqueeze(1).repeat(1, dreams)
    heat[:, 0] = 0.0
    return heat


@torch.no_grad()
def answer(loaded: Loaded, imagined: Imagined, dreams: int, wording: Wording = GREEDY) -> Answers:
    """Answer every question from the first ``dreams`` dreams, by default greedily."""
    batch, prompt = imagined.batch, imagined.prompt
    arrays = (batch.frames, batch.actions, batch.beliefs, batch.lengths)
    model = loaded.model
    frames, actions, beliefs, lengths, grid = (
        torch.from_numpy(a.astype(np.int64)).to(model.device) for a in (*(a[:, :dreams] for a in arrays), batch.grid)
    )
    reading = model.read(frames, actions, beliefs, lengths, prompt, grid)
    dice = None
    if wording.temperature > 0:
        shape = (model.config.max_answer_tokens + 1,)
        rows = [stream(wording.seed, 11, q).random(shape) for q in range(len(frames))]
        dice = torch.from_numpy(np.stack(rows)).float().to(model.device)
    out = model.answer(reading, prompt, dice, wording.temperature, wording.top_p, wording.max_length)
    evidence = model.evidence(reading, out)
    return Answers(
        texts=[loaded.text.decode(tokens) for tokens in out.tokens.tolist()],
        focus=out.focus.cpu().numpy(),
        confidence=model.confidence(evidence).cpu().numpy(),
        evidence=evidence.cpu().numpy(),
        pictures=model.draw(reading, prompt, out.focus, frames, lengths, grid).cpu().numpy(),
        reading=reading,
    )


def edges_of(reading: Reading, place: int) -> Edges:
    """The edges of the question at ``place`` among those that were read together, as if it had been read alone."""
    edges, nodes = reading.edges, reading.mask[0].numel()
    own = edges.edge_index[0] // nodes == place
    return Edges(edges.edge_index[:, own] - place * nodes, edges.edge_type[own], edges.weight[own])
