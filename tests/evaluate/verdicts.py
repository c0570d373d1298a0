"""Verdicts for the tests of length control and pairing: made by hand, simulated, and AlpacaEval's published ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trueline.evaluate.length import Verdicts
from trueline.evaluate.logistic import sigmoid
from trueline.evaluate.statistics import from_alpaca_eval


def verdicts(ps: Sequence[float | None], ahead: Sequence[int], prompts: Sequence[str] = ()) -> Verdicts:
    """One prompt per pair unless they are named."""
    return Verdicts(tuple(ps), tuple(ahead), tuple(prompts) or tuple(f"p{i}" for i in range(len(ps))))


def mirrored(of: Verdicts) -> Verdicts:
    """The same pairs with the sides changed."""
    return Verdicts(tuple(None if p is None else 1 - p for p in of.ps), tuple(-gap for gap in of.ahead), of.prompts)


def simulated(n: int, thetas: Sequence[float], phi: float = 1.6, longer: float = 0.5, seed: int = 0) -> list[Verdicts]:
    """Systems of strength theta on n prompts of their own difficulty, judged by coins: tanh(d / sd) counts phi.

    longer: mean of d in sd. The true rate at equal length is the mean of sigma(theta + gamma).
    """
    generator = np.random.default_rng(seed)
    gamma = generator.normal(size=n)
    out = []
    for theta in thetas:
        d = np.round(generator.normal(longer, 1, size=n) * 400).astype(int)
        p = sigmoid(theta + phi * np.tanh(d / d.std(ddof=1)) + gamma)
        out.append(verdicts((generator.random(n) < p).astype(float).tolist(), d.tolist()))
    return out


def published(folder: Path) -> tuple[dict[str, Verdicts], dict[str, dict[str, str]]]:
    """(verdicts, leaderboard row) of the systems in `folder`, prompts by their instruction."""

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (folder / name).read_text().splitlines()]

    reference = {row["instruction"]: row["output"] for row in rows("reference_gpt4_1106_preview.jsonl")}
    board = {row[""]: row for row in rows("leaderboard_v2_6_systems.jsonl")}
    annotations = rows("gpt4turbo_weighted_prefs_6_systems.jsonl")
    fights = {}
    for system in board:
        mine = [row for row in annotations if row["generator_2"] == system]
        fights[system] = verdicts(
            [from_alpaca_eval(row["preference"]) for row in mine],
            [len(row["output_2"]) - len(reference[row["instruction"]]) for row in mine],
            [row["instruction"] for row in mine],
        )
    return fights, board
