"""Modules and plugins that clients have uploaded: every worker has them, also those that join later."""

from __future__ import annotations

import hashlib

import attrs

from twistdist.core.scheduler.broadcasts import Broadcasts
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import Upload, Worker
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.wire import messages as m

#: How a file becomes importable: a module as it is, or an archive that is unpacked.  A plugin is set up in each executor.
KINDS = ("module", "archive", m.PLUGIN)

#: Names of plugins that were removed that are remembered, for workers that were gone at the time.
MAX_REMOVED = 1_000


@attrs.define(eq=False)
class Uploads:
    """``files`` and ``plugins`` are the latest versions, by name; ``removed`` are names of plugins that are gone."""

    tuning: Tuning
    outputs: Outputs
    registry: Registry
    ledger: Ledger
    broadcasts: Broadcasts
    files: dict[str, Upload] = attrs.field(factory=dict)
    plugins: dict[str, Upload] = attrs.field(factory=dict)
    removed: dict[str, None] = attrs.field(factory=dict)

    def add(self, name: str, kind: str, blob: bytes) -> int:
        """A file replaces the one of its name.  Return the number of the broadcast.  ``ValueError`` if it can't be accepted."""
        odd = not blob if kind == m.PLUGIN else "/" in name or name.startswith(".")
        if kind not in KINDS or not name or odd:
            raise ValueError(f"{name!r} can't be uploaded")
        mine = self._of_kind(kind)
        others = sum(len(one.blob) for one in (*self.files.values(), *self.plugins.values()) if one is not mine.get(name))
        if others + len(blob) > self.tuning.max_upload_bytes:
            raise ValueError(
                f"{name} has {len(blob):,} bytes, and with what was uploaded before that is more than the "
                f"{self.tuning.max_upload_bytes:,} bytes for all uploads; install it on the workers instead"
            )
        old = mine.pop(name, None)
        if old is not None:
            self.ledger.upload_gone(old)
        upload = Upload(self.registry.next("upload"), name, kind, hashlib.blake2b(blob, digest_size=16).digest(), blob)
        self.restore(upload)
        self.ledger.upload(upload)
        return self.broadcasts.send(self.registry.workers.values(), lambda number: _install(number, upload), len(blob))

    def _of_kind(self, kind: str) -> dict[str, Upload]:
        return self.plugins if kind == m.PLUGIN else self.files

    def remove_plugin(self, name: str) -> int:
        """Executors no longer set up the plugin.  Return the number of the broadcast.  ``ValueError`` if it is unknown."""
        old = self.plugins.pop(name, None)
        if old is None:
            raise ValueError(f"no plugin is named {name!r}; the plugins: {', '.join(sorted(self.plugins)) or 'none'}")
        self.ledger.upload_gone(old)
        self.removed[name] = None
        if len(self.removed) > MAX_REMOVED:
            del self.removed[next(iter(self.removed))]
        return self.broadcasts.send(self.registry.workers.values(), lambda number: _remove(number, name))

    def restore(self, upload: Upload) -> None:
        """A file that was accepted, now or in an earlier life of the scheduler."""
        self._of_kind(upload.kind)[upload.name] = upload
        if upload.kind == m.PLUGIN:
            self.removed.pop(upload.name, None)
        self.registry.is_taken("upload", upload.number)

    def joined(self, worker: Worker) -> None:
        """A worker that joins gets all of them before its first task."""
        for name in self.removed:
            self.outputs.post(worker, _remove(0, name))
        for upload in (*self.files.values(), *self.plugins.values()):
            self.outputs.post(worker, _install(0, upload), len(upload.blob))


def _install(number: int, upload: Upload) -> m.Install:
    return m.Install(number, upload.name, upload.kind, upload.digest, upload.blob)


def _remove(number: int, plugin: str) -> m.Install:
    return m.Install(number, plugin, m.PLUGIN, b"", b"")
