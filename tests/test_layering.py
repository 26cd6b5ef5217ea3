"""Imports point one way (docs/architecture.rst), and importing the package does nothing."""

import ast
import pathlib
import subprocess
import sys

import pytest

import twistdist

ROOT = pathlib.Path(twistdist.__file__).parent

#: room -> what its modules may import of ours and from elsewhere (beside the standard library).
MAY_IMPORT = {
    "errors": {"attrs"},
    "config": {"twistdist.errors"},
    "interfaces": {"attrs"},
    "wire": {"twistdist.errors", "twistdist.wire", "msgspec", "cloudpickle", "tblib"},
    "core": {"twistdist.errors", "twistdist.config", "twistdist.wire.messages", "twistdist.wire.journal", "twistdist.core",
             "attrs"},
    "storage": {"twistdist.errors", "twistdist.config", "twistdist.wire", "twistdist.storage", "xxhash", "fsspec", "psycopg"},
    "executors": {"twistdist.errors", "twistdist.config", "twistdist.wire", "twistdist.storage", "twistdist.executors",
                  "attrs", "msgspec", "cloudpickle", "tblib"},
}  # fmt: skip
MAY_IMPORT["executors/supervisor"] = MAY_IMPORT["executors"] | {"twisted", "zope"}
IMPURE = {"time", "random", "socket", "threading", "logging", "os", "asyncio", "subprocess", "secrets", "uuid", "datetime"}
ALONE = {"scheduler", "worker", "client"}


def imports(path):
    """(module, whether only for the type checker) for every import in a file."""
    tree = ast.parse(path.read_text())
    typing_only = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            typing_only.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module in ("twistdist", "twistdist.wire", "twistdist.core", "twistdist.executors", "twistdist.net"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in typing_only


def modules():
    return [path for path in sorted(ROOT.rglob("*.py")) if path.name != "__init__.py"]


def allowed(name, permitted):
    if name.split(".")[0] in sys.stdlib_module_names:
        return True
    return any(name == one or name.startswith(one + ".") for one in permitted)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path):
    place = path.relative_to(ROOT).with_suffix("")
    permitted = MAY_IMPORT.get(place.as_posix(), MAY_IMPORT.get(place.parts[0]))
    for name, typing_only in imports(path):
        if permitted is not None and not typing_only:
            assert allowed(name, permitted), f"{place} imports {name}"
        if place.parts[0] == "core":
            assert name.split(".")[0] not in IMPURE, f"{place} imports {name}: a core has no clock, dice or I/O"
        if name.split(".")[0] in ("OpenSSL", "cryptography") or name == "twisted.protocols.tls":
            assert typing_only or place.as_posix() in ("net/encryption", "net/certs"), f"{place} imports {name}: an extra"
        if place.parts[0] == "net" and place.parts[1] in ALONE and name.startswith("twistdist.net."):
            other = name.split(".")[2]
            assert other not in ALONE - {place.parts[1]}, f"{place} imports {name}"


def test_only_transitions_assigns_the_states_of_tasks():
    for path in sorted((ROOT / "core").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
            found = [one for target in targets for one in ast.walk(target) if isinstance(one, ast.Attribute)]
            names = [one for one in found if isinstance(one.ctx, ast.Store)]
            if path.name not in ("transitions.py", "client.py"):  # a client's records have states of their own
                assert all(one.attr != "state" for one in names), f"{path.name}:{node.lineno} assigns a state"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_no_twisted_and_starts_nothing():
    code = "import sys, threading, twistdist; print(len(threading.enumerate()), 'twisted' in sys.modules)"
    assert run(code) == ["1", "False"]


def test_the_blocking_api_installs_no_reactor():
    code = "import sys, twistdist.blocking as b; b._get_loop(); print('twisted.internet.reactor' in sys.modules)"
    assert run(code) == ["False"]


def test_an_executor_imports_no_twisted():
    assert run("import sys, twistdist.executors.template; print('twisted' in sys.modules)") == ["False"]


def test_every_public_name_is_there():
    for name in twistdist.__all__:
        assert getattr(twistdist, name) is not None
    with pytest.raises(AttributeError):
        twistdist.nothing  # noqa: B018
