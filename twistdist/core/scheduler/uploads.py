"""Modules that clients have uploaded: every worker has them, also those that join later."""

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

#: How a file becomes importable: a module as it is, or an archive that is unpacked.
KINDS = ("module", "archive")


@attrs.define(eq=False)
class Uploads:
    """``files`` are the latest versions, by name."""

    tuning: Tuning
    outputs: Outputs
    registry: Registry
    ledger: Ledger
    broadcasts: Broadcasts
    files: dict[str, Upload] = attrs.field(factory=dict)

    def add(self, name: str, kind: str, blob: bytes) -> int:
        """A file replaces the one of its name.  Return the number of the broadcast.  ``ValueError`` if it can't be accepted."""
        if kind not in KINDS or not name or "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} can't be uploaded")
        others = sum(len(upload.blob) for upload in self.files.values() if upload.name != name)
        if others + len(blob) > self.tuning.max_upload_bytes:
            raise ValueError(
                f"{name} has {len(blob):,} bytes, and with what was uploaded before that is more than the "
                f"{self.tuning.max_upload_bytes:,} bytes for all uploads; install it on the workers instead"
            )
        old = self.files.pop(name, None)
        if old is not None:
            self.ledger.upload_gone(old)
        upload = Upload(self.registry.next("upload"), name, kind, hashlib.blake2b(blob, digest_size=16).digest(), blob)
        self.restore(upload)
        self.ledger.upload(upload)
        return self.broadcasts.send(self.registry.workers.values(), lambda number: _install(number, upload), len(blob))

    def restore(self, upload: Upload) -> None:
        """A file that was accepted, now or in an earlier life of the scheduler."""
        self.files[upload.name] = upload
        self.registry.is_taken("upload", upload.number)

    def joined(self, worker: Worker) -> None:
        """A worker that joins gets all of them before its first task."""
        for upload in self.files.values():
            self.outputs.post(worker, _install(0, upload), len(upload.blob))


def _install(number: int, upload: Upload) -> m.Install:
    return m.Install(number, upload.name, upload.kind, upload.digest, upload.blob)
