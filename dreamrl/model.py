"""DreamingReasoningLLM: a model that imagines what actions lead to, reads its dreams, and answers.

    text, picture -> InputTokenizer -> DreamGenerator (MoE) x N dreams x T steps
                  -> GraphReasoner -> OutputDecoder -> text

Everything that is sampled comes with its log-probability, and every sampler takes its uniform random numbers
as an argument: the same numbers give the same dreams, whatever else is in the batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.config import DreamingConfig
from dreamrl.nn.codec import ImageCodec
from dreamrl.nn.dream_generator import DreamGenerator, InverseDynamics
from dreamrl.nn.graph import GraphReasoner, Reading
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.moe import Routing
from dreamrl.nn.output_decoder import OutputDecoder
from dreamrl.nn.text import BOS, EOS, PAD

if TYPE_CHECKING:
    from dreamrl.saving import Loaded
    from envs.world import Scene


class DreamStep(NamedTuple):
    """One dreamed triplet for each of R rows, with what PPO needs.

    ``action`` (R,), ``result`` (R, P) codes, ``belief`` (R,), ``logp`` (R,) of all three together,
    ``entropy`` (R,) of the action, ``value`` (R,), ``routing``; the logits of result (R, P, V) and belief (R, 4).
    """

    action: Tensor
    result: Tensor
    belief: Tensor
    logp: Tensor
    entropy: Tensor
    value: Tensor
    routing: Routing
    result_logits: Tensor
    belief_logits: Tensor


class Answered(NamedTuple):
    """``focus`` (Q,) the dream that is read (N: none), ``tokens`` (Q, L), ``logp`` (Q,), ``entropy`` (Q,)."""

    focus: Tensor
    tokens: Tensor
    logp: Tensor
    entropy: Tensor


class DreamingReasoningLLM(nn.Module):
    """The whole model.

    Args:
        config: architecture.
        vocab_size: text tokens.
        num_actions: A, the world's actions.
    """

    def __init__(self, config: DreamingConfig, vocab_size: int, num_actions: int):
        """See the class."""
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.num_actions = num_actions
        self.loaded: Loaded | None = None
        self.codec = ImageCodec(config.patch_size, config.code_levels, config.codec_hidden)
        self.input_tokenizer = InputTokenizer(config, vocab_size)
        self.dream_generator = DreamGenerator(config, num_actions, self.input_tokenizer)
        self.inverse_dynamics = InverseDynamics(config, num_actions)
        self.graph_reasoner = GraphReasoner(config, num_actions, self.input_tokenizer)
        self.output_decoder = OutputDecoder(config, self.input_tokenizer)

    @classmethod
    def load_pretrained(cls, directory: str | Path) -> DreamingReasoningLLM:
        """The model saved in ``directory``, ready to :meth:`generate`; UserError if there is no sound one."""
        from dreamrl.saving import load_pretrained

        return load_pretrained(Path(directory)).model

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model as a directory (config.json, model.safetensors, tokenizer.json), atomically."""
        from dreamrl.saving import save_pretrained

        save_pretrained(self._assets(), Path(directory))

    def generate(
        self,
        prompt: str,
        *,
        scene: Scene | None = None,
        picture: np.ndarray | None = None,
        num_dreams: int | None = None,
        seed: int = 0,
        return_dreams: bool = False,
        watch_dreams: bool = False,
    ) -> dict[str, Any]:
        """Answer ``prompt``; see :func:`dreamrl.generate.generate` for the arguments and the result.

        ``return_dreams`` adds the dreams as pictures, ``watch_dreams`` draws them in the terminal as they come.
        """
        from dreamrl.generate import generate

        result = generate(self._assets(), prompt, scene, picture, num_dreams, seed, watch_dreams)
        return result if return_dreams else {k: v for k, v in result.items() if k != "dreams"}

    def _assets(self) -> Loaded:
        if self.loaded is None:
            raise ValueError("this model has no tokenizer and world; make it with load_pretrained or saving.new_model")
        return self.loaded

    @property
    def pad_code(self) -> int:
        """Code that stands for "no patch here"."""
        return self.config.num_codes

    def dream_step(
        self,
        what: Tensor,
        grid: Tensor,
        step: Tensor,
        slot: Tensor,
        prompt: Prompt,
        uniform: Tensor | None = None,
        temperature: Tensor | None = None,
        taken: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> DreamStep:
        """Sample one triplet for each row, or score the one that was ``taken``.

        Args:
            what: (R, P) codes, ``pad_code`` past the picture's own patches.
            grid: (R, 2) rows and columns in patches.
            step: (R,) step of the dream.
            slot: (R,) index of the dream.
            prompt: encoded questions of the rows.
            uniform: (R, P + 2) numbers in [0, 1) that decide action, belief and codes.
            temperature: (R,) for the action; 0 takes the most probable action, codes and belief.
            taken: (action, result, belief) whose probability is asked instead of sampling.

        Returns:
            :class:`DreamStep`; ``logp`` is at temperature 1. Unless the config says ``stochastic_results``, result
            and belief are functions of picture and action, and ``logp`` is that of the action alone.
        """
        assert (uniform is None) != (taken is None), "either sample or score"
        look = self.dream_generator.look(what, grid, step, slot, prompt)
        stochastic = self.config.stochastic_results
        if taken is None:
            assert uniform is not None
            action = sample(look.action_logits, uniform[:, 0], temperature)
        else:
            action = taken[0]
        action_logp = look.action_logits.log_softmax(-1)
        logp = action_logp.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        result_logits, belief_logits = self.dream_generator.imagine(look, what, action)
        if taken is None:
            assert uniform is not None
            greedy = True if not stochastic else None if temperature is None else temperature == 0
            result = sample(result_logits, uniform[:, 2:], None, greedy).masked_fill(~look.mask, self.pad_code)
            belief = sample(belief_logits, uniform[:, 1], None, greedy)
        else:
            result, belief = taken[1], taken[2]
        if stochastic:
            codes = -F.cross_entropy(
                result_logits.flatten(0, 1), result.masked_fill(~look.mask, 0).flatten(), reduction="none"
            ).view_as(result)
            logp = logp + (codes * look.mask).sum(-1) - F.cross_entropy(belief_logits, belief, reduction="none")
        entropy = -(action_logp.exp() * action_logp).sum(-1)
        return DreamStep(action, result, belief, logp, entropy, look.value, look.routing, result_logits, belief_logits)

    def read(self, frames: Tensor, actions: Tensor, beliefs: Tensor, lengths: Tensor, prompt: Prompt) -> Reading:
        """Read finished dreams; shapes as in :meth:`GraphReasoner.forward`."""
        return self.graph_reasoner(frames, actions, beliefs, lengths, prompt)

    def answer(self, reading: Reading, prompt: Prompt, uniform: Tensor | None = None) -> Answered:
        """Choose a dream and write the answer, greedily or with ``uniform`` (Q, L + 1) numbers in [0, 1)."""
        length = self.config.max_answer_tokens
        greedy = uniform is None
        questions = reading.focus_logits.shape[0]
        dice = reading.focus_logits.new_zeros(questions, length + 1) if uniform is None else uniform
        focus = sample(reading.focus_logits, dice[:, 0], None, greedy)
        memory, memory_mask = self.output_decoder.memory(reading, focus, prompt)
        tokens = torch.full((questions, length), PAD, device=focus.device)
        inputs = torch.full((questions, 1), BOS, device=focus.device)
        ended = torch.zeros_like(focus, dtype=torch.bool)
        for place in range(length):
            logits = self.output_decoder(inputs, memory, memory_mask)[:, -1]
            token = sample(logits, dice[:, place + 1], None, greedy).masked_fill(ended, PAD)
            tokens[:, place] = token
            ended = ended | (token == EOS)
            if bool(ended.all()):
                break
            inputs = torch.cat([inputs, token.unsqueeze(1)], dim=1)
        return self.score_answer(reading, prompt, focus, tokens)

    def score_answer(self, reading: Reading, prompt: Prompt, focus: Tensor, tokens: Tensor) -> Answered:
        """Log-probability and entropy of the given ``focus`` (Q,) and ``tokens`` (Q, L)."""
        memory, memory_mask = self.output_decoder.memory(reading, focus, prompt)
        written = int((tokens != PAD).sum(1).amax())
        targets = tokens[:, :written]
        begin = torch.full_like(targets[:, :1], BOS)
        logits = self.output_decoder(torch.cat([begin, targets[:, :-1]], dim=1), memory, memory_mask)
        logp = -F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        logp = (logp * (targets != PAD)).sum(1)
        focus_logp = reading.focus_logits.log_softmax(-1)
        logp = logp + focus_logp.gather(-1, focus.unsqueeze(-1)).squeeze(-1)
        entropy = -(focus_logp.exp() * focus_logp).sum(-1)
        return Answered(focus, tokens, logp, entropy)


def sample(
    logits: Tensor, uniform: Tensor, temperature: Tensor | None = None, greedy: Tensor | bool | None = None
) -> Tensor:
    """Sample categories by inverting the cumulative distribution.

    Args:
        logits: (..., C).
        uniform: (...) numbers in [0, 1).
        temperature: (...) divides the logits; 0 is greedy.
        greedy: (rows,) rows that take the most probable category instead, or one bool for all.

    Returns:
        (...) category indices.
    """
    best = logits.argmax(-1)
    if greedy is True:
        return best
    if temperature is not None:
        greedy = temperature == 0
        logits = logits / temperature.masked_fill(greedy, 1.0).unsqueeze(-1)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulative, (uniform.double().unsqueeze(-1) * cumulative[..., -1:]), right=True)
    drawn = drawn.squeeze(-1).clamp(max=logits.shape[-1] - 1)
    if greedy is None or greedy is False:
        return drawn
    assert isinstance(greedy, Tensor)
    return torch.where(greedy.view(-1, *[1] * (best.dim() - 1)), best, drawn)
