"""How long a worker may live: ``--lifetime``, ``--lifetime-stagger``, ``--lifetime-margin`` and ``--notice``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from twistdist.errors import ConfigError
from twistdist.net.worker import Terms
from twistdist.tap.roles import seconds_of

#: Environment variables in which an engine says when the allocation of this process ends, in seconds since the epoch.
ENDS = ("SLURM_JOB_END_TIME",)

#: Seconds.  No worker lives longer: an engine without limits names an end that is years away, or none.
LONGEST_S = 366 * 86_400.0

#: Seconds that a worker may need to leave.
LONGEST_NOTICE_S = 3600.0


def terms_of(options: Mapping[str, Any], environment: Mapping[str, str], wall_time: float, dice: random.Random) -> Terms:
    """Return when a worker that starts now, at ``wall_time``, must end.

    An end in wall-clock time is turned into a duration here, once: what happens to the clock later does not matter.

    Raises:
        ConfigError: an option is invalid, or the time is too short.
    """
    notice = seconds_of("--notice", options["notice"], 0.0, LONGEST_NOTICE_S)
    margin = seconds_of("--lifetime-margin", options["lifetime-margin"], 0.0, LONGEST_NOTICE_S) or 0.0
    stagger = seconds_of("--lifetime-stagger", options["lifetime-stagger"], 0.0, LONGEST_S) or 0.0
    text, why = options["lifetime"], "its lifetime is over"
    if text is None:
        if stagger:
            raise ConfigError("--lifetime-stagger needs --lifetime")
        return Terms(notice)
    if text == "auto":
        variable, lifetime = _allocation(environment, wall_time)
        why = f"its allocation ends ({variable})"
    else:
        lifetime = seconds_of("--lifetime", text, 1.0, LONGEST_S) or 0.0
    if lifetime > LONGEST_S:  # no limit
        return Terms(notice)
    if lifetime - stagger <= margin:
        raise ConfigError(
            f"this worker would have to leave at once: its lifetime of {lifetime:.0f} s must be longer than --lifetime-margin "
            f"({margin:g} s) and --lifetime-stagger ({stagger:g} s) together"
        )
    return Terms(notice, lifetime - dice.uniform(0.0, stagger), margin, why)


def _allocation(environment: Mapping[str, str], wall_time: float) -> tuple[str, float]:
    """Return (the variable that says when the allocation ends, the seconds until then)."""
    for variable in ENDS:
        text = environment.get(variable)
        if text is None:
            continue
        if not text.isascii() or not text.isdigit():
            raise ConfigError(f"{variable} must be a time in seconds since the epoch, got {text!r}")
        if int(text) <= wall_time:
            raise ConfigError(
                f"by {variable}, the allocation ended {wall_time - int(text):.0f} s ago; is this machine's clock right?"
            )
        return variable, int(text) - wall_time
    raise ConfigError(
        f"--lifetime auto finds no end of an allocation in the environment ({', '.join(ENDS)}); give it in seconds"
    )
