"""The answers a reader wants at a glance: which method won, is it real, is it just longer, what did it cost.

Each is one plain sentence or two, and each claim hangs on an interval: a difference whose interval holds zero is said
to be none that these prompts can show. Pure functions of a `Result`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from trueline.evaluate.charts import number
from trueline.evaluate.results import Answer, ArmResult, Cost, Result
from trueline.evaluate.statistics import Interval


def headline(result: Result) -> tuple[Answer, ...]:
    """The verdict first, then what stands behind it."""
    best = winner(result)
    if best is None:
        text = f"No score stands on every arm, and no duel names {result.baseline}."
        return (Answer("Verdict", "Nothing was compared.", text),)
    base = result.arm(result.baseline)
    close = [name for name in result.close if name != result.baseline]
    rivals = f"{listed(close)} cannot be told apart from {best.name} on these prompts." if close else ""
    said = [Answer("Verdict", verdict(best, result), rivals), evidence(best, base, result)]
    if best.name != base.name:
        said.append(length(best, base))
    said.append(cost(best, base))
    return tuple(said)


def winner(result: Result) -> ArmResult | None:
    """The best arm by the strongest evidence there is: score, else win rate, else accuracy on held-out pairs."""
    if result.score_by:
        known = [arm for arm in result.arms if arm.answers.score.mean is not None]
        return max(known, key=lambda arm: arm.answers.score.mean or 0.0, default=None)
    rates = {arm.name: rate.mean for arm in result.arms if (rate := rate_of(arm)) and rate.mean is not None}
    if not rates:
        return None
    rates.setdefault(result.baseline, 0.5)
    return result.arm(max(rates, key=lambda name: rates[name]))


def rate_of(arm: ArmResult) -> Interval | None:
    """The share that is one half where an arm has nothing over the baseline: its win rate, else its pair accuracy."""
    if arm.win is not None:
        return arm.win.rate
    return arm.pairs.implicit if arm.pairs is not None else None


def margin(arm: ArmResult, result: Result) -> Interval | None:
    """What decides whether an arm differs from the baseline: the score gap, else how far its rate is from one half."""
    if result.score_by:
        return arm.gap
    rate = rate_of(arm)
    return rate.shifted(-0.5) if rate is not None else None


def verdict(best: ArmResult, result: Result) -> str:
    """One sentence: who won, or that nobody did."""
    by_pairs = not result.score_by and best.win is None
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
    return f"{best.name} learned what was preferred." if by_pairs else f"{best.name} beats {result.baseline}."


def evidence(best: ArmResult, base: ArmResult, result: Result) -> Answer:
    """By how much, with which interval, over how many prompts."""
    score, other, gap, win = best.answers.score, base.answers.score, best.gap, best.win
    said, figure = [], ""
    if best.name == base.name and score.mean is not None:
        figure = number(score.mean)
        said.append(f"Mean {result.score_by} score, 95% interval {bounds(score)} over {score.n} prompts.")
    elif gap is not None and gap.mean is not None:
        figure = plus(gap.mean, places(gap))
        said.append(
            f"Mean {result.score_by} score {number(score.mean)} against {number(other.mean)}: the difference has a 95% "
            f"interval of {bounds(gap, plus)} on the same {gap.n} prompts"
            + (", zero lies outside." if gap.excludes_zero else ", zero lies inside.")
        )
    if win is not None and win.rate.mean is not None:
        figure = figure or f"{100 * win.rate.mean:.0f}%"
        flips = win.flip_rate
        turned = f"; {100 * flips:.0f}% of verdicts turned with the order shown" if flips is not None else ""
        said.append(f"It wins {percent(win.rate)} of {win.pairs} pairs against {base.name}{turned}.")
    if best.pairs is not None and best.pairs.implicit.mean is not None:
        figure = figure or f"{100 * best.pairs.implicit.mean:.0f}%"
        said.append(
            f"On {best.pairs.pairs} held-out pairs its implicit reward prefers the preferred answer in "
            f"{percent(best.pairs.implicit)}; chance is 50%, the longer answer gives {percent(best.pairs.longer)}."
        )
    return Answer("Is it real?", figure, " ".join(said) or "No interval is known.")


def length(best: ArmResult, base: ArmResult) -> Answer:
    """How much longer the answers are, and what is left of the win at equal length."""
    mine, other = best.answers.characters.mean or 0.0, base.answers.characters.mean or 0.0
    figure = f"{100 * (mine / other - 1):+.0f}% length".replace("-", "−") if other else ""
    said = f"Its answers are {mine:.0f} characters long on average against {other:.0f}."
    adjusted = best.length.adjusted if best.length else None
    if adjusted is None or adjusted.mean is None:
        return Answer("Is it just longer?", figure, said)
    left = adjusted.shifted(-0.5)
    said += f" At equal length it would win {percent(adjusted)} of pairs"
    if best.length is not None and best.length.extrapolated:
        said += f", which is a guess: it is longer in {100 * (best.length.longer or 0.0):.0f}% of pairs."
    elif left.excludes_zero:
        said += ": length does not explain the win." if adjusted.mean > 0.5 else ": length carried it."
    else:
        won = best.win is not None and best.win.rate.shifted(-0.5).excludes_zero
        said += ": length may explain the win." if won else "."
    return Answer("Is it just longer?", figure, said)


def cost(best: ArmResult, base: ArmResult) -> Answer:
    """Oracle calls, money, training tokens and time of the winner's lineage, beside the baseline's."""
    mine, other = best.cost, base.cost
    if not spent(mine):
        return Answer("What did it cost?", "", "Nothing that was recorded.")
    figure = f"{short(mine.oracle)} calls" if mine.oracle else f"{short(mine.train_tokens)} tokens"
    if mine.calls:
        figure = dollars(mine)
    said = f"{best.name} took {listed(spent(mine))}."
    if best.name != base.name:
        said += f" {base.name} took {listed(spent(other)) or 'nothing that was recorded'}."
    return Answer(
        "What did it cost?", figure if mine.oracle or mine.calls or mine.train_tokens else clock(mine.seconds), said
    )


def spent(cost: Cost) -> list[str]:
    """What a lineage took, in words; nothing for what is none."""
    said = [f"{short(cost.teacher)} teacher calls"] if cost.teacher else []
    said += [f"{short(cost.feedback)} feedback calls"] if cost.feedback else []
    said += [f"{cost.money} for {short(cost.calls)} requests"] if cost.calls else []
    said += [f"{short(cost.train_tokens)} training tokens"] if cost.train_tokens else []
    return [*said, f"{clock(cost.seconds)} of computing"] if cost.seconds >= 0.05 else said


def dollars(cost: Cost) -> str:
    """Money in a few characters: a dash where nobody was paid, ? where nobody knows, ≥ where some of it is not known.

    >>> dollars(Cost(calls=9, microusd=1_234_567)), dollars(Cost(calls=9, microusd=40)), dollars(Cost())
    ('$1.23', '<$0.01', '–')
    >>> dollars(Cost(calls=9, unpriced_calls=9)), dollars(Cost(calls=9, microusd=500_000, unpriced_calls=1))
    ('?', '≥$0.50')
    """
    if not cost.calls:
        return "–"
    if not cost.microusd:
        return "?" if cost.unpriced_calls else "$0"
    known = f"${cost.microusd / 1e6:.2f}" if cost.microusd >= 5_000 else "<$0.01"
    return f"≥{known}" if cost.unpriced_calls else known


def percent(rate: Interval) -> str:
    """'68% (62 to 74)'."""
    if rate.mean is None or rate.low is None or rate.high is None:
        return "–"
    return f"{100 * rate.mean:.0f}% ({100 * rate.low:.0f} to {100 * rate.high:.0f})"


def places(value: Interval) -> int:
    """Decimal places that show half of the interval with two digits.

    >>> places(Interval(9, 0.5, None, 0.46, 0.54)), places(Interval(9, 50.0, None, 20.0, 80.0))
    (3, 0)
    """
    half = ((value.high or 0.0) - (value.low or 0.0)) / 2
    return min(4, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 2


def plain(value: float, digits: int) -> str:
    """A number with this many decimal places and a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def plus(value: float, digits: int) -> str:
    """The same with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def bounds(value: Interval, form: Callable[[float, int], str] = plain) -> str:
    """'0.68 to 0.74', both ends with the places that the interval deserves."""
    if value.low is None or value.high is None:
        return "–"
    digits = places(value)
    return f"{form(value.low, digits)} to {form(value.high, digits)}"


def clock(seconds: float) -> str:
    """'48 s', '3 min 20 s', '2 h 5 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short(value: float) -> str:
    """A count with a unit prefix: 1234 is '1.2k', 0 a dash.

    >>> short(0), short(999), short(1234), short(2_500_000)
    ('–', '999', '1.2k', '2.5M')
    """
    if not value:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"


def listed(words: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
