"""Tests of the cores and the wire that users can run too: a simulator with faults, a fuzzer and golden traces."""
