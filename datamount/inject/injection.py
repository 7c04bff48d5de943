"""A pod with our containers, volumes and variables: a pure function, the same for webhook, hub and command line.

    injected = inject(pod, settings)        # `injected is pod` when nothing is to be done

What is added, and why it never keeps a notebook from opening:

    datamount-seed      init container, the notebook's own image: copies home and manifest to volumes; ends with 0
    datamount-fetch     init container, our image: saved work and data, within a time budget; ends with 0
    datamount-sidecar   native sidecar, our image: saves, goes on fetching; its startup probe always passes
    notebook            mounts and static variables, nothing else

Init containers are appended: after `block-cloud-metadata`, after a mesh's proxy, after the hub's own.
"""

from __future__ import annotations

import copy

from datamount import names
from datamount.inject.containers import equip_notebook, fetch, items, seed, sidecar
from datamount.inject.plan import LeftAlone, Object, Plan, read_pod
from datamount.inject.settings import InjectSettings
from datamount.inject.volumes import new_volumes


def inject(pod: Object, settings: InjectSettings) -> Object:
    """The pod with what a session of datamount needs; the very same object when it is to stay as it is.

    The argument is never changed. Never raises, whatever JSON `pod` is: what is not understood in full is left alone
    (`why_not` tells the reason). Injecting the result again changes nothing.
    """
    try:
        return _apply(read_pod(pod, settings))
    except (LeftAlone, RecursionError):
        return pod


def why_not(pod: Object, settings: InjectSettings) -> str | None:
    """Why `inject` leaves this pod alone, in words for a log; None when it does not."""
    try:
        read_pod(pod, settings)
    except LeftAlone as reason:
        return str(reason)
    except RecursionError:
        return "it is nested too deeply"
    return None


def _apply(plan: Plan) -> Object:
    pod = copy.deepcopy(plan.pod)
    metadata = _child(pod, "metadata")
    _child(metadata, "annotations")[names.ANNOTATION_STATUS] = names.STATUS_INJECTED
    spec = _child(pod, "spec")
    containers: list[Object] = spec["containers"]
    notebook = next(c for c in containers if c["name"] == plan.notebook["name"])
    equip_notebook(plan, notebook)
    init_containers = items(spec, "initContainers")
    if not plan.settings.image_volumes:
        init_containers.append(seed(plan))
    init_containers.append(fetch(plan))
    # After the notebook: KubeSpawner looks for its port in the containers in order, and stops at one without ports.
    (init_containers if plan.settings.native_sidecar else containers).append(sidecar(plan))
    items(spec, "volumes").extend(new_volumes(plan))
    return pod


def _child(parent: Object, key: str) -> Object:
    if parent.get(key) is None:
        parent[key] = {}
    found: Object = parent[key]
    return found
