"""What a processor may claim to have settled: never more than it was given and has committed."""

from __future__ import annotations

from datetime import timedelta

from manman_status.pipeline.custody import Custody
from tests.builders import START


def at(seconds):
    return START + timedelta(seconds=seconds)


def test_nothing_is_settled_until_a_canary_says_when():
    custody = Custody()
    custody.settle("channel", 5)
    assert custody.settled_through is None


def test_a_canary_waits_for_what_was_given_before_it():
    custody = Custody()
    custody.see_canary("channel", 4, at(1))  # after three messages
    custody.settle("channel", 2)
    assert custody.settled_through is None
    custody.settle("channel", 1)
    assert custody.settled_through == at(1)


def test_an_idle_channel_is_settled_by_its_canaries_alone():
    custody = Custody()
    for number in range(1, 4):
        custody.see_canary("channel", number, at(number))
        assert custody.settled_through == at(number)


def test_canaries_do_not_count_as_messages():
    custody = Custody()
    custody.see_canary("channel", 1, at(1))
    custody.see_canary("channel", 3, at(2))  # message 2 lies between
    assert custody.settled_through == at(1)
    custody.settle("channel", 1)
    assert custody.settled_through == at(2)


def test_what_a_stranger_put_into_the_own_queue_is_no_message_of_the_shared_one():
    custody = Custody()
    custody.see_canary("channel", 1, None)
    custody.see_canary("channel", 3, None)  # message 2 lies between
    assert custody.settled_through is None
    custody.see_canary("channel", 4, at(1))
    assert custody.settled_through is None
    custody.settle("channel", 1)
    assert custody.settled_through == at(1)


def test_what_was_settled_ahead_of_its_canary_counts():
    custody = Custody()
    custody.settle("channel", 3)
    custody.see_canary("channel", 4, at(1))
    assert custody.settled_through == at(1)


def test_a_canary_is_not_passed_by_what_came_after_it():
    custody = Custody()
    custody.see_canary("channel", 3, at(1))
    custody.see_canary("channel", 6, at(2))
    custody.settle("channel", 3)
    assert custody.settled_through == at(1)
    custody.settle("channel", 1)
    assert custody.settled_through == at(2)


def test_a_new_channel_counts_from_the_start_and_is_told_of():
    custody = Custody()
    custody.see_canary("old", 3, at(1))
    custody.see_canary("new", 2, at(2))
    assert custody.restarted
    assert custody.settled_through is None
    custody.settle("old", 1)
    assert custody.settled_through is None
    custody.settle("new", 1)
    assert custody.settled_through == at(2)


def test_the_first_channel_is_told_of_too():
    """Before it there may have been one that gave us messages, and broke before it brought a canary."""
    custody = Custody()
    custody.settle("channel", 1)
    assert not custody.restarted
    custody.see_canary("channel", 2, at(1))
    assert custody.restarted
    assert custody.settled_through == at(1)


def test_what_waited_for_the_database_does_not_bring_an_old_channel_back():
    """Given on a channel that brought no canary, and settled after the next one did."""
    custody = Custody()
    custody.see_canary("first", 1, at(1))
    custody.see_canary("third", 1, at(3))
    custody.settle("second", 5)
    custody.see_canary("third", 2, at(4))
    assert custody.settled_through == at(4)


def test_what_an_old_channel_gave_settles_nothing_of_the_new_one():
    """It is given again, to us or to another."""
    custody = Custody()
    custody.see_canary("old", 1, at(1))
    custody.settle("old", 1)
    custody.see_canary("new", 3, at(2))
    custody.settle("old", 2)
    custody.see_canary("old", 9, at(3))
    custody.settle(None, 2)
    custody.see_canary(None, 1, at(4))
    assert custody.settled_through == at(1)


def test_a_reconnection_takes_nothing_back():
    custody = Custody()
    custody.see_canary("old", 1, at(1))
    custody.settle("new", 1)
    assert custody.settled_through == at(1)
