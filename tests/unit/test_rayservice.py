"""The Kubernetes manifest: what it deploys is what `deployments/serve.yaml` serves, with keys, probes and a policy."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema

from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.editing.served_run import run_of, servers_of
from onceedit_ray.serving.keys import KEYS_VARIABLE
from tests.paths import ROOT

FOLDER = ROOT / "deployments"


MANIFESTS = ("deployments/rayservice.yaml", "examples/vllm/rayservice.yaml")


def ray_service(path: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / path).read_text(encoding="utf-8"))
    found: dict[str, Any] = next(document for document in documents if document["kind"] == "RayService")
    return found


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


@pytest.mark.parametrize("path", MANIFESTS)
def test_the_head_is_ready_before_serve_listens(path: str) -> None:
    """KubeRay submits the application once the head is ready (`reconcileServe` of its RayService controller). A probe
    of what Serve opens with the application would wait for itself; KubeRay's own probes ask the raylet and the GCS.
    """
    head = ray_service(path)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"readinessProbe", "startupProbe", "livenessProbe"} & set(head) == set()


@pytest.mark.parametrize("path", MANIFESTS)
def test_it_is_what_kuberay_defines(path: str) -> None:
    """By KubeRay v1.7.0's own definition; `scripts/kuberay_schema.py` made the schema of it."""
    schema = json.loads(gzip.decompress((ROOT / "tests/unit/cluster/data/rayservice.json.gz").read_bytes()))
    definition = Draft202012Validator(schema)
    service = ray_service(path)
    assert [error.message for error in definition.iter_errors(service)] == []
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["ports"][0]["containerPort"] = "6379"
    head["readynessProbe"] = service["spec"]["serveConfig"] = {}
    assert len(list(definition.iter_errors(service))) == 3, "a wrong type, and two names that are spelt wrong"


def test_the_manifest_before_vllm_serves_without_a_run_file() -> None:
    service = ray_service("examples/vllm/rayservice.yaml")["spec"]
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
