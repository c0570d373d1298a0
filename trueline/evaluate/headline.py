"""The answers a reader wants at a glance: which method won, is it real, is it just longer, what did it cost.

Each is one plain sentence or two, and each claim hangs on an interval: a difference whose interval holds zero is said
to be none that these prompts can show. Pure functions of a `Result`.
"""

from __future__ import annotations

from trueline.evaluate.charts import number
from trueline.evaluate.results import ArmResult, Result
from trueline.evaluate.statistics import Interval


def headline(result: Result) -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs; the first is the verdict itself."""
    best = winner(result)
    if best is None:
        return (
            ("Verdict", f"Nothing was compared: no score stands on every arm and no duel names {result.baseline}."),
        )
    base = result.arm(result.baseline)
    said = [("Verdict", verdict(best, result)), ("Is it real?", evidence(best, base, result))]
    if best.name != base.name:
        said.append(("Is it just longer?", length(best, base)))
    said.append(("What did it cost?", cost(best, base)))
    return tuple(said)


def winner(result: Result) -> ArmResult | None:
    """The arm with the highest score; without scores, the highest win rate (the baseline's is one half)."""
    if result.score_by:
        known = [arm for arm in result.arms if arm.answers.score.mean is not None]
        return max(known, key=lambda arm: arm.answers.score.mean or 0.0, default=None)
    rates = {arm.name: arm.win.rate.mean for arm in result.arms if arm.win and arm.win.rate.mean is not None}
    if not rates:
        return None
    rates.setdefault(result.baseline, 0.5)
    return result.arm(max(rates, key=lambda name: rates[name]))


def margin(arm: ArmResult, result: Result) -> Interval | None:
    """What decides whether an arm differs from the baseline: the score gap, else the win rate less one half."""
    if result.score_by:
        return arm.gap
    return arm.win.rate.shifted(-0.5) if arm.win else None


def verdict(best: ArmResult, result: Result) -> str:
    """One sentence: who won, or that nobody did."""
    if best.name == result.baseline:
        others = [arm for arm in result.arms if arm.name != best.name]
        close = [arm.name for arm in others if (gap := margin(arm, result)) is not None and not gap.excludes_zero]
        if not others:
            return f"{best.name} stands alone."
        if close:
            return f"Nothing beats {best.name}; {listed(close)} cannot be told apart from it."
        return f"{best.name}, the baseline, is the best of {len(result.arms)}."
    gap = margin(best, result)
    if gap is None or not gap.excludes_zero:
        return f"{best.name} and {result.baseline} cannot be told apart."
    return f"{best.name} beats {result.baseline}."


def evidence(best: ArmResult, base: ArmResult, result: Result) -> str:
    """By how much, with which interval, over how many prompts."""
    said = []
    if best.name == base.name:
        if best.answers.score.mean is not None:
            said.append(f"It scores {spread(best.answers.score)} by {result.score_by}.")
    elif best.gap is not None and best.gap.mean is not None:
        said.append(
            f"{result.score_by} scores it {number(best.answers.score.mean)} against {number(base.answers.score.mean)}: "
            f"a difference of {signed(best.gap)} on the same {best.gap.n} prompts. "
            + ("The interval leaves out zero." if best.gap.excludes_zero else "The interval holds zero.")
        )
    if best.win is not None and best.win.rate.mean is not None:
        flips = best.win.flip_rate
        turned = f"; {100 * flips:.0f} % of verdicts turned with the order shown" if flips is not None else ""
        said.append(f"It wins {percent(best.win.rate)} of {best.win.pairs} pairs against {base.name}{turned}.")
    return " ".join(said) or "No interval is known."


def length(best: ArmResult, base: ArmResult) -> str:
    """How much longer the answers are, and what is left of the win at equal length."""
    mine, other = best.answers.characters.mean or 0.0, base.answers.characters.mean or 0.0
    change = f" ({100 * (mine / other - 1):+.0f} %)".replace("-", "−") if other else ""
    said = f"Its answers are {mine:.0f} characters long on average against {other:.0f}{change}."
    adjusted = best.length.adjusted if best.length else None
    if adjusted is None or adjusted.mean is None:
        return said
    left = adjusted.shifted(-0.5)
    said += f" At equal length it would win {percent(adjusted)} of pairs"
    if left.excludes_zero:
        return said + (": length does not explain the win." if adjusted.mean > 0.5 else ": length carried it.")
    won = best.win is not None and best.win.rate.shifted(-0.5).excludes_zero
    return said + (": length may explain the win." if won else ".")


def cost(best: ArmResult, base: ArmResult) -> str:
    """Feedback, training tokens and time of the winner's lineage, beside the baseline's."""
    parts = []
    for value, was, unit in (
        (best.cost.feedback, base.cost.feedback, "feedback calls"),
        (best.cost.train_tokens, base.cost.train_tokens, "training tokens"),
    ):
        if value:
            beside = f" ({base.name}: {number(was)})" if best.name != base.name else ""
            parts.append(f"{number(value, 4)} {unit}{beside}")
    if best.cost.seconds:
        beside = f" ({base.name}: {clock(base.cost.seconds)})" if best.name != base.name else ""
        parts.append(f"{clock(best.cost.seconds)} of computing{beside}")
    return f"{best.name} took {listed(parts)}." if parts else "Nothing that was recorded."


def percent(rate: Interval) -> str:
    """'68 % (62–74)'."""
    if rate.mean is None or rate.low is None or rate.high is None:
        return "–"
    return f"{100 * rate.mean:.0f} % ({100 * rate.low:.0f}–{100 * rate.high:.0f})"


def spread(value: Interval) -> str:
    """'0.71 (0.68 to 0.74)'."""
    if value.mean is None:
        return "–"
    return f"{number(value.mean)} ({number(value.low)} to {number(value.high)})"


def signed(gap: Interval) -> str:
    """'+0.16 (+0.12 to +0.2)'."""
    if gap.mean is None:
        return "–"
    return f"{plus(gap.mean)} ({plus(gap.low)} to {plus(gap.high)})"


def plus(value: float | None) -> str:
    """A number with its sign."""
    return ("+" if value is not None and value > 0 else "") + number(value)


def clock(seconds: float) -> str:
    """'48 s', '3 min 20 s', '2 h 5 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def listed(words: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
