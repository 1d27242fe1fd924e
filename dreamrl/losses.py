"""Losses as pure functions: inputs -> (loss, metrics). Keys of the metrics are those that are logged."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamrl.model import DreamingReasoningLLM
from dreamrl.nn.input_tokenizer import Prompt
from dreamrl.nn.moe import Routing, load_balance_loss
from dreamrl.nn.text import BOS, PAD


class Rows(NamedTuple):
    """The R dream steps that happened among Q questions x N dreams x T steps.

    ``what``, ``result`` (R, P); ``action``, ``belief``, ``step``, ``slot``, ``question`` (R,); ``grid`` (R, 2).
    """

    what: Tensor
    result: Tensor
    action: Tensor
    belief: Tensor
    step: Tensor
    slot: Tensor
    question: Tensor
    grid: Tensor


def happened(lengths: Tensor, steps: int) -> Tensor:
    """(Q, N) lengths -> (Q, N, T) True where a dream took that step."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def dream_rows(frames: Tensor, actions: Tensor, beliefs: Tensor, grid: Tensor, mask: Tensor) -> Rows:
    """Gather the steps in ``mask`` (Q, N, T) from frames (Q, N, T + 1, P), actions and beliefs (Q, N, T)."""
    question, slot, step = mask.nonzero(as_tuple=True)
    return Rows(
        what=frames[question, slot, step],
        result=frames[question, slot, step + 1],
        action=actions[question, slot, step],
        belief=beliefs[question, slot, step],
        step=step,
        slot=slot,
        question=question,
        grid=grid[question],
    )


def prompt_rows(prompt: Prompt, question: Tensor) -> Prompt:
    """The encoded prompt of each row."""
    return Prompt(*(part[question] for part in prompt))


def size_groups(grid: Tensor) -> list[tuple[Tensor, int]]:
    """Rows of ``grid`` (R, 2) with the same number of patches, as (row indices, patches).

    Computed apart, small boards do not pay for the padding of large ones, in time or in memory.
    """
    patches = grid.prod(dim=1)
    return [((patches == size).nonzero().squeeze(1), size) for size in patches.unique().tolist()]


class Seen(NamedTuple):
    """What the generator made of R rows: ``action_logits``, ``chances`` (R, A), ``value``, ``exact`` (R,), routing."""

    action_logits: Tensor
    chances: Tensor
    value: Tensor
    exact: Tensor
    routing: Routing


def world_model_loss(model: DreamingReasoningLLM, rows: Rows, prompt: Prompt) -> tuple[dict[str, Tensor], Seen]:
    """Next picture and belief on true transitions: losses by name, and what was seen on the way."""
    generator = model.dream_generator
    frame, belief, parts, order = [], [], [], []
    for index, size in size_groups(rows.grid):
        own = Rows(*(part[index] for part in rows))
        what, result = own.what[:, :size], own.result[:, :size]
        look = generator.look(what, own.grid, own.step, own.slot, prompt_rows(prompt, index))
        result_logits, belief_logits = generator.imagine(look, what, own.action)
        frame.append(F.cross_entropy(result_logits.flatten(0, 1), result.flatten(), reduction="none"))
        belief.append(F.cross_entropy(belief_logits, own.belief, reduction="none"))
        exact = (result_logits.argmax(-1) == result).all(1)
        parts.append((look.action_logits, look.chances, look.value, exact, *look.routing))
        order.append(index)
    back = torch.cat(order).argsort()
    action_logits, chances, value, exact, *routing = (torch.cat(c)[back] for c in zip(*parts, strict=True))
    losses = {"frame": torch.cat(frame).mean(), "belief": torch.cat(belief).mean()}
    return losses, Seen(action_logits, chances, value, exact, Routing(*routing))


def chance_loss(seen: Seen, action: Tensor, returns: Tensor) -> Tensor:
    """How well does random play go on after each action? Binary cross-entropy against what happened.

    ``returns`` (R,) are gamma^k if random play succeeded k steps after ``action`` (R,), else 0: a Monte Carlo
    estimate of the random policy's action values. The policy head shares these features, so PPO starts from
    an encoder that knows where things lead, though no good move was ever shown.
    """
    chosen = seen.chances.gather(1, action.unsqueeze(1)).squeeze(1)
    return F.binary_cross_entropy_with_logits(chosen, returns)


def reading_loss(
    model: DreamingReasoningLLM, batch: dict[str, Tensor], prompt: Prompt
) -> tuple[dict[str, Tensor], Tensor]:
    """Choose the right dream and write what it supports.

    Uses ``focus_target`` (Q, n + 1), True for every choice that is right (ties are all right), and ``answer``
    (Q, L) tokens; questions whose answer is all padding are left out. Only the first n dreams are read.

    Returns:
        losses by name, and (Q,) the predicted value of each question's answer.
    """
    count = batch["focus_target"].shape[1] - 1
    frames, actions, beliefs, lengths = (batch[k][:, :count] for k in ("frames", "actions", "beliefs", "lengths"))
    reading = model.read(frames, actions, beliefs, lengths, prompt)
    asked = (batch["answer"] != PAD).any(1)
    right = batch["focus_target"].float()
    logp = reading.focus_logits.log_softmax(-1)
    focus_loss = -torch.logsumexp(logp.masked_fill(right == 0, -1e9), dim=-1)  # any right choice is right
    focus = right.argmax(-1)
    memory, memory_mask = model.output_decoder.memory(reading, focus, prompt)
    written = max(1, int((batch["answer"] != PAD).sum(1).amax()))
    targets = batch["answer"][:, :written]
    begin = torch.full_like(targets[:, :1], BOS)
    logits = model.output_decoder(torch.cat([begin, targets[:, :-1]], dim=1), memory, memory_mask)
    tokens = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    token_loss = (tokens * (targets != PAD)).sum() / (targets != PAD).sum().clamp(min=1)
    return {"focus": (focus_loss * asked).sum() / asked.sum().clamp(min=1), "answer": token_loss}, reading.value


def pretrain_loss(model: DreamingReasoningLLM, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Everything that random play teaches, on one batch of :class:`dreamrl.data.RandomPlay`."""
    steps = batch["actions"].shape[-1]
    rows = dream_rows(
        batch["frames"], batch["actions"], batch["beliefs"], batch["grid"], happened(batch["lengths"], steps)
    )
    prompt = model.input_tokenizer(batch["text"])
    losses, seen = world_model_loss(model, rows, prompt_rows(prompt, rows.question))
    action_logp = -F.cross_entropy(seen.action_logits, rows.action, reduction="none")
    cloned = batch["cloned"][rows.question, rows.slot]
    losses["action"] = -(action_logp * cloned).sum() / cloned.sum().clamp(min=1)
    returns = batch["returns"][rows.question, rows.slot, rows.step]
    losses["chance"] = chance_loss(seen, rows.action, returns)
    losses["value"] = F.mse_loss(seen.value, returns)
    losses["balance"] = model.config.load_balance_loss_weight * load_balance_loss(seen.routing)
    read, _ = reading_loss(model, batch, prompt)
    losses |= read
    inverse = model.inverse_dynamics(batch["pair_what"], batch["pair_result"], batch["pair_grid"])
    losses["inverse"] = F.cross_entropy(inverse, batch["pair_action"])
    return torch.stack(list(losses.values())).sum(), {f"loss/{k}": v.detach() for k, v in losses.items()}


def touch_all(model: DreamingReasoningLLM) -> Tensor:
    """Zero, but a function of every trained parameter: data-parallel training waits for all their gradients."""
    return 0.0 * torch.stack([p.sum() for p in model.parameters() if p.requires_grad]).sum()


def codec_loss(model: DreamingReasoningLLM, patches: Tensor) -> Tensor:
    """Squared error of the reconstructed *distinct* ``patches`` (n, 3 S S) in [0, 1], plus code crowding."""
    return F.mse_loss(model.codec(patches)[0], patches) + 0.1 * model.codec.crowding(patches)


def clipped_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO eq. 7 (Schulman et al. 2017, arXiv:1707.06347), all (K,); also approximate KL and clip fraction."""
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
    with torch.no_grad():
        metrics = {
            "approx_kl": (ratio - 1 - log_ratio).mean(),  # Schulman 2020, "Approximating KL divergence", k3
            "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
            "max_ratio_error": (ratio - 1).abs().amax(),
        }
    return loss, metrics
