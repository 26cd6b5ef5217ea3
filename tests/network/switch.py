"""An Ethernet switch in user space, with faults: python switch.py HOST...

Makes one network namespace a host with loopback and a TAP device in it, and carries frames between the devices.  All of it
belongs to this process alone: the namespaces have no names, and go with it and what runs in them, also when it is killed.
Loss, delay and cuts are made here, so that neither netem nor other parts of ``tc`` are needed: many kernels lack them.

Orders come as lines of JSON on standard input, each is answered with one on standard output; the end of the input ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
DEVICE = "lan0"
SUBNET = "10.77.0"
LONGEST_FRAME = 2048

#: What may be wrong with one direction of a host's link: shares of frames, seconds; ``down`` carries nothing.
CLEAN = {"down": False, "loss": 0.0, "delay": 0.0, "reorder": 0.0, "duplicate": 0.0}

#: By this many seconds a frame that is to be overtaken comes later.
OVERTAKEN_S = 0.02


class Host:
    """One host: its namespace, its device and the two directions of its link."""

    def __init__(self, number):
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"a network namespace: {os.strerror(number)}")
        self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TAP | IFF_NO_PI))
        self.address = f"{SUBNET}.{number}"
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as setting:
            setting.write("1")  # its neighbour discovery is traffic that nobody asked for
        for command in (
            f"link set {DEVICE} address 02:00:00:00:00:{number:02x}",
            "link set lo up",
            f"address add {self.address}/24 dev {DEVICE}",
            f"link set {DEVICE} up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        self.sends, self.receives = dict(CLEAN), dict(CLEAN)
        self.sent = 0


class Switch:
    def __init__(self, names):
        self.hosts = {name: Host(number) for number, name in enumerate(names, 1)}
        self.by_number = dict(enumerate(self.hosts.values(), 1))
        self.blocked = set()
        self.later = []
        self.order = itertools.count()
        self.dice = random.Random(7)
        self.carried = self.dropped = 0

    # ---- orders -----------------------------------------------------------------------------

    def links(self, host, direction="both", **faults):
        """Set what is wrong with a host's link, as seen from the host: what it "sends", "receives", or "both"."""
        for one in ("sends", "receives"):
            if direction in (one, "both"):
                getattr(self.hosts[host], one).update(faults)

    def pair(self, source, target, blocked):
        """Whether what ``source`` sends to ``target`` is dropped."""
        pair = (self.hosts[source], self.hosts[target])
        (self.blocked.add if blocked else self.blocked.discard)(pair)

    def clean(self):
        self.blocked.clear()
        for host in self.hosts.values():
            host.sends, host.receives = dict(CLEAN), dict(CLEAN)

    def count(self):
        sent = {name: host.sent for name, host in self.hosts.items()}
        return {"carried": self.carried, "dropped": self.dropped, "sent": sent}

    # ---- frames -----------------------------------------------------------------------------

    def came(self, source, frame):
        source.sent += 1
        if frame[0] & 1:  # to all
            targets = [host for host in self.hosts.values() if host is not source]
        else:
            targets = [self.by_number[frame[5]]] if frame[5] in self.by_number else []
        for target in targets:
            self.carry(source, target, frame)

    def carry(self, source, target, frame):
        ways = (source.sends, target.receives)
        if (source, target) in self.blocked or any(way["down"] or self.dice.random() < way["loss"] for way in ways):
            self.dropped += 1
            return
        delay = sum(way["delay"] for way in ways)
        if any(self.dice.random() < way["reorder"] for way in ways):
            delay += OVERTAKEN_S
        for _ in range(1 + any(self.dice.random() < way["duplicate"] for way in ways)):
            if delay:
                heapq.heappush(self.later, (time.monotonic() + delay, next(self.order), target, frame))
            else:
                self.deliver(target, frame)

    def deliver(self, target, frame):
        try:
            os.write(target.device, frame)
            self.carried += 1
        except OSError:  # its device is down, or its queue is full
            self.dropped += 1

    def run(self):
        devices = {host.device: host for host in self.hosts.values()}
        poll = select.epoll()
        for descriptor in (0, *devices):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            pause = max(0.0, self.later[0][0] - time.monotonic()) if self.later else -1
            for descriptor, _ in poll.poll(pause):
                if descriptor:
                    self.drain(devices[descriptor])
                elif not self.obey():
                    return
            while self.later and self.later[0][0] <= time.monotonic():
                _, _, target, frame = heapq.heappop(self.later)
                self.deliver(target, frame)

    def drain(self, source):
        for _ in range(64):  # then the others
            try:
                frame = os.read(source.device, LONGEST_FRAME)
            except OSError:
                return
            self.came(source, frame)

    def obey(self):
        line = sys.stdin.buffer.raw.readline()
        if not line:
            return False
        order, *args, options = json.loads(line)
        answer = {"links": self.links, "pair": self.pair, "clean": self.clean, "count": self.count}[order](*args, **options)
        say(answer)
        return True


def say(what):
    print(json.dumps(what), flush=True)


def main():
    try:
        switch = Switch(sys.argv[1:])
    except (OSError, subprocess.CalledProcessError) as error:
        say({"error": str(error)})
        return
    with contextlib.suppress(OSError):
        os.nice(-10)  # what it carries is not to wait for busy tasks
    say({"pid": os.getpid(), "hosts": {name: (one.namespace, one.address) for name, one in switch.hosts.items()}})
    switch.run()


if __name__ == "__main__":
    main()
