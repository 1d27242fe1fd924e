"""Losses as pure functions: inputs -> (loss, metrics). Keys of the metrics are those that are logged."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.contrastive import contrastive_loss, same_pictures
from dreamrl.nn.dreaming_model import DreamingModel, last_frames
from dreamrl.nn.input_tokenizer import Prompt
from dreamrl.nn.moe import Routing, load_balance_loss, router_z_loss, routing_metrics
from dreamrl.nn.text import BOS, PAD


class Rows(NamedTuple):
    """The R dream steps that happened among Q questions x N dreams x T steps.

    ``what``, ``result`` (R, P); ``action``, ``belief``, ``step``, ``slot``, ``question`` (R,); ``grid`` (R, 2);
    ``past_frames`` (R, S, P) and ``past_actions`` (R, S) hold the dream so far, see :func:`past`.
    """

    what: Tensor
    result: Tensor
    action: Tensor
    belief: Tensor
    step: Tensor
    slot: Tensor
    question: Tensor
    grid: Tensor
    past_frames: Tensor
    past_actions: Tensor


def happened(lengths: Tensor, steps: int) -> Tensor:
    """(Q, N) lengths -> (Q, N, T) True where a dream took that step."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def dream_rows(batch: dict[str, Tensor], mask: Tensor, memory: bool = False) -> Rows:
    """Gather the steps in ``mask`` (Q, N, T) from a batch's frames (Q, N, T + 1, P), actions and beliefs (Q, N, T).

    With ``memory`` each row also gets its dream so far.
    """
    question, slot, step = mask.nonzero(as_tuple=True)
    frames, actions, beliefs = batch["frames"], batch["actions"], batch["beliefs"]
    past_frames, past_actions = past(frames, actions, question, slot, step, memory)
    return Rows(
        what=frames[question, slot, step],
        result=frames[question, slot, step + 1],
        action=actions[question, slot, step],
        belief=beliefs[question, slot, step],
        step=step,
        slot=slot,
        question=question,
        grid=batch["grid"][question],
        past_frames=past_frames,
        past_actions=past_actions,
    )


def past(
    frames: Tensor, actions: Tensor, question: Tensor, slot: Tensor, step: Tensor, memory: bool
) -> tuple[Tensor, Tensor]:
    """The dream so far of R rows: (R, S, P) frames and (R, S) actions, S the latest step; S = 0 without ``memory``.

    What lies at or after a row's own step is there, too: whoever reads it must mask it.
    """
    latest = int(step.max()) if memory and len(step) else 0
    return frames[question, slot, :latest], actions[question, slot, :latest]


def prompt_rows(prompt: Prompt, question: Tensor) -> Prompt:
    """The encoded prompt of each row."""
    return Prompt(*(part[question] for part in prompt))


def size_groups(grid: Tensor, padding: int = 0) -> list[tuple[Tensor, int]]:
    """Rows of ``grid`` (R, 2) with the same number of patches, as (row indices, patches).

    Computed apart, small boards do not pay for the padding of large ones, in time or in memory. But a group of its own
    costs something, too: rows join those of the next larger size where no more than ``padding`` patches are added.
    """
    patches = grid.prod(dim=1)
    sizes, counts = patches.unique(return_counts=True)
    tops: dict[int, list[int]] = {}  # largest size of a group -> all of its sizes
    top = 0
    for size, count in zip(reversed(sizes.tolist()), reversed(counts.tolist()), strict=True):
        top = top if top and (top - size) * count <= padding else size
        tops.setdefault(top, []).append(size)
    groups = [(torch.isin(patches, patches.new_tensor(own)).nonzero().squeeze(1), top) for top, own in tops.items()]
    return groups[::-1]


class Seen(NamedTuple):
    """What the generator made of R rows: ``action_logits``, ``chances`` (R, A), ``value``, ``exact`` (R,), routing."""

    action_logits: Tensor
    chances: Tensor
    value: Tensor
    exact: Tensor
    routing: Routing


def world_model_loss(
    model: DreamingModel, rows: Rows, prompt: Prompt, noise: torch.Generator | None = None
) -> tuple[dict[str, Tensor], Seen]:
    """Next picture and belief on true transitions: losses by name, and what was seen on the way.

    ``noise`` makes the router's choices noisy, if the config says so.
    """
    generator = model.dream_generator
    frame, belief, parts, order = [], [], [], []
    for index, size in size_groups(rows.grid):
        own = Rows(*(part[index] for part in rows))
        what, result = own.what[:, :size], own.result[:, :size]
        earlier = (own.past_frames[..., :size], own.past_actions)
        look = generator.look(what, own.grid, own.step, own.slot, prompt_rows(prompt, index), earlier, noise)
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
    model: DreamingModel,
    batch: dict[str, Tensor],
    prompt: Prompt,
    draw: bool = False,
    noise: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Choose the right dream, write what it supports and, with ``draw``, paint the picture that it ends with.

    Uses ``focus_target`` (Q, n + 1), True for every choice that is right (ties are all right), and ``answer``
    (Q, L) tokens; questions whose answer is all padding are left out. Only the first n dreams are read. With
    ``noise`` the picture to paint from is damaged, so that the painter must read the dream.

    Returns:
        losses by name, and (Q,) the predicted value of each question's answer.
    """
    count = batch["focus_target"].shape[1] - 1
    frames, actions, beliefs, lengths = (batch[k][:, :count] for k in ("frames", "actions", "beliefs", "lengths"))
    reading = model.read(frames, actions, beliefs, lengths, prompt, batch["grid"])
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
    losses = {"focus": (focus_loss * asked).sum() / asked.sum().clamp(min=1), "answer": token_loss}
    if draw:
        target = last_frames(frames, lengths, focus)
        shown = target if noise is None else damage(target, model.pad_code, noise)
        codes = model.image_decoder(shown, batch["grid"], memory, memory_mask)
        losses["picture"] = F.cross_entropy(codes.flatten(0, 1), target.flatten(), ignore_index=model.pad_code)
    return losses, reading.value


def damage(codes: Tensor, pad_code: int, noise: torch.Generator) -> Tensor:
    """``codes`` (Q, P) with a tenth of the real patches replaced by random codes."""
    where = noise.device
    hit = (torch.rand(codes.shape, generator=noise, device=where) < DAMAGED_SHARE).to(codes.device)
    other = torch.randint(pad_code, codes.shape, generator=noise, device=where).to(codes.device)
    return torch.where(hit & (codes != pad_code), other, codes)


DAMAGED_SHARE = 0.1


def pretrain_loss(model: DreamingModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Everything that random play teaches, on one batch of :class:`dreamrl.data.RandomPlay`."""
    steps, config = batch["actions"].shape[-1], model.config
    rows = dream_rows(batch, happened(batch["lengths"], steps), config.use_dream_memory)
    # On the CPU wherever the model is: the same seed gives the same noise.
    noise = torch.Generator("cpu").manual_seed(int(batch["noise_seed"])) if "noise_seed" in batch else None
    prompt = model.ask(batch, noise)
    losses, seen = world_model_loss(model, rows, prompt_rows(prompt, rows.question), noise)
    action_logp = -F.cross_entropy(seen.action_logits, rows.action, reduction="none")
    cloned = batch["cloned"][rows.question, rows.slot]
    losses["action"] = -(action_logp * cloned).sum() / cloned.sum().clamp(min=1)
    returns = batch["returns"][rows.question, rows.slot, rows.step]
    losses["chance"] = chance_loss(seen, rows.action, returns)
    losses["value"] = F.mse_loss(seen.value, returns)
    losses["routing"], _ = routing_loss(config, seen.routing)
    read, _ = reading_loss(model, batch, prompt, draw=True, noise=noise)
    losses |= read
    inverse = model.inverse_dynamics(batch["pair_what"], batch["pair_result"], batch["pair_grid"])
    losses["inverse"] = F.cross_entropy(inverse, batch["pair_action"])
    metrics = routing_metrics(seen.routing)
    if config.use_contrastive_loss:
        contrast, own = alignment_loss(model, batch)
        losses["contrastive"] = config.contrastive_loss_weight * contrast
        metrics |= own
    metrics |= {f"loss/{k}": v.detach() for k, v in losses.items()}
    return torch.stack(list(losses.values())).sum(), metrics


def routing_loss(config: DreamingConfig, routing: Routing) -> tuple[Tensor, Tensor]:
    """What keeps the router sane: weighted load-balance and z-loss; and the unweighted balance loss."""
    balance = load_balance_loss(routing)
    loss = config.router_z_loss_weight * router_z_loss(routing)
    if config.load_balance == "switch":
        loss = loss + config.load_balance_loss_weight * balance
    return loss, balance.detach()


def alignment_loss(model: DreamingModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Contrastive: each rollout's picture and actions in words, against the picture that they lead to.

    All rollouts of a board are in the batch: with one each, recognising the board would be enough. Gathers from all
    workers, so all must call it alike.
    """
    assert model.contrastive is not None, "this model was made without use_contrastive_loss"
    frames, lengths = batch["frames"].flatten(0, 1), batch["lengths"].flatten()
    what, result = frames[:, 0], frames[torch.arange(len(frames), device=frames.device), lengths]
    grid = batch["grid"].repeat_interleave(batch["frames"].shape[1], 0)
    triplet = model.input_tokenizer.triplet(what, batch["moves"].flatten(0, 1), result, grid)
    same = same_pictures(result, grid)
    return contrastive_loss(triplet[0] + triplet[1], triplet[2], model.contrastive, same)


def touch_all(model: DreamingModel) -> Tensor:
    """Zero, but a function of every trained parameter: data-parallel training waits for all their gradients."""
    return 0.0 * torch.stack([p.sum() for p in model.parameters() if p.requires_grad]).sum()


def codec_loss(model: DreamingModel, patches: Tensor) -> Tensor:
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
