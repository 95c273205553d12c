"""Ctrl-C waits for what belongs together."""

import signal
import threading

import pytest

from fedrec.runs.recorder import interrupts_held_back


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_comes_once_the_block_is_done(number: int) -> None:
    done = False
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        with interrupts_held_back():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done = True
        pytest.fail("it did not come")
    signal.signal(signal.SIGTERM, before)
    assert done


def test_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_held_back():
        pass
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), interrupts_held_back():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_is_not_lost_to_an_error() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_held_back():
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, ZeroDivisionError)


def test_elsewhere_than_in_the_main_thread_it_does_nothing() -> None:
    seen = []

    def block() -> None:
        with interrupts_held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
