"""AlpacaEval's own length-controlled win rate (`length_controlled_v1`), from its own inputs.

It differs from ours (`length`) in three inputs that its maintainers keep beside their code: gamma is a fixed column,
one number for each of their 805 instructions; the fit is held down by verdicts on two *gamed* baselines, the baseline
asked to be verbose and to be concise, which say how length alone moves the judge; the penalty is L1, its strength
chosen by five folds. Both columns stand in `df_gamed.csv`, gamma alone in `instruction_difficulty.csv`, of the data set
tatsu-lab/alpaca_eval. With these files this gives the published numbers; without them it cannot, and is not used.

    inputs = gamed(File("df_gamed.csv"))
    as_published(ps, ahead, positions, inputs).rate

Theirs are (x1, x2, x3): x1 = tanh of the *baseline's* characters less the system's, in sd; x2 = gamma; x3 = 1 for a row
of the system, 0 for one of a gamed baseline: those inform x1 and x2 only. They weigh 0.1 each.

Known and kept: gamma goes by position in the instruction list (a file that is shuffled or has gaps is put right by
`positions`, where theirs is silently wrong); `spread`, their `lc_standard_error`, is how much the predictions differ
between instructions, and no sampling error: do not test with it. Known and not kept: which row is in which fold.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trueline.errors import UserError
from trueline.evaluate.logistic import Floats, fit_l1_cv, sigmoid
from trueline.records import Record
from trueline.store import File

GAMED_WEIGHT = 0.2 / 2  # lambda over the number of gamed baselines
COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty")


@dataclass(frozen=True)
class Inputs:
    """gamma by position in the instruction list, and x1, gamma and verdict (0 to 1) of the gamed baselines' rows."""

    gamma: tuple[float, ...]
    rows: tuple[tuple[float, float, float], ...] = ()


class AsPublished(Record, frozen=True):
    """AlpacaEval's figures, as shares: the rate, the spread of its predictions, and the weights (x1, x2, x3)."""

    rate: float
    spread: float | None
    weights: tuple[float, float, float]
    c: float = 0.0


def as_published(
    ps: Sequence[float | None], ahead: Sequence[int], positions: Sequence[int], inputs: Inputs
) -> AsPublished:
    """Their rate from verdicts, the system's characters less the baseline's, and each instruction's place in the list.

    A system against itself (no difference anywhere, all ties) is one half by definition.
    """
    d_N = -np.asarray(ahead, dtype=np.float64)
    sd = float(d_N.std(ddof=1)) if len(d_N) > 1 else 0.0
    if sd == 0 and all(p in (None, 0.5) for p in ps):
        return AsPublished(0.5, 0.0, (0.0, 0.0, 0.0))
    gamma_N = np.asarray([inputs.gamma[at] for at in positions])
    x1_N = np.tanh(d_N / sd) if sd > 0 else np.zeros(len(d_N))
    known_N = np.asarray([p is not None for p in ps])
    own = np.stack([x1_N, gamma_N, np.ones(len(d_N))], axis=1)[known_N]
    y_N = np.asarray([p for p in ps if p is not None], dtype=np.float64)
    held = np.asarray(inputs.rows, dtype=np.float64).reshape(-1, 3)
    x_NK = np.concatenate([np.stack([held[:, 0], held[:, 1], np.zeros(len(held))], axis=1), own])
    weights_N = np.concatenate([np.full(len(held), GAMED_WEIGHT), np.ones(len(own))])
    coefs_K, c = fit_l1_cv(x_NK, np.concatenate([held[:, 2], y_N]), weights_N)
    p_N: Floats = sigmoid(coefs_K[2] + coefs_K[1] * gamma_N)
    n = len(p_N)
    spread = float(p_N.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return AsPublished(float(p_N.mean()), spread, (float(coefs_K[0]), float(coefs_K[1]), float(coefs_K[2])), c)


def predicted(weights: tuple[float, float, float], baseline: tuple[float, float, float], inputs: Inputs) -> float:
    """The rate of one system against another from their published weights, no verdicts needed (`predict_winrate`).

    >>> predicted((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), Inputs((1.0, -1.0)))
    0.5
    """
    psi, theta = weights[1] - baseline[1], weights[2] - baseline[2]
    return float(sigmoid(theta + psi * np.asarray(inputs.gamma)).mean())


def extreme(raw: float, controlled: float) -> bool:
    """Whether taking length out moved a rate further than AlpacaEval believes without a warning (shares, 0 to 1).

    By a quarter of the way to 0 or to 1, and by at least ten points.

    >>> extreme(0.2, 0.09), extreme(0.2, 0.11), extreme(0.5, 0.63), extreme(0.0374, 0.1219)
    (True, False, True, False)
    """
    return controlled < min(raw * 0.75, raw - 0.1) or controlled > max(raw + (1 - raw) / 4, raw + 0.1)


def gamed(file: File) -> Inputs:
    """`df_gamed.csv`: the gamed baselines' index, preference (0 to 1), std_delta_len and instruction_difficulty."""
    gamma: dict[int, float] = {}
    rows = []
    for where, row in _table(file, COLUMNS):
        at, gamma_x = int(_number(where, row, "index")), _number(where, row, "instruction_difficulty")
        gamma.setdefault(at, gamma_x)
        if row["preference"].strip().lower() in ("", "nan"):
            continue
        y = _number(where, row, "preference")
        if not 0 <= y <= 1:
            raise UserError(where, f"preference is {y:g}", "a number from 0 to 1, or nothing")
        rows.append((float(np.tanh(_number(where, row, "std_delta_len"))), gamma_x, y))
    return Inputs(_in_order(file, gamma), tuple(rows))


def difficulty(file: File) -> Inputs:
    """`instruction_difficulty.csv`: position and gamma. Without gamed rows this is `length_controlled_noreg`."""
    gamma = {}
    for where, row in _table(file, ()):
        position, value, *_ = row
        gamma[int(_number(where, row, position))] = _number(where, row, value)
    return Inputs(_in_order(file, gamma))


def _table(file: File, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    path = Path(file)
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            read = csv.DictReader(stream)
            missing = [name for name in columns if name not in (read.fieldnames or ())]
            if missing or len(read.fieldnames or ()) < 2:
                got = f"it has the columns {', '.join(read.fieldnames or ()) or 'none'}"
                raise UserError(str(path), got, f"columns {', '.join(columns) or 'position, difficulty'}")
            rows = [(f"{path} row {number}", row) for number, row in enumerate(read, 2)]
    except OSError as error:
        raise UserError(str(path), f"it cannot be read ({error.strerror})", "a table (CSV)") from None
    if not rows:
        raise UserError(str(path), "it has no rows", "at least one")
    return rows


def _number(where: str, row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        raise UserError(where, f"{column or 'the first column'} is {row[column]!r}", "a number") from None
    if not np.isfinite(value):
        raise UserError(where, f"{column} is {row[column]}", "a finite number")
    return value


def _in_order(file: File, gamma: dict[int, float]) -> tuple[float, ...]:
    if sorted(gamma) != list(range(len(gamma))):
        got = f"its positions run from {min(gamma)} to {max(gamma)} with {len(gamma)} in all"
        raise UserError(str(Path(file)), got, "every position from 0 on")
    return tuple(gamma[at] for at in range(len(gamma)))
