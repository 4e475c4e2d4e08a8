"""Write KubeRay's definition of a RayService as a JSON schema, for the test of our manifests.

    python -m scripts.kuberay_schema ray.io_rayservices.yaml

The file is `ray-operator/config/crd/bases/ray.io_rayservices.yaml` of a tag of https://github.com/ray-project/kuberay.
Descriptions are left out, and an object with known fields may have no other field, so that a misspelt field is found.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path(__file__).resolve().parents[1] / "tests/unit/cluster/data/rayservice.json.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("definition", type=Path, metavar="FILE")
    definition = yaml.safe_load(parser.parse_args().definition.read_text(encoding="utf-8"))
    version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    del schema["properties"]["status"]
    text = json.dumps(schema, separators=(",", ":"), sort_keys=True)
    SCHEMA.write_bytes(gzip.compress(text.encode(), mtime=0))


def closed(schema: Any) -> Any:
    """The schema without descriptions, whose objects take only the fields that they have."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {
        key: closed(value) for key, value in schema.items() if not (key == "description" and isinstance(value, str))
    }
    if schema.get("type") == "object" and schema.get("properties"):
        kept["additionalProperties"] = False
    return kept


if __name__ == "__main__":
    main()
