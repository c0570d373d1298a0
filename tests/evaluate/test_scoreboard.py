"""The scoreboard: many measurements in one table, averages of whole suites, and the published files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from trueline.errors import UserError
from trueline.evaluate import scoreboard as boards
from trueline.evaluate.benchmarks.glue import TASKS
from trueline.evaluate.figures import read_figures
from trueline.evaluate.measure import Measured, measure
from trueline.evaluate.metrics import Summary
from trueline.evaluate.protocol import Item, Scores
from trueline.evaluate.scoreboard import scoreboard
from trueline.evaluate.tables import GPT4ALL
from trueline.pipeline import make
from trueline.records import Message
from trueline.store import using


@dataclass(frozen=True)
class Questions:
    """Ten questions of two options under any name; without labels on demand."""

    name: str = "boolq"
    metrics: tuple[str, ...] = ("accuracy",)
    labels: bool = True
    options: int = 2

    def items(self) -> Iterator[Item]:
        for number in range(10):
            options = tuple("abcdef"[: self.options])
            yield Item(str(number), (Message("user", "?"),), options, 0 if self.labels else None)


@dataclass(frozen=True)
class First:
    """Scores the first option highest on the first `n` items, the second on the others."""

    n: int
    name: str = "log"

    def read(self, opened: Any, items: Iterable[Item]) -> Iterator[Scores]:
        for item in items:
            best = 0 if int(item.id) < self.n else 1
            yield Scores(item.id, tuple(float(index == best) for index in range(len(item.options))))


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store"):
        yield


def test_a_suite_read_in_two_ways():
    """The seven at 7 and 9 of ten right: averages 70 and 90, the table with intervals and chance, gpt4all.tsv."""
    read = tuple(measure(None, Questions(name), reader) for name in GPT4ALL for reader in (First(7), First(9, "head")))
    made = make(scoreboard(read))
    board = read_figures(made, boards.Scoreboard)
    assert board.averages["GPT4All"] == pytest.approx({"log": 70, "head": 90})
    assert board.benchmarks == tuple(GPT4ALL) and board.arms == ("log", "head")
    lines = [line.split() for line in (made.path / "table.txt").read_text().splitlines()]
    assert ["boolq", "70.0", "±24.8", "90.0", "±19.3", "50.0", "10"] in lines
    assert ["GPT4All", "70.0", "90.0"] in lines
    rows = (made.path / "baselines" / "gpt4all.tsv").read_text().splitlines()
    assert rows[1] == "log" + "\t70.0" * 8 and rows[2] == "dph" + "\t90.0" * 8
    assert made.record["counts"] == {"measurements": 14, "arms": 2}


def test_a_suite_with_a_hole_has_no_average_and_no_file():
    read = tuple(measure(None, Questions(name), First(7)) for name in list(GPT4ALL)[1:])
    made = make(scoreboard((*read, measure(None, Questions("race_high"), First(3)))))
    text = (made.path / "table.txt").read_text()
    assert "GPT4All" not in text and "RACE" not in text and "race_high" in text
    assert not (made.path / "baselines").exists()


def test_glue_without_labels_becomes_what_the_server_takes():
    """All eleven tasks: a file each, the archive of them, and no metric claimed; ten of eleven: no archive."""

    def read(task: str) -> Any:
        return measure(None, Questions(f"glue_{task}", TASKS[task].metrics, False, len(TASKS[task].answers)), First(10))

    every = [read(task) for task in TASKS]
    made = make(scoreboard(tuple(every)))
    folder = made.path / "baselines"
    assert len(list((folder / "glue_log").glob("*.tsv"))) == 11
    assert (folder / "glue_log" / "RTE.tsv").read_text().splitlines()[:2] == ["index\tprediction", "0\tentailment"]
    assert len(zipfile.ZipFile(folder / "glue_log.zip").namelist()) == 11
    assert ["glue_rte", "no", "labels", "10"] in [x.split() for x in (made.path / "table.txt").read_text().splitlines()]
    part = make(scoreboard(tuple(every[1:])))
    assert not (part.path / "baselines" / "glue_log.zip").exists()


def test_policies_are_called_by_their_labels_where_these_differ():
    def board(*names: str) -> boards.Scoreboard:
        return boards.Scoreboard(tuple(Measured("copa", "log", name, name, Summary(1)) for name in names))

    assert boards.headings(board("sft-0123abcd", "dpo-4567abcd", "")) == ["sft\nlog", "dpo\nlog", "log"]
    assert boards.headings(board("sft-0123abcd", "sft-4567abcd")) == ["sft-0123abcd\nlog", "sft-4567abcd\nlog"]


def test_one_arm_twice_on_one_benchmark_is_refused():
    two = (measure(None, Questions(), First(3)), measure(None, Questions(), First(4)))
    with pytest.raises(UserError, match="are both boolq of log; one of them"):
        make(scoreboard(two))


def test_many_arms_stand_below_each_other():
    """Six readings of one benchmark: a row each, and the benchmark, chance and n as columns' ends."""
    report = scoreboard(tuple(measure(None, Questions(), First(n, f"first-{n}")) for n in range(4, 10)))
    make(report)
    table = (report.path / "table.txt").read_text().splitlines()
    assert table[0].split() == ["benchmark", "boolq"]
    assert [line.split()[0] for line in table[2:8]] == [f"first-{n}" for n in range(4, 10)]
    assert [line.split() for line in table[8:10]] == [["chance", "50.0"], ["n", "10"]]
