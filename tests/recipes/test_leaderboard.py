"""The command line door to AlpacaEval's files: the published table comes out of the published annotations."""

from __future__ import annotations

import csv

import pytest

from trueline.cli import main


def test_the_published_leaderboard_comes_out(shared_data, tmp_path, capsys, monkeypatch):
    """Six systems: win rate, standard error, counts and discrete rate are the published ones to 1e-6."""
    folder = shared_data / "alpaca_eval"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    monkeypatch.chdir(tmp_path)
    words = ["make", "leaderboard", "--store", str(tmp_path / "store")]
    words += ["--annotations", str(folder / "gpt4turbo_weighted_prefs_6_systems.jsonl")]
    words += ["--reference", str(folder / "reference_gpt4_1106_preview.jsonl")]
    words += ["--published", str(folder / "leaderboard_v2_6_systems.jsonl"), "--slope", "1.6"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Against gpt4_1106_preview" in said
    assert "claude-2 − gpt-3.5-turbo-1106" in said
    (path,) = (tmp_path / "store" / "report").glob("leaderboard-*/leaderboard.csv")
    with open(path, newline="") as stream:
        rows = {row[""]: row for row in csv.DictReader(stream)}
    assert len(rows) == 7 and rows["gpt4_1106_preview"]["win_rate"] == "50.0"
    alpaca = {name: float(value) for name, value in rows["alpaca-7b"].items() if name not in ("", "mode")}
    assert alpaca["win_rate"] == pytest.approx(2.591450540, abs=1e-6)
    assert alpaca["standard_error"] == pytest.approx(0.487085538, abs=1e-6)
    assert alpaca["discrete_win_rate"] == pytest.approx(2.298136646, abs=1e-6)
    counts = [alpaca[name] for name in ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length")]
    assert counts == [17, 785, 3, 805, 396]
    assert alpaca["length_controlled_winrate"] == pytest.approx(5.875, abs=0.4)
