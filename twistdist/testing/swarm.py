"""Which faults and features a run of :mod:`.simulate` has: a random part of them, different for each seed.

With everything switched on at once, one thing hides another: workers that are killed often never retire, and a journal that
fails early never has much in it.  Runs that each lack half of everything meet more pairs of states and faults (Groce, Zhang,
Eide, Chen and Regehr, "Swarm testing", ISSTA 2012).
"""

from __future__ import annotations

import random

import attrs

#: Faults of one moment, by kind; more likely ones are named more than once.
FIRST_FAULTS = (
    "cut",
    "cut",
    "kill worker",
    "kill executor",
    "lose file",
    "cut client",
    "memory",
    "silence",
    "silence",
    "drift",
    "park",
    "leave",
)

#: Those that came later.
MORE_FAULTS = (
    "kill scheduler",
    "journal fails",
    "take over",
    "stop executor",
    "pause worker",
    "pause scheduler",
    "one-way cut",
    "swallow",
    "client leaves",
    "client dies",
)

#: The newest ones.
NEWEST_FAULTS = ("pause client", "disk full", "flip", "rolling restart")

#: Faults after which nothing is left of the cluster but the processes of workers and clients.
FORGETTING_FAULTS = ("lose journal",)

#: Faults that hit frames, greetings, executors, messages or writes at random, all over a run.
FAULTS_ALL_OVER = ("lose", "repeat", "reorder", "cut greeting", "executor does not start", "echo", "failed write")

#: Everything that is injected, without what the cluster does in reply.
INJECTED = tuple(dict.fromkeys((*FIRST_FAULTS, *MORE_FAULTS, *NEWEST_FAULTS, *FORGETTING_FAULTS, *FAULTS_ALL_OVER)))

#: Faults that need a journal.
NEED_JOURNAL = ("kill scheduler", "journal fails", "take over")

#: Faults after which a client may have lost its session.
ENDING_SESSIONS = ("client leaves", "client dies")

#: What clients order while all this happens.
ORDERS = (
    "publish",
    "unpublish",
    "retire",
    "dismiss",
    "rebalance",
    "replicate",
    "until_ended",
    "logs",
    "clear",
    "restart",
    "upload",
    "cancel unstarted",
    "status",
)

#: Orders to get futures of what exists already.
ATTACHING_ORDERS = ("watch", "take_up", "dataset")

#: Orders that end work or workers.
HARSH = ("retire", "dismiss", "clear", "restart", "cancel unstarted")


@attrs.frozen
class Swarm:
    """What one run has: kinds of ``faults``, ``orders`` of clients, a disk that is ``slow``.

    ``chain`` is the probability that another fault or order follows soon after one, during recovery from it.  With
    ``nests``, some tasks submit tasks; a ``storm`` has so many faults more.  With ``forgets``, the scheduler is started again
    without its journal; clients that are ``cut_off`` reach workers rarely; ``attaching`` are the orders by which clients get
    futures of what exists already.
    """

    faults: tuple[str, ...]
    orders: tuple[str, ...]
    chain: float
    slow: bool
    newest: tuple[str, ...] = ()
    nests: bool = False
    storm: int = 0
    forgets: bool = False
    cut_off: bool = False
    attaching: tuple[str, ...] = ()

    @property
    def ends_sessions(self) -> bool:
        """Whether clients leave without a word, so that their sessions must end by themselves."""
        return any(kind in ENDING_SESSIONS for kind in self.faults)


def draw(rng: random.Random, journaled: bool, faulty: bool, restarts_only: bool) -> Swarm:
    """Draw a random part of everything, of what is possible with or without a journal and faults."""
    kinds = [kind for kind in (*FIRST_FAULTS, *MORE_FAULTS) if journaled or kind not in NEED_JOURNAL]
    share = rng.choice((0.15, 0.4, 0.4, 0.8))
    chosen = {kind for kind in dict.fromkeys(kinds) if rng.random() < share} or {rng.choice(kinds)}
    faults = tuple(kind for kind in kinds if kind in chosen)
    share = rng.choice((0.0, 0.0, 0.2, 0.5))
    orders = tuple(order for order in ORDERS if rng.random() < share and not (order in HARSH and (restarts_only or not faulty)))
    chain, slow = rng.choice((0.0, 0.3, 0.8)), rng.random() < 0.15
    if restarts_only or not faulty:
        return Swarm(("kill scheduler",), orders, chain, slow)
    return Swarm(faults, orders, chain, slow)


def draw_newest(rng: random.Random, drawn: Swarm, faulty: bool, restarts_only: bool) -> Swarm:
    """Draw a random part of what was added last, to what was ``drawn`` before."""
    nests = rng.random() < 0.3
    if restarts_only or not faulty:
        return attrs.evolve(drawn, nests=nests)
    share = rng.choice((0.0, 0.3, 0.7))
    kinds = tuple(kind for kind in NEWEST_FAULTS if rng.random() < share)
    return attrs.evolve(drawn, newest=kinds, nests=nests, storm=rng.choice((0, 0, 0, 10, 40)))


def draw_forgetting(rng: random.Random, drawn: Swarm, faulty: bool, restarts_only: bool) -> Swarm:
    """Draw whether the journal is lost, and orders to attach to what exists, to what was ``drawn`` before."""
    attaching = tuple(order for order in ATTACHING_ORDERS if rng.random() < 0.3)
    forgets = rng.random() < 0.25 and faulty and not restarts_only
    cut_off = rng.random() < 0.2 and faulty and not restarts_only
    return attrs.evolve(drawn, forgets=forgets, attaching=attaching, cut_off=cut_off)
