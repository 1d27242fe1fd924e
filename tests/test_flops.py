"""Operations of an answer: of blocks by hand, of dreams as the sum of their parts; baselines of equal size."""

import pytest
import torch

from dreamrl.baseline import ImageTokenReasoningLLM
from dreamrl.baseline_training import sized
from dreamrl.config import DreamingConfig, RunConfig
from dreamrl.flops import baseline_flops, count_flops, dream_flops, longest, trained_parameters, typical_question, write
from dreamrl.model import DreamingReasoningLLM
from dreamrl.nn.layers import Block
from dreamrl.saving import make_assets, new_model

SMALL = DreamingConfig(
    embedding_dim=16, codec_hidden=32, num_dream_sequences=3, dream_length=3, max_prompt_tokens=24, max_answer_tokens=12
)


def linear(inputs, outputs, rows):
    return 2 * inputs * outputs * rows


def test_flops_of_a_block_by_hand():
    rows, length, dim = 3, 5, 8
    attention = 4 * linear(dim, dim, rows * length) + 2 * 2 * rows * length * length * dim
    feed = 2 * linear(dim, 2 * dim, rows * length)
    block = Block(dim, 2)
    assert count_flops(lambda: block(torch.zeros(rows, length, dim))) == attention + feed


def test_a_loop_of_the_trunk_costs_its_blocks():
    model = ImageTokenReasoningLLM(make_assets(SMALL, "frozen_lake", 0), 3, 1)
    once = baseline_flops(model)
    model.loops = 2
    block = model.trunk[0]
    assert baseline_flops(model) - once == 3 * count_flops(lambda: block(torch.zeros(1, 16, 16)))


@torch.no_grad()
def test_flops_of_dreams_are_those_of_their_parts():
    loaded = new_model(RunConfig(model=SMALL))
    model = loaded.model
    text = torch.from_numpy(loaded.text.encode(typical_question(loaded.world).text, 24)).unsqueeze(0)
    prompt = model.ask({"text": text})
    what, grid, first = torch.zeros(1, 16, dtype=torch.long), torch.full((1, 2), 4), torch.zeros(1, dtype=torch.long)
    step = count_flops(lambda: model.dream_step(what, grid, first, first, prompt, uniform=torch.zeros(1, 18)))
    for dreams in (1, 5):
        frames = torch.zeros(1, dreams, 4, 16, dtype=torch.long)
        acts, lengths = torch.zeros(1, dreams, 3, dtype=torch.long), torch.full((1, dreams), 3)
        reading = model.read(frames, acts, acts, lengths, prompt)
        memory = model.output_decoder.memory(reading, first, prompt)
        parts = [
            count_flops(lambda: model.ask({"text": text})),
            3 * dreams * step,
            count_flops(lambda f=frames, a=acts, n=lengths: model.read(f, a, a, n, prompt)),
            count_flops(lambda m=memory: write(model.output_decoder, *m, longest(SMALL.dream_length))),
        ]
        assert dream_flops(loaded, dreams) == sum(parts)


def test_the_nano_baselines_are_as_large_as_the_model_that_dreams():
    assets = make_assets(DreamingConfig(), "frozen_lake", 0)
    dreaming = DreamingReasoningLLM(assets=assets)
    model = sized(assets, "parameters")
    assert trained_parameters(model) == pytest.approx(trained_parameters(dreaming), rel=0.03)
    assert model.loops == 1
    looped = sized(assets, "flops")
    assert looped.layers == model.layers
    assert baseline_flops(looped) == pytest.approx(dream_flops(dreaming.loaded, 4), rel=0.1)
