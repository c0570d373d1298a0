"""Reddit posts to be summarised (TL;DR), in the layouts of OpenAI's summarisation data.

    held_out = tldr(File("tldr.test.jsonl"))
    taught = tldr_demonstrations(File("tldr.train.jsonl"))

Two kinds of rows. {"prompt", "label"}, as CarperAI/openai_summarize_tldr has them: the prompt is whole, and ends with
"TL;DR:". {"subreddit", "title", "post"} with "summary" or "label", as OpenAI publishes them, of which it is put
together:

    SUBREDDIT: r/baking
    TITLE: Who takes the bread?
    POST: Every morning ...
    TL;DR:

and the parts stand in its `meta`, so that whoever needs the post alone never looks for a marker in a text that may hold
it twice. The people's own summary is the prompt's reference.
"""

from __future__ import annotations

from typing import Any

from trueline.errors import UserError
from trueline.files import Row, Unusable, rows
from trueline.pipeline import Work, stage
from trueline.prompts.demonstrations import usable
from trueline.prompts.preferences import Rule, counts, own_id
from trueline.records import Completion, Group, Prompt
from trueline.store import File, Groups, Prompts

END = "TL;DR:"
PARTS = ("subreddit", "title", "post")
WANTED = 'a row with "prompt" and "label", or with "subreddit", "title" and "post"'


def assembled(subreddit: str, title: str, post: str) -> str:
    """The prompt of a post.

    >>> assembled("baking", "Bread", "It is gone.").splitlines()
    ['SUBREDDIT: r/baking', 'TITLE: Bread', 'POST: It is gone.', 'TL;DR:']
    """
    place = subreddit if subreddit.startswith("r/") else f"r/{subreddit}"
    return f"SUBREDDIT: {place}\nTITLE: {title}\nPOST: {post}\n{END}"


def post_row(row: Row) -> Prompt:
    """The prompt of a row, with its reference where it has one. Raises `UserError` for any other layout."""
    parts = {}
    if row.has(*PARTS):
        parts = {name: row.text(name) for name in PARTS}
        empty = not parts["post"].strip()
        text = assembled(**parts)
    elif row.has("prompt"):
        text = row.text("prompt", WANTED)
        if not text.rstrip().endswith(END):
            cure = "Other prompts are read by prompts_file(file) or asked(file)."
            raise UserError(row.where, f'field "prompt" does not end with "{END}"', WANTED, cure)
        empty = not text.rstrip().removesuffix(END).strip()
    else:
        raise UserError(row.where, f"it has the fields {', '.join(row.value) or 'none'}", WANTED, "See docs/data.md.")
    if empty:
        raise Unusable("empty", "the post is empty", "a post to summarise")
    return Prompt.of(text, id=own_id(row), reference=summary(row), meta=parts)


def summary(row: Row) -> str | None:
    """What people summed a row's post up as, in "label" or "summary"; None where the row has neither."""
    found = [name for name in ("label", "summary") if row.has(name)]
    if len(found) > 1:
        raise UserError(row.where, 'it has both "label" and "summary"', "one summary", "Drop one of the fields.")
    return row.text(found[0]) if found else None


def _estimate(file: File, first: int = 0, **_: Any) -> dict[str, int]:
    return {"prompts": counts(file, first)["groups"]}


@stage(Prompts, rev=1, label="prompts", estimate=_estimate)
def tldr(work: Work, file: File, empty: Rule = "error", first: int = 0, max_dropped: float = 0.05) -> None:
    """Posts to be summarised, the people's summary as the reference.

    empty, first, max_dropped: as for `demonstrations`. Raises `UserError` for a row of another layout.
    """
    usable(work, file, rows(file, first), post_row, empty, max_dropped, "prompts")


@stage(Groups, rev=1, label="demonstrations", estimate=lambda file, first, **_: counts(file, first, 1))
def tldr_demonstrations(
    work: Work, file: File, empty: Rule = "error", first: int = 0, max_dropped: float = 0.05
) -> None:
    """Posts with the people's summary as the answer to imitate; arguments as for `tldr`."""

    def read(row: Row) -> Group:
        prompt = post_row(row)
        if prompt.reference is None:
            raise UserError(row.where, "it has no summary", 'one in "label" or "summary"')
        if not prompt.reference.strip():
            raise Unusable("empty", "the summary is empty", "a summary to imitate")
        return Group(prompt, (Completion(prompt.reference, f"file:{file.path.name}"),))

    work.count("samples", usable(work, file, rows(file, first), read, empty, max_dropped, "groups"))
