"""An API server like that of Kubernetes, in memory, for tests on machines where the real one can't be installed.

Pods, Secrets, Services, claims and namespaces with the verbs, selectors, pages and refusals of the real one; pods are deleted
with grace, and what an owner owns goes with it.  Objects are checked against the schemas that Kubernetes publishes.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

KINDS = {
    "pods": "Pod",
    "secrets": "Secret",
    "services": "Service",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "namespaces": "Namespace",
}
SCHEMAS = "1.30"


class Refusal(Exception):
    def __init__(self, code, reason, message, headers=()):
        super().__init__(message)
        self.code, self.reason, self.headers = code, reason, dict(headers)


class ApiServer:
    """``url`` is its address.  ``troubles`` are (code, headers) of the next answers; ``quota`` bounds the pods of a namespace;
    ``users`` are tokens with the (verb, resource) that they may ask for, None: all."""

    def __init__(self):
        self.objects = {}  # (resource, namespace, name) -> object
        self.version = 0
        self.lock = threading.RLock()
        self.troubles, self.requests = [], []
        self.quota = None
        self.compacted = False  # a list's next page is too old
        self.users = {"admin": None}
        self.logs = lambda name: ""
        self.hang = threading.Event()  # requests are not answered while it is set
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"api": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        for name in ("default", "team"):
            self.objects["namespaces", "", name] = {"kind": "Namespace", "metadata": {"name": name}}

    def close(self):
        self.hang.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def names(self, resource, namespace="default"):
        with self.lock:
            return sorted(name for kind, place, name in self.objects if (kind, place) == (resource, namespace))

    # ---- verbs --------------------------------------------------------------------------------

    def create(self, resource, namespace, made):
        name = made["metadata"]["name"]
        try:
            kubernetes_validate.validate(made, SCHEMAS, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refusal(422, "Invalid", f"{KINDS[resource]} {name!r} is invalid: {error.message}") from None
        pattern = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?" if resource == "services" else r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
        values = made["metadata"].get("labels", {}).values()
        if not re.fullmatch(pattern, name) or any(not re.fullmatch(r"(([A-Za-z0-9][-\w.]*)?[A-Za-z0-9])?", v) for v in values):
            raise Refusal(422, "Invalid", f"{KINDS[resource]} {name!r} is invalid: metadata")
        if ("namespaces", "", namespace) not in self.objects:
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        if (resource, namespace, name) in self.objects:
            raise Refusal(409, "AlreadyExists", f'{resource} "{name}" already exists')
        if resource == "pods" and self.quota is not None and len(self.names("pods", namespace)) >= self.quota:
            used = f"requested: pods=1, used: pods={self.quota}, limited: pods={self.quota}"
            text = f'pods "{name}" is forbidden: exceeded quota: small, {used}'
            raise Refusal(403, "Forbidden", text)
        for owner in made["metadata"].get("ownerReferences", []):
            if not self._owner(namespace, owner):
                made["metadata"]["orphan"] = True
        made["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}
        if resource == "pods":
            made["status"] = {"phase": "Pending"}
        if resource == "services" and made["spec"].get("type", "ClusterIP") != "ClusterIP":
            taken = {s["spec"]["ports"][0].get("nodePort") for (r, _, _), s in self.objects.items() if r == "services"}
            made["spec"]["ports"][0]["nodePort"] = next(port for port in range(30000, 32768) if port not in taken)
        return self._put(resource, namespace, made)

    def _owner(self, namespace, owner):
        return any(
            found["metadata"].get("uid") == owner["uid"] for (_, place, _), found in self.objects.items() if place == namespace
        )

    def _put(self, resource, namespace, made):
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        self.objects[resource, namespace, made["metadata"]["name"]] = made
        return made

    def read(self, resource, namespace, name):
        try:
            return self.objects[resource, namespace, name]
        except KeyError:
            raise Refusal(404, "NotFound", f'{resource} "{name}" not found') from None

    def list(self, resource, namespace, query):
        chosen = []
        for (kind, place, _), found in sorted(self.objects.items()):
            if kind == resource and place == namespace and self._selected(found, query):
                chosen.append(found)
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "0")) or len(chosen)
        if start and self.compacted:
            self.compacted = False
            raise Refusal(410, "Expired", "The provided continue parameter is too old")
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(chosen):
            metadata["continue"] = str(start + limit)
        return {"kind": f"{KINDS[resource]}List", "metadata": metadata, "items": chosen[start : start + limit]}

    def _selected(self, found, query):
        labels = found["metadata"].get("labels", {})
        fields = {"metadata.name": found["metadata"]["name"], "status.phase": found.get("status", {}).get("phase")}
        wanted = [(labels, part) for part in query.get("labelSelector", "").split(",") if part]
        wanted += [(fields, part) for part in query.get("fieldSelector", "").split(",") if part]
        return all(values.get(part.partition("=")[0]) == part.partition("=")[2] for values, part in wanted)

    def delete(self, resource, namespace, name, grace):
        found = self.read(resource, namespace, name)
        if resource == "pods" and grace != 0 and found["spec"].get("nodeName"):
            if "deletionTimestamp" not in found["metadata"]:
                wanted = found["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
                found["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": wanted}
                self._put(resource, namespace, found)
            return found
        del self.objects[resource, namespace, name]
        for (kind, place, other), owned in list(self.objects.items()):
            owners = [owner["uid"] for owner in owned["metadata"].get("ownerReferences", [])]
            if place == namespace and found["metadata"]["uid"] in owners:
                self.delete(kind, place, other, None)
        return {"kind": "Status", "status": "Success"}

    def patch_status(self, namespace, name, status):
        found = self.read("pods", namespace, name)
        found["status"] = {**found["status"], **status}
        return self._put("pods", namespace, found)

    def bind(self, namespace, name, node):
        found = self.read("pods", namespace, name)
        found["spec"]["nodeName"] = node
        return self._put("pods", namespace, found)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer("get")

    def do_POST(self):
        self._answer("create")

    def do_PATCH(self):
        self._answer("patch")

    def do_DELETE(self):
        self._answer("delete")

    def _answer(self, verb):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        kind = "application/json"
        try:
            code, answer = 200, self._do(verb, url.path, query, body)
            if isinstance(answer, str):
                content, kind = answer.encode(), "text/plain"
            else:
                content = json.dumps(answer).encode()
            headers = {}
        except Refusal as refusal:
            code, headers = refusal.code, refusal.headers
            status = {"kind": "Status", "status": "Failure", "code": code, "reason": refusal.reason, "message": str(refusal)}
            content = json.dumps(status).encode()
        try:
            self.send_response(201 if code == 200 and verb == "create" else code)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # it did not wait for the answer

    def _do(self, verb, path, query, body):
        api = self.api
        found = re.fullmatch(r"/api/v1/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", path)
        if not found:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        namespace, resource, name, part = found.groups()
        if verb == "get" and name is None:
            verb = "list"
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        system = token == "kubelet"
        while api.hang.is_set() and not system:
            threading.Event().wait(0.05)
        with api.lock:
            if not system:
                api.requests.append((verb, resource, name))
                if api.troubles:
                    code, headers = api.troubles.pop(0)
                    raise Refusal(code, "", "the server is busy", headers)
                if token not in api.users:
                    raise Refusal(401, "Unauthorized", "Unauthorized")
                asked = resource if part in (None, "status") else f"{resource}/{part}"
                if api.users[token] is not None and (verb, asked) not in api.users[token]:
                    who = f'User "{token}" cannot {verb} resource "{asked}" in API group "" in the namespace "{namespace}"'
                    raise Refusal(403, "Forbidden", f"{asked} is forbidden: {who}")
            if part == "log":
                api.read(resource, namespace, name)
                lines = api.logs(name).splitlines(keepends=True)
                return "".join(lines[-int(query.get("tailLines", len(lines)) or 1) :])
            if part == "binding":
                answer = api.bind(namespace, name, body["target"]["name"])
            elif part == "status":
                answer = api.patch_status(namespace, name, body["status"])
            elif verb == "create":
                answer = api.create(resource, namespace, body)
            elif verb == "list":
                answer = api.list(resource, namespace, query)
            elif verb == "delete":
                grace = (body or {}).get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
                answer = api.delete(resource, namespace, name, None if grace is None else int(grace))
            else:
                answer = api.read(resource, namespace, name)
            return copy.deepcopy(answer)
