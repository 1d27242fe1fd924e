"""Tests of dreamrl/filmstrip.py and dreamrl/drawing.py: what is drawn is looked up in the pixels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageSequence

from dreamrl import drawing
from dreamrl.filmstrip import (
    BELIEF_COLOURS,
    BELIEF_WORDS,
    HOLD_MS,
    MARGIN,
    STEP_MS,
    Layout,
    animate,
    filmstrip,
    save_png,
)
from dreamrl.types import BELIEFS, Dream, Triplet
from envs.world import Scene, Split, roll
from envs.worlds.frozen_lake import FrozenLake

PATCH = 16


WORLD = FrozenLake(PATCH)


def imagine(scene: Scene, actions: Sequence[int], focus: bool = False) -> Dream:
    """A dream in which every step is true."""
    rollout = roll(scene, actions)
    frames = [scene.frame(state) for state in rollout.states]
    triplets = tuple(
        Triplet(
            what=frames[step],
            action=WORLD.actions[action],
            result=frames[step + 1],
            belief="continue" if step + 1 < len(rollout.actions) else rollout.outcome.name.lower(),
            true_result=frames[step + 1],
            faithful=True,
            experts=(1.0,),
        )
        for step, action in enumerate(rollout.actions)
    )
    return Dream(triplets=triplets, value=0.0, focus=focus)


def play(count: int, length: int, size: int = 3) -> list[Dream]:
    """Random play on one board as dreams; the last one is in focus."""
    rng = np.random.default_rng(0)
    scene = WORLD.sample_scene(rng, Split.TRAIN, size)
    return [imagine(scene, rng.integers(4, size=length).tolist(), focus=i == count - 1) for i in range(count)]


def fall_and_arrive() -> list[Dream]:
    """One dream that ends in a hole after 2 steps, one that reaches the gift after 4; each step moves the elf."""
    scene = WORLD.scene({"desc": ["SFH", "FFF", "FFG"]})
    return [imagine(scene, [2, 2]), imagine(scene, [1, 2, 1, 2], focus=True)]


def with_wrong_patch(dream: Dream, step: int, row: int, column: int) -> Dream:
    """``dream`` with one patch of one result inverted."""
    result = dream.triplets[step].result.copy()
    cell = result[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    cell[:] = 255 - cell
    triplets = list(dream.triplets)
    triplets[step] = replace(triplets[step], result=result, faithful=False)
    return replace(dream, triplets=tuple(triplets))


def strip(dreams: list[Dream], question: str = "Where to?", verdict: str | None = "exact") -> Image.Image:
    return filmstrip(dreams, question, "right, down", verdict, patch_size=PATCH)


def pixels(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(n, 2) places (y, x) of ``colour``."""
    return np.argwhere((np.asarray(image) == colour).all(-1))


def find(image: Image.Image, frame: np.ndarray) -> list[tuple[int, int]]:
    """(x, y) of every place where ``frame`` stands as it is drawn, without outlines."""
    shown = np.asarray(Image.fromarray(frame).resize(drawing.shown_size(frame), Image.Resampling.NEAREST))
    canvas = np.asarray(image)
    height, width = shown.shape[:2]
    rows = np.lib.stride_tricks.sliding_window_view(canvas[:, :, 0], width, axis=1)[: canvas.shape[0] - height + 1]
    starts = np.argwhere((rows == shown[0, :, 0]).all(-1))
    return [(x, y) for y, x in starts.tolist() if (canvas[y : y + height, x : x + width] == shown).all()]


def test_a_true_dream_shows_every_frame_twice_in_order_with_a_green_border():
    dream = fall_and_arrive()[1]
    image = strip([dream])
    layout = Layout.of([dream])
    assert find(image, dream.triplets[0].what)[0][0] == layout.frame_x(0)
    for step, triplet in enumerate(dream.triplets, start=1):
        places = [(x, y) for x, y in find(image, triplet.result) if x == layout.frame_x(step)]
        assert len(places) == 2, "imagined above true"
        (x, y), (_, below) = places
        assert below - y == layout.true_line
        assert image.getpixel((x - 1, y + 5)) == drawing.GOOD
    # The only red is the legend's square.
    assert len(pixels(image, drawing.BAD)) == 12 * 12 - 6 * 6


def test_exactly_the_differing_patch_is_outlined_in_red_in_both_frames():
    dream = fall_and_arrive()[1]
    row, column, step = 2, 1, 1
    wrong = with_wrong_patch(dream, step, row, column)
    image, layout = strip([wrong]), Layout.of([wrong])
    x = layout.frame_x(step + 1)
    top = find(strip([dream]), dream.triplets[0].what)[0][1]
    width, height = layout.cell
    side = PATCH * width // dream.triplets[0].what.shape[1]
    for y in (top, top + layout.true_line):
        inside = np.asarray(image)[y : y + height, x : x + width]
        red = np.argwhere((inside == drawing.BAD).all(-1))
        assert red.min(0).tolist() == [row * side, column * side]
        assert red.max(0).tolist() == [(row + 1) * side - 1, (column + 1) * side - 1]
        assert len(red) == side**2 - (side - 4) ** 2, "an outline of two pixels"
    assert image.getpixel((x - 1, top + 5)) == drawing.BAD
    assert image.getpixel((layout.frame_x(step) - 1, top + 5)) == drawing.GOOD, "other steps stay green"


def test_a_picture_that_differs_is_red_even_if_the_record_calls_it_faithful():
    dream = with_wrong_patch(play(1, 1)[0], 0, 0, 0)
    honest = strip([dream])
    dream = replace(dream, triplets=(replace(dream.triplets[0], faithful=True),))
    assert ImageChops.difference(strip([dream]), honest).getbbox() is None


def test_unfaithful_without_visible_difference_is_red_without_outline():
    dream = play(1, 1)[0]
    dream = replace(dream, triplets=(replace(dream.triplets[0], faithful=False),))
    image, layout = strip([dream]), Layout.of([dream])
    y = find(image, dream.triplets[0].result)[0][1]
    assert image.getpixel((layout.frame_x(1) - 1, y + 5)) == drawing.BAD
    assert len(find(image, dream.triplets[0].result)) == 2


def test_the_codecs_noise_is_no_difference():
    frame = play(1, 1)[0].triplets[0].what
    noise = np.random.default_rng(0).integers(-20, 21, frame.shape)
    noisy = np.clip(frame.astype(int) + noise, 0, 255).astype(np.uint8)
    assert drawing.differing_patches(frame, noisy, PATCH) == []


def test_every_pair_of_tiles_that_differ_is_told_apart():
    letters = ["SFHG", "FFFF"]
    scene = FrozenLake(PATCH).scene({"desc": letters})
    frame = scene.frame(scene.start)
    tiles = [frame[:PATCH, i * PATCH : (i + 1) * PATCH] for i in range(4)]
    for i, first in enumerate(tiles):
        for j, second in enumerate(tiles):
            assert drawing.differing_patches(first, second, PATCH) == ([] if i == j else [(0, 0)])


def test_without_a_simulator_there_is_one_line_of_frames_and_no_verdict_on_them():
    dreams = [
        replace(d, triplets=tuple(replace(t, true_result=None, faithful=None) for t in d.triplets)) for d in play(2, 3)
    ]
    image = strip(dreams, verdict=None)
    believed = {BELIEF_COLOURS[dream.belief] for dream in dreams}
    for colour in {drawing.GOOD, drawing.BAD} - believed:
        assert len(pixels(image, colour)) == 0
    assert image.height < strip(play(2, 3)).height


def test_only_the_dream_in_focus_is_marked():
    dreams = play(3, 2)
    image = strip(dreams)
    bar = [y for y, x in pixels(image, drawing.FOCUS).tolist() if x == 0]
    layout = Layout.of(dreams)
    assert max(bar) - min(bar) < layout.height
    last_frame = max(y for _, y in find(image, dreams[2].triplets[0].what))
    assert min(bar) < last_frame < max(bar)
    assert len(pixels(strip([replace(d, focus=False) for d in dreams]), drawing.FOCUS)) == 0


def test_beliefs_are_drawn_in_words_of_their_own():
    assert set(BELIEF_WORDS) == set(BELIEF_COLOURS) == set(BELIEFS)
    dream = play(1, 1)[0]
    images = [strip([replace(dream, triplets=(replace(dream.triplets[0], belief=b),))]) for b in BELIEFS]
    for i, first in enumerate(images):
        for second in images[i + 1 :]:
            assert ImageChops.difference(first, second).getbbox() is not None


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize(("length", "shape"), [(1, (48, 48)), (8, (64, 64)), (8, (128, 128)), (3, (32, 128))])
def test_nothing_is_cut_off_at_the_edges(count, length, shape):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (length + 1, *shape, 3), np.uint8)
    triplets = tuple(
        Triplet(
            what=frames[i],
            action="pick up the red block",
            result=frames[i + 1],
            belief="stop",
            true_result=frames[i],
            faithful=False,
            experts=(1.0,),
        )
        for i in range(length)
    )
    image = strip([Dream(triplets=triplets, value=0.0, focus=False)] * count, question="What happens? " * 30)
    canvas = np.asarray(image)
    rules = (canvas == canvas[:, :1]).all(axis=(1, 2))  # empty rows, and the lines between the dreams
    assert (canvas[~rules][:, :20] == 255).all() and (canvas[~rules][:, -20:] == 255).all()
    assert (canvas[:20] == 255).all() and (canvas[-20:] == 255).all()


@pytest.mark.parametrize(("side", "shown"), [(16, 128), (32, 128), (48, 96), (64, 128), (128, 128), (160, 160)])
def test_frames_are_enlarged_by_a_whole_factor(side, shown):
    assert drawing.shown_size(np.zeros((side, side, 3), np.uint8)) == (shown, shown)


def test_large_frames_are_reduced_in_proportion():
    assert drawing.shown_size(np.zeros((400, 800, 3), np.uint8)) == (192, 96)


def test_text_is_wrapped_without_losing_a_letter_and_never_wider_than_asked():
    text = "the elf moves right and " + "x" * 80 + " then stops"
    lines = drawing.wrap(text, 15, 120)
    assert all(drawing.text_width(line, 15) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert drawing.wrap("", 15, 120) == [""]


def test_long_actions_are_cut_to_the_width():
    assert drawing.elide("left", 13, 100) == "left"
    cut = drawing.elide("pick up the very heavy red block", 13, 100)
    assert cut.endswith("...") and drawing.text_width(cut, 13) <= 100


def play_gif(path: Path) -> tuple[list[Image.Image], list[int]]:
    """Pictures of a GIF and how long each is shown, in milliseconds."""
    with Image.open(path) as gif:
        frames = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    return [picture for picture, _ in frames], [duration for _, duration in frames]


def test_animation_advances_all_dreams_a_step_per_picture_and_holds_the_last(tmp_path):
    dreams = fall_and_arrive()
    animate(dreams, "Where to?", "right, down", "exact", tmp_path / "dreams.gif", patch_size=PATCH)
    shown, durations = play_gif(tmp_path / "dreams.gif")
    assert durations == [STEP_MS] * 4 + [HOLD_MS]
    width, height = shown[0].size
    border = MARGIN + Layout.of(dreams).column
    ended, going = (0, 40, border, height - 100), (border, 40, width, height - 100)  # below the clock, above the answer
    assert ImageChops.difference(shown[1].crop(ended), shown[2].crop(ended)).getbbox()
    for before, after in zip(shown[2:], shown[3:], strict=False):
        assert ImageChops.difference(before.crop(ended), after.crop(ended)).getbbox() is None, "it has ended"
        assert ImageChops.difference(before.crop(going), after.crop(going)).getbbox()
    footer = (0, height - 60, width, height)
    assert ImageChops.difference(shown[2].crop(footer), shown[3].crop(footer)).getbbox() is None
    assert ImageChops.difference(shown[3].crop(footer), shown[4].crop(footer)).getbbox(), "the answer comes last"


def test_animation_keeps_the_outlines_colour_despite_256_colours(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)  # far more colours than a GIF can have
    dream = play(1, 1, size=4)[0]
    step = replace(dream.triplets[0], what=noise, result=noise, true_result=noise)
    wrong = with_wrong_patch(replace(dream, triplets=(step,)), 0, 1, 1)
    animate([wrong], "Where to?", "right", None, tmp_path / "dreams.gif", patch_size=PATCH)
    last = play_gif(tmp_path / "dreams.gif")[0][1]
    assert len(pixels(last, drawing.BAD)) > 500
    assert last.getpixel((0, 0)) == drawing.PAPER


def test_png_is_kept_exactly(tmp_path):
    image = strip(play(1, 1))
    save_png(image, tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as loaded:
        assert ImageChops.difference(loaded, image).getbbox() is None


def test_no_dreams_is_an_error():
    with pytest.raises(ValueError, match="at least one dream"):
        strip([])


def test_true_frame_of_another_shape_is_an_error():
    dream = play(1, 1)[0]
    dream = replace(dream, triplets=(replace(dream.triplets[0], true_result=np.zeros((8, 8, 3), np.uint8)),))
    with pytest.raises(ValueError, match="one shape"):
        strip([dream])
