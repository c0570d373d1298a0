"""Progress: plain lines off a terminal, one live line on it, and the way from a worker process to the screen."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from trueline import progress
from trueline.progress import Follower, Lines, Terminal, ToFile, clock, pace, screen, short


def console(**options: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=80, highlight=False, **options), out


def tell(on: progress.Screen) -> None:
    on.have("asked-12345678")
    with on.stage("sft-8192ef8f", 1, 2):
        with on.meter(400, "step") as outer:
            outer.advance(100)
            with on.meter(4, "evaluating") as inner:
                inner.advance(4)
            outer.update("last [steps]")
            time.sleep(0.4)  # a terminal is refreshed four times a second
            outer.advance(300)
        on.made("sft-8192ef8f", 68.0, {"train_tokens": 120_000})


def test_off_a_terminal_there_are_a_few_plain_lines(monkeypatch):
    to, out = console()
    assert isinstance(screen(to), Lines)
    tell(Lines(to))
    assert out.getvalue().splitlines() == [
        "have  asked-12345678",
        "make  sft-8192ef8f (1 of 2)",
        "made  sft-8192ef8f in 1:08 min; train tokens 120k",
    ]


def test_off_a_terminal_a_long_stage_says_now_and_then_how_far_it_is(monkeypatch):
    """Eighty steps in ten seconds after fifty of an earlier run, 320 of them left at eight a second: forty seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "EVERY", 10.0)
    to, out = console()
    lines = Lines(to)
    with lines.stage("sft-8192ef8f", 1, 2), lines.meter(450, "step", done=50) as meter:
        for _ in range(100):
            now[0] += 0.125
            meter.advance()
    assert out.getvalue().splitlines()[1:] == ["  sft-8192ef8f: step 130 of 450, 8.0/s, 40.0 s left"]


def test_on_a_terminal_finished_stages_are_one_line_each():
    to, out = console(force_terminal=True)
    assert isinstance(screen(to), Terminal)
    tell(Terminal(to))
    said = out.getvalue()
    for part in ("asked-12345678", "1/2", "sft-8192ef8f", "last [steps]", "1:08 min", "train tokens 120k"):
        assert part in said
    assert "evaluating" not in said.splitlines()[-1]


def test_a_worker_reports_through_a_file(tmp_path):
    to, out = console()
    lines = Lines(to)
    follower = Follower(tmp_path / "progress.json", lines)
    follower.poll()  # nothing is there yet
    seen: list[tuple[int, str]] = []
    with ToFile(tmp_path / "progress.json").meter(10, "step") as meter:
        follower.poll()
        watched = follower._meter
        assert watched is not None
        meter.update("epoch 2")
        meter.advance(10)
        follower.poll()
        seen.append((watched.done, watched.text))  # type: ignore[attr-defined]
    follower.close()
    assert seen == [(10, "epoch 2")]
    (tmp_path / "progress.json").write_text("{half")
    follower.poll()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0.0 s"), (3.21, "3.2 s"), (68, "1:08 min"), (3599.6, "1:00:00 h"), (7805, "2:10:05 h")]
)
def test_durations(seconds, said):
    assert clock(seconds) == said


def test_counts_and_rates():
    assert [short(n) for n in (0, 999, 1000, 1600, 99_600, 1_234_567, 5e9, 2e12)] == [
        "0", "999", "1k", "1.6k", "100k", "1.2M", "5G", "2T"
    ]  # fmt: skip
    assert [pace(r) for r in (1600, 12.4, 4.06, 0.05)] == ["1.6k/s", "12/s", "4.1/s", "3.0/min"]
