"""A cluster whose scheduler and workers are pods of Kubernetes."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from twistdist.clusters import pods
from twistdist.clusters.engine import Engine, Job, JobState
from twistdist.clusters.jobs import JobCluster
from twistdist.config import as_path, as_text, as_whole_number, parse_bytes
from twistdist.errors import ConfigError, TwistdistError

#: Seconds that the API server has to accept a connection, and to answer a request.
CONNECT_S, REQUEST_S = 5.0, 15.0

#: Seconds before a request is tried again that the API server could not serve: the longest.  It is tried so many times.
LONGEST_PAUSE_S, TRIES = 8.0, 5

#: Statuses with which the API server asks for patience, or is not well.
_LATER = (429, 500, 502, 503, 504)

#: How many requests are made at a time.
AT_A_TIME = 8

#: How many pods one answer lists.
PAGE = 500

#: Seconds that the scheduler's pod has to be ready, and its Service to have an address.
SCHEDULER_S = 600.0

#: Seconds after which a pod whose image can't be pulled is replaced, which is heard of.  The kubelet tries again meanwhile.
STUCK_S = 60.0

SERVICES = ("ClusterIP", "LoadBalancer", "NodePort")

_SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: What is allowed to be asked for what, for the message about missing rights.
RIGHTS = (
    "pods: create, get, list, delete; pods/log: get; secrets: create, delete; services: create, get, delete; "
    "persistentvolumeclaims: create, delete"
)

#: What the scheduler requests by default.
_SCHEDULER_REQUESTS = {"cpu": "500m", "memory": "512Mi"}

_QUANTITY = r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?"


class _Refused(TwistdistError):
    """The API server refuses a request.  ``status`` is that of HTTP."""

    status = 0
    reason = ""


class KubernetesEngine(Engine):
    """Jobs are pods.  The arguments are those of :class:`KubernetesCluster`.

    Every object has the cluster's labels.  The Secret with the cluster's files owns all others, and the program's own pod, if
    it runs in one in this namespace, owns the Secret: when an owner is deleted, Kubernetes deletes what it owns.
    """

    name = "Kubernetes"
    poll_s = 2.0
    queues = True

    _log = Logger()

    def __init__(
        self,
        shape: pods.Shape,
        *,
        namespace: str | None = None,
        context: str | None = None,
        kubeconfig: str | None = None,
        scheduler_in_cluster: bool = True,
        service: str = "ClusterIP",
        journal: str = "volume",
        storage: str = "1Gi",
        storage_class: str = "",
    ) -> None:
        if importlib.util.find_spec("kubernetes") is None:
            raise ConfigError("the package kubernetes is not installed; run: pip install 'twistdist[kubernetes]'")
        self.shape = shape
        self.runs_scheduler = scheduler_in_cluster
        self.namespace = namespace or ""
        self._context, self._kubeconfig = context, kubeconfig
        self._service, self._journal = service, journal
        self._journal_kind = journal if journal in ("volume", "none") else "address"
        self._storage, self._storage_class = storage, storage_class
        self._owner: pods.Object | None = None
        self._files: Mapping[str, bytes] | None = None  # as they are in the Secret
        self._core: Any = None
        self._host = ""
        self._at_once = DeferredSemaphore(AT_A_TIME)
        self._asking: set[Deferred[Any]] = set()
        self._stuck_since: dict[str, float] = {}
        self._closing = threading.Event()

    async def open(self, reactor: Any, cluster: str) -> None:
        await super().open(reactor, cluster)
        self._core, namespace, self._host = await self._in_thread(_connect, self._context, self._kubeconfig)
        self.namespace = self.namespace or namespace
        self._selector = ",".join(f"{key}={value}" for key, value in pods.labels_of(cluster).items())
        # Asks for nothing but an answer: without rights or a namespace, it is better heard now.
        await self._list(limit=1)
        self._owner = await self._own_pod()

    async def _own_pod(self) -> pods.Object | None:
        """Return a reference to the pod that this program runs in, if it is one of this namespace."""
        try:
            here = (_SERVICE_ACCOUNT / "namespace").read_text().strip()
        except OSError:
            return None
        if here != self.namespace:
            return None
        try:
            found = await self._ask("get pods", self._core.read_namespaced_pod, socket.gethostname(), self.namespace)
        except _Refused as error:
            self._log.info("no pod owns cluster {cluster}: {why}", cluster=self.cluster, why=str(error))
            return None
        return pods.owner_of({"kind": "Pod", **found})

    # ---- what an engine does ------------------------------------------------------------------

    async def start(self, jobs: Sequence[Job]) -> dict[str, str]:
        for job in jobs:
            await self._make_files(job)
        asked = [self._at_once.run(Deferred.fromCoroutine, self._start(job)) for job in jobs]
        ids: dict[str, str] = {}
        why: Any = None
        results: list[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
        for job, (done, result) in zip(jobs, results, strict=True):
            if done:
                ids[job.name] = result
            else:
                why = why or result
        if why is not None:
            if not ids:
                why.raiseException()
            self._log.warn("cluster {cluster}: {why}", cluster=self.cluster, why=why.getErrorMessage())
        return ids

    async def _start(self, job: Job) -> str:
        if job.role == "scheduler":
            await self._make_service()
        # A request whose answer is lost is repeated under the same name, and finds the pod there.
        name = f"{pods.slug_of(self.cluster)}-{job.name}-{secrets.token_hex(3)}"
        made = pods.pod(self.cluster, job, name, self.shape, self._journal_kind, self._owner)
        await self._create("pods", self._core.create_namespaced_pod, made)
        return name

    async def _make_files(self, job: Job) -> None:
        files = dict(job.files)
        if self._journal_kind == "address":
            files[pods.JOURNAL_KEY] = self._journal.encode()
        if self._files is None:
            made = pods.secret(self.cluster, files, self._owner)
            found = await self._create("secrets", self._core.create_namespaced_secret, made)
            self._files = files
            if found is not None:
                self._owner = pods.owner_of({"kind": "Secret", **found})
        elif files != self._files:
            raise TwistdistError(f"all jobs of a cluster on Kubernetes have the same files; those of {job.name} differ")

    async def _make_service(self) -> None:
        made = pods.service(self.cluster, self._service, self._owner)
        await self._create("services", self._core.create_namespaced_service, made)
        if self._journal == "volume":
            volume = pods.claim(self.cluster, self._storage, self._storage_class, self._owner)
            create = self._core.create_namespaced_persistent_volume_claim
            await self._create("persistentvolumeclaims", create, volume)

    async def look(self, ids: Sequence[str]) -> dict[str, JobState]:
        states: dict[str, JobState] = {}
        unknown = set(ids)
        left: list[str] = []
        for found in await self._list():
            name = found["metadata"]["name"]
            if name in unknown:
                unknown.discard(name)
                states[name] = self._state(name, found)
                if states[name].phase == "ended" and (found.get("status") or {}).get("phase") == "Pending":
                    left.append(name)
            elif not found["metadata"].get("deletionTimestamp"):
                left.append(name)  # it has ended, and its log was read; or the answer to its creation was lost
        self._stuck_since = {id: since for id, since in self._stuck_since.items() if id in states}
        if left:
            await self.end(left)
        return states

    def _state(self, id: str, found: pods.Object) -> JobState:
        state = pods.state_of(found)
        if state.phase != "waiting" or not pods.stuck(found):
            self._stuck_since.pop(id, None)
            return state
        since = self._stuck_since.setdefault(id, self.reactor.seconds())
        return attrs.evolve(state, phase="ended") if self.reactor.seconds() - since >= STUCK_S else state

    async def end(self, ids: Sequence[str]) -> None:
        delete = self._core.delete_namespaced_pod
        asked = [self._at_once.run(Deferred.fromCoroutine, self._delete("pods", delete, id)) for id in ids]
        results: list[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
        for done, result in results:
            if not done:
                result.raiseException()

    async def _end_all(self) -> None:
        found = [one["metadata"] for one in await self._list()]
        await self.end([one["name"] for one in found if not one.get("deletionTimestamp")])

    async def log(self, id: str, n: int) -> list[str]:
        read = self._core.read_namespaced_pod_log
        try:
            text = await self._ask("get pods/log", read, id, self.namespace, container=pods.CONTAINER, tail_lines=n)
        except TwistdistError as error:
            # The pod has no node yet, or is gone, or its node does not answer: a log that can't be had stops nothing.
            return [f"(no log: {error})"]
        return str(text).splitlines()[-n:]

    async def scheduler_address(self, id: str) -> str:
        host, port = f"{pods.slug_of(self.cluster)}.{self.namespace}.svc", pods.PORT
        late = self.reactor.seconds() + SCHEDULER_S
        while True:
            found = await self._ask("get pods", self._core.read_namespaced_pod, id, self.namespace)
            state = pods.state_of(found)
            if state.phase == "ended":
                said = " ".join(await self.log(id, 5))
                raise TwistdistError(f"the scheduler (pod {id}) ended: {state.why}; it wrote: {said}")
            stuck = pods.stuck(found)
            if stuck:
                raise TwistdistError(f"the scheduler (pod {id}) can't start: {stuck}")
            if pods.is_ready(found):
                if self._service == "ClusterIP":
                    await self._check_inside(host)
                    return f"tls:{host}:{port}"
                address = await self._outside(found)
                if address:
                    return address
            if self.reactor.seconds() >= late:
                why = state.why or ("its Service has no address" if pods.is_ready(found) else "it is not ready")
                raise TwistdistError(f"the scheduler (pod {id}) could not be reached within {SCHEDULER_S:g} s: {why}")
            await deferLater(self.reactor, 0.5)

    async def _check_inside(self, host: str) -> None:
        try:
            await self._in_thread(socket.getaddrinfo, host, pods.PORT)
        except OSError as error:
            raise TwistdistError(
                f"the scheduler's address {host} is known only inside of the Kubernetes cluster, and this program is not there "
                f"({error}): run it in a pod, or give service='LoadBalancer' or 'NodePort'"
            ) from None

    async def _outside(self, scheduler: pods.Object) -> str:
        """Return the addresses at which the Service is reached from elsewhere, or "" if it has none yet."""
        read = self._core.read_namespaced_service
        found = await self._ask("get services", read, pods.slug_of(self.cluster), self.namespace)
        if self._service == "NodePort":
            host, port = scheduler["status"].get("hostIP", ""), found["spec"]["ports"][0].get("nodePort", 0)
            hosts = pods.node_addresses(host, await self._nodes()) if host and port else []
        else:
            entries = ((found.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [{}]
            host, port = entries[0].get("ip") or entries[0].get("hostname") or "", pods.PORT
            hosts = [host] if host else []
        return ",".join(f"tls:{escaped}:{port}" for escaped in (host.replace(":", r"\:") for host in hosts))

    async def _nodes(self) -> list[pods.Object]:
        """Return the nodes; none without the right to list them, which no Role can give."""
        try:
            page = await self._ask("list nodes", self._core.list_node, limit=PAGE)
        except _Refused as error:
            self._log.info("cluster {cluster}: one node's address must do: {why}", cluster=self.cluster, why=str(error))
            return []
        return page.get("items") or []

    async def close(self) -> None:
        self._closing.set()  # requests are not repeated any more
        if self._core is None:
            return
        if self._asking:
            await DeferredList(list(self._asking), consumeErrors=True)  # one may be creating something
        slug, core = pods.slug_of(self.cluster), self._core
        steps: list[Awaitable[None]] = [self._delete("secrets", core.delete_namespaced_secret, slug)]
        if self.runs_scheduler:
            steps.append(self._delete("services", core.delete_namespaced_service, slug))
            if self._journal == "volume":
                claim = core.delete_namespaced_persistent_volume_claim
                steps.append(self._delete("persistentvolumeclaims", claim, slug))
        steps.append(self._end_all())
        errors = []
        for step in steps:
            try:
                await step
            except TwistdistError as error:
                errors.append(str(error))
        if errors:
            self._log.warn(
                "what cluster {cluster} has made is still there ({why}); remove it with: "
                "kubectl -n {namespace} delete pod,service,secret,pvc -l {selector}",
                cluster=self.cluster,
                why=errors[0],
                namespace=self.namespace,
                selector=self._selector,
            )

    # ---- requests -----------------------------------------------------------------------------

    async def _list(self, limit: int = 0) -> list[pods.Object]:
        """Return the pods of this cluster.

        Without a resourceVersion: an answer from a cache may not know a pod that was just made, which would be taken for ended.
        """
        found: list[pods.Object] = []
        wanted: dict[str, Any] = {"label_selector": self._selector, "limit": limit or PAGE}
        for _ in range(1000):
            try:
                page = await self._ask("list pods", self._core.list_namespaced_pod, self.namespace, **wanted)
            except _Refused as error:
                if error.status != 410 or "_continue" not in wanted:
                    raise
                del wanted["_continue"]  # the rest of the list has become too old
                found = []
                continue
            found += page.get("items") or []
            following = (page.get("metadata") or {}).get("continue")
            if not following or limit:
                return found
            wanted["_continue"] = following
        raise TwistdistError("the Kubernetes API server's list of pods has no end")

    async def _create(self, kind: str, create: Callable[..., Any], made: pods.Object) -> Any:
        """Create an object.  None if it was there already: it was created by a request whose answer was lost."""
        try:
            return await self._ask(f"create {kind}", create, self.namespace, made)
        except _Refused as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                return None
            raise

    async def _delete(self, kind: str, delete: Callable[..., Any], name: str) -> None:
        try:
            await self._ask(f"delete {kind}", delete, name, self.namespace)
        except _Refused as error:
            if error.status != 404:
                raise

    async def _ask(self, what: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Make a request, several times if the API server can't serve it now, and return its answer: JSON, or a log's text."""
        pause, trouble = 0.5, ""
        for attempt in range(TRIES):
            try:
                return await self._in_thread(_request, method, args, options)
            except _Later as error:
                trouble, pause = str(error), max(pause, min(error.pause, LONGEST_PAUSE_S))
            except _Refused as error:
                raise self._explained(what, error) from None
            if attempt < TRIES - 1 and not self._closing.is_set():
                await deferLater(self.reactor, pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        raise TwistdistError(f"the Kubernetes API server at {self._host} does not answer ({what}): {trouble}")

    def _explained(self, what: str, error: _Refused) -> _Refused:
        text, where = str(error), f"namespace {self.namespace!r}"
        if error.status == 401:
            text = f"the Kubernetes API server at {self._host} does not accept the credentials of this user: {text}"
        elif error.status == 403 and "quota" in text:
            text = f"the quota of {where} does not allow it: {text}"
        elif error.status == 403 and "cannot" in text:
            text = f"not allowed to {what} in {where}: {text}; a Role needs {RIGHTS}"
        elif error.status == 404 and "namespaces" in text:
            text = f"{where} does not exist; create it with: kubectl create namespace {self.namespace}"
        else:
            text = f"could not {what} in {where}: {text}"
        explained = _Refused(text)
        explained.status, explained.reason = error.status, error.reason
        return explained

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Call a function in a thread.  If the wait for it is cancelled, it goes on; ``close`` waits for it."""
        asking = deferToThreadPool(self.reactor, self.reactor.getThreadPool(), function, *args)
        self._asking.add(asking)
        waiting: Deferred[Any] = Deferred()

        def done(result: Any) -> None:
            self._asking.discard(asking)
            if not waiting.called:
                waiting.callback(result)

        asking.addBoth(done)
        return waiting


class _Later(Exception):
    """The API server can't serve a request now; ``pause`` is for how many seconds it asks."""

    def __init__(self, text: str, pause: float = 0.0) -> None:
        super().__init__(text)
        self.pause = pause


def _connect(context: str | None, kubeconfig: str | None) -> tuple[Any, str, str]:
    """Return (the API, the namespace, the API server's address).  A pod uses its service account unless told otherwise."""
    from kubernetes import client, config

    configuration = client.Configuration()
    namespace = ""
    inside = os.environ.get("KUBERNETES_SERVICE_HOST") and (_SERVICE_ACCOUNT / "token").exists()
    try:
        if inside and context is None and kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)
            namespace = (_SERVICE_ACCOUNT / "namespace").read_text().strip()
        else:
            found, active = config.list_kube_config_contexts(config_file=kubeconfig)
            chosen = next((entry for entry in found if entry["name"] == context), None) if context else active
            if chosen is None:
                names = ", ".join(entry["name"] for entry in found)
                raise TwistdistError(f"the kubeconfig has no context {context!r}; it has: {names}")
            namespace = chosen["context"].get("namespace") or ""
            config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise TwistdistError(
            f"no Kubernetes cluster is known: {error}.  Outside of a pod a kubeconfig is needed: kubeconfig=FILE, KUBECONFIG "
            "or ~/.kube/config; kubectl cluster-info shows whether it works"
        ) from None
    configuration.retries = False  # _ask does that
    return client.CoreV1Api(client.ApiClient(configuration)), namespace or "default", configuration.host


def _request(method: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        answer = method(*args, **options, _preload_content=False, _request_timeout=(CONNECT_S, REQUEST_S))
        content = answer.data
    except ApiException as error:
        raise _refusal(error) from None
    except (HTTPError, OSError) as error:
        raise _Later(str(error)) from None
    if (answer.headers.get("Content-Type") or "").startswith("application/json"):
        return json.loads(content)
    return content.decode(errors="replace")


def _refusal(error: Any) -> Exception:
    text, reason = str(error.reason or ""), ""
    try:
        status = json.loads(error.body or "")
        text, reason = str(status.get("message") or text), str(status.get("reason") or "")
    except (ValueError, AttributeError):
        text = " ".join(str(error.body or text).split())[:300]
    if error.status in _LATER:
        asked = str((error.headers or {}).get("Retry-After") or "")
        return _Later(f"{error.status} {text}", float(asked) if asked.isdigit() else 0.0)
    refused = _Refused(text)
    refused.status, refused.reason = error.status or 0, reason
    return refused


class KubernetesCluster(JobCluster):
    """A cluster whose scheduler and workers are pods of Kubernetes, as a Twisted service; see :doc:`kubernetes`.

    Args:
        n_workers: The number of workers, 0 to 10,000.
        image: The image of all pods.  It has Python and twistdist, in the versions of this program.
        namespace: Where the pods run; by default the namespace of the kubeconfig's context, or of the program's own pod.
        cpu: The processors of each worker, such as ``2``, ``0.5`` or ``"500m"``; also the default of ``slots``, rounded down.
        memory: The memory of each worker, such as ``"8Gi"``.
        gpus: The GPUs of each worker, as ``nvidia.com/gpu``; tasks ask for them with ``resources={"GPU": 1}``.
        pod_template: Anything else of a worker's pod, as a mapping or a YAML file.  It is merged into the pod: mappings by key,
            lists by the ``name`` of their entries (the container is called ``twistdist``), and None removes something.
        scheduler_template: The same for the scheduler's pod.
        scheduler_requests: What the scheduler requests.
        service_account: The service account of the pods, if tasks need one.
        image_pull_secrets: Names of Secrets for the image's registry.
        node_selector: Labels of the nodes to use.
        tolerations: Tolerations, as in a pod.
        env: Environment of the processes.
        context: The kubeconfig's context; by default its current one.
        kubeconfig: The kubeconfig file; by default, ``KUBECONFIG``, ``~/.kube/config``, or in a pod its service account.
        scheduler_in_cluster: Whether the scheduler is a pod too.  Otherwise it runs beside this program, which the pods must
            then be able to reach.
        service: How the scheduler is reached: ``"ClusterIP"`` from pods only, ``"LoadBalancer"`` or ``"NodePort"`` also from
            elsewhere.
        journal: Where the scheduler keeps its state: ``"volume"`` (the default: a volume of its own), ``postgresql://…`` or
            ``"none"``.  Without ``scheduler_in_cluster``, a file.
        storage: The size of that volume.
        storage_class: Its storage class; by default that of the Kubernetes cluster.
        grace: Seconds that a worker has between SIGTERM and SIGKILL.
        python: The Python interpreter in the image.
        slots: How many tasks each worker runs at a time.
        resources: What tasks may request of each worker.
        host: The host name or address at which pods reach this program, without ``scheduler_in_cluster``; by default this
            pod's address.
        reactor: The reactor to run on; by default Twisted's global reactor.
        **options: ``name``, ``worker_options``, ``secret``, ``memory_limit``, ``executor_memory_limit``, ``checkpoint_store``,
            ``suspect_after`` and ``dead_after``; see :class:`twistdist.JobCluster`.

    Raises:
        ConfigError: A size or the secret is invalid, or the package ``kubernetes`` or one for encryption is not installed.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        n_workers: int = 0,
        *,
        image: str,
        namespace: str | None = None,
        cpu: float | str | None = None,
        memory: int | str | None = None,
        gpus: int = 0,
        pod_template: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        scheduler_template: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        scheduler_requests: Mapping[str, str] | None = None,
        service_account: str | None = None,
        image_pull_secrets: Iterable[str] = (),
        node_selector: Mapping[str, str] | None = None,
        tolerations: Iterable[Mapping[str, Any]] = (),
        env: Mapping[str, str] | None = None,
        context: str | None = None,
        kubeconfig: str | os.PathLike[str] | None = None,
        scheduler_in_cluster: bool = True,
        service: str = "ClusterIP",
        journal: str | os.PathLike[str] | None = None,
        storage: str = "1Gi",
        storage_class: str | None = None,
        grace: int = 30,
        python: str = "python",
        slots: int | None = None,
        resources: Mapping[str, float] | None = None,
        host: str | None = None,
        reactor: Any = None,
        **options: Any,
    ) -> None:
        if service not in SERVICES:
            raise ValueError(f"service must be one of {', '.join(SERVICES)}, got {service!r}")
        if isinstance(image_pull_secrets, str):
            raise TypeError("image_pull_secrets must be a list of names")
        gpus = as_whole_number(gpus, "gpus", 0, 1000)
        limits = {} if cpu is None else {"cpu": _quantity(cpu, "cpu")}
        limits |= {} if memory is None else {"memory": _quantity(memory, "memory")}
        limits |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
        if slots is None and cpu is not None:
            slots = max(1, int(_number(limits["cpu"])))  # the machine's processors are those of all its pods
        if gpus and "GPU" not in (resources or {}):
            resources = {**(resources or {}), "GPU": float(gpus)}
        place = "volume" if journal is None else as_path(journal, "journal")
        if scheduler_in_cluster and place not in ("volume", "none") and not place.startswith("postgresql://"):
            raise ValueError(
                f"journal must be 'volume', 'none' or postgresql://… for a scheduler in the cluster, got {place!r}"
            )
        shape = pods.Shape(
            as_text(image, "image"),
            as_text(python, "python"),
            limits,
            _texts(_SCHEDULER_REQUESTS if scheduler_requests is None else scheduler_requests, "scheduler_requests"),
            "" if service_account is None else as_text(service_account, "service_account"),
            [as_text(name, "image_pull_secrets") for name in image_pull_secrets],
            _texts(node_selector or {}, "node_selector"),
            [dict(toleration) for toleration in tolerations],
            _texts(env or {}, "env"),
            as_whole_number(grace, "grace", 1, 86_400),
            _template(pod_template, "pod_template"),
            _template(scheduler_template, "scheduler_template"),
        )
        engine = KubernetesEngine(
            shape,
            namespace=None if namespace is None else as_text(namespace, "namespace"),
            context=None if context is None else as_text(context, "context"),
            kubeconfig=None if kubeconfig is None else as_path(kubeconfig, "kubeconfig"),
            scheduler_in_cluster=bool(scheduler_in_cluster),
            service=service,
            journal=place if scheduler_in_cluster else "none",
            storage=_quantity(storage, "storage"),
            storage_class="" if storage_class is None else as_text(storage_class, "storage_class"),
        )
        if not scheduler_in_cluster:
            options["journal"] = journal
            options["host"] = host if host is not None or not os.environ.get("KUBERNETES_SERVICE_HOST") else _own_address()
        super().__init__(engine, n_workers, reactor=reactor, slots=slots, resources=resources, **options)


def _own_address() -> str:
    """A pod's name is known to nobody else; its address is."""
    return socket.gethostbyname(socket.gethostname())


def _quantity(value: Any, name: str) -> str:
    """Return a size or a number in Kubernetes' notation."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{name} must be a number or text, got a {type(value).__qualname__}")
    text = str(value).strip()
    if re.fullmatch(_QUANTITY, text) and _number(text) > 0:
        return text
    if name == "cpu":
        raise ValueError(f"cpu must be a number of processors such as 2, 0.5 or '500m', got {value!r}")
    return str(parse_bytes(value, name))


def _number(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(re.sub("[A-Za-z]+$", "", quantity))


def _texts(given: Mapping[str, str], name: str) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a mapping, got a {type(given).__qualname__}")
    return {as_text(key, name): as_text(value, name) for key, value in given.items()}


def _template(given: Mapping[str, Any] | str | os.PathLike[str] | None, name: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    found: Any = given
    if not isinstance(given, Mapping):
        try:
            import yaml
        except ModuleNotFoundError:
            raise ConfigError(
                f"{name}: PyYAML, which reads the file, is not installed; run: pip install 'twistdist[kubernetes]'"
            ) from None
        try:
            found = yaml.safe_load(pathlib.Path(as_path(given, name)).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{name}: {error}") from None
    if not isinstance(found, Mapping) or not set(found) <= {"apiVersion", "kind", "metadata", "spec"}:
        raise ConfigError(f"{name} must be a pod: a mapping with metadata and spec, and nothing else")
    for part in ("metadata", "spec"):
        if not isinstance(found.get(part, {}), Mapping):
            raise ConfigError(f"{name}: {part} must be a mapping")
    return found
