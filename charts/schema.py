"""Writes values.schema.json of the chart: its own keys, and the models of what it passes on.

    python -m charts.schema

So `helm install` refuses a misspelt key of the policy with the words that the controller would use, before anything
is rolled out. A test holds the file to the models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from datamount.controller.policy import Policy
from datamount.controller.settings import Settings
from datamount.controller.store_settings import StoreSettings
from datamount.inject.settings import InjectSettings

FILE = Path(__file__).with_name("datamount") / "values.schema.json"
SET_BY_CHART = {
    InjectSettings: {"image", "image_pull_policy", "controller_url", "ca_config_map", "component"},
    Settings: {"namespace", "service", "namespaces", "tls", "inject", "policy", "store"},
}

Schema = dict[str, Any]


def schema() -> Schema:
    """The JSON Schema of the chart's values."""
    definitions: Schema = {}
    text: Schema = {"type": "string"}
    flag: Schema = {"type": "boolean"}
    any_object: Schema = {"type": "object"}
    name: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
    labels: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
    objects: Schema = {"type": "array", "items": any_object}
    networks: Schema = {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"}}
    ports: Schema = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}}
    image = _object(
        repository={"type": "string", "minLength": 1},
        tag=text,
        digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    )
    root = _object(
        sessionNamespaces={
            "type": "array",
            "items": name,
            "minItems": 1,
            "uniqueItems": True,
            "description": "Namespaces where the hub's sessions run, at least one.",
        },
        policy=_model(Policy, definitions),
        existingPolicyConfigMap=text,
        secrets={"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,53}[a-z0-9])?$"}},
        store={"anyOf": [{"type": "object", "maxProperties": 0}, _model(StoreSettings, definitions)]},
        storeSecret=text,
        inject=_model(InjectSettings, definitions),
        controller=_model(Settings, definitions),
        image=_object(session=image, controller=image),
        imagePullSecrets=objects,
        webhook=_object(
            requireNamespaceLabel=flag,
            podLabels=labels | {"minProperties": 1},
            reinvocationPolicy={"enum": ["Never", "IfNeeded"]},
        ),
        certificates=_object(
            mode={"enum": ["self-signed", "cert-manager"]},
            days={"type": "integer", "minimum": 2},
            certManager=_object(issuerRef=any_object, duration=text),
        ),
        replicas={"type": "integer", "minimum": 1},
        resources=any_object,
        affinity=any_object,
        nodeSelector=labels,
        tolerations=objects,
        priorityClassName=text,
        podAnnotations=labels,
        podLabels=labels,
        extraEnv=objects,
        serviceAccount=_object(create=flag, name=text, annotations=labels),
        networkPolicy=_object(
            enabled=flag,
            apiServerCIDRs=networks,
            egressPorts=ports,
            extraEgress=objects,
            metricsFrom=objects,
            sessions=_object(enabled=flag, extraEgress=objects),
        ),
        podDisruptionBudget=_object(enabled=flag),
        serviceMonitor=_object(enabled=flag, interval=text, labels=labels, prometheusNamespace=text),
        grafanaDashboard=_object(enabled=flag, labels=labels),
        nameOverride=text,
        fullnameOverride=text,
    )
    root["properties"]["global"] = any_object
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the datamount chart",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _model(model: type[BaseModel], definitions: Schema) -> Schema:
    """The model's schema without what the chart sets itself; its parts go to `definitions`."""
    found = model.model_json_schema(ref_template="#/$defs/{model}")
    hidden = SET_BY_CHART.get(model, set())
    found["properties"] = {key: value for key, value in found["properties"].items() if key not in hidden}
    parts = {key: _plain(value) for key, value in found.pop("$defs", {}).items()}
    for key in definitions.keys() & parts.keys():
        assert definitions[key] == parts[key], f"two models are called {key}"
    found = _plain(found)
    definitions.update({key: value for key, value in parts.items() if f"#/$defs/{key}" in json.dumps([found, parts])})
    return found


def _plain(value: Any, *, names: bool = False) -> Any:
    """Without titles and defaults: the defaults are the models', and a second copy of them would only age.

    Without patterns that look ahead, too: Helm's regular expressions cannot. The controller checks those.
    """
    if isinstance(value, dict):
        return {
            key: _plain(entry, names=key == "properties")
            for key, entry in value.items()
            if names or not (key in ("title", "default") or (key == "pattern" and "(?" in entry))
        }
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def text() -> str:
    """The file's content."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
