"""A search on a cluster that grows for it and shrinks again, by Ray's own autoscaler with nodes on this machine."""

import json

import pytest
import yaml
from programs import finish
from ray_nodes import STORE, below, called, cluster, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IDLE_SECONDS = 6.0
HEAD_ID = "f" * 51 + "00000"
"""What Ray calls the head of such a cluster."""
SEARCH = {
    "settings": {
        "world.sizes": [2],
        "model": {"embedding_dim": 16, "num_heads": 2, "graph_num_heads": 2, "expert_num_heads": 2, "dream_length": 4},
        "pretrain": {"codec_steps": 20, "steps": 2, "scenes_per_step": 4, "num_workers": 1},
        "ppo": {
            "iterations": 2,
            "questions_per_iteration": 8,
            "minibatch_size": 16,
            "num_learners": 1,
            "replay_scenes": 1,
        },
    },
    "space": {"ppo.lr": {"loguniform": [1e-4, 1e-2]}},
    "search": {"trials": 2, "seed": 1},
    "trial": {"cpus": 1, "concurrent": 2},
    "measure": {"boards": 4, "every": 1, "dreams": 2},
}


def grown(nodes, port):
    """The settings of a cluster whose head does no work and which ``nodes`` nodes of one CPU may join.

    The provider is named by its class: by its type, ``fake_multinode``, version 2 of the autoscaler (what ``ray up``
    uses) looks for a file that Ray's wheel lacks. Its default for the cluster's port is 6379.
    """
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{port}",
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    nothing = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
    nothing += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    worker = {"resources": {"CPU": 1, "object_store_memory": STORE}, "node_config": {}}
    return {
        "cluster_name": "test",
        "max_workers": nodes,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "provider": provider,
        "auth": {},
        "file_mounts": {},
        **{name: [] for name in nothing},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": worker | {"min_workers": 0, "max_workers": nodes},
        },
    }


def test_a_search_makes_the_cluster_grow_and_its_end_makes_it_shrink():
    with cluster() as ray:
        settings, plan, out = ray.root / "cluster.json", ray.project / "search.yaml", ray.root / "shared" / "search"
        settings.write_text(json.dumps(grown(2, ray.port)))
        plan.write_text(yaml.safe_dump(SEARCH))
        switches = {
            "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_NODE_TYPE_NAME": "ray.head.default", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }  # fmt: skip
        ray.start_head(environment=switches, autoscaling_config=settings)

        def size():
            return len(called(below(ray.head), "raylet"))

        assert size() == 1
        search = ray.dreamrl("tune", str(plan), "--out", str(out))
        wait_until(
            lambda: size() > 1, lambda: search.poll() is ray.head.poll() is None, ray.words_of_the_autoscaler, 300
        )
        finish(search)
        trials = json.loads((out / "results.json").read_text())["trials"]
        assert [trial["status"] for trial in trials] == ["finished"] * 2
        wait_until(lambda: size() == 1, told=ray.words_of_the_autoscaler, seconds=60 + IDLE_SECONDS)
        said = ray.words_of_the_autoscaler()
        assert "Adding 1 node(s) of type worker" in said or "Adding 2 node(s) of type worker" in said
        assert f"> timeout={IDLE_SECONDS} secs" in said  # given back for being idle, not for having failed
