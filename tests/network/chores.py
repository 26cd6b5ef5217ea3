"""What tasks of these tests do.  A module of its own that imports little, since every new executor that runs one imports it."""

from __future__ import annotations

import hashlib
import os
import time

from tests.integration.habits import lines, note


def square(log, i, seconds=0.02):
    """Every execution leaves a line."""
    time.sleep(seconds)
    note(log, i)
    return i * i


def large(log, i, size):
    note(log, i)
    return bytes([i % 256]) * size


def digest(data):
    return hashlib.sha256(data).hexdigest()


def first_stays(log):
    """The first execution stays for a minute, unless it is ended; the second tells where it ran."""
    here = os.environ["TWISTDIST_HOST"].removeprefix("host-of-")
    first = not lines(log)
    note(log, here)
    if first:
        time.sleep(60)
    return here


def stay_until(began, path):
    note(began, "here")
    while not os.path.exists(path):
        time.sleep(0.01)
