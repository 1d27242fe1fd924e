"""The computation of the model: what is seen, imagined, read and answered, and with which probability.

Everything that is sampled comes with its log-probability, and every sampler takes its uniform random numbers
as an argument: the same numbers give the same dreams, whatever else is in the batch. What people call is
:class:`dreamrl.model.DreamingReasoningLLM`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.codec import ImageCodec
from dreamrl.nn.contrastive import ContrastiveHead
from dreamrl.nn.dream_generator import DreamGenerator, InverseDynamics
from dreamrl.nn.graph import Reading
from dreamrl.nn.graph_reasoner import GraphReasoner
from dreamrl.nn.image_decoder import ImageDecoder
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.moe import Routing
from dreamrl.nn.output_decoder import OutputDecoder
from dreamrl.nn.picture_reader import Pictures
from dreamrl.nn.sampling import sample
from dreamrl.nn.text import BOS, EOS, PAD


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


class DreamingModel(nn.Module):
    """Input tokenizer -> dream generator -> graph reasoner -> output decoders.

    Args:
        config: architecture.
        vocab_size: text tokens.
        num_actions: A, the world's actions.
        vision: how the vision backbone of a saved model is built, see ``InputTokenizer.architecture``.
    """

    def __init__(self, config: DreamingConfig, vocab_size: int, num_actions: int, vision: dict | None = None):
        """See the class."""
        super().__init__()
        self.config, self.vocab_size, self.num_actions = config, vocab_size, num_actions
        self.codec = ImageCodec(config.patch_size, config.code_levels, config.codec_hidden)
        self.input_tokenizer = InputTokenizer(config, vocab_size, vision)
        self.dream_generator = DreamGenerator(config, num_actions, self.input_tokenizer)
        self.inverse_dynamics = InverseDynamics(config, num_actions)
        self.graph_reasoner = GraphReasoner(config, num_actions, self.input_tokenizer)
        self.output_decoder = OutputDecoder(config, self.input_tokenizer)
        self.image_decoder = ImageDecoder(config, self.input_tokenizer)
        self.contrastive: ContrastiveHead | None = None
        if config.use_contrastive_loss:
            self.contrastive = ContrastiveHead(config.embedding_dim, config.contrastive_temperature)
        # Not trained by gradients; a parameter, so that it is saved with the weights.
        self.calibration = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]), requires_grad=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.calibration.device

    def balance(self, metrics: dict[str, Tensor]) -> None:
        """After a pretraining update with load_balance=bias: move the router's bias by the ``expert_usage/i`` seen.

        Not in PPO: the routing of a dream must be the same when it is sampled and when it is learned from.
        """
        moe = self.dream_generator.moe
        if moe.bias is not None:
            moe.update_bias(torch.stack([metrics[f"expert_usage/{i}"] for i in range(self.config.num_experts)]))

    @property
    def pad_code(self) -> int:
        """Code that stands for "no patch here"."""
        return self.config.num_codes

    def ask(self, asked: dict[str, Tensor], noise: torch.Generator | None = None) -> Prompt:
        """Read prompts.

        Args:
            asked: ``text`` (Q, L) token ids; with a vision backbone also ``pixels`` (Q, K, H, W, 3) and
                ``picture_size`` (Q, K, 2).
            noise: hides and drops some of it, if the config says so.
        """
        pictures = None
        if self.config.vision_backbone != "none":
            size = asked["picture_size"].long()
            pictures = Pictures(asked["pixels"], size[..., 0] > 0, size)
        return self.input_tokenizer(asked["text"].long(), pictures, noise)

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
        past: tuple[Tensor, Tensor] | None = None,
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
            past: the dream so far, see :meth:`DreamGenerator.look`.

        Returns:
            :class:`DreamStep`; ``logp`` is at temperature 1. Unless the config says ``stochastic_results``, result
            and belief are functions of picture and action, and ``logp`` is that of the action alone.
        """
        assert (uniform is None) != (taken is None), "either sample or score"
        look = self.dream_generator.look(what, grid, step, slot, prompt, past)
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

    def read(
        self,
        frames: Tensor,
        actions: Tensor,
        beliefs: Tensor,
        lengths: Tensor,
        prompt: Prompt,
        grid: Tensor | None = None,
    ) -> Reading:
        """Read finished dreams; shapes as in :meth:`GraphReasoner.forward`."""
        return self.graph_reasoner(frames, actions, beliefs, lengths, prompt, grid)

    def answer(
        self,
        reading: Reading,
        prompt: Prompt,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_length: int | None = None,
    ) -> Answered:
        """Choose a dream and write the answer.

        Args:
            reading: what the graph reasoner made of the dreams.
            prompt: encoded questions.
            uniform: (Q, L + 1) numbers in [0, 1) to sample with; None is greedy.
            temperature: of the words; the choice of the dream stays at 1.
            top_p: nucleus of the words.
            max_length: longest answer in tokens, at most the model's own limit.

        Returns:
            :class:`Answered`; ``logp`` is at temperature 1 and without nucleus.
        """
        length = self.config.max_answer_tokens
        longest = min(length, max_length or length)
        greedy = uniform is None or temperature == 0
        questions = reading.focus_logits.shape[0]
        dice = reading.focus_logits.new_zeros(questions, length + 1) if uniform is None else uniform
        focus = sample(reading.focus_logits, dice[:, 0], None, greedy)
        cache = self.output_decoder.start(*self.output_decoder.memory(reading, focus, prompt), length=longest)
        tokens = torch.full((questions, length), PAD, device=focus.device)
        token = torch.full_like(focus, BOS)
        ended = torch.zeros_like(focus, dtype=torch.bool)
        heat = None if temperature == 1 or greedy else torch.full_like(dice[:, 0], temperature)
        for place in range(longest):
            logits = self.output_decoder.step(token.unsqueeze(1), cache)
            token = sample(logits, dice[:, place + 1], heat, greedy, top_p).masked_fill(ended, PAD)
            tokens[:, place] = token
            ended = ended | (token == EOS)
            if bool(ended.all()):
                break
        return self.score_answer(reading, prompt, focus, tokens)

    def draw(
        self, reading: Reading, prompt: Prompt, focus: Tensor, frames: Tensor, lengths: Tensor, grid: Tensor
    ) -> Tensor:
        """The answer as a picture: codes (Q, P), greedily.

        Args:
            reading: as in :meth:`answer`.
            prompt: encoded questions.
            focus: (Q,) the dream to draw from; N for none of them.
            frames: (Q, N, T + 1, P) codes of the dreams.
            lengths: (Q, N).
            grid: (Q, 2).
        """
        memory = self.output_decoder.memory(reading, focus, prompt)
        last = last_frames(frames, lengths, focus)
        return self.image_decoder(last, grid, *memory).argmax(-1).masked_fill(last == self.pad_code, self.pad_code)

    def evidence(self, reading: Reading, answered: Answered) -> Tensor:
        """(Q, 3) evidence for an answer: expected reward (logit), log-probability of the focus and of the words."""
        value = reading.value.clamp(0.01, 0.99).logit()
        focus = reading.focus_logits.log_softmax(-1).gather(-1, answered.focus.unsqueeze(-1)).squeeze(-1)
        return torch.stack([value, focus, answered.logp - focus], dim=-1).detach()

    def confidence(self, evidence: Tensor) -> Tensor:
        """(Q,) probability that an answer is exact; see :mod:`dreamrl.calibration`."""
        return (evidence @ self.calibration[:-1] + self.calibration[-1]).sigmoid()

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


def last_frames(frames: Tensor, lengths: Tensor, focus: Tensor) -> Tensor:
    """(Q, P) codes of the last picture of the dream in ``focus`` (Q,); of the first picture for focus N (none)."""
    questions, dreams = lengths.shape
    rows = torch.arange(questions, device=focus.device)
    chosen = focus.clamp(max=dreams - 1)
    step = lengths[rows, chosen].masked_fill(focus == dreams, 0)
    return frames[rows, chosen, step]
