"""Results that outlive the cluster: result files in a folder or, by URL, on any file system that fsspec supports.

A checkpoint is a result file as in :mod:`.store`; its digest is checked when it is read.  It is written under a temporary name
and renamed when it is complete.  Only executors use this module.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Any

from twistdist.config import INLINE_RESULT_BYTES
from twistdist.errors import StoreError
from twistdist.storage.files import HEADER_BYTES, described, digest_of, file_path, is_right, pack_header
from twistdist.wire import messages as m

_COPY_BYTES = 1 << 20


def _file_system(url: str) -> tuple[Any, str]:
    """Return (the file system, the path on it) of a URL.  ``StoreError`` if fsspec or its driver is missing or refuses."""
    try:
        import fsspec

        return fsspec.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"the checkpoint store {url} can't be used: {error}; run: pip install 'twistdist[checkpoint]', and install the "
            "driver for that kind of store"
        ) from error


def load(compute: m.Compute, store: str) -> m.Done | None:
    """Load the checkpointed value of a task; a large value becomes a file in ``store``.

    Returns:
        The task's outcome, or None if there is no checkpoint or it is damaged.

    Raises:
        StoreError: the checkpoint store can't be used or read.
    """
    system, path = _file_system(compute.checkpoint)
    hidden = f"{store}/.{compute.attempt:x}-checkpoint"
    try:
        try:
            with system.open(path, "rb") as source, open(hidden, "wb") as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever the driver raises
            raise StoreError(f"the checkpoint {compute.checkpoint} can't be read: {error}") from error
        stored = described(hidden)
        if stored is None or not is_right(hidden, stored):
            return None  # truncated or damaged: it is computed again and overwritten
        if stored.size <= INLINE_RESULT_BYTES:
            with open(hidden, "rb") as stream:
                value = stream.read()[HEADER_BYTES:]
            return m.Done(compute.task, compute.attempt, value, len(value), b"", 0, True)
        with open(hidden, "r+b") as stream:
            stream.write(pack_header(m.Stored(compute.task, compute.attempt, stored.size, stored.digest)))
        os.rename(hidden, file_path(store, compute.attempt))
        return m.Done(compute.task, compute.attempt, None, stored.size, stored.digest, 0, True)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)


def save(compute: m.Compute, done: m.Done, store: str) -> None:
    """Write a value to the checkpoint store and record that in ``done``.  ``StoreError`` if that fails."""
    system, path = _file_system(compute.checkpoint)
    part = f"{path}.part-{compute.attempt:x}"
    try:
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with system.open(part, "wb") as target:
            if done.value is not None:
                stored = m.Stored(done.task, done.attempt, len(done.value), digest_of(done.value))
                target.write(pack_header(stored) + done.value)
            else:
                with open(file_path(store, done.attempt), "rb") as source:
                    shutil.copyfileobj(source, target, _COPY_BYTES)
        system.mv(part, path)
    except Exception as error:  # whatever the driver raises
        text = f"the result of {compute.key} can't be written to the checkpoint store ({compute.checkpoint}): {error}"
        raise StoreError(text) from error
    done.checkpointed = True
