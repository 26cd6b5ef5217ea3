"""What users name as hosts, what ssh is told, and what its errors mean."""

from __future__ import annotations

import pytest

from twistdist.clusters.ssh.cluster import SSHEngine
from twistdist.clusters.ssh.command import WrongPython, check_host, explain, found, ssh_words

HOSTS = {
    "node1": ["--", "node1"],
    "ann@node-1.example.org": ["--", "ann@node-1.example.org"],
    "ann@node1:2222": ["-p", "2222", "--", "ann@node1"],
    "10.0.0.7:22": ["-p", "22", "--", "10.0.0.7"],
    "fe80::1": ["--", "fe80::1"],
    "[::1]:22": ["-p", "22", "--", "::1"],
    "ann@[2001:db8::7]": ["--", "ann@2001:db8::7"],
    "gpu_box": ["--", "gpu_box"],
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_named_as_for_ssh(host):
    assert ssh_words(check_host(host)) == HOSTS[host]


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=touch /tmp/x",
        "-F",
        "ann@-oProxyCommand=x",
        "a b",
        "a\n",
        "",
        "a;b",
        "$(id)",
        "`id`",
        "a/b",
        "ann@",
        ":22",
        "a@b@c",
    ],
)
def test_what_could_be_an_option_or_a_command_is_no_host(host):
    with pytest.raises(ValueError, match="a host must be a name as for ssh"):
        check_host(host)


@pytest.mark.parametrize("hosts", ["node1", b"node1", 7, None])
def test_hosts_are_a_list(hosts):
    with pytest.raises(TypeError, match="hosts must be a list of hosts as for ssh"):
        SSHEngine(hosts)


def test_options_that_make_no_sense():
    for wrong, error in (
        ({"hosts": []}, "hosts must name at least one host"),
        ({"python": "-c"}, "python must be a path"),
        ({"folder": "a\nb"}, "folder must be a path"),
        ({"contact": "a b"}, "contact must be a host name or an address"),
        ({"grace": 1}, "grace must be"),
        ({"scheduler_host": "-x"}, "a host must be a name as for ssh"),
        ({"scheduler_host": "local", "detach": True}, "detach=True needs the scheduler on one of the hosts"),
    ):
        with pytest.raises(ValueError, match=error):
            SSHEngine(**{"hosts": ["a"], **wrong})
    with pytest.raises(TypeError, match="ssh_options must be a list of words"):
        SSHEngine(["a"], ssh_options="-F config")


#: What OpenSSH 9.2 writes -> the beginning of what we say.
SAID = {
    "ann@node1: Permission denied (publickey,password).": "it refuses us: ssh -p 22 ann@node1 must work without a password",
    "Host key verification failed.": "its host key is not known here",
    "Host key for node1 has changed": "its host key has changed: if you know why, forget the old one with ssh-keygen -R node1",
    "ssh: Could not resolve hostname node1: Name or service not known": "its name is not known",
    "ssh: connect to host node1 port 22: Connection refused": "nothing accepts connections there",
    "ssh: connect to host node1 port 22: Connection timed out": "it can't be reached",
    "kex_exchange_identification: Connection closed by remote host": "its sshd closed the connection",
    'no argument after keyword "port"': "ssh does not connect to it (no argument after keyword",
    "": "ssh does not connect to it (ssh ended with status 255)",
}


@pytest.mark.parametrize("said", SAID)
def test_an_error_of_ssh_names_the_host_and_says_what_to_do(said):
    text = explain("ann@node1:22", said, "ended with status 255")
    assert text.startswith(f"host ann@node1:22: {SAID[said]}")
    assert "\n" not in text


def test_a_shell_that_answers_something_else_is_no_python():
    with pytest.raises(WrongPython, match=r"host a: no Python .*: its shell wrote 'This account is not available\.'"):
        found("a", "This account is not available.\n", "")
