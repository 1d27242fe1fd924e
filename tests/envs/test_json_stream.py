import json

import numpy as np
import pytest

from envs.annotations.json_stream import CHUNK, json_items
from envs.scene import WorldError


@pytest.mark.parametrize(
    "text, line, column, problem",
    [
        ("", 1, 1, r"must begin with \[ or {"),
        ('"text"', 1, 1, "must begin with"),
        ('{"images": [\n {"id": 1},\n {"id": }]}', 3, 9, "expecting value"),
        ('{"images": [{"id": 1}, {"id": 2', 1, 32, "expecting ',' delimiter"),
        ('{"images": [1 2]}', 1, 15, ", or ] is expected"),
        ('{"images": [1]', 1, 15, ", or } is expected"),
        ('{"images" [1]}', 1, 11, ": is expected"),
        ("{images: [1]}", 1, 2, "a key in double quotes"),
        ('{"images": [1]} {', 1, 17, "something follows"),
        ('[1, "a\nb"]', 1, 7, "invalid control character"),
        ("[" * 100_000, 1, 2, "nested too deeply"),
    ],
)
def test_broken_json_is_named_with_its_position(tmp_path, text, line, column, problem):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(
        WorldError, match=f"broken.json is broken JSON at line {line}, column {column} .*{problem}"
    ) as caught:
        list(json_items(tmp_path / "broken.json"))
    assert "\n" not in str(caught.value)


def test_long_files_are_read_piece_by_piece_like_the_standard_library_does(tmp_path):
    rng = np.random.default_rng(0)
    words = ["", "a", 'q"uote', "[{", "x" * 3000, "\u00e9\U0001f600", "\\"]
    entries = []
    while len(json.dumps(entries)) < 2.2 * CHUNK:
        more = [rng.integers(0, 10**12, 400).tolist() for _ in range(20)]
        entries += [
            {"id": len(entries), "t": str(rng.choice(words)), "n": m, "in": {"a": [None, -1.5e-3]}} for m in more
        ]
        entries += [int(rng.integers(10**9)), -0.25, True, None]
    value = {"first": 12345678901, "long": entries, "empty": [], "last": {"a": [1]}}
    for indent in (None, 1):
        file = tmp_path / "long.json"
        file.write_text("\ufeff" + json.dumps(value, indent=indent, ensure_ascii=indent is None), encoding="utf-8")
        items = list(json_items(file))
        assert [i.value for i in items if i.section == "long" and i.index >= 0] == entries
        assert [i.index for i in items if i.section == "long"] == list(range(-1, len(entries)))
        rest = {i.section: i.value for i in items if i.section != "long"}
        assert rest == {"first": 12345678901, "empty": [], "last": {"a": [1]}}
        text = file.read_text(encoding="utf-8-sig")
        cut = text[: text.index('"empty"') - 3]
        file.write_text(cut, encoding="utf-8")
        with pytest.raises(
            WorldError, match=rf"broken JSON at line {cut.count(chr(10)) + 1}, .*\(character {len(cut)}\)"
        ):
            list(json_items(file))


def test_an_early_fault_in_a_long_file_is_found_without_reading_all_of_it(tmp_path):
    file = tmp_path / "long.json"
    file.write_text("[{]," + " " * (6 * CHUNK))
    with pytest.raises(WorldError, match=r"line 1, column 3 \(character 2\)"):
        list(json_items(file))


@pytest.mark.parametrize("text", ["123456", "-1.5e-3", "true", '"cut"', '{"a": [1]}'])
def test_values_that_are_cut_by_the_end_of_a_piece(tmp_path, text):
    file = tmp_path / "cut.json"
    for before in range(1, len(text) + 2):
        file.write_text("[" + " " * (CHUNK - 1 - before) + text + ",7]")
        assert [i.value for i in json_items(file)] == [[], json.loads(text), 7]
