"""With ``use_picture_reading`` answers may stand in the pictures: where things are, and what the last one shows."""

import pytest
import torch
import torch.nn.functional as F

from dreamrl.losses import reading_loss
from dreamrl.nn.text import EOS

QUESTIONS, DREAMS, STEPS, SIDE = 3, 2, 2, 2
TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}


@pytest.fixture(scope="module")
def seeing(make_loaded):
    return make_loaded(model={"use_picture_reading": True, "dream_length": STEPS, "num_dream_sequences": DREAMS})


@pytest.fixture(scope="module")
def blind(make_loaded):
    return make_loaded(model={"dream_length": STEPS, "num_dream_sequences": DREAMS})


def dreams(loaded, questions=QUESTIONS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (questions, DREAMS, STEPS)
    frames = torch.randint(loaded.model.config.num_codes, (*shape[:2], STEPS + 1, SIDE * SIDE + 2), generator=generator)
    frames[..., SIDE * SIDE :] = loaded.model.pad_code
    return {
        "frames": frames,
        "actions": torch.randint(4, shape, generator=generator),
        "beliefs": torch.zeros(shape, dtype=torch.long),
        "lengths": torch.tensor([[2, 1], [1, 2], [2, 2]])[torch.arange(questions) % 3],
        "grid": torch.full((questions, 2), SIDE),
    }


def read(loaded, batch):
    asked = torch.stack([torch.from_numpy(loaded.text.encode("Way?", 24))] * len(batch["grid"]))
    prompt = loaded.model.ask({"text": asked})
    names = ("frames", "actions", "beliefs", "lengths")
    return loaded.model.read(*(batch[k] for k in names), prompt, batch["grid"]), prompt


@torch.no_grad()
def test_the_decoder_reads_the_last_picture_of_the_dream_in_focus(seeing, blind):
    """Against a loop over questions; without the option, the triplets are all there is."""
    batch = dreams(seeing)
    reading, prompt = read(seeing, batch)
    focus = torch.tensor([1, 0, DREAMS])
    decoder = seeing.model.output_decoder
    tokens, mask = decoder.memory(reading, focus, prompt)
    assert tokens.shape[1] == STEPS + 2 + SIDE * SIDE + 2
    table, places = decoder.codes.weight, decoder.places
    for q in range(QUESTIONS):
        seen = mask[q, STEPS + 2 :].tolist()
        if focus[q] == DREAMS:
            assert not any(seen) and mask[q].tolist() == [False] * STEPS + [True, True] + seen
            continue
        assert seen == [True] * SIDE * SIDE + [False, False]
        picture = batch["frames"][q, focus[q], batch["lengths"][q, focus[q]]]
        for cell in range(SIDE * SIDE):
            row, column = divmod(cell, SIDE)
            expected = table[picture[cell]] + places.row.weight[row] + places.column.weight[column]
            torch.testing.assert_close(tokens[q, STEPS + 2 + cell], expected, **TOLERANCE)
    plain, _ = read(blind, dreams(blind))
    assert blind.model.output_decoder.memory(plain, focus, prompt)[0].shape[1] == STEPS + 2


@torch.no_grad()
@pytest.mark.parametrize("sees", [True, False])
def test_whether_the_reader_sees_where_things_are(seeing, blind, sees):
    """Two patches that change places are the same picture to a reader that only knows what there is."""
    loaded = seeing if sees else blind
    batch = dreams(loaded)
    before, _ = read(loaded, batch)
    turned = batch | {"frames": batch["frames"][..., [1, 0, 2, 3, 4, 5]]}
    after, _ = read(loaded, turned)
    assert torch.allclose(before.nodes, after.nodes, atol=1e-5) is not sees


@torch.no_grad()
def test_what_is_written_with_a_cache_is_what_is_scored(seeing):
    reading, prompt = read(seeing, dreams(seeing))
    length = seeing.model.config.max_answer_tokens
    dice = torch.rand(QUESTIONS, length + 1, generator=torch.Generator().manual_seed(1))
    out = seeing.model.answer(reading, prompt, dice)
    again = seeing.model.score_answer(reading, prompt, out.focus, out.tokens)
    torch.testing.assert_close(again.logp, out.logp, atol=1e-5, rtol=1e-5)


def accuracy_after(loaded, steps=150):
    """How often the first patch of the dream's last picture is named, on pictures never seen in training."""
    vocabulary = torch.tensor([[t] for t in range(10, 10 + 8)])

    def batch(seed):
        made = dreams(loaded, 32, seed)
        made["frames"][..., : SIDE * SIDE] %= 8
        last = made["frames"][torch.arange(32), 0, made["lengths"][:, 0]]
        words = vocabulary[last[:, 0]]
        made["answer"] = torch.cat([words, torch.full((32, 1), EOS)], dim=1)
        made["focus_target"] = F.one_hot(torch.zeros(32, dtype=torch.long), DREAMS + 1).bool()
        return made, prompt_of(loaded, 32)

    optimizer = torch.optim.Adam(loaded.model.parameters(), lr=3e-3)
    for step in range(steps):
        made, prompt = batch(step + 1)
        losses, _ = reading_loss(loaded.model, made, prompt)
        optimizer.zero_grad()
        losses["answer"].backward()
        optimizer.step()
    with torch.no_grad():
        made, prompt = batch(10_000)
        reading, _ = read(loaded, made)
        out = loaded.model.score_answer(reading, prompt, torch.zeros(32, dtype=torch.long), made["answer"])
        memory = loaded.model.output_decoder.memory(reading, out.focus, prompt)
        logits = loaded.model.output_decoder(torch.full((32, 1), 1), *memory)
    return float((logits[:, 0].argmax(-1) == made["answer"][:, 0]).float().mean())


def prompt_of(loaded, questions):
    asked = torch.stack([torch.from_numpy(loaded.text.encode("Way?", 24))] * questions)
    return loaded.model.ask({"text": asked})


@pytest.mark.slow
def test_what_stands_in_the_first_cell_can_be_learned(make_loaded):
    """A reader without places cannot tell the first cell from the others: one in four."""
    shape = {"dream_length": STEPS, "num_dream_sequences": DREAMS}
    found = {sees: accuracy_after(make_loaded(model=shape | {"use_picture_reading": sees})) for sees in (True, False)}
    assert found[True] > 0.9 and found[False] < 0.6, found
