"""A TCP proxy on loopback that can be told to misbehave, for machines without namespaces, and for what they can't do."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import struct
import threading
import time

CHUNK = 1 << 16

#: Bytes that wait in the proxy for a side that does not read; more stay in the sender.
MAX_HELD = 1 << 20


class _Way:
    """One direction of one connection: what has come from ``source`` waits for its time and for ``target``."""

    def __init__(self, source, target, name):
        self.source, self.target, self.name = source, target, name
        self.held = collections.deque()  # (when it may go, bytes)
        self.size = self.passed = 0
        self.ended = self.told = False


class Proxy:
    """Forwards connections to ``target`` (host, port); ``port`` is where it listens.  A context manager with a thread.

    The two directions are "forth" (from who connected) and "back".  All switches may be used from any thread.
    """

    def __init__(self, target):
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"tcp:127.0.0.1:{self.port}"
        self._orders = collections.deque()
        self._woken, self._wake = socket.socketpair()
        self._ways = []
        self._frozen = set()
        self._delay = 0.0
        self._most = {}
        self.accepted = 0
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._order(None)
        self._thread.join()

    # ---- switches ---------------------------------------------------------------------------

    def cut(self, reset=False):
        """Close all connections on both sides; with ``reset`` the other sides see an error rather than an end."""
        self._order(self._cut, reset)

    def freeze(self, *directions):
        """Stop forwarding and keep the connections: half-open, also those that are made now.  Without ``directions``: both."""
        self._order(self._frozen.update, directions or ("forth", "back"))

    def thaw(self):
        self._order(self._frozen.clear)

    def delay(self, seconds):
        """All bytes come this much later, in each direction."""
        self._order(setattr, self, "_delay", seconds)

    def refuse(self):
        """Refuse new connections, as if nothing listened; ``accept`` ends that."""
        self._order(self._refuse)

    def accept(self):
        self._order(self._accept_again)

    def cut_after(self, count, direction="back"):
        """Cut the connection that has carried ``count`` bytes in that direction, in the middle of a frame maybe.  Once."""
        self._order(self._most.__setitem__, direction, count)

    def clean(self):
        """Nothing is wrong any more."""
        self._order(self._clean)

    @contextlib.contextmanager
    def frozen(self, *directions):
        self.freeze(*directions)
        try:
            yield
        finally:
            self.thaw()

    @contextlib.contextmanager
    def absent(self, reset=False):
        """Cut, and refuse what comes, in the body."""
        self.refuse()
        self.cut(reset)
        try:
            yield
        finally:
            self.accept()

    def _order(self, what, *args):
        """Have the thread do it; returns when it has."""
        done = threading.Event()
        self._orders.append((what, args, done))
        self._wake.send(b"!")
        assert done.wait(30)

    # ---- in the thread ----------------------------------------------------------------------

    def _run(self):
        with contextlib.ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._woken, selectors.EVENT_READ)
            self._selector.register(self._listener, selectors.EVENT_READ)
            running = True
            while running:
                for key, events in self._selector.select(self._pause()):
                    if key.fileobj is self._woken:
                        running = self._obey()
                    elif key.fileobj is self._listener:
                        self._accept()
                    elif events & selectors.EVENT_READ:
                        self._came(key.data[0])
                self._forward()
            self._cut(False)
        for one in (self._listener, self._woken, self._wake):
            one.close()

    def _pause(self):
        due = [way.held[0][0] for way in self._ways if way.held and way.name not in self._frozen]
        if not due:
            return None
        return max(0.01, min(due) - time.monotonic())  # a side that does not read is tried again then

    def _obey(self):
        self._woken.recv(100)
        while self._orders:
            what, args, done = self._orders.popleft()
            if what is not None:
                what(*args)
            done.set()
            if what is None:
                return False
        return True

    def _clean(self):
        self._frozen.clear()
        self._most.clear()
        self._delay = 0.0
        if self._listener.fileno() == -1:
            self._accept_again()

    def _refuse(self):
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept_again(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self):
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self.target)
        except OSError:
            near.close()
            return
        self.accepted += 1
        for one in (near, far):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        forth, back = _Way(near, far, "forth"), _Way(far, near, "back")
        self._ways += [forth, back]
        self._selector.register(near, selectors.EVENT_READ, (forth, back))
        self._selector.register(far, selectors.EVENT_READ, (back, forth))

    def _came(self, way):
        if way not in self._ways:
            return
        try:
            data = way.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._close(way, True)
            return
        if data:
            way.held.append((time.monotonic() + self._delay, data))
            way.size += len(data)
        else:
            way.ended = True
            way.held.append((time.monotonic() + self._delay, b""))
        self._listen(way)

    def _listen(self, way):
        """Read from its source, or leave that alone for now."""
        wanted = not way.ended and way.size < MAX_HELD and way.name not in self._frozen
        known = self._selector.get_map().get(way.source)
        if wanted and known is None:
            other = next(one for one in self._ways if one.source is way.target)
            self._selector.register(way.source, selectors.EVENT_READ, (way, other))
        elif not wanted and known is not None:
            self._selector.unregister(way.source)

    def _forward(self):
        now = time.monotonic()
        for way in list(self._ways):
            if way not in self._ways:
                continue
            while way.held and way.held[0][0] <= now and way.name not in self._frozen and way in self._ways:
                if not self._send(way):
                    break
            if way in self._ways:
                self._listen(way)

    def _send(self, way):
        """Send the next bytes of a direction; whether to go on with it."""
        due, data = way.held.popleft()
        most = self._most.get(way.name)
        left = data if most is None else data[: max(0, most - way.passed)]
        try:
            if not data:
                way.target.shutdown(socket.SHUT_WR)
                way.told = True
            sent = way.target.send(left) if left else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(way, True)
            return False
        way.passed += sent
        way.size -= sent
        if most is not None and way.passed >= most:
            del self._most[way.name]
            self._close(way, True)
            return False
        if not data:
            if all(one.told for one in self._pair(way)):
                self._close(way, False)
            return False
        if sent < len(data):
            way.held.appendleft((due, data[sent:]))
        return sent == len(data)

    def _pair(self, way):
        return [one for one in self._ways if one.source in (way.source, way.target)]

    def _close(self, way, reset):
        for one in self._pair(way):
            self._ways.remove(one)
            if self._selector.get_map().get(one.source) is not None:
                self._selector.unregister(one.source)
            if reset:
                with contextlib.suppress(OSError):
                    one.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.source.close()

    def _cut(self, reset):
        while self._ways:
            self._close(self._ways[0], reset)
