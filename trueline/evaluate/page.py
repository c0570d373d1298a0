"""The report page: one self-contained HTML file from a `Result`, the answers themselves and the training curves.

No framework and nothing from outside: style, script and charts stand in the file, which reads in light and dark, on
paper and on a telephone. All text of prompts, answers and critics passes jinja2's escaping, and the page's content
security policy names the one script it may run by its hash, so that an answer holding `<script>` stays an answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from trueline.evaluate import charts, graph
from trueline.evaluate.charts import Dot, number
from trueline.evaluate.headline import bounds, clock, dollars, listed, margin, places, plain, plus, short, winner
from trueline.evaluate.results import ArmResult, Result, Step
from trueline.evaluate.samples import Sample
from trueline.evaluate.sections import Section
from trueline.evaluate.statistics import LEVEL, RESAMPLES, SEED, Interval
from trueline.evaluate.templates import style, templates

Curves = dict[str, list[tuple[float, float]]]

# What a training log holds beside metrics: how the loop went, not what was learned.
BOOKKEEPING = {"step", "epoch", "lr", "grad_norm", "examples", "tokens", "trie_tokens", "sharing", "seconds"}
TITLES = {"loss": "Loss", "accuracy": "Preferred scored higher", "margin": "Margin of the chosen"}
MOST_CURVES = 4
FEW = 4  # trainings whose curves stand open; more are folded


@dataclass(frozen=True)
class Trained:
    """A policy with a training log: its artefact's id and label, its arm's colour, metric -> (step, value) pairs."""

    id: str
    label: str
    colour: int
    curves: Curves


@dataclass(frozen=True)
class Material:
    """What the page shows beside the numbers.

    scores, lengths: per arm name, of every prompt and of every answer. by_length: win rate of the arm `length_of`
    where its answer was shorter, alike, longer.
    """

    scores: Mapping[str, Sequence[float]]
    lengths: Mapping[str, Sequence[float]]
    samples: Sequence[Sample]
    prompts: int
    length_of: str = ""
    by_length: Sequence[tuple[str, Interval]] = ()
    trained: Sequence[Trained] = field(default_factory=tuple)


def render(result: Result, material: Material, below: Sequence[Section] = ()) -> str:
    """The whole page; `below` stands between the figures and the answers."""
    environment = templates()
    script = environment.get_template("report.js.jinja").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head, rows = method_table(result)
    return environment.get_template("report.html.jinja").render(
        result=result,
        style=style(environment),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        columns=head,
        rows=rows,
        charts=figures(result, material),
        few=FEW,
        curves=[{"id": t.id, "name": t.label, "charts": training_charts(t)} for t in material.trained],
        sections=below,
        samples=material.samples,
        filters=filters(result, material.samples),
        steps=[step_row(step, result.steps) for step in result.steps],
        gain=gain_strip(result),
        graph=graph.draw([box(step, result.steps) for step in result.steps]),
        **notes(result, material),
    )


def box(step: Step, steps: Sequence[Step]) -> graph.Box:
    """A step as a box of the drawing."""
    return graph.Box(short_id(step), label(step), step.kind, tuple(p["id"] for p in parents(step, steps)))


def short_id(step: Step) -> str:
    """Eight hex digits: what folders carry too."""
    return step.fingerprint[:8]


def label(step: Step) -> str:
    """The name without its digits."""
    return step.name.removesuffix("-" + short_id(step))


def parents(step: Step, steps: Sequence[Step]) -> list[dict[str, str]]:
    """Label and id of what a step was made from, as far as the report holds it."""
    known = {other.name: other for other in steps}
    return [{"id": short_id(known[p]), "label": label(known[p])} for p in step.parents if p in known]


def step_row(step: Step, steps: Sequence[Step]) -> dict[str, Any]:
    """One row of the lineage table."""
    counted = [f"{number(n, 7)} {name.replace('_', ' ')}" for name, n in step.counts.items() if n]
    return {
        "id": short_id(step),
        "label": label(step),
        "stage": step.stage,
        "made": str(step.record.get("made", ""))[:16].replace("T", " "),
        "parents": parents(step, steps),
        "counts": ", ".join(counted),
        "time": clock(step.seconds) if step.seconds is not None else "–",
        "record": json.dumps({**step.record, "counts": step.counts, "seconds": step.seconds}, indent=1, default=str),
    }


def method_table(result: Result) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Headings and rows; a column in which no arm has anything to say is left out."""
    base = result.baseline
    score_scale = _scale([arm.answers.score for arm in result.arms])
    win_scale = _scale([arm.win.rate for arm in result.arms if arm.win], 0.5)
    pair_scale = _scale([arm.pairs.implicit for arm in result.arms if arm.pairs], 0.5)
    every = [
        ("method", "", lambda arm: _cell(arm.name, arm.policy or arm.samples)),
        ("score", f"by {result.score_by}", lambda arm: _estimate(arm, arm.answers.score, score_scale)),
        ("gain", f"over {base}, same prompts", lambda arm: _gain(arm.gap)),
        ("wins", f"against {base}", lambda arm: _rate(arm, arm.win.rate if arm.win else None, win_scale)),
        ("at equal length", "", lambda arm: _rate(arm, arm.length.adjusted if arm.length else None, None)),
        (
            "held-out pairs",
            "implicit reward",
            lambda arm: _rate(arm, arm.pairs.implicit if arm.pairs else None, pair_scale),
        ),
        (
            "preference head",
            "held-out pairs",
            lambda arm: _rate(arm, arm.pairs.head if arm.pairs else None, pair_scale),
        ),
        ("length", "characters", lambda arm: _cell(f"{arm.answers.characters.mean:.0f}", _tokens(arm))),
        ("cut", "", lambda arm: _cell(f"{100 * arm.answers.cut:.0f}%")),
        ("KL", "nats per answer", lambda arm: _cell(number(arm.kl.mean, 2) if arm.kl else "–")),
        ("oracle", "calls", lambda arm: _cell(short(arm.cost.oracle), _asked(arm))),
        ("cost", "of answers over HTTP", lambda arm: _cell(dollars(arm.cost), _read(arm))),
        ("training", "tokens", lambda arm: _cell(short(arm.cost.train_tokens))),
        ("time", "", lambda arm: _cell(clock(arm.cost.seconds) if arm.cost.seconds else "–")),
    ]
    cells = {head: [make(arm) for arm in result.arms] for head, _, make in every}
    shown = [(head, unit) for head, unit, _ in every if any(cell["text"] != "–" for cell in cells[head])]
    rows = [{"colour": arm.colour, "cells": [cells[head][i] for head, _ in shown]} for i, arm in enumerate(result.arms)]
    return [{"head": head, "unit": unit} for head, unit in shown], rows


def _cell(text: str, note: str = "", strip: Any = "") -> dict[str, Any]:
    return {"text": text, "note": note, "strip": strip}


def _scale(values: Sequence[Interval], zero: float | None = None) -> tuple[float, float, float | None]:
    ends = [end for v in values if v.low is not None and v.high is not None for end in (v.low, v.high)]
    low, high = charts.padded([*ends, *([zero] if zero is not None else [])] or [0.0, 1.0])
    return low, high, zero


def _estimate(arm: ArmResult, value: Interval, scale: tuple[float, float, float | None]) -> dict[str, Any]:
    if value.mean is None or value.low is None or value.high is None:
        return _cell("–")
    dot = Dot("", arm.colour, value.mean, value.low, value.high, bounds(value))
    return _cell(plain(value.mean, places(value)), bounds(value), charts.strip(dot, *scale))


def _gain(gap: Interval | None) -> dict[str, Any]:
    if gap is None or gap.mean is None:
        return _cell("–")
    return _cell(plus(gap.mean, places(gap)), bounds(gap, plus))


def _rate(arm: ArmResult, rate: Interval | None, scale: tuple[float, float, float | None] | None) -> dict[str, Any]:
    if rate is None or rate.mean is None or rate.low is None or rate.high is None:
        return _cell("–")
    note = f"{100 * rate.low:.0f} to {100 * rate.high:.0f}"
    strip = charts.strip(Dot("", arm.colour, rate.mean, rate.low, rate.high, f"{note}%"), *scale) if scale else ""
    return _cell(f"{100 * rate.mean:.0f}%", note, strip)


def _tokens(arm: ArmResult) -> str:
    tokens = arm.answers.tokens.mean
    return f"{tokens:.0f} tokens" if tokens is not None else ""


def _asked(arm: ArmResult) -> str:
    c = arm.cost
    return f"{short(c.teacher)} taught" if c.teacher and c.feedback else ""


def _read(arm: ArmResult) -> str:
    c = arm.cost
    return f"{short(c.calls)} calls, {short(c.prompt_tokens)} + {short(c.completion_tokens)} tokens" if c.calls else ""


def gain_strip(result: Result) -> Markup:
    """The winner's difference from the baseline as a whisker beside the line of no difference."""
    best = winner(result)
    gap = margin(best, result) if best is not None and best.name != result.baseline else None
    if best is None or gap is None or gap.mean is None or gap.low is None or gap.high is None:
        return Markup("")
    low, high = charts.padded([gap.low, gap.high, 0.0], 0.12)
    dot = Dot("", best.colour, gap.mean, gap.low, gap.high, f"{bounds(gap, plus)}; the line is no difference")
    return charts.strip(dot, low, high, 0.0, width=150)


def figures(result: Result, material: Material) -> list[Markup]:
    """Scores, lengths, and what length has to do with winning."""
    colours = {arm.name: arm.colour for arm in result.arms}
    drawn = [
        charts.dot_chart(
            f"Mean score by {result.score_by}",
            [_dot(arm.name, arm.colour, arm.answers.score) for arm in result.arms if arm.answers.score.low is not None],
            "mean and 95% interval",
        ),
        charts.ridge_chart(
            f"Scores by {result.score_by}",
            [(name, colours[name], values) for name, values in material.scores.items()],
            "mean score of a prompt's answers",
        ),
        charts.ridge_chart(
            "Length of the answers",
            [(name, colours[name], values) for name, values in material.lengths.items()],
            "characters",
        ),
        charts.dot_chart(
            "Held-out pairs, implicit reward",
            [_dot(arm.name, arm.colour, arm.pairs.implicit) for arm in result.arms if arm.pairs],
            "share preferred and 95% interval",
            zero=0.5,
            percent=True,
        ),
        charts.dot_chart(
            f"Wins of {material.length_of}, by length",
            [
                _dot(name, colours[material.length_of], rate)
                for name, rate in material.by_length
                if rate.low is not None
            ],
            "win rate and 95% interval",
            zero=0.5,
            percent=True,
        ),
    ]
    return [chart for chart in drawn if chart]


def _dot(name: str, colour: int, value: Interval) -> Dot:
    mean, low, high = value.mean or 0.0, value.low or 0.0, value.high or 0.0
    return Dot(name, colour, mean, low, high, f"{number(mean)} ({number(low)} to {number(high)}, n = {value.n})")


def training_charts(trained: Trained) -> list[Markup]:
    """One small chart per metric, the loss first; the chosen and rejected side of one metric share a chart."""
    charted: dict[str, list[tuple[str, bool]]] = {}
    for name in sorted(trained.curves, key=_curve_order):
        prefix, _, last = name.rpartition("/")
        if name in BOOKKEEPING or last.startswith("class "):  # a class's share says little by itself
            continue
        if last in ("chosen", "rejected"):
            title = f"Chosen, rejected dashed{'' if prefix in ('', 'rewards') else ', ' + prefix}"
            charted.setdefault(title, []).append((name, last == "rejected"))
        else:
            title = TITLES.get(last, name) if prefix in ("", "rewards") else name
            charted.setdefault(title, []).append((name, False))
    drawn = []
    for title, names in list(charted.items())[:MOST_CURVES]:
        lines = []
        for name, dashed in names:
            xs, ys = zip(*trained.curves[name], strict=True)
            lines.append(charts.Line(name, trained.colour, xs, ys, dashed))
        drawn.append(charts.line_chart(title, lines, "optimiser step"))
    return drawn


def _curve_order(name: str) -> tuple[int, str]:
    """What online learning earned, else the loss, then how well preferences are ranked, then the rest by name."""
    earned, last = ["reward", "watched", "kl/answer", "length"], name.rpartition("/")[2]
    first = ["loss", "accuracy", "margin", "chosen", "rejected"]
    if name in earned:
        return (earned.index(name) - len(earned), name)
    return (first.index(last) if last in first else len(first), name)


def filters(result: Result, samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Choices of the sample browser: only those that some sample answers to, with how many do."""
    every = [
        option
        for arm in result.arms
        if arm.name != result.baseline
        for option in (
            (f"win-{arm.colour}", f"{arm.name} better than {result.baseline}"),
            (f"loss-{arm.colour}", f"{arm.name} worse than {result.baseline}"),
            (f"tie-{arm.colour}", f"{arm.name} ties with {result.baseline}"),
        )
    ]
    every += [
        ("flip", "verdict turned with the order"),
        ("abstained", "a critic abstained"),
        ("cut", "an answer was cut"),
    ]
    counted = [(value, text, sum(value in sample.tags for sample in samples)) for value, text in every]
    return [(value, f"{text} ({n})") for value, text, n in counted if n]


def notes(result: Result, material: Material) -> dict[str, str]:
    """The page's few sentences of explanation."""
    columns = [f"Scores are by {result.score_by}"] if result.score_by else []
    judges = sorted({arm.win_by for arm in result.arms if arm.win_by})
    if judges:
        columns.append(f"Wins are judged by {listed(judges)}, ties half, abstentions left out")
    columns.append("Small figures are 95% intervals over prompts")
    shown = len(material.samples)
    which = f"All {shown} prompts" if shown == material.prompts else f"The first {shown} of {material.prompts} prompts"
    seconds = sum(step.seconds or 0.0 for step in result.steps)
    return {
        "method_note": ". ".join(columns) + ". Feedback, training tokens and time are of a policy's whole lineage.",
        "sample_note": f"{which}, in their order: none was chosen for how it looks. Under each answer stands what the "
        "critics said of it.",
        "lineage_note": f"{len(result.steps)} artefacts, {clock(seconds)} in all. Each lies in the store under the "
        "name and digits shown, and beside it the record that these figures were read from.",
        "statistics_note": f"Intervals: {100 * LEVEL:.0f}% percentile bootstrap over prompts, {number(RESAMPLES, 6)} "
        f"resamples, seed {SEED}; differences are paired by prompt. Equal length: a logistic model of the verdict on "
        "tanh of the standardised difference in characters, read at zero; with three duels or more it knows from the "
        "other arms how hard each prompt is. Arm against arm: differences per prompt, of which bars say nothing."
        + (" Intervals are not widened for the number of methods compared." if len(result.arms) > 2 else ""),
    }
