"""Ctrl-C and SIGTERM as a request."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hypernas.interrupts import StopRequest, catch_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_ends_at_once(number: int) -> None:
    with catch_interrupts() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_one_signal_after_the_other_kind_ends_at_once_too() -> None:
    with catch_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_whatever_happens() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), catch_interrupts():
        assert signal.getsignal(signal.SIGINT) is not before[0]
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def run() -> None:
        with catch_interrupts() as stop:
            found.extend([signal.getsignal(signal.SIGINT), stop.requested])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before, False]


def test_a_request_is_quiet_until_it_is_made() -> None:
    stop = StopRequest()
    stop.check()
    stop.requested = True
    with pytest.raises(KeyboardInterrupt):
        stop.check()
