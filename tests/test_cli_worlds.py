"""`dreamrl worlds`, and a user's own world through the command line."""

import json
import subprocess
import sys

import pytest

from dreamrl.cli import main
from envs.registry import WORLDS

OWN = """
import gymnasium as gym
import numpy as np

from envs import GymnasiumWorld


class Corridor(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Discrete(8)
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal, self.lamp = self.np_random.choice(8, 3, replace=False)
        return self.place, {}

    def step(self, action):
        self.place = min(7, max(0, self.place + (1 if action else -1)))
        return self.place, 0.0, bool(self.place == self.goal), False, {}

    def render(self):
        frame = np.zeros((16, 128, 3), np.uint8)
        frame[:, 16 * self.goal : 16 * self.goal + 16, 1] = 255
        frame[:, 16 * self.lamp : 16 * self.lamp + 16, 2] = 255
        frame[:, 16 * self.place : 16 * self.place + 16, 0] = 255
        return frame


world = GymnasiumWorld(
    Corridor,
    actions=["left", "right"],
    question="Go to the green cell.",
    success=lambda env, observation, reward, terminated: terminated,
)
"""


def run(capsys, *argv):
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_list(capsys):
    code, out, _ = run(capsys, "worlds")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(WORLDS)
    code, out, _ = run(capsys, "worlds", "list", "--json")
    assert code == 0 and set(json.loads(out)) == set(WORLDS)


def test_checking_a_world(capsys):
    code, out, _ = run(capsys, "worlds", "check", "frozen_lake")
    assert code == 0 and out.count("  ok  ") == 9
    code, out, _ = run(capsys, "worlds", "check", "frozen_lake", "--json")
    assert code == 0 and all(finding["ok"] for finding in json.loads(out))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("worlds check", "which world?"),
        ("worlds check frozen_lak", 'unknown world "frozen_lak"; did you mean "frozen_lake"?'),
        ("worlds list frozen_lake", "takes no world"),
        ("worlds chek", "invalid choice"),
        ("eval model --world no_such_module:World", 'no module "no_such_module"'),
        ("train world.name=frozen_lak --out never", 'did you mean "frozen_lake"?'),
        ("train world.worlds=frozen_lake@9 --out never", "each 2 to 8 for frozen_lake"),
        ("train world.worlds=frozen_lake*x --out never", "NAME[@LOW-HIGH][*WEIGHT]"),
        ("train world.sizes=[9] --out never", "world.sizes ([9]) must hold at least one size, each 2 to 8"),
    ],
)
def test_mistakes(capsys, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv.split())
    assert code == 2 and words in err and err.count("\n") == 1 and out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_broken_world_exits_with_2(capsys, tmp_path, monkeypatch):
    (tmp_path / "bad_pond.py").write_text(
        "from envs.worlds.frozen_lake import FrozenLake\n\n\nclass Bad(FrozenLake):\n"
        "    name = 'bad'\n\n    def verify(self, question, answer):\n        raise RuntimeError('oops')\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "worlds", "check", "bad_pond:Bad")
    assert code == 2 and "FAIL" in out and "RuntimeError: oops" in out and "bad fails 1 of 9 checks" in err


@pytest.mark.slow
def test_a_world_in_a_few_lines_goes_through_training_and_evaluation(capsys, tmp_path, monkeypatch):
    """Pretraining learns the environment's next pictures; the saved model names code, which needs --world."""
    from dreamrl.evaluate import evaluate_command
    from dreamrl.pretrain import pretrain_loop
    from dreamrl.settings import load_settings

    (tmp_path / "corridor_world.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    pretrain = {"steps": 150, "scenes_per_step": 16, "num_workers": 1, "codec_steps": 150}
    settings = ["world.name=corridor_world:world", "model.dream_length=4"]
    run_config = load_settings(overrides=settings + [f"pretrain.{k}={v}" for k, v in pretrain.items()])
    loaded = pretrain_loop(run_config, tmp_path / "run")
    assert loaded is not None and loaded.model.num_actions == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["pretrain/loss/frame"] for line in lines if "pretrain/loss/frame" in line]
    assert losses[-1] < 0.2 * losses[0]
    result = evaluate_command(tmp_path / "run" / "pretrained", "corridor_world:world", None, 20, 0, None, 4)
    assert result["items"] == 20 and result["exact_frame"] > 0.4  # copying the picture is right where a wall is: 0.1
    # A process in which nobody asked for that world.
    program = "from dreamrl.model import DreamingReasoningLLM as Model; Model.load_pretrained('run/pretrained')"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "WorldError" in other.stderr
    assert "pass --world corridor_world:world" in other.stderr
