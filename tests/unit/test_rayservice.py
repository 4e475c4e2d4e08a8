"""The Kubernetes manifest: what it deploys is what `deployments/serve.yaml` serves, with keys, probes and a policy."""

from __future__ import annotations

from typing import Any

import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from onceedit_ray.cluster.serve import ServeArgs
from onceedit_ray.editing.served_run import run_of, servers_of
from onceedit_ray.serving.keys import KEYS_VARIABLE
from tests.paths import ROOT

FOLDER = ROOT / "deployments"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """The documents by kind."""
    documents = yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def cluster(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["RayService"]["spec"]["rayClusterConfig"]
    return found


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_it_serves_what_serve_yaml_serves(manifest: dict[str, Any]) -> None:
    service = manifest["RayService"]
    assert service["apiVersion"] == "ray.io/v1"
    served = yaml.safe_load(service["spec"]["serveConfigV2"])
    settings = ServeDeploySchema.model_validate(served)
    here = yaml.safe_load((FOLDER / "serve.yaml").read_text(encoding="utf-8"))
    assert served["applications"] == here["applications"] and served["proxy_location"] == here["proxy_location"]
    (application,) = settings.applications
    assert (ROOT / ServeArgs.model_validate(application.args).config).is_file()


def test_the_versions_are_those_of_the_pins(cluster: dict[str, Any]) -> None:
    assert cluster["rayVersion"] == ray.__version__
    assert f"ray=={ray.__version__}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_every_pod_has_the_keys_the_store_and_metrics(cluster: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Replicas may run on any of them, and a replica without keys refuses every other machine."""
    claim = manifest["PersistentVolumeClaim"]["metadata"]["name"]
    assert manifest["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod, group in zip(pods(cluster), (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]), strict=True):
        (container,) = pod["spec"]["containers"]
        environment = {each["name"]: each for each in container["env"]}
        assert "secretKeyRef" in environment[KEYS_VARIABLE]["valueFrom"], "a key stands in a secret, not in a manifest"
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        (volume,) = pod["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        assert mounted[volume["name"]] == environment["ONCEEDIT_HOME"]["value"]
        port = pod["metadata"]["annotations"]["prometheus.io/port"]
        assert port == group["rayStartParams"]["metrics-export-port"]
        assert int(port) in {each["containerPort"] for each in container["ports"]}
        assert container["resources"]["requests"] and container["resources"]["limits"]


def test_only_the_api_and_metrics_are_reached_from_outside(manifest: dict[str, Any], cluster: dict[str, Any]) -> None:
    policy = manifest["NetworkPolicy"]["spec"]
    (inside, outside) = policy["ingress"]
    assert "ports" not in inside and {each["port"] for each in outside["ports"]} == {8000, 8080}
    assert all(pod["metadata"]["labels"] == policy["podSelector"]["matchLabels"] for pod in pods(cluster))
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["readinessProbe"]["tcpSocket"]["port"] == 8000 and head["livenessProbe"]["exec"]["command"]


def test_the_manifest_before_vllm_serves_without_a_run_file() -> None:
    text = (ROOT / "examples" / "vllm" / "rayservice.yaml").read_text(encoding="utf-8")
    service = next(document for document in yaml.safe_load_all(text) if document["kind"] == "RayService")["spec"]
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"])).applications
    args = ServeArgs.model_validate(application.args)
    assert list(run_of(args.config, args.servers).served_targets) == ["llama", "qwen"]
    assert service["rayClusterConfig"]["rayVersion"] == ray.__version__
    (container,) = service["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each for each in container["env"]}
    assert "secretKeyRef" in environment[KEYS_VARIABLE]["valueFrom"]


def test_the_compose_file_starts_onceedit_as_the_command_takes_it() -> None:
    services = yaml.safe_load((ROOT / "examples" / "vllm" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    program, command, *options = services["onceedit"]["command"]
    assert (program, command) == ("onceedit", "serve")
    given = [option.removeprefix("--target=") for option in options if option.startswith("--target=")]
    assert set(servers_of(given)) == set(services) - {"onceedit"} == set(services["onceedit"]["depends_on"])
