"""CPython's own tests of executors, wait and as_completed, where its package of tests is installed (3.12 and later)."""

from __future__ import annotations

import unittest

import pytest

pytest.importorskip("test.test_concurrent_futures.executor")

from test.test_concurrent_futures.executor import ExecutorTest
from test.test_concurrent_futures.test_as_completed import AsCompletedTests
from test.test_concurrent_futures.test_wait import WaitTests

from twistdist.blocking import Client

WORKERS = 2


class OnACluster(unittest.TestCase):
    """What their ``ExecutorMixin`` does."""

    worker_count = WORKERS

    @classmethod
    def setUpClass(cls):
        cls.client = Client(n_workers=WORKERS)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()

    def setUp(self):
        self.executor = self.client.executor()

    def tearDown(self):
        self.executor.shutdown(wait=True)
        self.executor = None


class TestExecutor(ExecutorTest, OnACluster):
    @unittest.skip("the slots of the cluster decide how many calls run at a time; executor() has no max_workers")
    def test_max_workers_negative(self):
        pass


class TestWait(WaitTests, OnACluster):
    pass


class TestAsCompleted(AsCompletedTests, OnACluster):
    pass
