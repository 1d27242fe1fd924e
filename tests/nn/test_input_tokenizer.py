"""Prompts of text, pictures or both, against reading each prompt by itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prompts import VOCAB, make, some_picture, some_text, stack_pictures

from dreamrl.errors import UserError
from dreamrl.nn.picture_reader import MAX_PICTURES, Pictures
from dreamrl.nn.text import PAD


@pytest.fixture(scope="module")
def seeing():
    return make(vision_backbone="lite")


def slow_prompt(model, text, pictures):
    """One prompt, text (n,) without padding, read by itself and step by step: tokens (L, D) and summary (D,)."""
    positions = torch.arange(len(text))
    added, places = model.positions(positions)
    tokens = (model.text(text) + model.place(positions)).unsqueeze(0)
    if len(text):
        tokens = model.reader(tokens if added is None else tokens + added, places=places)
    shown = []
    for k, picture in enumerate(pictures):
        pixels = torch.from_numpy(picture).permute(2, 0, 1).float().unsqueeze(0) / 255
        for i, level in enumerate(model.pictures.backbone(pixels)):
            shown.append(level + model.pictures.level.weight[i] + model.pictures.index.weight[k])
    if pictures:
        shown = torch.cat(shown, dim=1)
        if len(text):
            tokens = model.joint(tokens, memory=shown)
        tokens = torch.cat([tokens, shown], dim=1)
    return tokens[0], slow_pool(model.pool, tokens[0])


def slow_pool(pool, tokens):
    tokens = pool.norm(tokens)
    heads = pool.value(tokens).chunk(pool.heads, dim=-1)
    weights = pool.score(tokens).softmax(0)
    return torch.cat([(weights[:, h : h + 1] * value).sum(0) for h, value in enumerate(heads)])


def assert_same(prompt, row, expected):
    tokens, summary = expected
    torch.testing.assert_close(prompt.tokens[row][prompt.mask[row]], tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prompt.summary[row], summary, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["rope", "rope+yarn", "alibi", "learned"])
def test_text_reads_as_each_row_by_itself(positions):
    model, text = make(positions=positions), some_text()
    prompt = model(text)
    assert prompt.tokens.shape == (6, 5, 16)
    for row in range(6):
        assert_same(prompt, row, slow_prompt(model, text[row][text[row] != PAD], []))
    assert prompt.mask.equal(text != PAD)


def count_rows(module):
    """A list that grows by the number of rows of each call of ``module``."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_equal_prompts_are_read_once():
    model = make(vision_backbone="lite")
    read, looked = count_rows(model.reader), count_rows(model.pictures.backbone)
    text = some_text()
    model(text)
    assert read == [5]
    a, b = some_picture(), some_picture(seed=1)
    prompt = model(text[[0, 0, 0, 0, 2]], stack_pictures([[a], [a], [b], [], [b]]))
    assert looked == [2] and read == [5, 4]
    assert prompt.summary[0].equal(prompt.summary[1])
    assert not torch.allclose(prompt.summary[0], prompt.summary[2], atol=1e-3)


PROMPTS = [
    (4, [some_picture()]),
    (5, [some_picture(8, 8, seed=1), some_picture(24, 16, seed=2)]),
    (0, [some_picture(seed=3)]),
    (3, []),
    (1, [some_picture(), some_picture(), some_picture(10, 13, seed=4)]),
    (4, [some_picture(seed=3)]),
]
"""Numbers of text tokens and pictures of each prompt of a batch."""


@pytest.mark.parametrize("attention", ["softmax", "sparsemax"])
@pytest.mark.parametrize("backbone", ["lite", "vit", "resnet", "clip"])
def test_prompts_read_as_each_by_itself(backbone, attention):
    model = make(vision_backbone=backbone, attention=attention)
    text = torch.randint(3, VOCAB, (len(PROMPTS), 5), generator=torch.Generator().manual_seed(0))
    for row, (length, _) in enumerate(PROMPTS):
        text[row, length:] = PAD
    prompt = model(text, stack_pictures([pictures for _, pictures in PROMPTS]))
    for row, (length, pictures) in enumerate(PROMPTS):
        assert_same(prompt, row, slow_prompt(model, text[row, :length], pictures))


def test_what_lies_beside_a_picture_does_not_count(seeing):
    pictures = stack_pictures([[some_picture(8, 8)], [some_picture(16, 16), some_picture(8, 16)]])
    text = some_text(2)
    first = seeing(text, pictures)
    beside = torch.ones_like(pictures.pixels, dtype=torch.bool)
    for q, k in pictures.mask.nonzero().tolist():
        beside[q, k, : pictures.size[q, k, 0], : pictures.size[q, k, 1]] = False
    second = seeing(text, pictures._replace(pixels=torch.where(beside, 77, pictures.pixels)))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_without_sizes_all_pixels_count(seeing):
    sized = stack_pictures([[some_picture(24, 24)], [some_picture(24, 24, seed=1)]])
    text = some_text(2)
    assert seeing(text, sized).summary.equal(seeing(text, Pictures(sized.pixels, sized.mask)).summary)


def test_what_is_seen_and_in_which_order_matters(seeing):
    a, b, text = some_picture(), some_picture(seed=1), some_text(1)
    summaries = [seeing(text, stack_pictures([p])).summary for p in ([a], [b], [a, b], [b, a])]
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(summaries[i], summaries[j], atol=1e-3)


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_at_all_gives_zeros_and_finite_gradients(shown):
    model = make(vision_backbone="lite")
    text = torch.full((3, 4), PAD)
    text[2] = 5
    pictures = stack_pictures([[some_picture()], [], []]) if shown else None
    prompt = model(text, pictures)
    assert all(part.isfinite().all() for part in prompt)
    assert not prompt.summary[1].any() and prompt.summary[2].any()
    assert bool(prompt.summary[0].any()) == shown
    (prompt.summary.sum() + prompt.tokens.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_no_pictures_is_the_same_as_none_in_the_list(seeing):
    text = some_text()
    plain, empty = seeing(text), seeing(text, stack_pictures([[]] * 6))
    for a, b in zip(plain, empty, strict=True):
        assert a.equal(b)


def test_too_many_pictures_and_no_eyes_are_refused(seeing):
    many = stack_pictures([[some_picture(8, 8)] * (MAX_PICTURES + 1)])
    with pytest.raises(UserError, match="9 pictures in one prompt; give at most 8"):
        seeing(some_text(1), many)
    with pytest.raises(UserError, match='model.vision_backbone is "none"'):
        make()(some_text(1), stack_pictures([[some_picture()]]))


def test_padding_is_read_by_nothing_else():
    model = make(vision_backbone="lite", use_contrastive_loss=True)
    model(some_text()).summary.sum().backward()
    assert not model.text.weight.grad[PAD].any()


def test_only_what_is_used_exists():
    names = {kind: set(dict(make(**changes).named_parameters())) for kind, changes in CONFIGS.items()}
    assert not {n for n in names["text"] if n.split(".")[0] in ("pictures", "joint", "grid_reader", "grid_pool")}
    assert {n.split(".")[0] for n in names["seeing"] - names["text"]} == {"pictures", "joint"}
    assert {n.split(".")[0] for n in names["contrastive"] - names["text"]} == {"grid_reader", "grid_pool"}


CONFIGS = {"text": {}, "seeing": {"vision_backbone": "lite"}, "contrastive": {"use_contrastive_loss": True}}


def test_every_weight_learns():
    model = make(vision_backbone="lite", use_contrastive_loss=True)
    pictures = stack_pictures([[some_picture(seed=i)] * MAX_PICTURES for i in range(40)])
    text = torch.arange(40 * 28).view(40, 28) % VOCAB
    summary = model(text.masked_fill(text < 3, 3), pictures).summary
    codes = torch.randint(0, 9, (40, 12), generator=torch.Generator().manual_seed(0))
    codes[:, 6:] = 9
    grid = torch.tensor([[2, 3]]).expand(40, 2)
    parts = [summary, *model.triplet(codes, text, codes, grid)]
    sum((part * torch.randn_like(part)).sum() for part in parts).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("positions", ["rope", "rope+yarn", "alibi", "learned"])
def test_triplets_read_pictures_at_their_own_size(positions):
    model = make(use_contrastive_loss=True, positions=positions)
    generator = torch.Generator().manual_seed(0)
    what, result = torch.randint(0, 9, (2, 3, 12), generator=generator)
    grid = torch.tensor([[3, 4], [2, 3], [4, 2]])
    for codes in (what, result):
        codes[torch.arange(12) >= grid.prod(1, keepdim=True)] = 9
    text = some_text(3)
    seen = model.triplet(what, text, result, grid)
    assert seen[1].equal(model(text).summary)
    for row, (height, width) in enumerate(grid.tolist()):
        size = height * width
        for whole, codes in ((seen[0], what), (seen[2], result)):
            alone = model.triplet(
                codes[row : row + 1, :size], text[:1], codes[row : row + 1, :size], grid[row : row + 1]
            )
            torch.testing.assert_close(whole[row], alone[0][0], rtol=1e-4, atol=1e-5)
    turned = model.triplet(what[:1], text[:1], result[:1], grid[:1].flip(1))
    assert not torch.allclose(turned[0], seen[0][:1], atol=1e-3)  # the same codes in another shape


@pytest.mark.slow
def test_it_learns_to_look_where_the_question_asks():
    """Two words name a cell of a 2 x 2 picture, the answer is its colour; boards with equal corners are held out."""
    model = make(vision_backbone="lite", embedding_dim=32)
    head = torch.nn.Linear(32, 3)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    rng = np.random.default_rng(0)

    def batch(held_out):
        cells = rng.integers(0, 3, (400, 4))
        cells = cells[(cells[:, 0] == cells[:, 3]) == held_out][:64]
        pixels = colours[cells].reshape(-1, 2, 2, 3).repeat(8, axis=1).repeat(8, axis=2)
        asked = rng.integers(0, 4, len(cells))
        text = torch.from_numpy(np.stack([3 + asked // 2, 5 + asked % 2], axis=1))
        pictures = Pictures(torch.from_numpy(pixels).unsqueeze(1), torch.ones(len(cells), 1, dtype=torch.bool))
        return head(model(text, pictures).summary), torch.from_numpy(cells[np.arange(len(cells)), asked])

    for _ in range(250):
        loss = F.cross_entropy(*batch(held_out=False))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits, answer = batch(held_out=True)
    assert (logits.argmax(-1) == answer).float().mean() > 0.95
