"""cluster.yaml in all its parts, with Ray's own validator and what that validator does not look at."""

import copy
import json
import re
import subprocess
from pathlib import Path

import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

TEXT = (Path(__file__).parents[1] / "cluster.yaml").read_text()
BLOCK = re.compile(r"^ *# >>> (?P<name>[a-z ]+)\n(?P<body>.*?)^ *# <<< (?P=name)\n", re.DOTALL | re.MULTILINE)
RAY = Path(ray.autoscaler.__file__).parent
PROVIDERS = ("aws", "gcp", "local")
VARIANTS = [("aws",), ("gcp",), ("local",), ("aws", "option spot"), ("aws", "option wheel"), ("local", "option wheel")]
NODE_KEYS = {
    # RunInstances of EC2, instances.insert of Compute Engine
    "aws": {"InstanceType", "ImageId", "BlockDeviceMappings", "InstanceMarketOptions", "IamInstanceProfile", "KeyName"},
    "gcp": {"machineType", "disks", "scheduling", "guestAccelerators", "metadata", "labels", "serviceAccounts"},
    "local": set(),
}


def uncommented(body):
    return re.sub(r"^( *)# ?", r"\1", body, flags=re.MULTILINE)


def chosen(*names):
    """cluster.yaml as somebody has it who follows its comments to get ``names``."""
    active = {"aws", "tree"}

    def one(match):
        name = match["name"]
        if name == "tree":
            return "" if "option wheel" in names else match["body"]
        if name not in names:
            return "" if name in active else match[0]
        return match["body"] if name in active else uncommented(match["body"])

    text = TEXT
    while text != (text := BLOCK.sub(one, text)):  # an option may stand inside a part
        pass
    return yaml.safe_load(text)


def unknown_provider_keys(config):
    """Keys under ``provider`` that neither the sources of that provider nor Ray's common code ever read."""
    kind = config["provider"]["type"]
    sources = [*(RAY / "_private" / kind).glob("*.py"), *(RAY / "_private").glob("*.py")]
    read = r"""(?:provider_config|config\["provider"\])(?:\.get\(|\[)\s*"([a-z_]+)\""""
    known = {key for path in sources for key in re.findall(read, path.read_text())}
    known |= set(re.findall(r'"([a-z_]+)" not in config\["provider"\]', (RAY / "_private/local/config.py").read_text()))
    schema = json.loads((RAY / "ray-schema.json").read_text())["properties"]["provider"]["properties"]
    return set(config["provider"]) - (known & {*schema, "type", "key_pair", "external_head_ip"})


def unknown_node_keys(config):
    kind = config["provider"]["type"]
    types = config.get("available_node_types", {}).values()
    return {key for node in types for key in node["node_config"]} - NODE_KEYS[kind]


def commands(config):
    return [line for name, lines in config.items() if name.endswith("_commands") for line in lines]


@pytest.mark.parametrize("names", VARIANTS, ids=" ".join)
def test_ray_accepts_every_part(names):
    config = chosen(*names)
    assert config["provider"]["type"] == names[0]
    assert unknown_provider_keys(config) == set()
    assert unknown_node_keys(config) == set()
    validate_config(prepare_config(copy.deepcopy(config)))


def test_as_it_is_it_is_the_aws_part():
    assert yaml.safe_load(TEXT) == chosen("aws")
    assert {match["name"] for match in BLOCK.finditer(TEXT)} == {*PROVIDERS, "tree", "option wheel"}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("typo", ["regoin", "cache_stoped_nodes", "worker_ip", "namespace2"])
def test_a_typo_under_provider_is_noticed(provider, typo):
    config = chosen(provider)
    config["provider"][typo] = "x"
    validate_config(prepare_config(copy.deepcopy(config)))  # Ray does not
    assert unknown_provider_keys(config) == {typo}


def test_a_typo_elsewhere_is_refused_by_ray():
    for change in ({"idle_timeout_minute": 5}, {"max_workers": "many"}, {"head_node_type": "hed"}):
        with pytest.raises(Exception, match=re.escape(next(iter(change))) + "|many"):
            validate_config(prepare_config(chosen("aws") | change))


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_samplers_have_cpu_machines_and_learners_gpu_machines(provider):
    config = chosen(provider)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    for name in ("cpu_worker", "gpu_worker"):
        assert 0 == types[name]["min_workers"] < types[name]["max_workers"] <= config["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    if provider == "aws":
        assert types["gpu_worker"]["node_config"]["InstanceType"].startswith(("g", "p"))
        assert types["cpu_worker"]["node_config"]["InstanceType"].startswith("c")
    else:
        assert types["gpu_worker"]["resources"]["GPU"] >= 1
        assert "GPU" not in types["cpu_worker"]["resources"]


def test_spot_is_for_samplers_only():
    types = chosen("aws", "option spot")["available_node_types"]
    spot = {name for name, node in types.items() if "InstanceMarketOptions" in node["node_config"]}
    assert spot == {"cpu_worker"}
    assert types["cpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@pytest.mark.parametrize("names", VARIANTS, ids=" ".join)
def test_nothing_starts_without_the_token_and_nothing_shows_it(names):
    config = chosen(*names)
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [line for line in commands(config) if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        assert line.index("RAY_AUTH_MODE=token") < line.index("ray start")
    head = next(line for line in starts if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in head
    assert not re.search(r"\b0\.0\.0\.0\b", TEXT)
    assert any("chmod 600 ~/.ray/auth_token" in line for line in config["setup_commands"])
    assert "RAY_AUTH_TOKEN=" not in TEXT
    assert not re.search(r"\b[0-9a-f]{32,}\b", TEXT)


@pytest.mark.parametrize("names", VARIANTS, ids=" ".join)
def test_commands_are_shell(names):
    for line in commands(chosen(*names)):
        assert line == line.strip()
        checked = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
        assert checked.returncode == 0, (line, checked.stderr)


def test_the_tree_or_the_wheel_is_installed():
    installs = {
        option: [line for line in chosen("aws", *option)["setup_commands"] if "pip install" in line]
        for option in ((), ("option wheel",))
    }
    assert [line.split()[-1] for line in installs[()]] == ["~/dreamrl"]
    assert [line.split()[-1].split("==")[0] for line in installs[("option wheel",)]] == ["dreamrl"]


def test_what_is_synced_leaves_the_same_out_as_a_job():
    assert set(chosen("aws")["rsync_filter"]) == {".gitignore", ".rayignore"}
