"""Rank systems by files of AlpacaEval annotations, and say which of them can really be told apart.

    trueline make leaderboard --annotations a/annotations.json b/annotations.json --published leaderboard.csv

Nothing is asked of any model: the verdicts are in the files. What the figures are is said in docs/duel.md.
"""

from __future__ import annotations

from pathlib import Path

from trueline.evaluate.leaderboard import leaderboard as ranked
from trueline.prompts.alpaca_eval import annotated
from trueline.store import File, Report


def leaderboard(
    *,
    annotations: tuple[Path, ...],
    reference: Path | None = None,
    baseline: str = "",
    slope: float | None = None,
    slope_sd: float = 0.27,
    gamed: Path | None = None,
    difficulty: Path | None = None,
    published: Path | None = None,
) -> Report:
    """Rank systems by their annotations against one baseline.

    Args:
        annotations: files of judged pairs, one system or several in each.
        reference: the baseline's outputs, for files without output_1; they say the order of the instructions, too.
        baseline: its name, where it is not the author of the first outputs.
        slope: how much the judge favours length (phi), where that is known: 1.6 is AlpacaEval's GPT-4 turbo.
        slope_sd: how well that is known.
        gamed: AlpacaEval's df_gamed.csv: its own length-controlled rates stand beside ours.
        difficulty: AlpacaEval's instruction_difficulty.csv: the same without its gamed baselines.
        published: a leaderboard (CSV or JSON) to compare with.
    """
    outputs = File(reference) if reference else None
    tables = [File(path) if path else None for path in (gamed, difficulty, reference if gamed or difficulty else None)]
    files = tuple(annotated(File(path), outputs) for path in annotations)
    given = (baseline, slope, slope_sd, *tables, File(published) if published else None)
    return ranked(files, (), *given)
