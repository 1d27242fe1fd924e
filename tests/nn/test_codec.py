"""Image codec: patches and back, the cache, and codes that tell every tile of FrozenLake apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.nn.codec import FrameCodes, ImageCodec, from_patches, to_patches
from dreamrl.pretrain import CODEC_LR, CODEC_SCENES, train_codec
from dreamrl.saving import new_model
from envs.worlds.frozen_lake import tileset


def picture(rows, columns, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows * size, columns * size, 3), np.uint8)


def make_codec(seed=0, size=4):
    torch.manual_seed(seed)
    codec = ImageCodec(size, (8, 6, 5), 16)
    for parameter in codec.parameters():
        parameter.requires_grad_(False)
        parameter *= 3  # spreads the codes of an untrained codec
    return codec


@pytest.mark.parametrize("rows, columns, size", [(1, 1, 4), (3, 3, 16), (2, 5, 8), (7, 2, 3)])
def test_patches_are_cut_row_by_row_and_put_back(rows, columns, size):
    frame = picture(rows, columns, size)
    patches = to_patches(frame, size)
    for row in range(rows):
        for column in range(columns):
            cut = frame[row * size : (row + 1) * size, column * size : (column + 1) * size]
            assert (patches[row * columns + column] == cut.ravel()).all()
    assert (from_patches(patches, (rows, columns), size) == frame).all()


@pytest.mark.parametrize("height, width", [(15, 16), (16, 15), (8, 20)])
def test_a_frame_that_is_no_whole_number_of_patches(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width} pixels is not a whole number of 16-pixel patches"):
        to_patches(np.zeros((height, width, 3), np.uint8), 16)


def test_codes_are_those_of_each_patch_alone_with_and_without_the_cache():
    codec, frame = make_codec(), picture(4, 5, 4)
    alone = [int(codec(torch.from_numpy(p[None]).float() / 255)[1]) for p in to_patches(frame, 4)]
    assert len(set(alone)) > 5
    assert codec.encode(frame).tolist() == alone
    assert codec.encode(frame).tolist() == alone  # from the cache
    half = frame[:8].copy()
    half[:4, :4] = 0  # one patch is new, the others are cached
    codes = codec.encode(half).tolist()
    codec.forget()
    assert codec.encode(half).tolist() == codes
    assert codes[1:] == alone[1:10]


def test_cached_codes_are_forgotten_when_the_weights_change():
    codec, other, frame = make_codec(0), make_codec(1), picture(4, 5, 4)
    old, new = codec.encode(frame), other.encode(frame)
    assert (old != new).any()
    codec.load_state_dict(other.state_dict())
    codec.forget()
    assert (codec.encode(frame) == new).all()


def test_codes_survive_a_cache_that_overflows(monkeypatch):
    codec, frame = make_codec(), picture(4, 5, 4)
    expected = codec.encode(frame)
    codec.forget()
    monkeypatch.setattr("dreamrl.nn.codec.MAX_CACHED_PATCHES", 6)
    for _ in range(3):
        assert (codec.encode(picture(3, 3, 4, seed=1)) == make_codec().encode(picture(3, 3, 4, seed=1))).all()
        assert (codec.encode(frame) == expected).all()


def test_decoding_draws_what_the_decoder_saw():
    codec, frame = make_codec(), picture(2, 3, 4)
    drawn = codec(torch.from_numpy(to_patches(frame, 4)).float() / 255)[0]
    expected = from_patches((drawn * 255).round().byte().numpy(), (2, 3), 4)
    assert (codec.decode(codec.encode(frame), (2, 3)) == expected).all()


def test_frame_codes_are_computed_once_for_each_state():
    drawn = []

    def scene(key):
        def frame(state):
            drawn.append((key, state))
            return picture(2, 2, 4, seed=hash((key, state)) % 1000)

        return SimpleNamespace(key=key, frame=frame)

    codec = make_codec()
    codes = FrameCodes(codec, max_scenes=2)
    for _ in range(3):
        for key in ("a", "b"):
            for state in (0, 1):
                assert (codes(scene(key), state) == codec.encode(scene(key).frame(state))).all()
    assert drawn.count(("a", 0)) == 1 + 3  # once by FrameCodes, three times by this test
    codes(scene("c"), 0)  # no room: the others are forgotten, not mixed up
    assert (codes(scene("a"), 1) == codec.encode(scene("a").frame(1))).all()


def test_crowding_is_the_mean_hinge_of_distances():
    codec = make_codec()
    patches = torch.rand(6, 48, generator=torch.Generator().manual_seed(0))
    half = torch.tensor([3.5, 2.5, 2.0])
    place = codec.latents(patches).tanh() * half
    expected = [
        max(0.0, 1.5 - float((place[i] - place[j]).abs().max())) ** 2 for i in range(6) for j in range(6) if i != j
    ]
    assert float(codec.crowding(patches)) == pytest.approx(sum(expected) / 30, rel=1e-4)
    assert float(codec.crowding(patches[:1].expand(4, -1))) == pytest.approx(1.5**2, rel=1e-4)
    assert float(codec.crowding(patches[:1])) == 0


def distinct_tiles():
    tiles = tileset(16).reshape(-1, 16, 16, 3)
    return np.unique(tiles.reshape(len(tiles), -1), axis=0).reshape(-1, 16, 16, 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_trained_codec_tells_every_tile_apart_and_redraws_it(seed):
    untrained = new_model(RunConfig(seed=seed))
    data = RandomPlay(untrained.run, untrained.world, untrained.text, untrained.model.codec)
    train_codec(untrained, data)
    codec, tiles = untrained.model.codec, distinct_tiles()
    assert len(tiles) == 7  # ice, hole, stool, gift; the elf on ice (which hides the stool), in a hole, on the gift
    codes = [int(codec.encode(tile)[0]) for tile in tiles]
    assert len(set(codes)) == 7
    redrawn = np.stack([codec.decode(np.array([code]), (1, 1)) for code in codes]).astype(float)
    distances = ((redrawn[:, None] - tiles[None]) ** 2).mean((2, 3, 4))
    assert distances.argmin(1).tolist() == list(range(7))


def test_without_the_crowding_term_some_seeds_lose_tiles():
    patches = torch.from_numpy(distinct_tiles().reshape(7, -1)).float() / 255
    collapsed = 0
    for seed in range(3):
        codec = new_model(RunConfig(seed=seed)).model.codec
        optimizer = torch.optim.Adam(codec.parameters(), lr=CODEC_LR)
        for _ in range(300):
            loss = F.mse_loss(codec(patches)[0], patches)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        collapsed += len(codec(patches)[1].unique()) < 7
    assert collapsed >= 2


def test_codec_training_sees_every_tile(loaded):
    data = RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec)
    seen = (data.patches(CODEC_SCENES) * 255).round().byte().numpy()
    assert {s.tobytes() for s in seen} == {t.tobytes() for t in distinct_tiles()}
