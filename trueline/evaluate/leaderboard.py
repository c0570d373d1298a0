"""`leaderboard`: several systems against one baseline, ranked, and which of them can really be told apart.

    theirs = annotated(File("annotations.json"))                   # AlpacaEval's files: the baseline is output_1
    leaderboard((theirs,), (duel(mine, baseline, judge),))         # and duels of ours: the baseline is on the right

Beside the win rate with its standard error stand AlpacaEval's other figures (counts, discrete and length-controlled win
rate, mean length) and, below the table, what ranks cannot say: the paired differences between neighbours.

Files: `report.json` (a `Board`: all pairs of systems), `table.txt`, `leaderboard.csv` in AlpacaEval's layout.
"""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from trueline.errors import UserError
from trueline.evaluate import alpaca_length, plain
from trueline.evaluate.alpaca_length import AsPublished, Inputs, as_published, extreme
from trueline.evaluate.duel import PAIRS, Duel, swapped
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.headline import listed
from trueline.evaluate.length import LengthControlled, Slope, Verdicts, together
from trueline.evaluate.paired import Paired, Pairing, hundredths, number, paired_table
from trueline.evaluate.statistics import WinRate, win_rate
from trueline.files import rows as read_rows
from trueline.pipeline import Work, stage
from trueline.records import Group, Record, read_jsonl
from trueline.store import File, Groups, Report

CSV_COLUMNS = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode",
    "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip
MODE = "community"


class Entry(Record, frozen=True):
    """One system. characters: mean length of its answers. as_published: AlpacaEval's own procedure, where its inputs
    were given. published: the figures of another leaderboard under this name, in percent.
    """

    name: str
    win: WinRate
    length: LengthControlled
    characters: float
    judge: str = ""
    as_published: AsPublished | None = None
    published: dict[str, float] = {}

    @property
    def extreme(self) -> bool:
        """Whether taking length out moves the rate further than AlpacaEval lets pass without a warning."""
        raw, controlled = self.win.rate.mean, self.length.adjusted.mean
        return raw is not None and controlled is not None and extreme(raw, controlled)


class Board(Record, frozen=True):
    """All systems, the best at equal length first, and every pair of them: `report.json`."""

    baseline: str
    characters: float
    entries: tuple[Entry, ...]
    paired: tuple[Paired, ...]
    slope: tuple[float, float] | None = None


@stage(Report, rev=1, label="leaderboard")
def leaderboard(
    work: Work,
    annotated: tuple[Groups, ...] = (),
    duels: tuple[Report, ...] = (),
    baseline: str = "",
    slope: float | None = None,
    slope_sd: float = 0.27,
    gamed: File | None = None,
    difficulty: File | None = None,
    instructions: File | None = None,
    published: File | None = None,
) -> None:
    """Rank the systems of annotation files and duels against their common baseline.

    baseline: its name, where files hold a single system and the first output is not the baseline's. slope, slope_sd:
    what is known of the judge's taste for length (`length`). gamed, difficulty: AlpacaEval's inputs for its own
    procedure (`alpaca_length`); instructions: the list that their positions count in (default: the order of the first
    system's). published: a leaderboard to compare with.
    """
    pairs, name = gather(annotated, duels, baseline)
    known = figures(published) if published else {}
    inputs = alpaca_length.gamed(gamed) if gamed else alpaca_length.difficulty(difficulty) if difficulty else None
    order = positions(instructions, pairs) if inputs else {}
    fights = {system: Verdicts.of(of) for system, of in pairs.items()}
    prior: Slope | None = None if slope is None else (slope, slope_sd)
    controlled = together(fights, prior)
    entries = []
    for system, of in pairs.items():
        entry = enter(system, of, controlled[system])
        theirs = reproduce(of, order, inputs) if inputs else None
        entries.append(msgspec.structs.replace(entry, as_published=theirs, published=known.get(system, {})))
    entries.sort(key=lambda entry: -(entry.length.adjusted.mean or 0.0))
    ranked = {entry.name: fights[entry.name] for entry in entries}
    texts = {group.prompt.id: group.completions[1].text for of in pairs.values() for group in of}
    board = Board(name, mean_length(texts.values()), tuple(entries), Pairing(ranked, prior).all(), prior)
    write_figures(work, board)
    (work.dir / "table.txt").write_text(draw(board), encoding="utf-8")
    write_csv(work.dir / "leaderboard.csv", board)
    work.count("systems", len(entries))
    work.count("pairs", sum(entry.win.pairs for entry in entries))
    work.count("abstained", sum(entry.win.abstained for entry in entries))


def gather(
    annotated: Sequence[Groups], duels: Sequence[Report], baseline: str = ""
) -> tuple[dict[str, list[Group]], str]:
    """(pairs by system, the system's answer first; the baseline's name)."""
    pairs: dict[str, list[Group]] = {}
    bases: set[str] = set()
    for groups in annotated:
        found, base = by_system(list(groups.read()), baseline, groups.name)
        _merge(pairs, found, groups.name)
        bases.add(base)
    for report in duels:
        fought = read_figures(report, Duel)
        _merge(pairs, {fought.left.name: list(read_jsonl(report.path / PAIRS, Group))}, report.name)
        bases.add(fought.right.name)
    if not pairs:
        raise UserError("leaderboard", "it has no systems", "annotated groups or duels")
    if len(bases) > 1:
        raise UserError(
            "leaderboard", f"the systems met {listed(sorted(bases))}", "one baseline for all",
            "Rank those apart that met another one.",
        )  # fmt: skip
    return pairs, bases.pop()


def _merge(pairs: dict[str, list[Group]], found: Mapping[str, list[Group]], where: str) -> None:
    again = sorted(pairs.keys() & found.keys())
    if again:
        raise UserError(f"leaderboard, {where}", f"{listed(again)} came before", "each system once")
    pairs.update(found)


def by_system(
    groups: Sequence[Group], baseline: str = "", where: str = "leaderboard"
) -> tuple[dict[str, list[Group]], str]:
    """The pairs of a file of annotations by system, the system's answer first, and the baseline's name.

    The baseline stands in every pair; where a file holds one system only, it is the first output's author, as in all
    AlpacaEval's files, unless it is named.
    """
    authors = [tuple(completion.author for completion in group.completions) for group in groups]
    common = set(authors[0]).intersection(*map(set, authors)) if authors else set()
    if not baseline:
        baseline = common.pop() if len(common) == 1 else authors[0][0] if authors else ""
    out: dict[str, list[Group]] = defaultdict(list)
    for group, (first, *rest) in zip(groups, authors, strict=True):
        if len(rest) != 1 or not group.preferences:
            raise UserError(where, f"a group of {1 + len(rest)} answers to {group.prompt.id}", "a judged pair")
        if first == baseline and rest[0]:
            out[rest[0]].extend(swapped([group]))
        elif rest[0] == baseline and first:
            out[first].append(group)
        else:
            got = f"a pair of {first or 'nobody'} and {rest[0] or 'nobody'}"
            raise UserError(where, got, f"a system and the baseline {baseline or '(none is named)'}", "--baseline NAME")
    return dict(out), baseline


def enter(name: str, pairs: Sequence[Group], length: LengthControlled) -> Entry:
    """One system's row from its judged pairs, its own answer first."""
    said = Verdicts.of(pairs)
    flips = [group.preferences[-1].flipped for group in pairs]
    judges = sorted({group.preferences[-1].by for group in pairs})
    rate = win_rate(said.ps, said.prompts, flips)
    return Entry(name, rate, length, mean_length(group.completions[0].text for group in pairs), ", ".join(judges))


def mean_length(texts: Iterable[str]) -> float:
    """Mean characters."""
    lengths = [len(text) for text in texts]
    return sum(lengths) / len(lengths) if lengths else 0.0


def positions(instructions: File | None, pairs: Mapping[str, Sequence[Group]]) -> dict[str, int]:
    """Where each prompt (by its text) stands in the instruction list."""
    if instructions:
        texts = [row.text("instruction") for row in read_rows(instructions)]
    else:
        texts = [group.prompt.text for group in next(iter(pairs.values()))]
    return {text: at for at, text in enumerate(dict.fromkeys(texts))}


def reproduce(pairs: Sequence[Group], order: Mapping[str, int], inputs: Inputs) -> AsPublished:
    """AlpacaEval's procedure on one system's pairs. Raises `UserError` for an instruction that its inputs lack."""
    said = Verdicts.of(pairs)
    places = [order.get(group.prompt.text, len(inputs.gamma)) for group in pairs]
    beyond = [group.prompt.text for group, at in zip(pairs, places, strict=True) if at >= len(inputs.gamma)]
    if beyond:
        raise UserError(
            "leaderboard(gamed=...)", f'its {len(inputs.gamma)} positions do not reach "{beyond[0][:60]}"',
            "AlpacaEval's own instructions, in its order", "Name the list: --instructions FILE. Or leave --gamed out.",
        )  # fmt: skip
    return as_published(said.ps, said.ahead, places, inputs)


def figures(file: File) -> dict[str, dict[str, float]]:
    """Another leaderboard's numbers by system: AlpacaEval's CSV, its first column the name, or JSON rows."""
    path = Path(file)
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as stream:
            given: list[dict[str, object]] = list(csv.DictReader(stream))
    else:
        given = [row.value for row in read_rows(file)]
    out: dict[str, dict[str, float]] = {}
    for row in given:
        name = next((str(row[key]) for key in ("", "name", "model") if row.get(key)), "")
        if not name:
            raise UserError(str(path), f"a row has the columns {', '.join(row)}", "a system's name in the first one")
        out[name] = {key: float(str(value)) for key, value in row.items() if key in CSV_COLUMNS and _is_number(value)}
    return out


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def csv_row(entry: Entry) -> dict[str, object]:
    """A system in AlpacaEval's columns, in percent.

    The length-controlled pair is AlpacaEval's own procedure where its inputs were given, and then `lc_standard_error`
    is the spread that they call so; else both are ours, a rate and its standard error.
    """
    win, theirs = entry.win, entry.as_published
    ours = entry.length.adjusted
    rate, error = (theirs.rate, theirs.spread) if theirs else (ours.mean, ours.se)
    values: dict[str, object] = {
        "win_rate": percent(win.rate.mean),
        "standard_error": percent(win.rate.se),
        "n_wins": win.wins,
        "n_wins_base": win.losses,
        "n_draws": win.ties,
        "n_total": win.pairs - win.abstained,
        "discrete_win_rate": percent(win.discrete),
        "mode": MODE,
        "avg_length": int(entry.characters),
        "length_controlled_winrate": percent(rate),
        "lc_standard_error": percent(error),
    }
    return {name: values[name] for name in CSV_COLUMNS}


def percent(value: float | None) -> float | str:
    """A share in percent; nothing where it is not known."""
    return "" if value is None else 100 * value


def write_csv(path: Path, board: Board) -> None:
    """`leaderboard.csv`: index column without a heading, the baseline's row of 50 among the systems, best first."""
    fifty = dict.fromkeys(CSV_COLUMNS, 0) | {
        "win_rate": 50.0, "standard_error": 0.0, "discrete_win_rate": 50.0, "mode": MODE,
        "avg_length": int(board.characters), "length_controlled_winrate": 50.0, "lc_standard_error": 0.0,
    }  # fmt: skip
    most = max(entry.win.pairs for entry in board.entries)
    rows: list[tuple[str, dict[str, object]]] = [(entry.name, csv_row(entry)) for entry in board.entries]
    rows.append((board.baseline, {**fifty, "n_draws": most, "n_total": most}))
    rows.sort(key=lambda row: -float(str(row[1]["win_rate"] or 0.0)))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["", *CSV_COLUMNS])
        writer.writerows([name, *row.values()] for name, row in rows)


def draw(board: Board) -> str:
    """The ranking, what its columns mean, and the paired differences between neighbours."""
    heads, rows = ["system", "n", "win %", "se", "LC %", "se", "longer %", "chars"], []
    theirs = any(entry.as_published for entry in board.entries)
    compared = any("length_controlled_winrate" in entry.published for entry in board.entries)
    heads += ["as AE"] if theirs else []
    heads += ["published", "LC less"] if compared else []
    for entry in board.entries:
        rate, length, mark = entry.win.rate, entry.length, "*" if entry.length.extrapolated else ""
        row = [entry.name, str(entry.win.pairs - entry.win.abstained), hundredths(rate.mean), hundredths(rate.se)]
        row += [hundredths(length.adjusted.mean) + ("!" if entry.extreme else ""), hundredths(length.adjusted.se)]
        row += [hundredths(length.longer, 0) + mark, f"{entry.characters:.0f}"]
        row += [hundredths(entry.as_published.rate if entry.as_published else None)] if theirs else []
        if compared:
            known = entry.published.get("length_controlled_winrate")
            gap = None if known is None else 100 * (length.adjusted.mean or 0.0) - known
            row += [number(known), number(gap, sign="+")]
        rows.append(row)
    rows.append([board.baseline, "", "50.00", "0.00", "50.00", "0.00", "", f"{board.characters:.0f}"])
    rows[-1] += [""] * (len(heads) - len(rows[-1]))
    ranking = plain.table(heads, rows, f"Against {board.baseline}", notes=notes(board))
    return ranking if len(board.entries) < 2 else ranking + "\n" + neighbours(board)


def notes(board: Board) -> list[str]:
    """What the columns mean, and the marks that stand in them."""
    said = ["win: ties half, abstentions left out. LC: win % at equal length; its se: bootstrap over prompts."]
    if any(entry.length.extrapolated for entry in board.entries):
        said.append("*: hardly ever on the other side of equal length, which lies beyond the data: LC is extrapolated.")
    if any(entry.extreme for entry in board.entries):
        said.append("!: taking length out moved this rate by more than ten points and a quarter of the way.")
    if any(entry.as_published for entry in board.entries):
        said.append("as AE: AlpacaEval's own procedure on the files given.")
    far = [
        abs(known - 100 * ours)
        for entry in board.entries
        for known, ours in (
            (entry.published.get("win_rate"), entry.win.rate.mean),
            (entry.published.get("standard_error"), entry.win.rate.se),
        )
        if known is not None and ours is not None
    ]
    if far:
        said.append(f"Win rates and their standard errors are the published ones to within {max(far):.0e} points.")
    return said


def neighbours(board: Board) -> str:
    """Each system less the next one in the ranking."""
    of = {(pair.first, pair.second): pair for pair in board.paired}
    names = [entry.name for entry in board.entries]
    return paired_table([of[two] for two in itertools.pairwise(names)], "Which neighbours can be told apart")


def board_of(report: Report) -> Board:
    """The result of a made `leaderboard`."""
    return read_figures(report, Board)
