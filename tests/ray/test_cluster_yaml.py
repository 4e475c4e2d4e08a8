"""`cluster.yaml`: Ray's own validation, and the parts of the file that Ray does not look into.

Ray accepts any key inside `provider` and `node_config`, any image name and any command; a typo there shows itself only
once machines are running and paid for.
"""

from __future__ import annotations

import copy
import importlib.metadata
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from onceedit_ray.cluster.placement import WAIT_VARIABLE
from tests.paths import ROOT

PROVIDER_KEYS = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group"}
# The parameters of EC2's RunInstances that a node here may set.
NODE_CONFIG_KEYS = {"InstanceType", "ImageId", "KeyName", "SubnetIds", "BlockDeviceMappings", "InstanceMarketOptions"}
# vCPUs and GPUs of the instance types in use, from AWS's tables.
INSTANCES = {"m6i.2xlarge": (8, 0), "g6.2xlarge": (8, 1), "g6.12xlarge": (48, 4), "g6.48xlarge": (192, 8)}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def check(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    check(cluster)


def test_ray_refuses_a_typo_in_it(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu_1x"]["resource"] = {}
    with pytest.raises(jsonschema.ValidationError, match="resource"):
        check(cluster)


def test_provider_and_node_configs_hold_known_keys(cluster: dict[str, Any]) -> None:
    assert set(cluster["provider"]) <= PROVIDER_KEYS
    for name, node in cluster["available_node_types"].items():
        assert set(node["node_config"]) <= NODE_CONFIG_KEYS, name
        assert set(node["resources"]) == {"CPU", "GPU"}, name


def test_resources_are_those_of_the_machines(cluster: dict[str, Any]) -> None:
    for name, node in cluster["available_node_types"].items():
        found = (node["resources"]["CPU"], node["resources"]["GPU"])
        assert found == INSTANCES[node["node_config"]["InstanceType"]], name


def test_one_kind_of_gpu_node_per_size_of_target(cluster: dict[str, Any]) -> None:
    nodes = dict(cluster["available_node_types"])
    head = nodes.pop(cluster["head_node_type"])
    assert head["resources"]["GPU"] == 0
    gpus = [node["resources"]["GPU"] for node in nodes.values()]
    assert 1 in gpus and max(gpus) >= 4 and len(set(gpus)) == len(gpus)
    assert all(node["min_workers"] == 0 for node in nodes.values()), "GPUs are paid for only while they are asked for"
    assert cluster["max_workers"] >= sum(node["max_workers"] for node in nodes.values())


def test_images_and_pins_are_of_one_ray(cluster: dict[str, Any]) -> None:
    version = importlib.metadata.version("ray")
    assert cluster["docker"]["image"] == f"rayproject/ray:{version}-py311-gpu"
    assert cluster["docker"]["head_image"] == f"rayproject/ray:{version}-py311-cpu"
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_every_node_has_a_home_and_waits_for_an_autoscaler(cluster: dict[str, Any]) -> None:
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert "ONCEEDIT_HOME=/home/ray/onceedit-home " in commands[-1] and f"{WAIT_VARIABLE}=1200;" in commands[-1]
        assert "\n" not in commands[-1].strip(), "one command"


def test_nothing_is_open_to_the_network(cluster: dict[str, Any]) -> None:
    head, worker = cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    assert all("0.0.0.0" not in command for command in (head, worker))
