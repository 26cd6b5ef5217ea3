"""What Kubernetes is asked for, and what it says: the objects of a cluster as plain dicts, and the state of a pod in words."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from twistdist.clusters.engine import Job, JobState

#: Where a pod finds the secret and the certificates, its journal, and its store.
FILES, JOURNAL, SHM = "/etc/twistdist", "/var/lib/twistdist", "/dev/shm"

#: The scheduler's port, and the one of its /health.
PORT, HTTP_PORT = 8786, 8787

#: The user and group of all processes; an image of one's own need not know it.
USER = 10001

#: Seconds by which a worker is done before it would be killed.
MARGIN_S = 5

#: The name of the container in a pod.
CONTAINER = "twistdist"

#: Nodes whose addresses are used to reach a Service of type NodePort: every node forwards its port.
MAX_NODES = 3

#: Labels: the cluster of an object, and its part in it.
LABEL, ROLE = "app.kubernetes.io/instance", "app.kubernetes.io/component"

#: The key of the journal's address in the Secret; it may have a password in it.
JOURNAL_KEY = "journal-address"

#: Reasons for which a container waits, and waits for good unless somebody does something.
_IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
)
STUCK = (*_IMAGE, "CreateContainerConfigError", "CreateContainerError", "RunContainerError")

Object = dict[str, Any]


@attrs.frozen
class Shape:
    """What users say of the pods.

    Attributes:
        image: The image of the container.
        python: The Python interpreter in it.
        limits: Limits of a worker by resource, in Kubernetes' notation; they are also what it requests.
        scheduler_requests: What the scheduler requests.
        service_account: The name of a service account whose token the pods get; "": none.
        image_pull_secrets: Names of Secrets.
        node_selector: Labels of the nodes.
        tolerations: Tolerations, as in a pod's specification.
        env: Environment of the processes.
        grace: Seconds between SIGTERM and SIGKILL.
        worker_template: What else a worker's pod has, or has otherwise.
        scheduler_template: The same for the scheduler's.
    """

    image: str
    python: str = "python"
    limits: Mapping[str, str] = attrs.field(factory=dict)
    scheduler_requests: Mapping[str, str] = attrs.field(factory=dict)
    service_account: str = ""
    image_pull_secrets: Sequence[str] = ()
    node_selector: Mapping[str, str] = attrs.field(factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    grace: int = 30
    worker_template: Mapping[str, Any] = attrs.field(factory=dict)
    scheduler_template: Mapping[str, Any] = attrs.field(factory=dict)


def slug_of(cluster: str) -> str:
    """Return what the names of a cluster's objects begin with.  Kubernetes allows fewer characters than we do; the cluster's
    random end keeps the names apart."""
    words = re.sub(r"[^a-z0-9]+", "-", cluster.lower()).strip("-")
    head, _, end = words.rpartition("-")
    return f"{head[:30].strip('-')}-{end}" if re.match("[a-z]", head) else f"twistdist-{end}"


def labels_of(cluster: str, role: str = "") -> dict[str, str]:
    """Return the labels of an object."""
    part = {ROLE: role} if role else {}
    return {"app.kubernetes.io/name": "twistdist", LABEL: slug_of(cluster), **part}


def secret(cluster: str, files: Mapping[str, bytes], owner: Object | None) -> Object:
    """Return the Secret with the files of a cluster.  It owns everything else, so that its deletion deletes the cluster."""
    data = {name: base64.b64encode(content).decode() for name, content in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", **_named(cluster, owner), "type": "Opaque", "immutable": True, "data": data}


def service(cluster: str, kind: str, owner: Object | None) -> Object:
    """Return the Service in front of the scheduler, whose name is its address."""
    ports = [{"name": "twistdist", "port": PORT, "targetPort": PORT}]
    selector = {LABEL: slug_of(cluster), ROLE: "scheduler"}
    spec = {"type": kind, "selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", **_named(cluster, owner), "spec": spec}


def claim(cluster: str, size: str, storage_class: str, owner: Object | None) -> Object:
    """Return the claim of a volume for the journal."""
    spec: Object = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **_named(cluster, owner), "spec": spec}


def pod(cluster: str, job: Job, name: str, shape: Shape, journal: str, owner: Object | None) -> Object:
    """Return the pod of a job.

    Args:
        cluster: The cluster's name.
        job: What to run.
        name: The pod's name.
        shape: What users say of it.
        journal: Where the scheduler keeps its state: ``"volume"``, ``"address"`` (in the Secret) or ``"none"``.
        owner: A reference to what owns it.
    """
    scheduler = job.role == "scheduler"
    volumes: list[Object] = [
        # Its group may read it.  With mode 0400 only root could: the files of a Secret belong to root.
        {"name": "files", "secret": {"secretName": slug_of(cluster), "defaultMode": 0o440, "items": _items(job)}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    mounts = [
        {"name": "files", "mountPath": FILES, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": SHM},
    ]
    environment = {"HOME": "/tmp", "PYTHONUNBUFFERED": "1", **shape.env}
    env: list[Object] = [{"name": key, "value": _literal(value)} for key, value in environment.items()]
    env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    container: Object = {
        "name": CONTAINER,
        "image": shape.image,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    words = [_literal(word) for word in job.command(shape.python, FILES)]
    if scheduler:
        words = _scheduler_words(words, journal)
        if journal == "volume":
            volumes.append({"name": "journal", "persistentVolumeClaim": {"claimName": slug_of(cluster)}})
            mounts.append({"name": "journal", "mountPath": JOURNAL})
        elif journal == "address":
            key = {"name": slug_of(cluster), "key": JOURNAL_KEY}
            env.append({"name": "JOURNAL_ADDRESS", "valueFrom": {"secretKeyRef": key}})
        container["ports"] = [{"name": "twistdist", "containerPort": PORT}, {"name": "http", "containerPort": HTTP_PORT}]
        container["readinessProbe"] = {**_health(), "periodSeconds": 2}
        container["startupProbe"] = {**_listens(), "periodSeconds": 2, "failureThreshold": 150}
        # Whether it answers at all: with a journal that can't be written it is not ready, but a restart would not help.
        container["livenessProbe"] = {**_listens(), "periodSeconds": 10, "failureThreshold": 6}
        container["resources"] = {"requests": dict(shape.scheduler_requests)}
    else:
        if not any(word.startswith("--notice") for word in words):
            words.append(f"--notice={max(1, min(shape.grace - MARGIN_S, 3600))}")
        words += ["--contact=$(POD_IP)", f"--store={SHM}/twistdist", "--spill=/tmp/twistdist-spill"]
        container["resources"] = {"requests": dict(shape.limits), "limits": dict(shape.limits)}
    container |= {"command": words, "env": env, "volumeMounts": mounts}
    spec: Object = {
        # The kubelet starts a scheduler that crashed again at once; workers are the cluster's.
        "restartPolicy": "OnFailure" if scheduler else "Never",
        "terminationGracePeriodSeconds": shape.grace,
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(shape.service_account),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if shape.service_account:
        spec["serviceAccountName"] = shape.service_account
    if shape.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in shape.image_pull_secrets]
    if shape.node_selector:
        spec["nodeSelector"] = dict(shape.node_selector)
    if shape.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in shape.tolerations]
    made = {"apiVersion": "v1", "kind": "Pod", **_named(cluster, owner, name, job.role), "spec": spec}
    made["metadata"]["annotations"] = {"twistdist/name": job.name}
    template = shape.scheduler_template if scheduler else shape.worker_template
    merged: Object = merge(made, template)
    return merged


def _named(cluster: str, owner: Object | None, name: str = "", role: str = "") -> Object:
    metadata: Object = {"name": name or slug_of(cluster), "labels": labels_of(cluster, role)}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return {"metadata": metadata}


def owner_of(found: Object) -> Object:
    """Return a reference to an object that owns others.  When it goes, they go."""
    return {
        "apiVersion": found.get("apiVersion") or "v1",
        "kind": found["kind"],
        "name": found["metadata"]["name"],
        "uid": found["metadata"]["uid"],
    }


def _items(job: Job) -> list[Object]:
    return [{"key": name, "path": name} for name in sorted(job.files)]


def _literal(word: str) -> str:
    """Kubernetes puts the environment's variables in for ``$(NAME)``; what users write stays as it is."""
    return word.replace("$(", "$$(")


def _scheduler_words(words: list[str], journal: str) -> list[str]:
    words = list(words)
    words[words.index("--listen") + 1] = f"tcp:{PORT}:interface=0.0.0.0"
    where = {"volume": f"{JOURNAL}/journal.sqlite", "address": "$(JOURNAL_ADDRESS)", "none": "none"}[journal]
    words[words.index("--journal") + 1] = where
    return [*words, "--http", f"tcp:{HTTP_PORT}:interface=0.0.0.0"]


def _health() -> Object:
    return {"httpGet": {"path": "/health", "port": HTTP_PORT}, "timeoutSeconds": 5}


def _listens() -> Object:
    return {"tcpSocket": {"port": PORT}, "timeoutSeconds": 5}


def merge(made: Any, template: Any) -> Any:
    """Return ``made`` with what ``template`` says: mappings are merged, lists of things with names too (by name), everything
    else is replaced; None removes."""
    if isinstance(made, Mapping) and isinstance(template, Mapping):
        merged = {key: merge(value, template[key]) if key in template else value for key, value in made.items()}
        merged |= {key: value for key, value in template.items() if key not in made}
        return {key: value for key, value in merged.items() if value is not None}
    if isinstance(made, list) and isinstance(template, list | tuple) and made and _have_names([*made, *template]):
        named = {part["name"]: part for part in template}
        kept = [merge(part, named.pop(part["name"])) if part["name"] in named else part for part in made]
        return [*kept, *named.values()]
    return template


def _have_names(parts: Sequence[Any]) -> bool:
    return all(isinstance(part, Mapping) and isinstance(part.get("name"), str) for part in parts)


def state_of(found: Object) -> JobState:
    """Return the state of a pod."""
    status = found.get("status") or {}
    phase = status.get("phase") or "Pending"
    if phase == "Succeeded":
        return JobState("ended", "", True)
    if phase == "Failed":
        return JobState("ended", _how_it_ended(found, status))
    if phase == "Pending":
        return JobState("waiting", _why_it_waits(found, status))
    if phase == "Unknown" or status.get("reason") == "NodeLost":
        return JobState("running", f"its node {_node(found)} does not answer")
    if found["metadata"].get("deletionTimestamp"):
        return JobState("running", "it is being deleted")
    return JobState("running", stuck(found))


def stuck(found: Object) -> str:
    """Return why a pod's container can't be started although it has a node, or ""."""
    for container in (found.get("status") or {}).get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason") or "", " ".join((waiting.get("message") or "").split())
        if reason in _IMAGE:
            image = container.get("image") or _main(found).get("image")
            return f"image {image} can't be pulled: {reason}{': ' if message else ''}{message}"
        if reason in STUCK:
            return f"{reason}: {message}"
        if reason == "CrashLoopBackOff":
            last = (container.get("lastState") or {}).get("terminated") or {}
            return f"{reason}: it ended with {_exit(last)}"
    return ""


def is_ready(found: Object) -> bool:
    """Whether a pod's container says that it is ready."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions)


def _main(found: Object) -> Object:
    containers = found.get("spec", {}).get("containers") or [{}]
    return next((container for container in containers if container.get("name") == CONTAINER), containers[0])


def _node(found: Object) -> str:
    return found.get("spec", {}).get("nodeName") or "(none)"


def _why_it_waits(found: Object, status: Object) -> str:
    why = stuck(found)
    if why:
        return why
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason') or 'not scheduled'}: {condition.get('message') or 'no message'}"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return str(waiting["reason"])
    return "" if _node(found) == "(none)" else f"node {_node(found)} has not started it yet"


def _how_it_ended(found: Object, status: Object) -> str:
    reason, message = status.get("reason") or "", status.get("message") or ""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True" and not reason:
            reason, message = condition.get("reason") or "", condition.get("message") or ""
    exits = [
        _exit(container["state"]["terminated"])
        for container in status.get("containerStatuses") or ()
        if (container.get("state") or {}).get("terminated")
    ]
    words = [": ".join(part for part in (reason, message) if part), ", ".join(exits)]
    if reason in ("NodeLost", "NodeShutdown", "Terminated", "Shutdown", "DeletionByTaintManager"):
        words.append(f"on node {_node(found)}")
    return "; ".join(word for word in words if word) or "it failed, and Kubernetes gives no reason"


def _exit(terminated: Object) -> str:
    reason = terminated.get("reason") or ""
    also = f" ({reason})" if reason and reason != "Error" else ""
    message = " ".join((terminated.get("message") or "").split())[-300:]
    return f"exit status {terminated.get('exitCode', '?')}{also}{': ' if message else ''}{message}"


def node_addresses(host: str, nodes: Sequence[Object]) -> list[str]:
    """Return the addresses at which a port of all nodes may be reached, the likeliest first.

    Args:
        host: The address of the pod's own node.
        nodes: The nodes, as far as they are known.
    """
    known = [[one["address"] for one in _addresses(node)] for node in nodes if _may_be_ready(node)]
    known.sort(key=lambda addresses: host not in addresses)
    return list(dict.fromkeys([host, *(address for addresses in known[:MAX_NODES] for address in addresses)]))


def _addresses(node: Object) -> list[Object]:
    found = (node.get("status") or {}).get("addresses") or []
    return [one for one in found if one.get("type") in ("InternalIP", "ExternalIP")]


def _may_be_ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return all(one.get("status") == "True" for one in conditions if one.get("type") == "Ready")
