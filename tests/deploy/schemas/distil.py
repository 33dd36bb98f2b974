"""A strict JSON schema out of a CustomResourceDefinition: python distil.py CRD.yaml [unwanted property ...] > KIND.json

What a cluster fills in (status) and what only people read (descriptions) is left out, and so are the properties named,
wherever they occur. A property that the definition does not know is an error, as in `kubectl apply --validate=strict`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

# `pattern`s and `format`s of Kubernetes are Go's, and `x-kubernetes-*` no keyword of JSON schema.
KEYWORDS = ("type", "enum", "required", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


def strict(schema: dict[str, Any], unwanted: set[str]) -> dict[str, Any]:
    """The schema with what validates alone, closed to unknown properties."""
    kept = {keyword: schema[keyword] for keyword in KEYWORDS if keyword in schema}
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"type": ["integer", "string"]}
    if "items" in schema:
        kept["items"] = strict(schema["items"], unwanted)
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = strict(schema["additionalProperties"], unwanted)
    if "properties" in schema:
        properties = schema["properties"].items()
        kept["properties"] = {name: strict(each, unwanted) for name, each in properties if name not in unwanted}
        kept["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return kept


def main(definition: str, *unwanted: str) -> None:
    crd = yaml.safe_load(Path(definition).read_text())
    (version,) = (version for version in crd["spec"]["versions"] if version["storage"])
    schema = strict(version["schema"]["openAPIV3Schema"], {"status", *unwanted})
    names = {"apiVersion": f"{crd['spec']['group']}/{version['name']}", "kind": crd["spec"]["names"]["kind"]}
    schema["properties"] |= {name: {"const": value} for name, value in names.items()}
    schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind", "metadata"})
    print(json.dumps(schema, separators=(",", ":")))


if __name__ == "__main__":
    main(*sys.argv[1:])
