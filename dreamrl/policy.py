"""The model as a policy: observations of ``envs.reasoning_env`` -> actions, log-probabilities and values.

Used by the RLlib module, the evaluation and ``generate`` alike, so that all of them dream in the same way.
Rows are computed in groups of equal picture size: small boards do not pay for the padding of large ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamrl.columns import ACTION_LOGP, ACTIONS, DREAM_LOGP, DREAM_VALUE, VF_PREDS
from dreamrl.losses import past, prompt_rows, size_groups
from dreamrl.nn.dreaming_model import DreamingModel
from dreamrl.nn.input_tokenizer import Prompt
from dreamrl.nn.moe import Routing
from envs.reasoning_batch import Phase

STEP_COLUMNS = (ACTION_LOGP, VF_PREDS, DREAM_LOGP, DREAM_VALUE)
"""What :func:`act` returns besides the action."""


class DreamRows(NamedTuple):
    """What was computed for R active dreams: their place (question, dream) and PPO's quantities, all (R,).

    ``frame_loss`` and ``belief_loss`` (R,) compare the imagination with the simulator where ``truth`` is given
    and fair, and are zero elsewhere.
    """

    question: Tensor
    dream: Tensor
    logp: Tensor
    entropy: Tensor
    value: Tensor
    routing: Routing
    frame_loss: Tensor
    belief_loss: Tensor


class AnswerRows(NamedTuple):
    """The same for A answers, all (A,)."""

    question: Tensor
    logp: Tensor
    entropy: Tensor
    value: Tensor


def dream(
    model: DreamingModel,
    obs: dict[str, Tensor],
    prompt: Prompt,
    action: dict[str, Tensor],
    uniform: Tensor | None = None,
    temperature: Tensor | None = None,
    truth: dict[str, Tensor] | None = None,
    padding: int = 0,
) -> DreamRows | None:
    """One step of every active dream among Q questions in the dream phase; None when there is none.

    Args:
        model: the model.
        obs: tensors of the observation, leading dimension Q.
        prompt: encoded prompts of the Q questions.
        action: ``action``, ``belief`` (Q, N), ``result`` (Q, N, P). Scored when ``uniform`` is None;
            otherwise filled in place with what is sampled.
        uniform: (Q, N, P + 2) numbers in [0, 1) to sample with.
        temperature: (Q, N), see :meth:`DreamingModel.dream_step`.
        truth: ``true_result`` (Q, N, P), ``true_belief`` and ``sound`` (Q, N) of ``ReasoningBatch.step_info``.
        padding: see :func:`dreamrl.losses.size_groups`; 0 with ``truth``, as a padded picture has no loss of its own.

    Returns:
        :class:`DreamRows`, ordered by picture size.
    """
    question, slot = ((obs["phase"] == Phase.DREAM).unsqueeze(1) & (obs["active"] == 1)).nonzero(as_tuple=True)
    if len(question) == 0:
        return None
    step = obs["step"].long()
    what_all = obs["frames"].long()[question, slot, step[question]]  # (R, P)
    past_frames, past_actions = past(
        obs["frames"].long(), obs["actions"].long(), question, slot, step[question], model.config.use_dream_memory
    )
    parts = []
    for rows, size in size_groups(obs["grid"].long()[question], padding):
        q, n = question[rows], slot[rows]
        taken = None
        if uniform is None:
            taken = (action["action"][q, n].long(), action["result"][q, n, :size].long(), action["belief"][q, n].long())
        out = model.dream_step(
            what_all[rows, :size],
            obs["grid"].long()[q],
            step[q],
            n,
            prompt_rows(prompt, q),
            past=(past_frames[rows, :, :size], past_actions[rows]),
            uniform=None if uniform is None else uniform[q, n, : size + 2],
            temperature=None if temperature is None else temperature[q, n],
            taken=taken,
        )
        if uniform is not None:
            action["action"][q, n] = out.action
            action["belief"][q, n] = out.belief
            action["result"][q, n, :size] = out.result
            action["result"][q, n, size:] = model.pad_code
        frame_loss = belief_loss = torch.zeros_like(out.value)
        if truth is not None:
            fair = truth["sound"][q, n]
            target = truth["true_result"][q, n, :size].long()
            frame_loss = F.cross_entropy(out.result_logits.flatten(0, 1), target.flatten(), reduction="none")
            frame_loss = frame_loss.view_as(target).mean(1) * fair
            belief_loss = F.cross_entropy(out.belief_logits, truth["true_belief"][q, n].long(), reduction="none") * fair
        parts.append((q, n, out.logp, out.entropy, out.value, frame_loss, belief_loss, *out.routing))
    q, n, logp, entropy, value, frame, belief, *routing = (torch.cat(column) for column in zip(*parts, strict=True))
    return DreamRows(q, n, logp, entropy, value, Routing(*routing), frame, belief)


def answer(
    model: DreamingModel,
    obs: dict[str, Tensor],
    prompt: Prompt,
    action: dict[str, Tensor],
    uniform: Tensor | None = None,
    sample: bool = False,
) -> AnswerRows | None:
    """The answers of the questions in the answer phase; None when there is none.

    Scores ``action`` (``focus`` (Q,), ``tokens`` (Q, L)), or with ``sample`` fills it in place: greedily, or
    from ``uniform`` (Q, L + 1) numbers in [0, 1).
    """
    question = (obs["phase"] == Phase.ANSWER).nonzero().squeeze(1)
    if len(question) == 0:
        return None
    asked = prompt_rows(prompt, question)
    reading = model.read(
        obs["frames"].long()[question],
        obs["actions"].long()[question],
        obs["beliefs"].long()[question],
        obs["lengths"].long()[question],
        asked,
        obs["grid"].long()[question],
    )
    if sample:
        out = model.answer(reading, asked, None if uniform is None else uniform[question])
        action["focus"][question] = out.focus
        action["tokens"][question] = out.tokens
    else:
        out = model.score_answer(reading, asked, action["focus"][question].long(), action["tokens"][question].long())
    return AnswerRows(question, out.logp, out.entropy, reading.value)


def empty_action(obs: dict[str, Tensor], answer_tokens: int) -> dict[str, Tensor]:
    """An action dict of zeros with the shapes that ``obs`` asks for, to be filled in."""
    questions, dreams, _, patches = obs["frames"].shape
    device = obs["frames"].device
    return {
        "action": torch.zeros(questions, dreams, dtype=torch.long, device=device),
        "result": torch.zeros(questions, dreams, patches, dtype=torch.long, device=device),
        "belief": torch.zeros(questions, dreams, dtype=torch.long, device=device),
        "focus": torch.zeros(questions, dtype=torch.long, device=device),
        "tokens": torch.zeros(questions, answer_tokens, dtype=torch.long, device=device),
    }


@torch.no_grad()
def act(model: DreamingModel, obs: dict[str, Tensor], uniform: Tensor, answer_uniform: Tensor) -> dict[str, Any]:
    """Sample dreams and answers for K observations.

    Args:
        model: the model.
        obs: tensors of the observation, leading dimension K.
        uniform: (K, N, P + 2) numbers in [0, 1) to sample dreams with.
        answer_uniform: (K, L + 1) numbers in [0, 1) to sample answers with.

    Returns:
        the action under ``ACTIONS``, and ``STEP_COLUMNS``: log-probability and value of the whole step (K,) and of
        each dream (K, N).
    """
    prompt = model.ask(obs)
    action = empty_action(obs, model.config.max_answer_tokens)
    dreams = dream(model, obs, prompt, action, uniform)
    answers = answer(model, obs, prompt, action, answer_uniform, sample=True)
    logp, value = torch.zeros(2, *obs["active"].shape, device=uniform.device)
    answer_logp, answer_value = torch.zeros(2, len(logp), device=uniform.device)
    if dreams is not None:
        logp[dreams.question, dreams.dream] = dreams.logp
        value[dreams.question, dreams.dream] = dreams.value
    if answers is not None:
        answer_logp[answers.question] = answers.logp
        answer_value[answers.question] = answers.value
    return {
        ACTIONS: action,
        ACTION_LOGP: logp.sum(1) + answer_logp,
        VF_PREDS: value.sum(1) + answer_value,
        DREAM_LOGP: logp,
        DREAM_VALUE: value,
    }


class Scored(NamedTuple):
    """What the model makes now of actions that were taken."""

    prompt: Prompt
    dreams: DreamRows | None
    answers: AnswerRows | None


def score(
    model: DreamingModel,
    obs: dict[str, Tensor],
    action: dict[str, Tensor],
    truth: dict[str, Tensor] | None = None,
) -> Scored:
    """Score ``action``; ``truth`` as in :func:`dream`."""
    prompt = model.ask(obs)
    return Scored(prompt, dream(model, obs, prompt, action, truth=truth), answer(model, obs, prompt, action))
