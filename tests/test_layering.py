"""Imports point one way (docs/architecture.rst), and importing the package does nothing."""

import ast
import pathlib
import re
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
    "lineage": {"attrs", "pygraphviz"},
    "wire": {"twistdist.errors", "twistdist.wire", "msgspec", "cloudpickle", "tblib"},
    "core": {
        "twistdist.errors",
        "twistdist.config",
        "twistdist.wire.messages",
        "twistdist.wire.journal_rows",
        "twistdist.core",
        "attrs",
    },
    "storage": {"twistdist.errors", "twistdist.config", "twistdist.wire", "twistdist.storage", "xxhash", "fsspec", "psycopg"},
    "executors": {
        "twistdist.errors",
        "twistdist.config",
        "twistdist.wire",
        "twistdist.storage",
        "twistdist.executors",
        "attrs",
        "msgspec",
        "cloudpickle",
        "tblib",
        "opentelemetry",
    },
}
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


CORE = sorted((ROOT / "core").rglob("*.py"))
SCHEDULER, WORKER = ROOT / "core" / "scheduler", ROOT / "core" / "worker"

#: Modules beside the parts, which all of them may use: data, and decisions that know no part.
BESIDE = {
    SCHEDULER: [
        "sums",
        "records",
        "settings",
        "lineage",
        "placement",
        "possible",
        "nesting",
        "refusals",
        "stories",
        "tracing",
        "whereabouts",
        "ready_queue",
        "ledger_rows",
        "ledger",
        "no_ledger",
        "gate",
        "transitions",
        "invariants",
    ],
    WORKER: ["records", "effects", "memory", "lease", "tuning"],
}

#: Fields of records that more than one module assigns.  ``restoring`` makes records, and may assign all.
SHARED_FIELDS = {
    "attempt": {"dispatch", "attempts", "lifecycle"},  # given, adopted, given up
    "retention": {"targets", "copies", "scattered"},  # made where a value first needs any
    "connected": {"scheduler", "fleet"},
    "copying": {"copies", "lifecycle"},
    "cost_us": {"dispatch", "slots"},
    "digest": {"attempts", "scattered"},  # two ways to a value
    "size": {"attempts", "scattered"},
    "value": {"attempts", "scattered", "lifecycle"},
    "value_attempt": {"attempts", "scattered"},
    "failed": {"copies", "supplies", "scattered"},  # of a Retention, of a Source
    "functions": {"client_sessions", "dispatch", "attempts", "registry"},  # of a Client, of a Worker
    "holders": {"holdings", "lifecycle"},
    "inputs": {"registry", "lifecycle"},
    "kept": {"watchers", "durable"},
    "left": {"holdings", "slots"},
    "others": {"supplies", "scattered"},
    "own": {"queues", "placement"},
    "progress_at": {"dispatch", "attempts"},
    "recipe": {"submits", "scattered"},
    "sources": {"supplies", "scattered"},
    "supplying": {"supplies", "scattered"},
    "tries": {"supplies", "scattered"},
    "history": {"attempts", "lifecycle"},  # charged, forgiven
    "troubles": {"slots", "fleet"},
    "users": {"registry", "client_sessions"},
}
CHANGING = {
    "add",
    "append",
    "appendleft",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popleft",
    "remove",
    "setdefault",
    "update",
}


def reading_order(folder):
    """The parts in the order that the docstring of the folder gives."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    return re.findall(r"^``(\w+)`` ", text, re.MULTILINE)


@pytest.mark.parametrize("folder", [SCHEDULER, WORKER], ids=["scheduler", "worker"])
def test_a_part_uses_only_those_before_it(folder):
    order, beside, package = reading_order(folder), BESIDE[folder], f"twistdist.core.{folder.name}."
    assert {*order, *beside} == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    for at, name in enumerate(order):
        for imported, _ in imports(folder / f"{name}.py"):
            used = imported.removeprefix(package).split(".")[0]
            if imported.startswith(package) and used not in beside:
                assert used in order[:at], f"{name} uses {used}, which stands behind it"


def test_a_private_name_of_the_core_is_used_in_its_own_file_only():
    for path in CORE:
        tree = ast.parse(path.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
        own |= {
            node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                assert node.attr in own, f"{path.name}:{node.lineno} uses {node.attr}"
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called == "super" and path.parent in (SCHEDULER, WORKER):
                raise AssertionError(f"{path.name}:{node.lineno} calls super(): tell the parts in one place instead")


def changes(tree):
    """(names of an attribute's chain, line) for whatever is assigned, deleted or changed in place."""
    for node in ast.walk(tree):
        changed = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        if isinstance(node, ast.AugAssign):
            changed = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            changed = [node.func.value]
        for one in [part for target in changed for part in (target.elts if isinstance(target, ast.Tuple) else [target])]:
            chain = []
            while isinstance(one, ast.Attribute | ast.Subscript):
                if isinstance(one, ast.Attribute):
                    chain.insert(0, one.attr)
                one = one.value
            if chain and isinstance(one, ast.Name):
                yield [one.id, *chain], node.lineno


def written_in(folder):
    """Which fields of records each part assigns; fails where a part changes the fields of another."""
    writers = {}
    for name in reading_order(folder):
        tree, given = ast.parse((folder / f"{name}.py").read_text()), set()
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                given |= {part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and part.value is None}
        for (base, *chain), line in changes(tree):
            if base == "self" and "statistics" not in chain and "session" not in chain:
                foreign = chain[0] in given and len(chain) > 1
                assert not foreign, f"{name}:{line} changes {'.'.join(chain)}, which is not its own"
            elif base != "self":
                writers.setdefault(chain[-1], set()).add(name)
    return {field: names - {"restoring"} for field, names in writers.items()}


def test_a_part_of_the_scheduler_changes_only_what_it_owns():
    for field, names in written_in(SCHEDULER).items():
        assert len(names) < 2 or names == SHARED_FIELDS.get(field), f"{field} is assigned in {sorted(names)}: one should own it"


def test_a_part_of_the_worker_changes_only_what_it_owns():
    assert written_in(WORKER)


def test_no_file_of_the_core_is_long():
    for path in CORE:
        lines = len(path.read_text().splitlines())
        assert lines <= (388 if path.name == "client.py" else 350), f"{path.name} has {lines} lines"


def test_only_transitions_assigns_the_states_of_tasks():
    for path in CORE:
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
    code = "import sys; from twistdist.blocking.reactor_thread import get_reactor_thread; get_reactor_thread()"
    assert run(f"{code}; print('twisted.internet.reactor' in sys.modules)") == ["False"]


def test_an_executor_imports_no_twisted():
    assert run("import sys, twistdist.executors.template; print('twisted' in sys.modules)") == ["False"]


def test_every_public_name_is_there():
    for name in twistdist.__all__:
        assert getattr(twistdist, name) is not None
    with pytest.raises(AttributeError):
        twistdist.nothing  # noqa: B018
