"""Items files: every mistake names its line."""

import pytest

from dreamrl.errors import UserError
from dreamrl.items import read_items
from envs.registry import WORLDS, make_world
from envs.world import WorldError

GOOD = b'{"desc": ["SFF", "FHF", "FFG"]}\n'


def test_good_lines_come_back_in_order(tmp_path):
    file = tmp_path / "items.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n" + b'{"desc": ["SG", "FF"]}\r\n')
    assert read_items(file, "frozen_lake") == [{"desc": ["SFF", "FHF", "FFG"]}, {"desc": ["SG", "FF"]}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"desc": ["FFF", "FHF", "FFG"]}', "board has 0 S (start); it must have exactly one"),
        (b'{"desc": ["SFF", "FHF", "FFF"]}', "board has 0 G (goal); it must have exactly one"),
        (b'{"desc": ["SFF", "FH", "FFG"]}', "board rows differ in length: row 1 has 3 cells, row 2 has 2"),
        (b'{"desc": ["SFF", "FXF", "FFG"]}', 'board has unknown letter "X"; use S (start), F (frozen), H (hole)'),
        (b'{"desc": ["SHF", "HHF", "FFG"]}', "board ['SHF', 'HHF', 'FFG'] has no path from S to G; remove a hole"),
        (b'{"desc": []}', '"desc" must be a list of strings'),
        (b'{"desk": ["SG", "FF"]}', 'unknown option "desk"'),
        (b"{}", '"desc" is missing'),
        (b'["SG", "FF"]', 'must be an object of world options, not ["SG", "FF"]'),
        (b'{"desc": ["SG", "FF"]', "not valid JSON (Expecting ',' delimiter, column 22)"),
        (b'{"desc": ["S\xe9"]}', "not UTF-8 text; save the file as UTF-8"),
        (b"[" * 100_000, "not valid JSON ("),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = tmp_path / "items.jsonl"
    file.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    with pytest.raises(UserError) as caught:
        read_items(file, "frozen_lake")
    assert str(caught.value).startswith(f"{file} line 3: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path, content):
    (tmp_path / "items.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"items.jsonl holds no items; put one JSON object"):
        read_items(tmp_path / "items.jsonl", "frozen_lake")


def test_an_unreadable_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read items .*none.jsonl: No such file or directory"):
        read_items(tmp_path / "none.jsonl", "frozen_lake")
    with pytest.raises(UserError, match=r"cannot read items .*: Is a directory"):
        read_items(tmp_path, "frozen_lake")


@pytest.mark.parametrize("name", [name for name in WORLDS if name != "scene_graph"])  # it needs a directory
def test_every_world_is_registered_under_its_own_name(name):
    assert make_world(name).name == name


def test_an_unknown_world_gets_a_suggestion():
    with pytest.raises(WorldError, match=r'unknown world "frozenlake"; did you mean "frozen_lake"\?'):
        make_world("frozenlake")
    with pytest.raises(WorldError, match=r'unknown world "zzz"; the worlds are .*frozen_lake'):
        make_world("zzz")
