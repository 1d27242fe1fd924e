"""What it costs to answer: trained parameters, and floating-point operations counted while the model computes.

Matrix products, convolutions and attention are counted, a multiplication and its addition as two operations; what
is done element by element (norms, activations, softmax) is not, as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dreamrl import policy
from dreamrl.judge import Judge
from dreamrl.nn.output_decoder import OutputDecoder
from dreamrl.nn.text import BOS
from dreamrl.saving import Loaded
from envs.questions import stream
from envs.reasoning_batch import Phase, ReasoningBatch
from envs.world import Question, Split, World

if TYPE_CHECKING:
    from dreamrl.baseline import ImageTokenReasoningLLM


def trained_parameters(model: nn.Module) -> int:
    """Weights that pretraining changes after the image codec, which every kind of model has alike."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if p.requires_grad and not name.startswith("codec."))


def count_flops(work: Callable[[], object], gradients: bool = False) -> int:
    """Floating-point operations of ``work``; with ``gradients`` it may go backward, and that counts, too.

    Nothing counts twice: what a fused kernel computes anew on the way back is not what the model asks for.
    """
    # Fused attention on a CPU is unknown to the counter; spelled out as matrix products it costs the same.
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward})
    with torch.set_grad_enabled(gradients), sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return counter.get_total_flops()


def convolution_backward(
    grad_shape: Sequence[int], x_shape: Sequence[int], weight_shape: Sequence[int], *rest, **_
) -> int:
    """Operations of a convolution's gradients: as many for each of input and weight as the convolution itself has.

    torch's own formula takes the gradient of a depthwise weight for that of a full one, hundreds of times too much.
    """
    wanted = rest[7]  # of input, weight and bias, the last of which costs sums only
    return 2 * x_shape[0] * math.prod(grad_shape[2:]) * math.prod(weight_shape) * (wanted[0] + wanted[1])


def typical_question(world: World) -> Question:
    """A question about a scene of the largest size that is trained on."""
    rng = stream(0, 30)
    return world.draw(world.sample_scene(rng, Split.TRAIN, world.sizes[-1]), False, 8, rng)


def dream_flops(loaded: Loaded, dreams: int | None = None) -> int:
    """Operations of one answer from dreams of full length, by default as many as the model was made for."""
    model, config = loaded.model, loaded.run.model
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, Judge(model), dreams or config.num_dream_sequences)
    question = typical_question(loaded.world)
    batch.make_room([question])
    arrays = batch.reset([question])
    obs = {name: torch.from_numpy(np.asarray(value)).to(model.device) for name, value in arrays.items()}
    action = policy.empty_action(obs, config.max_answer_tokens)
    dice = torch.rand(*obs["active"].shape, batch.num_patches + 2, generator=torch.Generator().manual_seed(0))
    dice = dice.to(model.device)

    def work() -> None:
        prompt = model.ask(obs)
        for step in range(batch.length):
            obs["step"] = torch.full_like(obs["step"], step)
            policy.dream(model, obs, prompt, action, dice)
        assert int(obs["phase"]) == Phase.DREAM, "the question is not over: every dream took every step"
        lengths = torch.full_like(obs["lengths"], batch.length).long()
        frames, actions, beliefs = (obs[name].long() for name in ("frames", "actions", "beliefs"))
        reading = model.read(frames, actions, beliefs, lengths, prompt, obs["grid"].long())
        focus = torch.zeros(1, dtype=torch.long, device=model.device)
        write(model.output_decoder, *model.output_decoder.memory(reading, focus, prompt), longest(batch.length))

    return count_flops(work)


def baseline_flops(model: ImageTokenReasoningLLM) -> int:
    """Operations of one answer of the baseline."""
    asked = model.ask([typical_question(model.assets.world)])

    def work() -> None:
        view = model.look(asked)
        write(model.output_decoder, view.memory, view.mask, longest(model.config.dream_length))

    return count_flops(work)


def longest(steps: int) -> int:
    """Tokens of a plan with as many moves as a dream has steps: moves, commas between them, and the end mark."""
    return 2 * steps


def write(decoder: OutputDecoder, memory: Tensor, mask: Tensor, tokens: int) -> None:
    """Write an answer of so many tokens, whatever it says, and compute its probability."""
    cache = decoder.start(memory, mask)
    words = torch.full((len(memory), tokens), BOS, device=memory.device)
    for place in range(tokens):
        decoder.step(words[:, place : place + 1], cache)
    decoder(words, memory, mask)
