"""The Twisted edge: sockets, timers and processes around the cores."""
