"""Files that clients upload to be importable on workers: read on one side, installed on the other."""

from __future__ import annotations

import io
import os
import shutil
import zipfile

from twistdist.errors import shown

#: Bytes of one file at most, packed.
MAX_FILE_BYTES = 32 << 20

#: Bytes of an archive at most when it is unpacked.
MAX_UNPACKED_BYTES = 512 << 20

#: Archives that Python's own tools make, all of them zip files.
ARCHIVES = (".zip", ".whl", ".egg")

#: Folders that hold nothing to import.
SKIPPED = ("__pycache__", ".git", ".hg", ".svn", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".venv")


def read_upload(path: str | os.PathLike[str]) -> tuple[str, str, bytes]:
    """Read what can be imported from ``path``: a ``.py`` file, a ``.zip``, ``.whl`` or ``.egg``, or a folder.

    A folder with an ``__init__.py`` is a package of that name; of another folder, the contents become importable.

    Returns:
        (name, ``"module"`` or ``"archive"``, the bytes).

    Raises:
        OSError: the file can't be read.
        TypeError: ``path`` is not a path.
        ValueError: nothing can be imported from it, or it is too large.
    """
    plain = os.fsdecode(os.fspath(path))
    name = os.path.basename(os.path.abspath(plain))
    if os.path.isdir(plain):
        kind, blob = "archive", _zipped(plain, name)
    else:
        with open(plain, "rb") as file:
            kind, blob = "module", file.read(MAX_FILE_BYTES + 1)
        if plain.endswith(ARCHIVES):
            kind = "archive"
            if not zipfile.is_zipfile(io.BytesIO(blob)) and len(blob) <= MAX_FILE_BYTES:
                raise ValueError(f"{shown(plain)} is not a zip file, so nothing can be imported from it")
        elif not plain.endswith(".py"):
            raise ValueError(f"upload_file takes a .py file, a .zip, .whl or .egg, or a folder, got {shown(plain)}")
        elif not name[:-3].isidentifier():
            raise ValueError(f"{shown(name)} can't be imported: {shown(name[:-3])} is not a name of a module")
    if len(blob) > MAX_FILE_BYTES:
        raise ValueError(f"{shown(plain)} has more than {MAX_FILE_BYTES >> 20} MiB; install it on the workers instead")
    return name, kind, blob


def _zipped(folder: str, name: str) -> bytes:
    """Return the files of a folder as a zip archive, the same for the same contents."""
    prefix = f"{name}/" if os.path.exists(os.path.join(folder, "__init__.py")) else ""
    if prefix and not name.isidentifier():
        raise ValueError(f"the package {shown(name)} can't be imported: that is not a name of a module")
    buffer, size = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for where, folders, files in os.walk(folder):
            folders[:] = sorted(each for each in folders if each not in SKIPPED)
            for each in sorted(files):
                path = os.path.join(where, each)
                if not os.path.isfile(path) or each.endswith((".pyc", ".pyo")):
                    continue
                size += os.path.getsize(path)
                if size > MAX_UNPACKED_BYTES:
                    raise ValueError(f"{shown(folder)} has more than {MAX_UNPACKED_BYTES >> 20} MiB of files")
                with open(path, "rb") as file:
                    entry = zipfile.ZipInfo(prefix + os.path.relpath(path, folder).replace(os.sep, "/"))
                    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(entry, file.read())
    if not size:
        raise ValueError(f"the folder {shown(folder)} has no files, so nothing can be imported from it")
    return buffer.getvalue()


class Uploads:
    """The files that are importable on this worker, in folders of their own below ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._installed: dict[str, str] = {}
        self._plugins: dict[str, str] = {}

    def install(self, name: str, kind: str, digest: bytes, blob: bytes) -> list[str]:
        """Write a file, which replaces an older one of its name.

        Returns:
            The folders to import from, the latest first.

        Raises:
            OSError: it can't be written.
            ValueError: the archive is damaged, or too large.
        """
        where = f"{self._folder}/{digest.hex()}"
        if not os.path.isdir(where):
            hidden = f"{self._folder}/.{digest.hex()}"
            shutil.rmtree(hidden, ignore_errors=True)
            os.makedirs(hidden, mode=0o700)
            try:
                if kind == "module":
                    with open(f"{hidden}/{os.path.basename(name)}", "wb") as file:
                        file.write(blob)
                else:
                    _unpack(blob, hidden, name)
                os.rename(hidden, where)
            except BaseException:
                shutil.rmtree(hidden, ignore_errors=True)
                raise
        self._installed.pop(name, None)
        self._installed[name] = where
        return list(dict.fromkeys(reversed(self._installed.values())))

    def plug(self, name: str, digest: bytes, blob: bytes) -> list[tuple[str, str]]:
        """Write a pickled plugin, which replaces an older one of its name; an empty ``blob`` removes that.

        Returns:
            The name and the file of each plugin, in the order in which they were installed.

        Raises:
            OSError: it can't be written.
        """
        path = f"{self._folder}/{digest.hex()}.plugin"
        if blob and not os.path.exists(path):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(f"{path}.new", "wb") as file:
                file.write(blob)
            os.rename(f"{path}.new", path)
        self._plugins.pop(name, None)
        if blob:
            self._plugins[name] = path
        return list(self._plugins.items())

    def remove(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _unpack(blob: bytes, folder: str, name: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise ValueError(f"{name} has more than {MAX_UNPACKED_BYTES >> 20} MiB when it is unpacked")
            archive.extractall(folder)  # leaves out what would end up elsewhere
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{name} can't be unpacked: {error}") from error
