"""Tests of dreamrl/metrics.py."""

import ast
import doctest
import inspect
import io
import json
from pathlib import Path

import numpy as np
import pytest
from event_files import events
from PIL import Image

from dreamrl import metrics
from dreamrl.metrics import GLOSSARY, PICTURES, MetricsWriter, expand, explain


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def scalars(directory: Path, stage: str) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, round(value.simple_value, 4))
        for event in events(directory, stage)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def test_every_name_is_defined_once_and_explained_in_one_line():
    tree = ast.parse(inspect.getsource(metrics))
    tables = [n.value for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and isinstance(n.value, ast.Dict)]
    keys = [k.value for table in tables for k in table.keys if isinstance(k, ast.Constant)]
    assert len(keys) == len(GLOSSARY) + len(PICTURES) > 50
    assert len(set(keys)) == len(keys), "a name given twice would silently replace the first"
    for name, meaning in GLOSSARY.items():
        assert name.split("/")[0] in {"pretrain", "ppo", "eval"}
        assert len(meaning) > 10 and "\n" not in meaning


def test_examples_in_docstrings_are_true():
    result = doctest.testmod(metrics)
    assert result.attempted >= 1 and result.failed == 0


def test_star_stands_for_one_part_of_a_name():
    assert explain("ppo/expert_usage/3") == GLOSSARY["ppo/expert_usage/*"]
    assert explain("eval/exact_match/ppo_4") == GLOSSARY["eval/exact_match/*"]
    for wrong in ("ppo/expert_usage", "ppo/expert_usage/", "ppo/expert_usage/*", "ppo/expert_usage/1/2", "ppo/los", ""):
        with pytest.raises(KeyError, match=repr(wrong).replace("*", r"\*")):
            explain(wrong)


def test_expand_names_every_value():
    named = expand("eval/exact_match/*", np.array([0.25, 1.0]), ["ppo_1", "ppo_4"])
    assert named == {"eval/exact_match/ppo_1": 0.25, "eval/exact_match/ppo_4": 1.0}
    with pytest.raises(KeyError):
        expand("ppo/success", [1.0])
    with pytest.raises(ValueError):
        expand("eval/exact_match/*", [1.0], ["ppo_1", "ppo_4"])


def test_values_are_written_to_both_files(tmp_path):
    writer = MetricsWriter(tmp_path, resume=False)
    writer.write(1, "ppo", {"ppo/success": np.float32(0.5), "ppo/episodes": np.int64(256)})
    assert lines(tmp_path)[0]["ppo/success"] == 0.5, "flushed at once, not at the end"
    writer.write(np.int64(2), "ppo", {"ppo/success": 0.75})  # type: ignore[arg-type]
    writer.close()
    assert lines(tmp_path) == [
        {"stage": "ppo", "step": 1, "ppo/success": 0.5, "ppo/episodes": 256.0},
        {"stage": "ppo", "step": 2, "ppo/success": 0.75},
    ]
    assert scalars(tmp_path, "ppo") == [("ppo/success", 1, 0.5), ("ppo/episodes", 1, 256.0), ("ppo/success", 2, 0.75)]


def test_numbers_that_are_not_finite_become_null_and_no_event(tmp_path):
    writer = MetricsWriter(tmp_path, resume=False)
    writer.write(1, "ppo", {"ppo/entropy": float("nan"), "ppo/lr": np.inf, "ppo/success": 1})
    writer.close()
    assert lines(tmp_path) == [{"stage": "ppo", "step": 1, "ppo/entropy": None, "ppo/lr": None, "ppo/success": 1.0}]
    assert scalars(tmp_path, "ppo") == [("ppo/success", 1, 1.0)]


def test_a_misspelt_name_raises_and_writes_nothing(tmp_path):
    writer = MetricsWriter(tmp_path, resume=False)
    with pytest.raises(KeyError, match="ppo/sucess"):
        writer.write(1, "ppo", {"ppo/entropy": 1.0, "ppo/sucess": 0.5})
    writer.close()
    assert lines(tmp_path) == []


def test_an_existing_file_is_never_overwritten(tmp_path):
    MetricsWriter(tmp_path, resume=False).close()
    with pytest.raises(FileExistsError):
        MetricsWriter(tmp_path, resume=False)


def test_resume_drops_the_stages_later_lines_and_a_torn_one(tmp_path):
    writer = MetricsWriter(tmp_path, resume=False)
    writer.write(9, "pretrain", {"pretrain/lr": 0.1})
    for step in range(1, 5):
        writer.write(step, "ppo", {"ppo/success": step / 10})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "step": 5, "ppo/suc')  # kill -9 in the middle of a line

    writer = MetricsWriter(tmp_path, resume=True)
    assert [line["step"] for line in lines(tmp_path)] == [9, 1, 2, 3, 4]
    writer.truncate_after("ppo", 2)
    assert [line["step"] for line in lines(tmp_path)] == [9, 1, 2], "another stage counts its own steps"
    writer.write(3, "ppo", {"ppo/success": 0.33})
    writer.close()
    assert lines(tmp_path)[-1] == {"stage": "ppo", "step": 3, "ppo/success": 0.33}

    # TensorBoard is told to hide what came before from step 3 on, and nothing written before is lost.
    restarts = [event.step for event in events(tmp_path, "ppo") if event.HasField("session_log")]
    assert restarts == [3]
    assert scalars(tmp_path, "ppo")[-2:] == [("ppo/success", 4, 0.4), ("ppo/success", 3, 0.33)]
    assert [event for event in events(tmp_path, "pretrain") if event.HasField("session_log")] == []


def test_truncating_in_the_middle_of_a_run_keeps_the_earlier_events(tmp_path):
    writer = MetricsWriter(tmp_path, resume=False)
    writer.write(1, "ppo", {"ppo/success": 0.1})
    writer.truncate_after("ppo", 0)
    writer.write(1, "ppo", {"ppo/success": 0.2})
    writer.close()
    assert [line["ppo/success"] for line in lines(tmp_path)] == [0.2]
    assert scalars(tmp_path, "ppo") == [("ppo/success", 1, 0.1), ("ppo/success", 1, 0.2)]


def test_resume_without_anything_to_resume_starts_afresh(tmp_path):
    writer = MetricsWriter(tmp_path / "new", resume=True)
    writer.truncate_after("ppo", 10)
    writer.write(1, "ppo", {"ppo/success": 0.5})
    writer.close()
    assert len(lines(tmp_path / "new")) == 1


def test_images_go_to_the_stages_folder(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    writer = MetricsWriter(tmp_path, resume=False)
    writer.image("ppo/dreams/graph", frame, 7)
    writer.image("ppo/dreams/graph/spatial.minigrid", frame, 8)
    writer.close()
    found = [(v.tag, e.step, v.image) for e in events(tmp_path, "ppo") for v in e.summary.value if v.HasField("image")]
    assert [(tag, step) for tag, step, _ in found] == [
        ("ppo/dreams/graph", 7),
        ("ppo/dreams/graph/spatial.minigrid", 8),
    ]
    for _, _, image in found:
        assert (np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) == frame).all()


@pytest.mark.parametrize(
    "tag", ["ppo/dreams", "ppo/dreams/grahp", "dreams/graph", "ppo/dreams/graph/a/b", "ppo/success"]
)
def test_a_picture_that_nobody_explained_raises(tmp_path, tag):
    writer = MetricsWriter(tmp_path, resume=False)
    with pytest.raises(KeyError, match=tag):
        writer.image(tag, np.zeros((2, 2, 3), np.uint8), 1)
    writer.close()
    assert all(len(meaning) > 10 for meaning in PICTURES.values())


def visible(directory: Path, stage: str) -> list[tuple[str, int, int]]:
    """(tag, step, grey) of the pictures that TensorBoard shows: a start hides what came before from its step on."""
    found: list[tuple[str, int, int]] = []
    for event in events(directory, stage):
        if event.HasField("session_log"):
            found = [(tag, step, grey) for tag, step, grey in found if step < event.step]
        for value in event.summary.value:
            if value.HasField("image"):
                pixels = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
                found.append((value.tag, event.step, int(pixels[0, 0, 0])))
    return found


def test_a_resumed_run_shows_no_picture_twice(tmp_path):
    """Killed after update 15 with a checkpoint of 10: what was shown of 15 is shown once more, and hidden before."""
    writer = MetricsWriter(tmp_path, resume=False)
    for step in (5, 10, 15):
        writer.image("ppo/dreams/filmstrip", np.full((4, 4, 3), step, np.uint8), step)
    writer.close()
    writer = MetricsWriter(tmp_path, resume=True)
    writer.truncate_after("ppo", 10)
    for step in (15, 20):
        writer.image("ppo/dreams/filmstrip", np.full((4, 4, 3), 100 + step, np.uint8), step)
    writer.close()
    greys = {5: 5, 10: 10, 15: 115, 20: 120}
    assert visible(tmp_path, "ppo") == [("ppo/dreams/filmstrip", step, grey) for step, grey in greys.items()]
