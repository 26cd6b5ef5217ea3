"""What is said to ``ssh`` and to the shell at the other end, and what their answers mean."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from typing import Any

import attrs

import twistdist
from twistdist.config import as_text
from twistdist.errors import TwistdistError, shown

#: Options that users can't change: ssh must not ask for anything, and forward nothing that the user's configuration says.
FIXED = ("-T", "-x", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none")

#: ``host``, ``user@host`` or an alias of the user's configuration; with a port, if there is one colon or brackets.
_HOST = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?"
    r"(?:(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9_][A-Za-z0-9_.%-]*)(?::\d{1,5})?|(?:[0-9A-Fa-f]*:){2,}[0-9A-Fa-f.]*(?:%\w+)?)"
)

#: What is said to the user for what ssh says, in this order.
_MEANINGS = (
    (
        "Host key for .* has changed|HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed: if you know why, forget the old one with ssh-keygen -R {name}, then connect once by hand: "
        "ssh {host}",
    ),
    (
        "Host key verification failed|No .* host key is known|authenticity of host",
        "its host key is not known here: compare and accept it by connecting once by hand: ssh {host}",
    ),
    (
        "Permission denied|Too many authentication failures|No supported authentication",
        "it refuses us: ssh {host} must work without a password, with a key that needs none, an agent (ssh-add) or an open "
        "ControlMaster; ssh-copy-id {host} installs a key",
    ),
    (
        "Could not resolve hostname|Name or service not known",
        "its name is not known: check its spelling, or name it in ~/.ssh/config",
    ),
    ("Connection refused", "nothing accepts connections there: is sshd running, and at this port?"),
    ("timed out|No route to host|Network is unreachable|Host is down", "it can't be reached: is it up, and on this network?"),
    (
        "kex_exchange_identification|Connection (?:reset|closed)|banner",
        "its sshd closed the connection: it may be overloaded (MaxStartups), or refuse this address",
    ),
)

#: What finds Python at the other end.  It is read by a POSIX shell from standard input, so that no login shell interprets it.
_FIND = """
check() {
  case "$1" in "~/"*) set -- "$HOME/${1#??}" ;; esac
  found=$(command -v "$1" 2>/dev/null)
  case "$found" in
    "") echo "twistdist-missing $1"; return 1 ;;
    /*) ;;
    *) found="$PWD/$found" ;;
  esac
  (cd / && "$found" -c "$code" "$1" "$SSH_CONNECTION" "$wanted" </dev/null 2>&1)
}
"""
_LOOK = """
import json, os, socket, sys
found = {"asked": sys.argv[1], "connection": sys.argv[2], "executable": sys.executable}
found["python"] = "%d.%d" % sys.version_info[:2]
try:
    found["name"] = socket.getfqdn()
    import twistdist
    found["twistdist"] = twistdist.__version__
    import twistdist.clusters.ssh.link
except Exception as error:
    found["error"] = "%s: %s" % (type(error).__name__, error)
print("twistdist-found " + json.dumps(found))
sys.exit("error" in found or sys.argv[3] != found["python"] + " " + found["twistdist"])
"""


class HostError(TwistdistError):
    """A host can't be used; the text names it."""


class WrongPython(HostError):
    """A host has no Python that fits."""


class Refused(TwistdistError):
    """A host works, but refuses an order."""


def check_host(host: Any) -> str:
    """Return a host as for ssh, as a plain str.  ``ValueError`` if it could be taken for something else, such as an option."""
    plain = as_text(host, "a host")
    if not _HOST.fullmatch(plain):
        raise ValueError(
            f"a host must be a name as for ssh, such as user@host, an alias of ~/.ssh/config, or host:port; got {shown(host)}"
        )
    return plain


def ssh_words(host: str) -> list[str]:
    """Return what stands for a host on ssh's command line."""
    user, at, rest = host.rpartition("@")
    name, colon, port = rest.rpartition(":")
    if not colon or (":" in name and not name.endswith("]")):  # no port, or a bare IPv6 address
        name, port = rest, ""
    return [*(["-p", port] if port else []), "--", f"{user}{at}{name.strip('[]')}"]


def explain(host: str, errors: str, how: str) -> str:
    """Return in words why ssh did not connect to ``host``: it wrote ``errors``, and ended as ``how`` says."""
    lines = [line.strip() for line in errors.splitlines() if line.strip(" @\r")]
    said = "; ".join(lines[-3:])[-300:] or f"ssh {how}"
    name = ssh_words(host)[-1].rpartition("@")[2]
    meaning = next((meaning for pattern, meaning in _MEANINGS if re.search(pattern, errors)), "ssh does not connect to it")
    return f"host {host}: {meaning.format(host=host_command(host), name=name)} ({said})"


def host_command(host: str) -> str:
    """Return what a person writes behind ``ssh`` for ``host``."""
    return shlex.join(word for word in ssh_words(host) if word != "--")


def is_loopback_name(name: str) -> bool:
    """Whether a name or an address means another machine on each machine."""
    return name in ("localhost", "::1", "") or name.startswith("127.")


@attrs.frozen
class Surroundings:
    """What a host says of itself: the interpreter that fits, its own name, and the address at which ssh found it."""

    python: str
    name: str
    address: str


def here() -> str:
    """Return the versions of Python and of twistdist that the other end must have too."""
    return f"{sys.version_info[0]}.{sys.version_info[1]} {twistdist.__version__}"


def finding(python: str) -> bytes:
    """Return the script that looks for an interpreter; by default for the path of the one here, or a usual name."""
    candidates = [python] if python else [sys.executable, f"python{here().split()[0]}", "python3", "python"]
    lines = ["echo", _FIND, f"code={shlex.quote(_LOOK)}", f"wanted={shlex.quote(here())}"]
    lines += [f"check {shlex.quote(candidate)} && exit 0" for candidate in candidates]
    return "\n".join([*lines, "exit 0", ""]).encode()


def found(host: str, output: str, errors: str) -> Surroundings:
    """Return what the script found.  ``WrongPython`` if no interpreter fits."""
    answers, missing = [], []
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word == "twistdist-found":
            with contextlib.suppress(ValueError):  # cut off
                answers.append(json.loads(rest))
        elif word == "twistdist-missing":
            missing.append(f"{rest} does not exist")
    for answer in answers:
        if "error" not in answer and f"{answer['python']} {answer['twistdist']}" == here():
            connection = answer["connection"].split()
            address = connection[2].partition("%")[0] if len(connection) == 4 else ""
            return Surroundings(answer["executable"], answer.get("name", ""), address)
    python, version = here().split()
    said = [f"{answer['asked']} is Python {answer['python']} {_lack(answer)}" for answer in answers] + missing
    said = said or [f"its shell wrote {shown(' '.join((output + errors).split())[-200:])}"]
    raise WrongPython(
        f"host {host}: no Python {python} with twistdist {version}, as on this machine: {'; '.join(said)}.  Install it there "
        f"(python{python} -m venv VENV && VENV/bin/pip install twistdist=={version}) and name the interpreter with python="
    )


def _lack(answer: dict[str, Any]) -> str:
    return f"without it ({answer['error']})" if "error" in answer else f"with twistdist {answer['twistdist']}"
