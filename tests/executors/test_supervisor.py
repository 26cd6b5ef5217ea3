"""The supervisor's edges, with a clock."""

from __future__ import annotations

from twisted.internet.task import Clock

from twistdist.executors.supervisor import TEMPLATE_PATIENCE_S, Service, Supervisor


class Template:
    killed = False

    def kill(self):
        self.killed = True


def test_a_template_is_given_its_time_for_each_answer(tmp_path):
    """Once the patience for one answer was counted on for the next, and a busy template was replaced."""
    clock = Clock()
    supervisor = Supervisor(clock, str(tmp_path), 4, None, Service("w", "tcp:x:1", b""))
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
