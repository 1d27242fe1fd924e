"""The chat: questions and commands, on a pipe as in the terminal, and that nothing ends it but /quit."""

import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from rich.console import Console

from dreamrl.chat import Chat, talk
from dreamrl.chat_lines import graph_lines
from dreamrl.generate import generate
from dreamrl.saving import save_pretrained

PLAN = "Find the shortest safe path to the gift."
BOARD = {"desc": ["SFFF", "FFHF", "FFFF", "FHFG"]}


@pytest.fixture
def chat(loaded):
    """A chat, and what it has written since it was last asked."""
    file = io.StringIO()
    chat = Chat(loaded, options=BOARD, num_dreams=2, console=Console(file=file, width=200))

    def say(*lines):
        file.seek(0)
        file.truncate()
        talk(chat, lines)
        return file.getvalue().splitlines()

    chat.say_all = say
    return chat


def test_an_answer_is_that_of_generate(chat, loaded):
    text, remark = chat.say_all(PLAN)
    result = generate(loaded, PLAN, scene=BOARD, num_dreams=2)
    assert text == result["text"]
    assert f"confidence {result['confidence']:.2f}" in remark


def test_settings_hold_for_the_questions_that_follow(chat, loaded):
    chat.say_all("/dreams 3", "/temperature 1.5", "/seed 9", f"/scene {json.dumps(BOARD)}")
    text, *_ = chat.say_all(PLAN)
    assert text == generate(loaded, PLAN, scene=BOARD, num_dreams=3, temperature=1.5, seed=9)["text"]
    assert len(chat.result["dreams"]) == 3


def test_a_seed_brings_the_scene_that_generate_draws(chat, loaded):
    for seed in (4, 5):
        chat.say_all(f"/seed {seed}")
        ours = chat.say_all(PLAN)[0]
        drawn = generate(loaded, "", seed=seed, num_dreams=2)["dreams"][0].triplets[0].what
        assert ours and (chat.result["dreams"][0].triplets[0].what == drawn).all()


def test_a_picture_in_the_question_is_asked_about(chat, loaded, tmp_path, monkeypatch):
    board = loaded.world.scene(BOARD)
    path = tmp_path / "my board.png"
    Image.fromarray(board.frame(board.start)).save(path)
    for line in (f"'{path}' {PLAN}", f"{PLAN} '{path}'"):
        chat.say_all("/seed 1", line)
        assert chat.result["question"] == PLAN and chat.result["verdict"] is None
    chat.say_all(PLAN)  # still about the picture
    assert chat.result["verdict"] is None
    chat.say_all("/seed 1", f'/image "{path}"', PLAN)
    assert chat.result["verdict"] is None
    chat.say_all("/seed 1", PLAN)
    assert chat.result["verdict"] is not None


def test_why_shows_dreams_and_graph_as_text(chat):
    chat.say_all(PLAN)
    lines = chat.say_all("/why")
    assert lines == graph_lines(chat.result)
    data = chat.result["graph_data"]
    heard = [e for e in data["edges"] if e["weight"] > 0]
    assert len(lines) == 2 + 1 + min(12, len(heard))
    heaviest = max(heard, key=lambda e: e["weight"])
    assert lines[3].split()[0] == f"{heaviest['weight']:.2f}" and lines[3].endswith(heaviest["type"])


def test_watching_tells_every_step(chat, capsys):
    chat.say_all("/watch on", PLAN)
    lines = capsys.readouterr().out.splitlines()
    assert sum(" step " in line for line in lines) == chat.result["graph_data"]["num_nodes"]
    chat.say_all("/watch off", PLAN)
    assert capsys.readouterr().out == ""


def test_dreams_are_saved_and_nothing_is_overwritten(chat, tmp_path):
    chat.say_all(PLAN, f"/save {tmp_path / 'a'}")
    assert sorted(os.listdir(tmp_path / "a")) == ["dreams.gif", "dreams.png", "graph.png"]
    assert "exists and is not an empty directory" in chat.say_all(f"/save {tmp_path / 'a'}")[0]


def test_history_and_help_tell_all(chat):
    assert chat.say_all("/history") == ["nothing was asked yet"]
    chat.say_all(PLAN, "The elf moves right. What happens?")
    assert [line for line in chat.say_all("/history") if PLAN in line] == [f"1  {PLAN}"]
    assert [line.split()[0] for line in chat.say_all("/help")] == [f"/{name}" for name in chat.commands]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/drems 3", 'unknown command "/drems"; did you mean "/dreams"?'),
        ("/dreams many", '/dreams ("many") must be a whole number'),
        ("/dreams 0", "/dreams (0) must be between 1 and 1024"),
        ("/temperature nan", "/temperature (nan) must be between 0 and 100"),
        ("/seed -1", "/seed (-1) must be between"),
        ("/world moon", 'the model was trained on "frozen_lake", not on "moon"'),
        ("/scene {", "no valid JSON"),
        ("/scene [1]", "needs a JSON object"),
        ('/scene {"desc": ["SX"]}', "board is 1x2"),
        ("/image none.png", "none.png"),
        ("/watch maybe", "must be on or off"),
        ("/why", "nothing was answered yet"),
        ("/save", "nothing was answered yet"),
        ("way " * 100, "shorten it"),
    ],
)
def test_mistakes_are_one_line_and_end_nothing(chat, line, reason):
    [told] = chat.say_all(line)
    assert told.startswith("error: ") and reason in told
    assert not chat.ended and len(chat.say_all(PLAN)) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug"), OSError("disk full")])
def test_whatever_happens_the_next_question_can_be_asked(chat, error):
    def fail(argument):
        raise error

    chat.commands["why"] = chat.commands["why"]._replace(run=fail)
    assert len(chat.say_all("/why")) == 1
    assert not chat.ended and len(chat.say_all(PLAN)) == 2


def test_quit_ends_it_and_blank_lines_say_nothing(chat):
    assert chat.say_all("", "  ", "/quit", PLAN) == []
    assert chat.ended


@pytest.mark.slow
def test_it_works_on_a_pipe(loaded, tmp_path):
    save_pretrained(loaded, tmp_path / "model")
    lines = ["/nonsense", f"/scene {json.dumps(BOARD)}", PLAN, "/quit", PLAN]
    program = "import sys; from dreamrl.chat import chat_command; from pathlib import Path; "
    program += "chat_command(Path(sys.argv[1]), 'frozen_lake', num_dreams=2)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "model")],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[0].startswith("error: unknown command") and told[1].startswith("a scene of frozen_lake")
    assert told[2] == generate(loaded, PLAN, scene=BOARD, num_dreams=2)["text"]
    assert len(told) == 4 and "confidence" in told[3]
