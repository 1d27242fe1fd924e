"""Every mistake on the command line: one line that says the fix, exit code 2, nothing changed on disk."""

import errno
import os
import socket

import numpy as np
import pytest
from PIL import Image

from dreamrl import preflight
from dreamrl.cli import main
from dreamrl.errors import UserError
from dreamrl.settings import load_settings, write_yaml


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no command; try `dreamrl train`"),
        ("trian", 'unknown command "trian"; did you mean "train"?'),
        ("ppo.lr=1 train", 'unknown command "ppo.lr=1"'),
        ("--seed 1 train", '"--seed" stands before the command; write `dreamrl COMMAND --seed ...`'),
        ("train --sed 3", 'dreamrl train has no flag "--sed"; did you mean "--seed"?'),
        ("train --seed x", "argument --seed: invalid int value: 'x'"),
        ("train --seed", "argument --seed: expected one argument"),
        ("train --seed=-1", "run.seed (-1) must be between 0 and"),
        ("train --preset nani", 'unknown preset "nani"; did you mean "nano"?'),
        ("train nano", '"nano" is not a setting; write key=value'),
        (
            "train ppo.lr=1 --seed 3 ppo.gmama=2",
            'unknown key "ppo.gmama" in the command line; did you mean "ppo.gamma"?',
        ),
        ("train ppo.lr=abc", 'ppo.lr ("abc") must be a number'),
        ("train model.moe_top_k=8", "model.moe_top_k (8) must be <= model.num_experts (4)"),
        ("train world.name=frozen_lace", 'unknown world "frozen_lace"; did you mean "frozen_lake"?'),
        ("train --config none.yaml", "cannot read none.yaml: No such file or directory"),
        ("train --address here", '--address ("here") must be local, auto, host:port or ray://host:port'),
        ("train --address ray://here:99999", '--address ("ray://here:99999") must be'),
        ("train --resume none", "nothing to resume: none/config.yaml does not exist"),
        ("train --resume none seed=1", "--resume takes everything from none/config.yaml, which seed=1 contradicts"),
        ("train --resume none --out x", "--resume takes everything from none/config.yaml, which --out contradicts"),
        ("train --resume none --preset nano", "--resume takes everything from none/config.yaml, which --preset"),
        ("train --resume none --seed 0", "--resume takes everything from none/config.yaml, which --seed contradicts"),
        ("train --resume none --overwrite", "--resume takes everything from none/config.yaml, which --overwrite"),
        ("train --out file/run", "cannot create file/run: "),
        ("train --out file", "file is a file; choose another --out"),
        ("train --out full", "full exists and is not empty; pass --overwrite to replace it, --resume full to continue"),
        ("train --out full --overwrite", "full was not made by dreamrl (no config.yaml of a run); delete it yourself"),
        ("ppo --model none", "model none does not exist; give the model/ directory of a run"),
        ("eval", "the following arguments are required: MODEL, --world"),
        ("eval model --wrld frozen_lake", 'dreamrl eval has no flag "--wrld"; did you mean "--world"?'),
        ("eval model --world frozen_lace", 'unknown world "frozen_lace"; did you mean "frozen_lake"?'),
        ("eval none --world frozen_lake", "model none does not exist; give the model/ directory of a run"),
        ("eval model --world frozen_lake --sizes 3,x", 'argument --sizes: "3,x" must be whole numbers with commas'),
        (
            "eval model --world frozen_lake --sizes 9",
            "world.sizes ([9]) must hold at least one size",
        ),
        ("eval model --world frozen_lake --num 0", "--num (0) must be between 1 and"),
        ("eval model --world frozen_lake --dreams 0", "--dreams (0) must be between 1 and 1024"),
        ("eval model --world frozen_lake --items file --num 3", "--items names the scenes, which --num contradicts"),
        ("eval model --world frozen_lake --items file", "file line 1: not valid JSON"),
        ("eval model extra --world frozen_lake", 'unexpected argument "extra"'),
        ("generate model what happens", 'unexpected argument "happens"; put the whole prompt in quotes'),
        ("generate model what --options {}", "--options describes a scene of a world; say which with --world"),
        ("generate model what --world frozen_lake --options {", "--options is not valid JSON"),
        ("generate model what --world frozen_lake --options []", "--options ([]) must be a JSON object"),
        ("generate model what --world frozen_lake --options {}", '"desc" is missing'),
        ("generate model what --world frozen_lake --image file", "--image and --world contradict each other"),
        (
            "generate model what --image none.png",
            "--image none.png cannot be read as a picture: No such file or directory",
        ),
        ("generate model what --image file", "--image file is not a picture in a known format"),
        ("generate model what --output video", "argument --output: invalid choice: 'video'"),
        ("generate model what --output image", "--output image needs --save DIR to write the picture to"),
        ("generate model what --temperature -1", "--temperature (-1) must be between 0 and 100"),
        ("generate model what --temperature nan", "--temperature (nan) must be between 0 and 100"),
        ("generate model what --top-p 2", "--top-p (2) must be between 0 and 1"),
        ("generate model what --max-length 0", "--max-length (0) must be between 1 and"),
        ("generate model what --top 1", 'dreamrl generate has no flag "--top"; did you mean "--top-p"?'),
        ("generate model what --save full", "full exists and is not an empty directory; choose another --save"),
    ],
)
def test_mistakes(fake_work, saved_model, refused, tmp_path, line, message):
    (tmp_path / "file").write_text("not a picture")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert refused(*line.split()).startswith(message)
    assert fake_work.calls == []


def test_overwrite_spares_what_only_looks_like_a_run(fake_work, make_run, refused, tmp_path, monkeypatch):
    run = make_run(tmp_path / "old")
    (tmp_path / "link").symlink_to(run)
    assert "link is a link" in refused("train", "--out", "link", "--overwrite")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "config.yaml").write_text("title: my site\n")
    assert "site was not made by dreamrl" in refused("train", "--out", "site", "--overwrite")
    monkeypatch.chdir(run)
    assert "holds the current directory" in refused("train", "--out", str(run), "--overwrite")


def test_a_damaged_run_does_not_resume(fake_work, make_run, refused, tmp_path):
    run = make_run(tmp_path / "old")
    (run / "config.yaml").write_text("seed: [\n")
    message = refused("train", "--resume", str(run))
    assert message.startswith(f"{run}/config.yaml line 2: not valid YAML")


def test_a_damaged_picture(fake_work, saved_model, refused, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert "--image cut.png cannot be read as a picture" in refused(
        "generate", str(saved_model), "what", "--image", "cut.png"
    )


def test_an_address_must_accept_connections(fake_work, refused, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["train", "--address", f"ray://127.0.0.1:{port}"]) == 0
        assert main(["train", "--address", f"127.0.0.1:{port}"]) == 0
    message = refused("train", "--address", f"127.0.0.1:{port}")
    assert message == (
        f"cannot reach 127.0.0.1:{port} (connection refused); "
        "start a cluster with `ray start --head` or use --address local"
    )
    assert len(fake_work.calls) == 2


def test_a_full_disk_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"only \d+ MB free at .*, \d+ MB needed; free some or choose another disk"):
        preflight.check_out(tmp_path / "a" / "b", overwrite=False, min_free_bytes=2**62)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="permission denied"):
        preflight.check_out(tmp_path / "locked" / "run", overwrite=False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("first\n  second"), "first second"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.jsonl"),
            "runs/x/metrics.jsonl: No space left",
        ),
    ],
)
def test_errors_of_the_work_that_the_user_can_fix(fake_work, refused, tmp_path, error, message):
    fake_work.error = error
    assert refused("train").startswith(message)


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), OSError(errno.EIO, "broken")])
def test_bugs_keep_their_traceback(fake_work, error):
    fake_work.error = error
    with pytest.raises(type(error)):
        main(["train"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--restarts", "-1"], "--restarts (-1) must be between 0 and 10000"),
        (["train", "--storage", "copy"], "storage (copy) must be a URI such as"),
        (["train", "--resume", "lost", "--storage", "file:///nowhere/at/all"], "nothing to resume at file:///nowhere"),
        (["train", "max_failures=-1"], "max_failures (-1) must be"),
        (["pretrain", "pretrain.min_workers=3", "pretrain.num_workers=2"], "min_workers (3) must be <="),
    ],
)
def test_what_survives_deaths_is_checked_first(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_another_storage_than_that_of_the_run_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_yaml(load_settings(overrides=["storage=file:///a"]), tmp_path / "config.yaml")
    assert main(["train", "--resume", ".", "--storage", "file:///b"]) == 2
    assert "--storage file:///b contradicts storage (file:///a)" in capsys.readouterr().err
