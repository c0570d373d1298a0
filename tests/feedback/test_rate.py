"""A token bucket: turns in time, worked by hand on a clock that the test moves; and with real threads."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.feedback.rate import Bucket, Stopped


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def turns(bucket, clock, n):
    out = []
    for _ in range(n):
        bucket.take()
        out.append(round(clock.now - 100, 6))
    return out


def test_turns_are_spaced_and_a_rest_allows_a_burst():
    clock = Clock()
    assert turns(Bucket(4.0, clock=clock, sleep=clock.sleep), clock, 4) == [0, 0.25, 0.5, 0.75]
    clock = Clock()
    bucket = Bucket(4.0, burst=3, clock=clock, sleep=clock.sleep)
    assert turns(bucket, clock, 5) == [0, 0, 0, 0.25, 0.5]
    clock.now += 100
    assert turns(bucket, clock, 4) == [100.5, 100.5, 100.5, 100.75]


def test_a_pause_holds_for_all_and_is_no_credit():
    """Half a second without a turn, then evenly again."""
    clock = Clock()
    bucket = Bucket(10.0, clock=clock, sleep=clock.sleep)
    assert turns(bucket, clock, 2) == [0, 0.1]
    bucket.pause(0.5)
    assert turns(bucket, clock, 3) == [0.6, 0.7, 0.8]


@given(st.floats(0.1, 200), st.integers(1, 5), st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_no_window_ever_holds_more_than_its_share(rate, burst, rests):
    """Whatever the rests between the turns: within any t seconds at most burst + rate * t turns."""
    clock = Clock()
    bucket = Bucket(rate, burst, clock, clock.sleep)
    times = []
    for rest in rests:
        clock.now += rest
        bucket.take()
        times.append(clock.now)
    for i, first in enumerate(times):
        for count, last in enumerate(times[i:], 1):
            assert count <= burst + rate * (last - first) + 1e-6


def test_threads_share_it_and_closing_wakes_them():
    bucket, done, stopped = Bucket(100.0), [], []

    def work():
        try:
            for _ in range(5):
                bucket.take()
                done.append(time.monotonic())
        except Stopped:
            stopped.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 20 and max(done) - start >= 19 / 100 - 0.005
    bucket.pause(60)
    thread = threading.Thread(target=work)
    thread.start()
    bucket.close()
    thread.join(5)
    assert stopped == [True]
    with pytest.raises(Stopped):
        bucket.wait(0)
