"""Commands of the hub's operator: what the cluster's webhook does, by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from datamount.cli import OPERATORS, app

SettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="YAML file of the injection's settings; default: none.")
]


@app.command(
    rich_help_panel=OPERATORS,
    epilog="Example: [bold]kubectl get pod jupyter-x -o yaml | datamount inject --settings inject.yaml[/bold]",
)
def inject(
    file: Annotated[
        str, typer.Argument(help="YAML or JSON file with Pods and Lists; - for stdin.", metavar="FILE")
    ] = "-",
    settings: SettingsOption = None,
) -> None:
    """Print pods with what a session of datamount needs, in the form they came in.

    Takes a Pod, a List, or several YAML documents; what is no pod of a single-user server is printed as it was, and
    the reason goes to stderr. Fields keep their order, unknown ones too; comments of YAML are lost.
    """
    from datamount.inject import InjectSettings, read_inject_settings

    chosen = read_inject_settings(settings) if settings else InjectSettings()
    text = _read(file)
    try:
        document = json.loads(text)
    except ValueError:
        _print_yaml(_load_yaml(text, file), chosen)
        return
    print(json.dumps(_inject_all(document, chosen), indent=2 if "\n" in text.strip() else None, ensure_ascii=False))


def _read(file: str) -> str:
    from datamount.errors import UsageError

    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{file} cannot be read: {reason}.", who="you") from error


def _load_yaml(text: str, file: str) -> list[Any]:
    import yaml

    from datamount.errors import UsageError
    from datamount.operatorfile import yaml_fault

    class Loader(yaml.SafeLoader):
        """As Kubernetes reads YAML: a date is a string."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return list(yaml.load_all(text, Loader))
    except (yaml.YAMLError, RecursionError) as error:
        shown = "standard input" if file == "-" else file
        raise UsageError(f"{shown} is neither JSON nor YAML: {yaml_fault(error)}.", who="you") from None


def _print_yaml(documents: list[Any], settings: Any) -> None:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Long texts as a person would write them."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    injected = [_inject_all(document, settings) for document in documents]
    yaml.dump_all(
        injected, sys.stdout, Dumper, sort_keys=False, allow_unicode=True, width=120, explicit_start=len(injected) > 1
    )


def _inject_all(document: Any, settings: Any) -> Any:
    """The document with every pod in it injected."""
    from datamount.inject import inject as inject_pod
    from datamount.inject import why_not

    if not isinstance(document, dict):
        return document
    if isinstance(document.get("items"), list) and str(document.get("kind", "")).endswith("List"):
        return document | {"items": [_inject_all(item, settings) for item in document["items"]]}
    if document.get("kind") != "Pod":
        return document
    reason = why_not(document, settings)
    if reason:
        metadata = document.get("metadata")
        name = metadata.get("name", "a pod") if isinstance(metadata, dict) else "a pod"
        print(f"datamount: {name} is left as it is: {reason}.", file=sys.stderr)
    return inject_pod(document, settings)


@app.command(
    rich_help_panel=OPERATORS,
    epilog="Example: [bold]datamount controller --config /etc/datamount/controller.yaml[/bold]",
)
def controller(
    config: Annotated[Path, typer.Option("--config", help="YAML file of the controller's settings.")],
    check: Annotated[bool, typer.Option("--check", help="Only tell whether settings and policy are valid.")] = False,
) -> None:
    """Run the controller: admission webhook, leases, store gateway and reaper. Ends on SIGTERM."""
    from datamount.controller.settings import load

    settings = load(config)
    if check:
        from datamount.controller.policy import parse
        from datamount.inject import read_inject_settings

        if settings.inject:
            read_inject_settings(settings.inject)
        parse(_read(str(settings.policy)).encode(), str(settings.policy))
        print(f"{config} and {settings.policy} are valid.")
        return
    from datamount.controller.assemble import serve
    from datamount.controller.kube import Kube

    serve(settings, Kube.from_environment())
