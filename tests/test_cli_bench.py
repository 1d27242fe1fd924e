"""``dreamrl bench``: benchmarks by name, their settings checked against what they take."""

import json

import pytest

from dreamrl.bench.run import BENCHMARKS, run_bench
from dreamrl.cli import main


def test_the_list_names_every_benchmark(capsys):
    assert main(["bench", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bench"], f"give the name of a benchmark: {', '.join(BENCHMARKS)}"),
        (["bench", "moo"], 'unknown benchmark "moo"; did you mean "moe"?'),
        (["bench", "moe", "repeat=3"], '"repeat=3" is no setting of bench moe; did you mean "repeats"?'),
        (["bench", "moe", "repeats"], '"repeats" is no setting of bench moe; did you mean "repeats"?'),
        (["bench", "feedback"], "bench feedback needs model_dir=..."),
    ],
)
def test_wrong_names_and_settings_are_one_line(refused, argv, message):
    assert refused(*argv) == message


def test_settings_reach_the_benchmark_with_their_types(capsys):
    """One short writing of text: lists become tuples, numbers numbers."""
    assert main(["bench", "decode", "kinds=rope", "length=24", "batch=1", "dim=16", "layers=1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["rope"]
    assert result == json.loads(json.dumps(result))


def test_several_kinds_are_a_list():
    result = run_bench("decode", ["kinds=rope,alibi", "length=24", "batch=1", "dim=16", "layers=1"])
    assert list(result) == ["rope", "alibi"]
