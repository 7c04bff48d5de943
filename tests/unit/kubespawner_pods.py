"""Pods as KubeSpawner makes them with the defaults of the two charts: real `make_pod`, values copied from the charts.

The values are those of zero-to-jupyterhub 4 (`jupyterhub/values.yaml`, `files/hub/jupyterhub_config.py`) and of
BinderHub 1.0 (`helm-chart/binderhub/values.yaml`, `binderspawner_mixin.py`).
"""

from __future__ import annotations

from typing import Any

from kubespawner.objects import make_pod

LABELS = {
    "app": "jupyterhub",
    "component": "singleuser-server",
    "release": "hub",
    "chart": "jupyterhub-4.0.0",
    "heritage": "jupyterhub",
    "app.kubernetes.io/name": "jupyterhub",
    "app.kubernetes.io/component": "singleuser-server",
    "app.kubernetes.io/managed-by": "kubespawner",
    "hub.jupyter.org/network-access-hub": "true",
    "hub.jupyter.org/servername": "",
    "hub.jupyter.org/username": "ada",
}
ANNOTATIONS = {
    "hub.jupyter.org/username": "ada@example.edu",
    "hub.jupyter.org/servername": "",
    "hub.jupyter.org/jupyterhub-version": "5.3.0",
    "hub.jupyter.org/kubespawner-version": "7.0.0",
}
HUB_VARIABLES = {
    "JUPYTERHUB_API_TOKEN": "not-a-real-token",
    "JUPYTERHUB_API_URL": "http://hub:8081/hub/api",
    "JUPYTERHUB_USER": "ada",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/ada/",
    "JPY_API_TOKEN": "not-a-real-token",
    "MEM_GUARANTEE": "1073741824",
    "JUPYTER_IMAGE": "quay.io/jupyterhub/k8s-singleuser-sample:4.0.0",
}
BLOCK_METADATA = {
    "name": "block-cloud-metadata",
    "image": "quay.io/jupyterhub/k8s-network-tools:4.0.0",
    "command": ["iptables", "-A", "OUTPUT", "-p", "tcp", "-d", "169.254.169.254", "--dport", "80", "-j", "DROP"],
    "securityContext": {"privileged": True, "runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}},
}


def z2jh_pod() -> Any:
    """A V1Pod of Zero to JupyterHub: home on a dynamic PVC, uid 1000, fsGid 100."""
    return make_pod(
        name="jupyter-ada",
        cmd=["jupyterhub-singleuser"],
        port=8888,
        image="quay.io/jupyterhub/k8s-singleuser-sample:4.0.0",
        image_pull_policy="IfNotPresent",
        uid=1000,
        fs_gid=100,
        env=dict(HUB_VARIABLES),
        volumes=[{"name": "volume-ada", "persistentVolumeClaim": {"claimName": "claim-ada"}}],
        volume_mounts=[{"name": "volume-ada", "mountPath": "/home/jovyan"}],
        labels=dict(LABELS),
        annotations=dict(ANNOTATIONS),
        mem_guarantee=1073741824,
        init_containers=[dict(BLOCK_METADATA)],
        scheduler_name="hub-user-scheduler",
        priority_class_name="hub-default-priority",
        tolerations=[
            {"key": "hub.jupyter.org/dedicated", "operator": "Equal", "value": "user", "effect": "NoSchedule"},
            {"key": "hub.jupyter.org_dedicated", "operator": "Equal", "value": "user", "effect": "NoSchedule"},
        ],
        node_affinity_preferred=[
            {
                "weight": 100,
                "preference": {
                    "matchExpressions": [{"key": "hub.jupyter.org/node-purpose", "operator": "In", "values": ["user"]}]
                },
            }
        ],
    )


def binderhub_pod() -> Any:
    """A V1Pod of BinderHub: no storage, an image of repo2docker, the variables of the launch."""
    image = "registry.example.edu/r2d-org-2dcourse-4f1a2b:4c1e9f0000000000000000000000000000000000"
    variables = HUB_VARIABLES | {
        "JUPYTER_IMAGE": image,
        "BINDER_CLIENT_IP": "192.0.2.7",
        "BINDER_LAUNCH_HOST": "https://binder.example.edu/",
        "BINDER_PERSISTENT_REQUEST": "v2/gh/org/course/4c1e9f0000000000000000000000000000000000",
        "BINDER_REF_URL": "https://github.com/org/course/tree/4c1e9f0000000000000000000000000000000000",
        "BINDER_REPO_URL": "https://github.com/org/course",
        "BINDER_REQUEST": "v2/gh/org/course/main",
    }
    return make_pod(
        name="jupyter-org-2dcourse-2dx1y2z3",
        cmd=["jupyterhub-singleuser"],
        port=8888,
        image=image,
        image_pull_policy="IfNotPresent",
        image_pull_secrets=["binder-pull-secret"],
        uid=1000,
        fs_gid=1000,
        env=variables,
        labels=LABELS | {"hub.jupyter.org/username": "org-course-x1y2z3"},
        annotations=ANNOTATIONS | {"hub.jupyter.org/username": "org-course-x1y2z3"},
        mem_guarantee=1073741824,
        mem_limit=2147483648,
        init_containers=[dict(BLOCK_METADATA)],
    )
