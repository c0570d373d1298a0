"""Leaderboards: AlpacaEval's figures and layout, one baseline for all, ranks with what they cannot say beside them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from tests.evaluate.study import Reader, pretend, questions, written
from trueline.errors import UserError
from trueline.evaluate.duel import duel
from trueline.evaluate.leaderboard import board_of, by_system, figures, leaderboard
from trueline.feedback.compare import Compare
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Preference, Prompt, write_jsonl
from trueline.store import File, Groups, Report, using

Told = tuple[tuple[str, str, str, str, float | None], ...]


@stage(Groups, name="told-verdicts")
def told(work: Work, rows: Told) -> None:
    """(question, first author, second author, the second's text, p that the first wins); the first says "okay"."""
    groups = [
        Group(Prompt.of(q), (Completion("okay", a), Completion(text, b)), preferences=(Preference(0, 1, p, "gpt"),))
        for q, a, b, text, p in rows
    ]
    write_jsonl(work.dir / "groups.jsonl", groups)


def verdicts(system: str, *ps: float | None, base: str = "base") -> Told:
    """One question each; `ps` are of the system, which answers with one letter more each time."""
    return tuple((f"{i}?", base, system, "x" * (i + 1), None if p is None else 1 - p) for i, p in enumerate(ps))


def rows_of(report: Report) -> dict[str, dict[str, str]]:
    with open(report.path / "leaderboard.csv", newline="") as stream:
        return {row[""]: row for row in csv.DictReader(stream)}


def test_the_layout_is_alpaca_evals(tmp_path):
    """Verdicts 0, 1, a tie, null: 50 % with se 28.8675 (sd 0.5 over the root of 3), a win, a loss, a draw, n = 3."""
    board = leaderboard((told(verdicts("mine", 0.0, 1.0, 0.5, None)),))
    make(board, store=tmp_path)
    with using(tmp_path):
        rows = rows_of(board)
        assert list(rows["mine"]) == [
            "", "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate",
            "mode", "avg_length", "length_controlled_winrate", "lc_standard_error",
        ]  # fmt: skip
        mine = {name: float(value) for name, value in rows["mine"].items() if name not in ("", "mode")}
        assert (mine["win_rate"], mine["discrete_win_rate"], mine["avg_length"]) == (50.0, 50.0, 2)
        assert mine["standard_error"] == pytest.approx(28.8675, abs=1e-4)
        assert (mine["n_wins"], mine["n_wins_base"], mine["n_draws"], mine["n_total"]) == (1, 1, 1, 3)
        base = rows["base"]
        assert (base["win_rate"], base["standard_error"], base["length_controlled_winrate"]) == ("50.0", "0.0", "50.0")
        assert (base["n_draws"], base["n_wins"], base["avg_length"]) == ("4", "0", "4")
        assert board.record["counts"]["abstained"] == 1


def test_who_is_the_baseline():
    """The author that stands in every pair; of two, the first output's, unless it is named. Others are refused."""
    one = [Group(Prompt.of("a?"), (Completion("x", "b"), Completion("y", "m")), preferences=(Preference(0, 1, 0.25),))]
    other = [Group(Prompt.of("a?"), (Completion("z", "k"), Completion("x", "b")), preferences=(Preference(0, 1, 1.0),))]
    pairs, base = by_system([*one, *other])
    assert base == "b" and sorted(pairs) == ["k", "m"]
    assert [c.text for c in pairs["m"][0].completions] == ["y", "x"], "the system's own answer first"
    assert by_system(one)[1] == "b"
    assert by_system(one, "m")[0].keys() == {"b"}
    with pytest.raises(UserError, match="a pair of b and m; a system and the baseline k"):
        by_system(one, "k")
    with pytest.raises(UserError, match="a judged pair"):
        by_system([Group(Prompt.of("a?"), (Completion("x", "b"), Completion("y", "m")))])


def test_duels_and_files_stand_beside_each_other(tmp_path):
    """Two duels of ours against one baseline: paired by prompt, difficulty from two others only where there are two."""
    asked, policy = questions(40), pretend()
    base, critic = written(policy, asked, 0.5, label="base"), Compare(Reader())
    sides = [written(policy, asked, quality, label=name) for name, quality in (("a", 0.8), ("b", 0.6), ("c", 0.3))]
    fights = tuple(duel(side, base, critic, label=f"{side.label}-vs-base") for side in sides)
    three, two = leaderboard(duels=fights), leaderboard(duels=fights[:2])
    make(three, two, store=tmp_path)
    with using(tmp_path):
        board = board_of(three)
        assert [entry.name for entry in board.entries] == [side.name for side in sides]
        assert board.baseline == base.name
        assert {entry.length.others for entry in board.entries} == {2}
        assert {entry.length.others for entry in board_of(two).entries} == {0}
        assert len(board.paired) == 3 and board.paired[1].win.mean > 0.2
        text = (three.path / "table.txt").read_text()
        assert max(map(len, text.splitlines())) <= 100
        assert "Which neighbours can be told apart" in text
        alone = json.loads((fights[0].path / "report.json").read_bytes())
        assert alone["raw"]["rate"]["mean"] == pytest.approx(board.entries[0].win.rate.mean)


def test_what_cannot_be_ranked(tmp_path):
    mine = told(verdicts("mine", 1.0, 0.0))
    elsewhere = told(verdicts("other", 1.0, 0.0, base="another"))
    wrong = {
        "it has no systems": leaderboard(),
        "mine came before": leaderboard((mine, told(verdicts("mine", 0.0, 0.0, 1.0)))),
        "the systems met another and base": leaderboard((mine, elsewhere)),
    }
    for message, board in wrong.items():
        with pytest.raises(UserError, match=message):
            make(board, store=tmp_path)


def test_a_published_leaderboard_to_compare_with(tmp_path):
    """CSV or JSON rows, cells without a number left out; a row without a name is refused."""
    (tmp_path / "board.csv").write_text(",win_rate,mode,lc_standard_error\nmine,49.0,dev,\n")
    (tmp_path / "board.json").write_text('[{"name": "mine", "win_rate": "49"}]')
    assert (
        figures(File(tmp_path / "board.csv")) == figures(File(tmp_path / "board.json")) == {"mine": {"win_rate": 49.0}}
    )
    (tmp_path / "nameless.json").write_text('[{"win_rate": 1}]')
    with pytest.raises(UserError, match="a row has the columns win_rate"):
        figures(File(tmp_path / "nameless.json"))


def test_alpaca_evals_own_procedure_beside_ours(tmp_path):
    """With difficulty for every instruction their rate stands in the CSV; a list that is too short is refused."""
    ps = np.random.default_rng(0).random(40)
    mine = told(verdicts("mine", *ps.tolist()))
    columns = ",0\n"
    (tmp_path / "gamma.csv").write_text(columns + "".join(f"{i},{(i % 7) / 7}\n" for i in range(40)))
    (tmp_path / "short.csv").write_text(columns + "0,1.0\n")
    board = leaderboard((mine,), difficulty=File(tmp_path / "gamma.csv"))
    make(board, store=tmp_path / "store")
    with using(tmp_path / "store"):
        (entry,) = board_of(board).entries
        assert 0.2 < entry.as_published.rate < 0.8
        assert float(rows_of(board)["mine"]["length_controlled_winrate"]) == 100 * entry.as_published.rate
        assert "as AE" in (board.path / "table.txt").read_text()
    with pytest.raises(UserError, match='its 1 positions do not reach "1\\?"'):
        make(leaderboard((mine,), difficulty=File(tmp_path / "short.csv")), store=tmp_path / "store")
