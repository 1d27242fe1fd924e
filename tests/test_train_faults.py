"""Pretraining on several workers of Ray Train that die, leave and join."""

import os
import signal

import pytest
from programs import finish, start, wait_for
from ray_nodes import below, called, cluster
from two_workers import pretrain_by_two

from dreamrl.bench.processes import metrics, reached, weight_hash
from dreamrl.settings import load_settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = (
    "world.sizes=[3]", "pretrain.codec_steps=20", "pretrain.scenes_per_step=4", "pretrain.num_workers=2",
    "model.embedding_dim=32", "model.dream_length=2", "model.max_answer_tokens=12",
)  # fmt: skip
WORKER = "ray::RayTrainWorker"


def checkpoints(out):
    """Steps of the checkpoints on disk."""
    return sorted(int(path.name.rsplit("-", 1)[1]) for path in (out / "checkpoints").glob("pretrain-*"))


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    calm, out = tmp_path / "calm", tmp_path / "killed"
    settings = (*SMALL, "pretrain.steps=60", "pretrain.checkpoint_every=10")
    pretrain_by_two(load_settings(overrides=settings), calm)
    process = start("pretrain", "--out", str(out), *settings)
    wait_for(lambda: reached(out, "pretrain") >= 30, process)
    victims = called(below(process), WORKER)
    assert len(victims) == 2
    victims[1].kill()
    finish(process)
    assert [record["step"] for record in metrics(out)] == [10, 20, 30, 40, 50, 60]
    assert weight_hash(out / "pretrained") == weight_hash(calm / "pretrained")


def test_workers_join_and_leave_while_it_trains():
    with cluster() as ray:
        out = ray.root / "shared" / "run"
        ray.start_head()
        first = ray.add_node(cpus=1)
        run = ray.dreamrl(
            "pretrain", "--out", str(out), *SMALL, "pretrain.min_workers=1", "pretrain.steps=100000",
            "pretrain.checkpoint_every=20",
        )  # fmt: skip

        def workers():
            return [len(called(below(node), WORKER)) for node in (first, *ray.nodes[2:]) if node.poll() is None]

        wait_for(lambda: reached(out, "pretrain") >= 20, run)
        assert sum(workers()) == 1
        second = ray.add_node(cpus=1)
        wait_for(lambda: workers() == [1, 1], run)
        grown = checkpoints(out)[-1]
        wait_for(lambda: reached(out, "pretrain") >= grown + 20, run)
        ray.kill(second)
        wait_for(lambda: workers() == [1], run)
        shrunk = checkpoints(out)[-1]
        wait_for(lambda: reached(out, "pretrain") >= shrunk + 20, run)
        os.kill(run.pid, signal.SIGINT)
        assert f"continue with `dreamrl pretrain --resume {out}`" in finish(run, code=130)
        steps = [record["step"] for record in metrics(out)]
        assert steps == list(range(10, steps[-1] + 1, 10))
