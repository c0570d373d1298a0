"""`trueline check`: what a model will really see of a file of pairs, or of answers to imitate, before any training.

Some pairs as tokens, by role, with the loss mask and the reward position; a table of what would be cut, dropped or
rendered unlike the model's own template; an exit code that says whether a stated share is exceeded. Without colour the
marks say it all: « » enclose what is trained, ^ follows the token at which a reward is read, ¶ is a line break.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trueline.errors import UserError
from trueline.files import Row, count_rows, rows
from trueline.progress import Meter, screen
from trueline.prompts.demonstrations import demonstrates, rows_of, taught
from trueline.prompts.exchanges import Turns
from trueline.prompts.findings import Examiner, Findings, as_aside, better_first, mean, quantile
from trueline.prompts.preferences import LayoutName, Reading, Undecided, reader
from trueline.records import Group, Message, encode
from trueline.store import File

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from trueline.chat import Rendered, Renderer

COLOURS = {"system": "magenta", "user": "cyan", "assistant": "green", "control": "yellow"}
QUANTILES = (0.5, 0.9, 0.99, 1.0)
SHOWN_PROMPT, SHOWN_ANSWER = 120, 120


def check(
    *,
    prefs: Path,
    base: str,
    chat: Literal["auto", "template", "chatml", "plain"] = "auto",
    layout: LayoutName = "auto",
    reference: Path | None = None,
    undecided: Undecided = "drop",
    turns: Turns = "last",
    max_length: int = 1024,
    first: int = 0,
    examples: int = 2,
    aside: Path | None = None,
    max_dropped: float = 0.05,
    max_cut: float = 0.05,
    max_differs: float = 0.05,
    max_special: float = 0.05,
    max_duplicates: float = 0.05,
) -> int:
    """Show what a model will really see of a file of pairs or answers: tokens, loss mask, reward position, losses.

    Exits with 1 where a share is exceeded, or an answer does not end with exactly one end-of-turn token.

    Args:
        prefs: a preference file: TRL's format, HH-RLHF transcripts, AlpacaEval annotations, UltraFeedback's pairs, SHP
            or Stack Exchange; or answers to imitate: TRL's, messages, ShareGPT, Alpaca, a completion file.
        base: a Hugging Face model folder (its tokenizer is enough), or a hub id.
        chat: how a conversation becomes tokens: auto, template, chatml or plain.
        layout: the rows' format; auto recognises it by the first row.
        reference: the reference system's outputs, for AlpacaEval rows without output_1.
        undecided: what becomes of ties and abstentions, as for preferences.
        turns: which exchange of a conversation is imitated, as for demonstrations.
        max_length: tokens of prompt and answer together.
        first: look at that many rows only; 0: all.
        examples: pairs to show as tokens.
        aside: where dropped and cut rows are written, with reasons (default: NAME.check.jsonl in the working folder).
        max_dropped: largest share of rows, from 0 to 1, that may be dropped.
        max_cut: largest share of pairs with an answer beyond max_length.
        max_differs: largest share of pairs whose tokens are not those of the template's own tokenisation.
        max_special: largest share of pairs with special-token text in them.
        max_duplicates: largest share of pairs that stand in the file twice.
    """
    from rich.console import Console

    console = Console(highlight=False)
    renderer, own = open_renderer(base, chat)
    limit = min(max_length, own) if own else max_length
    aside = aside or Path(f"{prefs.stem}.check.jsonl")
    about, given, read = opened(File(prefs), layout, File(reference) if reference else None, undecided, turns, first)
    examiner = Examiner(renderer, limit, Asides(aside))
    total = count_rows(File(prefs))
    with screen().meter(min(total, first) if first else total, f"checking {prefs.name}") as meter:
        groups = examiner.groups(counted(given, meter), read)
        shown = [group for n, group in enumerate(groups) if n < examples]
    for group in shown:
        console.print(example(group, renderer, limit))
    console.print(legend())
    found = examiner.findings
    about = f"{prefs} ({about}) for {base} (chat: {renderer.style}, at most {limit} tokens)"
    if limit < max_length:
        about += f"; the model reads no more than {own}, so --max-length {max_length} is lowered"
    console.print(about, soft_wrap=True, markup=False)
    console.print(table(found, renderer, limit))
    if found.dropped or found.cut:
        console.print(f"Rows dropped and cut, with reasons: {aside}", soft_wrap=True, markup=False)
    shares = [
        (sum(found.dropped.values()), found.rows, "rows are dropped", max_dropped, "--max-dropped"),
        (sum(found.cut.values()), found.pairs, f"{found.unit} are longer than --max-length", max_cut, "--max-cut"),
        (found.differs, found.compared, f"{found.unit} differ from the template", max_differs, "--max-differs"),
        (found.special_rows, found.pairs, f"{found.unit} hold special-token text", max_special, "--max-special"),
        (found.same_pair, found.pairs, f"{found.unit} are duplicates", max_duplicates, "--max-duplicates"),
    ]
    return verdict(console, found, shares)


def opened(
    file: File, layout: LayoutName, reference: File | None, undecided: Undecided, turns: Turns, first: int
) -> tuple[str, Iterator[Row], Callable[[Row], Group | Sequence[Group]]]:
    """The layout of a file in words, its rows, and how one is read: as pairs where it holds such, else as answers."""
    if layout == "auto" and reference is None and demonstrates(file):
        read = partial(taught, author=f"file:{file.path.name}", turns=turns)
        return "answers to imitate", rows_of(file, first), read
    pairs = reader(file, layout, reference, Reading(undecided))
    return pairs.layout.about, rows(file, first), pairs


def counted(given: Iterator[Row], meter: Meter) -> Iterator[Row]:
    """The rows, each counted by the meter."""
    for row in given:
        yield row
        meter.advance(1)


def verdict(console: Console, found: Findings, shares: Sequence[tuple[int, int, str, float, str]]) -> int:
    """Print what is above its limit (count, of how many, what, the share allowed, its option); the exit code."""
    failures = []
    if not found.pairs:
        failures.append("no pair can be trained on")
    if found.unended:
        failures.append(f"{found.unended} answers do not end with exactly one end-of-turn token")
    for count, total, what, allowed, option in shares:
        if total and count / total > allowed:
            failures.append(f"{count} of {total} {what} ({count / total:.1%}); {option} allows {allowed:.1%}")
    for failure in failures:
        console.print(f"[bold red]FAIL[/] {failure}", soft_wrap=True)
    if not failures:
        console.print("[bold green]OK[/] every share is within its limit")
    return 1 if failures else 0


def open_renderer(base: str, chat: str) -> tuple[Renderer, int]:
    """The renderer that training would use with this model, and the longest sequence it reads (0: not known)."""
    from trueline import models
    from trueline.chat import Renderer

    folder = Path(base).expanduser()
    if not folder.is_dir():
        models.pretrained(base)  # Refuses what is no model; a hub id becomes a commit.
        tokenizer, config = hub(base)
    else:
        tokenizer, config = models.open_tokenizer(folder), folder / "config.json"
    models.prepare(tokenizer, chat)
    said: dict[str, Any] = json.loads(config.read_bytes()) if config and config.is_file() else {}
    return Renderer(tokenizer, chat), int(said.get("max_position_embeddings") or said.get("n_positions") or 0)


def hub(base: str) -> tuple[Any, Path | None]:
    """Tokenizer and config file of a hub model, without its weights."""
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        return tokenizer, Path(str(cached_file(base, "config.json")))
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f'model "{base}"', line, "a folder or a hub id with a tokenizer", "Check the name.") from None


class Asides:
    """Writes rows aside to `path`, which is not there where none was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)

    def __call__(self, reason: str, row: Row) -> None:
        try:
            with open(self.path, "ab") as stream:
                stream.write(encode(as_aside(reason, row)))
        except OSError as error:
            cure = "Name another file with --aside."
            raise UserError(str(self.path), f"cannot be written ({error.strerror})", "a file", cure) from None


# --- examples --------------------------------------------------------------------------------------------------------


def example(group: Group, renderer: Renderer, max_length: int) -> RenderableType:
    """Both answers of a pair as tokens, one under the other."""
    from rich.console import Group as Stack
    from rich.text import Text

    out: list[RenderableType] = [Text(f"prompt {group.prompt.id}", style="bold")]
    called = ("chosen", "rejected") if len(group.completions) == 2 else ("answer",)
    for name, completion in zip(called, better_first(group, group.completions), strict=True):
        rendered = renderer.conversation([*group.prompt.messages, Message("assistant", completion.text)])
        prompt = len(renderer.prompt_ids(group.prompt.messages))
        out.append(Text(f"{name}: {prompt} + {sum(rendered.trained[prompt:])} tokens", style="bold"))
        out.append(tokens(rendered, renderer, prompt, max_length))
    return Stack(*out, Text())


def tokens(rendered: Rendered, renderer: Renderer, prompt: int, max_length: int) -> Text:
    """Tokens coloured by role; «trained»; ^ after the reward position. Long middles are left out, and said so."""
    from rich.text import Text

    text, letters = Text(), shown(rendered.ids, renderer)
    gaps = [(SHOWN_PROMPT // 2, prompt - SHOWN_PROMPT // 2), (prompt + SHOWN_ANSWER, len(rendered.ids) - 8)]
    on = False
    for t, (trained, role) in enumerate(zip(rendered.trained, rendered.roles, strict=True)):
        gap = next(((a, b) for a, b in gaps if b - a > 8 and a <= t < b), None)
        if gap and t > gap[0]:
            continue
        trained = trained and t >= prompt and t < max_length
        if trained != on:
            text.append("«" if trained else "»", style="bold")
            on = trained
        if gap:
            text.append(f" ... {gap[1] - gap[0]} tokens ... ", style="dim")
            continue
        # Alternate weights show where one token ends and the next begins.
        text.append(letters[t], style=f"{COLOURS[role]}{' underline' if trained else ''}{' bold' if t % 2 else ''}")
        if t == rendered.reward_position and t < max_length:
            text.append("»^" if on else "^", style="bold red")
            on = False
        if t == max_length - 1 and len(rendered.ids) > max_length:
            text.append("» [cut here]" if on else " [cut here]", style="bold red")
            on = False
    if on:
        text.append("»", style="bold")
    return text


def shown(ids: Sequence[int], renderer: Renderer) -> list[str]:
    """Each token's text, line breaks made visible; a character of several tokens stands with the last of them."""
    out, held = [], 0
    for t in range(len(ids)):
        text = renderer.text_of(ids[t - held : t + 1])
        partial = (
            text.endswith("\ufffd") and held < 3 and t + 1 < len(ids)
        )  # No character of UTF-8 has more than four bytes.
        out.append("" if partial else text.replace("\r", "\\r").replace("\n", "¶\n"))
        held = held + 1 if partial else 0
    return out


def legend() -> Text:
    """What the colours and marks mean."""
    from rich.text import Text

    text = Text()
    for role, colour in COLOURS.items():
        text.append(f"{role} ", style=colour)
    return text.append(
        "| «trained» (underlined) | ^ reward read here | ¶ line break | control: the template's own text\n"
    )


# --- the table -------------------------------------------------------------------------------------------------------


def table(found: Findings, renderer: Renderer, max_length: int) -> Table:
    """The findings as rows: what, how many, what it means."""
    from rich.table import Table
    from rich.text import Text

    out = Table(show_edge=False, pad_edge=False)
    for name in ("", "count", "share"):
        out.add_column(name, justify="left" if not name else "right", overflow="fold")
    out.add_column("", overflow="fold")

    def add(what: str, count: int, note: str = "", total: int | None = None) -> None:
        total = found.pairs if total is None else total
        # As Text: tokens such as "[/INST]" are no markup.
        out.add_row(what, f"{count:,}", f"{count / total:.1%}" if total else "-", Text(note))

    add("rows", found.rows, total=found.rows)
    add(f"usable {found.unit}", found.pairs, total=found.rows)
    for reason, count in found.dropped.most_common():
        add("  dropped", count, reason, found.rows)
    for reason, count in found.cut.most_common():
        add("  too long", count, f"{reason}; training drops or cuts them (--long)")
    if found.same_once_cut:
        add("  identical once cut", found.same_once_cut)
    for row in (*ends(found, renderer), *texts(found, renderer), *copies(found)):
        add(*row)
    out.add_section()
    lengths(out, found, max_length)
    return out


def ends(found: Findings, renderer: Renderer) -> Iterator[tuple[str, int, str, int]]:
    """End-of-turn, EOS and BOS."""
    token = renderer.tokenizer.convert_ids_to_tokens(renderer.end_id)
    answers = found.answers
    eos = renderer.tokenizer.eos_token_id
    is_eos = "is" if renderer.end_id == eos else "is not"
    note = (
        f"answers whose only end-of-turn is their last token, trained: {token} ({renderer.end_id}), which {is_eos} EOS"
    )
    yield "end-of-turn trained once", answers - found.unended, note, answers
    if found.own_end:
        yield "brought their own", found.own_end, f"answers that ended with {token} already; not doubled", answers
    for starts, count in sorted(found.bos.items()):
        note = "" if starts < 2 else "doubled: the prompts begin with BOS text"
        yield (
            f"BOS {'absent' if not starts else 'once' if starts == 1 else f'{starts} times'}",
            count,
            note,
            found.pairs,
        )


def texts(found: Findings, renderer: Renderer) -> Iterator[tuple[str, int, str, int]]:
    """Boundaries, template and special-token text."""
    of = f"of the first {found.compared:,} without special-token text"
    note = f"a token of the template's own tokenisation runs from prompt into answer ({of}); here none does"
    yield "prompt not a prefix", found.unprefixed, note, found.compared
    note = f"{of}: tokens unlike the template's own tokenisation; {found.difference}".rstrip("; ")
    yield "template differs", found.differs, note, found.compared
    often = ", ".join(f"{token} x{count}" for token, count in found.special.most_common(4))
    yield "special-token text", found.special_rows, f"{often}; read as text" if often else "", found.pairs
    if found.repeats_prompt:
        yield "answers repeat prompt", found.repeats_prompt, "the prompt would be seen twice", found.pairs


def copies(found: Findings) -> Iterator[tuple[str, int, str, int]]:
    """Duplicates and what contradicts."""
    yield "duplicate prompts", found.same_prompt, "a prompt seen before, with any answers", found.pairs
    yield f"duplicate {found.unit}", found.same_pair, "", found.pairs
    if found.unit == "answers":
        return
    yield "contradicting pairs", found.contradicted, "a pair seen before with the other answer preferred", found.pairs
    if found.ties or found.abstained:
        yield "ties, abstentions", found.ties + found.abstained, f"{found.ties} and {found.abstained}", found.pairs


def lengths(out: Table, found: Findings, max_length: int) -> None:
    """Length quantiles, and how much longer the chosen answers are."""
    if not found.pairs:
        return
    gaps = found.gaps
    if gaps:
        longer = sum(gap > 0 for gap in gaps)
        note = f"tokens, chosen less rejected: mean {mean(gaps):+.1f}, median {quantile(gaps, 0.5):+.1f}"
        out.add_row("chosen is longer", f"{longer:,}", f"{longer / found.pairs:.1%}", note)
    for name, values in (
        ("prompt", found.prompt_tokens),
        ("chosen" if gaps else "answer", found.chosen_tokens),
        ("rejected", found.rejected_tokens),
        ("prompt + longer answer" if gaps else "prompt + answer", found.totals),
    ):
        if not values:
            continue
        beyond = sum(value > max_length for value in values)
        marks = ", ".join(f"{'max' if q == 1 else f'{q:.0%}'} {quantile(values, q):,.0f}" for q in QUANTILES)
        note = f"tokens: {marks} (count: beyond {max_length})"
        out.add_row(name, f"{beyond:,}", f"{beyond / found.pairs:.1%}", note)
