"""Which deaths are survived, how often, and what is said of them."""

import pytest
import torch
from ray.exceptions import RayActorError

from dreamrl.checkpoint import save_checkpoint
from dreamrl.restarts import Restarts, is_death, reason


class TaskError(Exception):
    """As Ray's RayTaskError: says what a remote process raised."""

    def __init__(self, cause):
        super().__init__(f"traceback of a remote process\n{cause}")
        self.cause = cause


LOST = RuntimeError("[/src/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:1089. This is typically\nhelp")


def checkpoint(root, number):
    save_checkpoint(root, f"ppo-{number:08d}", {"w": torch.zeros(1)}, {"iteration": number})


def test_deaths_count_until_the_next_checkpoint(tmp_path, capsys):
    restarts = Restarts("ppo", 2, tmp_path)
    for _ in range(2):
        restarts.count(TaskError(LOST))
    checkpoint(tmp_path, 4)
    for _ in range(2):
        restarts.count(TaskError(LOST))
    with pytest.raises(TaskError):
        restarts.count(TaskError(LOST))
    said = capsys.readouterr().out.splitlines()
    why = "ppo: a process died (Connection closed by peer [127.0.0.1]:1089); going on from "
    assert said == [why + "its beginning"] * 2 + [why + "ppo-00000004"] * 2


def test_a_mistake_in_the_program_is_not_tried_again(tmp_path):
    error = TaskError(KeyError("frames"))
    with pytest.raises(TaskError) as raised:
        Restarts("ppo", 5, tmp_path).count(error)
    assert raised.value is error
    assert not is_death(TaskError(error)) and is_death(TaskError(TaskError(LOST)))
    assert is_death(TaskError(RayActorError())) and is_death(RayActorError())


def test_none_is_survived_when_none_may_be(tmp_path):
    with pytest.raises(OSError, match="gone"):
        Restarts("ppo", 0, tmp_path).count(OSError("gone"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("The actor died. Its ip: 10.0.0.1\nmore"), "The actor died"),
        (OSError(), "OSError"),
        (TaskError(LOST), "Connection closed by peer [127.0.0.1]:1089"),
    ],
)
def test_the_reason_is_one_short_line(error, said):
    assert reason(error) == said
