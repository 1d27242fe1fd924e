"""PPO on a cluster of several nodes on this machine, one of which is lost without warning."""

import json
import os
import signal

import pytest
from programs import finish, wait_for
from ray_nodes import below, called, cluster

from dreamrl.checkpoint import newest_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = (
    "ppo.iterations=100000", "ppo.questions_per_iteration=8", "ppo.epochs=1", "ppo.minibatch_size=16",
    "ppo.replay_scenes=1", "ppo.num_learners=0", "ppo.num_env_runners=2",
)  # fmt: skip


def test_training_goes_on_when_a_node_with_a_sampler_is_lost():
    with cluster() as ray:
        out = ray.root / "shared" / "run"
        ray.start_head()
        nodes = [ray.add_node(cpus=1) for _ in range(3)]

        def samplers():
            """Processes by the node that they run on; Ray gives them the name of their actor."""
            found = {node.pid: called(below(node), "ray::DreamEnvRunner") for node in nodes if node.poll() is None}
            return {node: processes for node, processes in found.items() if processes}

        def steps():
            path = out / "metrics.jsonl"
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            return [json.loads(line)["step"] for line in lines if line.endswith("\n")]

        run = ray.dreamrl("ppo", "--model", "frozen-lake", "--out", str(out), *SMALL)
        wait_for(lambda: len(steps()) >= 2, run)
        before = samplers()
        assert {node: len(processes) for node, processes in before.items()} == dict.fromkeys(before, 1)
        assert len(before) == 2 and not called(below(ray.head), "ray::DreamEnvRunner")
        lost = next(node for node in nodes if node.pid in before)
        (spare,) = {node.pid for node in nodes} - set(before)
        ray.kill(lost)
        reached = len(steps())
        wait_for(lambda: set(samplers()) == {spare, *before} - {lost.pid}, run)
        come_back = len(steps())
        wait_for(lambda: len(steps()) >= max(come_back, reached) + 3, run)
        os.kill(run.pid, signal.SIGINT)
        said = finish(run, code=130)
        assert f"continue with `dreamrl ppo --resume {out}`" in said
        assert steps() == list(range(1, len(steps()) + 1))  # nothing was left out and nothing repeated
        found = newest_checkpoint(out / "checkpoints", "ppo")
        assert found is not None and found[2]["iteration"] == steps()[-1]
