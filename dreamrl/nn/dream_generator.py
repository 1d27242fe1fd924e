"""The dream generator: from what is seen, to an action, to the picture that the action leads to.

One dream step is ``look`` (the picture and the question -> features, action logits, value), then ``imagine``
(features and the *sampled* action -> result codes and a belief). It sees the present picture, the question and
the step, so a dream of T steps costs T times one step, when sampling and when learning. With
``use_dream_memory`` it also sees the earlier steps of its dream, computed anew from what was dreamed: no hidden
state has to be carried or stored.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.config import DreamingConfig
from dreamrl.nn.experts import Context
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.layers import Attention, AttentionPool, Block, widened
from dreamrl.nn.local_mixing import LocalMixing
from dreamrl.nn.moe import MixtureOfExperts, Routing
from dreamrl.nn.positional import GridPositions, Places

NUM_BELIEFS = 4
"""continue, success, failure, stop: see ``envs.world.Outcome``."""


class Look(NamedTuple):
    """What R dream steps see: features (R, P, D), masks, places, action logits (R, A), value (R,), routing.

    ``grid`` (R, 2) are the rows and columns of the pictures in patches.

    ``chances`` (R, A) are logits of what random play from here achieves after each action, see
    :func:`dreamrl.losses.chance_loss`.
    """

    features: Tensor
    mask: Tensor
    places: Places
    action_logits: Tensor
    value: Tensor
    routing: Routing
    chances: Tensor
    grid: Tensor


class DreamGenerator(nn.Module):
    """Trunk (weights shared over loops) -> mixture of experts -> action; then dynamics -> result and belief.

    Trunk and dynamics mix neighbouring patches by convolution before they attend to all.

    Args:
        config: architecture.
        num_actions: A.
        tokenizer: shared embedding tables.
    """

    def __init__(self, config: DreamingConfig, num_actions: int, tokenizer: InputTokenizer):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.loops = config.trunk_loops
        self.positions = GridPositions(config.positions, dim, heads, config.yarn_factor)
        self.num_offsets = config.num_dream_offsets
        self.codes = tokenizer.codes
        self.step = nn.Embedding(config.dream_length, dim)
        self.offset = nn.Embedding(config.num_dream_offsets, dim)
        self.instruction = Attention(dim, heads, config.attention)
        self.condition = nn.Linear(dim, dim)
        self.trunk = nn.ModuleList(Block(dim, heads, normaliser=config.attention) for _ in range(config.trunk_layers))
        self.local = LocalMixing(dim) if config.use_local_mixing else None
        self.local_dynamics = LocalMixing(dim) if config.use_local_mixing else None
        self.moe = MixtureOfExperts(config)
        self.memory = DreamMemory(config, num_actions, tokenizer) if config.use_dream_memory else None
        self.summary = AttentionPool(dim, heads)
        self.readout = AttentionPool(dim, heads)
        self.outlook = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU())
        self.policy = nn.Linear(2 * dim, num_actions)
        self.value = nn.Linear(2 * dim, 1)
        self.chances = nn.Linear(2 * dim, num_actions)
        self.action = nn.Embedding(num_actions, dim)
        self.dynamics = nn.ModuleList(
            Block(dim, heads, normaliser=config.attention) for _ in range(config.dynamics_layers)
        )
        self.result_norm = nn.LayerNorm(dim)
        self.result_bias = nn.Parameter(torch.zeros(config.num_codes))
        self.belief_pool = AttentionPool(dim, heads)
        self.belief = nn.Linear(dim, NUM_BELIEFS)
        nn.init.zeros_(self.policy.weight)  # start as uniform random play
        nn.init.zeros_(self.policy.bias)
        nn.init.normal_(self.offset.weight, std=0.1)

    def look(
        self,
        what: Tensor,
        grid: Tensor,
        step: Tensor,
        slot: Tensor,
        prompt: Prompt,
        past: tuple[Tensor, Tensor] | None = None,
        noise: torch.Generator | None = None,
    ) -> Look:
        """Read the present picture with the question in mind.

        Args:
            what: (R, P) codes, padding anywhere past the picture's own patches.
            grid: (R, 2) rows and columns of the picture in patches.
            step: (R,) dream step.
            slot: (R,) index of the dream among its siblings.
            prompt: encoded question of each row.
            past: frames (R, S, P) and actions (R, S) of the dream so far, steps 0 to S - 1; those at or after a
                row's own step are not read. Only with ``use_dream_memory``.
            noise: makes the router's choices noisy, if the config says so.

        Returns:
            :class:`Look` for the R rows.
        """
        length = what.shape[1]
        mask = torch.arange(length, device=what.device) < grid.prod(dim=1, keepdim=True)  # (R, P)
        keys = mask[:, None, None, :]
        added, places = self.positions(grid[:, 1], length)
        stage = self.step(step.clamp(max=self.step.num_embeddings - 1))
        told = self.instruction(stage.unsqueeze(1), memory=prompt.tokens, mask=prompt.mask[:, None, None, :])
        condition = told.squeeze(1) + stage + self.offset(slot % self.num_offsets) + prompt.summary  # (R, D)
        x = self.codes(what) + self.condition(condition).unsqueeze(1)  # (R, P, D)
        x = x if added is None else x + added
        for _ in range(self.loops):
            x = x if self.local is None else self.local(x, grid)
            for block in self.trunk:
                x = block(x, mask=keys, places=places)
        context = Context(prompt.tokens, prompt.mask)
        if self.memory is not None:
            assert past is not None, "this model remembers its dream so far"
            context = context._replace(**self.memory(*past, step)._asdict())
            condition = condition + self.memory.recall(condition, context)
        x, routing = self.moe(x, keys, grid[:, 1], self.summary(x, mask) + condition, context, noise)
        outlook = self.outlook(torch.cat([self.readout(x, mask), condition], dim=-1))  # (R, 2 D)
        # Probabilities want more digits than bfloat16 has, here and wherever logits leave the model.
        value, policy, chances = (widened(head(outlook)) for head in (self.value, self.policy, self.chances))
        return Look(x, mask, places, policy, value.squeeze(-1), routing, chances, grid)

    def imagine(self, look: Look, what: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the result codes (R, P, V) and of the belief (R, 4), given the chosen action (R,)."""
        x = look.features + self.codes(what) + self.action(action).unsqueeze(1)
        x = x if self.local_dynamics is None else self.local_dynamics(x, look.grid)
        for block in self.dynamics:
            x = block(x, mask=look.mask[:, None, None, :], places=look.places)
        # Output matrix tied to the code table (Press and Wolf 2017): at first the present picture is the most
        # probable result, and only what changes has to be learned.
        table = self.codes.weight[:-1] * x.shape[-1] ** -0.5  # (V, D), without padding
        result = F.linear(self.result_norm(x), table, self.result_bias)  # (R, P, V)
        return widened(result), widened(self.belief(self.belief_pool(x, look.mask)))


class Remembered(NamedTuple):
    """``memory`` (R, 1 + S, D), one token for each earlier step after a "nothing" token; ``memory_mask``."""

    memory: Tensor
    memory_mask: Tensor


class DreamMemory(nn.Module):
    """The earlier steps of a dream as tokens: the picture it was in, and the action it took there.

    Args:
        config: architecture.
        num_actions: A.
        tokenizer: shared embedding tables.
    """

    def __init__(self, config: DreamingConfig, num_actions: int, tokenizer: InputTokenizer):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.codes, self.pad = tokenizer.codes, config.num_codes
        self.pool = AttentionPool(dim, heads)
        self.action = nn.Embedding(num_actions, dim)
        self.step = nn.Embedding(config.dream_length, dim)
        self.nothing = nn.Parameter(torch.randn(dim) * 0.1)
        self.attention = Attention(dim, heads, config.attention)

    def forward(self, frames: Tensor, actions: Tensor, step: Tensor) -> Remembered:
        """``frames`` (R, S, P), ``actions`` (R, S), ``step`` (R,); see :meth:`DreamGenerator.look`."""
        rows, steps = actions.shape
        when = torch.arange(steps, device=step.device)
        earlier = when < step.unsqueeze(1)  # (R, S)
        nothing = self.nothing.expand(rows, 1, -1)
        pictures = frames[earlier]  # (E, P): only what is read is computed
        seen = self.pool(self.codes(pictures), pictures != self.pad)
        told = seen + self.action(actions[earlier]) + self.step(when.expand(rows, steps)[earlier].clamp(max=self.last))
        tokens = nothing.new_zeros(rows, steps, nothing.shape[-1]).masked_scatter(earlier.unsqueeze(-1), told)
        mask = torch.cat([earlier.new_ones(rows, 1), earlier], dim=1)
        return Remembered(torch.cat([nothing, tokens], dim=1), mask)

    @property
    def last(self) -> int:
        """The last step that has an embedding of its own."""
        return self.step.num_embeddings - 1

    def recall(self, condition: Tensor, context: Context) -> Tensor:
        """What of the remembered matters now: (R, D)."""
        assert context.memory is not None and context.memory_mask is not None
        mask = context.memory_mask[:, None, None, :]
        return self.attention(condition.unsqueeze(1), memory=context.memory, mask=mask).squeeze(1)


class InverseDynamics(nn.Module):
    """Which action leads from one picture to the next, or none of them.

    Args:
        config: architecture.
        num_actions: A; class A means that no single action does.
    """

    def __init__(self, config: DreamingConfig, num_actions: int):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim // 2, max(1, config.num_heads // 2)
        self.positions = GridPositions("rope", dim, heads)
        self.before = nn.Embedding(config.num_codes + 1, dim)
        self.after = nn.Embedding(config.num_codes + 1, dim)
        self.block = Block(dim, heads)
        self.pool = AttentionPool(dim, heads)
        self.head = nn.Linear(dim, num_actions + 1)

    def forward(self, what: Tensor, result: Tensor, grid: Tensor) -> Tensor:
        """``what``, ``result`` (R, P) codes, ``grid`` (R, 2) -> logits (R, A + 1)."""
        mask = torch.arange(what.shape[1], device=what.device) < grid.prod(dim=1, keepdim=True)
        _, places = self.positions(grid[:, 1], what.shape[1])
        x = self.before(what) + self.after(result)
        return widened(self.head(self.pool(self.block(x, mask=mask[:, None, None, :], places=places), mask)))
