"""The supervisor's edges, with a clock."""

from __future__ import annotations

from twisted.internet.task import Clock

from twistdist.executors.supervisor import TEMPLATE_PATIENCE_S, THREAD_COUNTS, Supervisor, TaskService, thread_counts


class Template:
    killed = False

    def kill(self):
        self.killed = True


def test_a_template_is_given_its_time_for_each_answer(tmp_path):
    """Once the patience for one answer was counted on for the next, and a busy template was replaced."""
    clock = Clock()
    supervisor = Supervisor(clock, str(tmp_path), 4, None, TaskService("w", "tcp:x:1", b""))
    template = supervisor._template = Template()
    supervisor._expect_template()
    clock.advance(TEMPLATE_PATIENCE_S - 0.1)
    supervisor._template_owes = False  # it has answered
    supervisor._expect_template()
    clock.advance(0.2)
    assert not template.killed
    clock.advance(TEMPLATE_PATIENCE_S)
    assert template.killed
    supervisor._stopped = True
    assert not [call for call in clock.getDelayedCalls() if call.active()]


def test_libraries_use_one_thread_where_the_user_says_nothing():
    assert thread_counts({}) == dict.fromkeys(THREAD_COUNTS, "1")


def test_a_count_that_the_user_has_set_is_not_overruled_by_a_more_special_one():
    """Once OPENBLAS_NUM_THREADS=1 stood beside the user's OMP_NUM_THREADS=2, and won."""
    assert set(thread_counts({"OMP_NUM_THREADS": "2"})) == {"NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"}
    assert set(thread_counts({"GOTO_NUM_THREADS": "2"})) == set(THREAD_COUNTS) - {"OPENBLAS_NUM_THREADS"}
    assert set(thread_counts({"MKL_NUM_THREADS": "2"})) == set(THREAD_COUNTS) - {"MKL_NUM_THREADS"}
