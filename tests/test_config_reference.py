"""docs/CONFIG.md and docs/METRICS.md say what the program does, and are up to date."""

import dataclasses
import re
from pathlib import Path

import pytest

from dreamrl.config import ConfigError, RunConfig
from dreamrl.config_reference import DOCUMENTS, Setting, config_markdown, settings_of, write
from dreamrl.metrics import GLOSSARY
from dreamrl.settings import field_types, load_settings, presets

DOCS = Path(__file__).parent.parent / "docs"
SECTIONS = ["", *dict.fromkeys(key.split(".")[0] for key in field_types() if "." in key)]
ROWS = [row for section in SECTIONS for row in settings_of(section)]
RANGE = re.compile(r"(\S+) to (\S+)")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_is_up_to_date(name):
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == DOCUMENTS[name](), "run `python -m dreamrl.config_reference` and commit what it writes"


def test_it_is_written_where_it_is_asked_for(tmp_path):
    write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {n: make() for n, make in DOCUMENTS.items()}


def test_every_setting_and_every_metric_has_a_row():
    assert sorted(row.key for row in ROWS) == sorted(field_types())
    text = (DOCS / "METRICS.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(.+?)` \|", text, re.M)) == sorted(GLOSSARY)


def test_every_setting_says_what_it_does():
    assert [row.key for row in ROWS if not (row.text.endswith(".") and len(row.text) > 10)] == []


def outside(row):
    """Settings just outside of the range that the reference gives, and just inside."""
    match = RANGE.fullmatch(row.range)
    assert match
    low, high = float(match[1]), float(match[2])
    step = 1 if row.type == "whole number" else 1e-3 * (high - low)
    near = 1e4 if high > 1e9 else 0  # the bound is printed with six digits
    cast = round if row.type == "whole number" else float
    return (cast(low - step), cast(high + step + near)), (cast(low), cast(high - near))


@pytest.mark.parametrize("row", [r for r in ROWS if RANGE.fullmatch(r.range)], ids=lambda row: row.key)
def test_ranges_are_those_that_are_checked(row):
    wrong, right = outside(row)
    for value in wrong:
        with pytest.raises(ConfigError, match="must be between"):
            load_settings(overrides=[f"{row.key}={value}"])
    for value in right:
        try:
            load_settings(overrides=[f"{row.key}={value}"])
        except ConfigError as error:  # another setting forbids it: then that is what the error says
            assert "must be between" not in str(error), error


@pytest.mark.parametrize("row", [r for r in ROWS if r.type == "text" and r.range], ids=lambda row: row.key)
def test_choices_are_those_that_are_checked(row):
    for choice in row.range.split(", "):
        load_settings(overrides=[f"{row.key}={choice}"])
    with pytest.raises(ConfigError, match="must be one of"):
        load_settings(overrides=[f"{row.key}=something-else"])


@pytest.mark.parametrize("row", [r for r in ROWS if r.default != "none" and r.key != "preset"], ids=lambda r: r.key)
def test_defaults_can_be_typed_and_change_nothing(row):
    assert load_settings(overrides=[f"{row.key}={row.default.strip('`')}"]) == RunConfig()


@pytest.mark.parametrize("name", presets())
def test_what_a_preset_changes_can_be_typed_and_makes_the_preset(name):
    (line,) = [line for line in config_markdown().splitlines() if line.startswith(f"- **{name}**")]
    # All at once: some of them only fit together.
    typed = load_settings(overrides=re.findall(r"`(.+?=.+?)`", line))
    assert dataclasses.replace(typed, preset=name) == load_settings(name)


def test_what_a_list_must_hold_comes_from_its_error():
    rows = {row.key: row for row in ROWS}
    assert rows["eval.dreams"].range == "hold at least one number, each 1 to 1024"
    assert rows["world.name"].range == "" and rows["model.use_ppo"].range == ""
    assert rows["ppo.lr"] == Setting(
        "ppo.lr", "number", "`0.001`", "1e-8 to 1", "Peak learning rate of Adam, linear decay to a tenth."
    )
