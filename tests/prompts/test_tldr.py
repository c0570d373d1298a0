"""Posts to be summarised: both layouts, put together as published, and nothing cut at a marker."""

from __future__ import annotations

import pytest

from tests.prompts.written import answers, dropped, lines, made, record
from trueline.errors import UserError
from trueline.prompts.tldr import tldr, tldr_demonstrations

PARTS = {"subreddit": "baking", "title": "Who takes it?", "post": "Every day.\n\nTL;DR: not yet."}
WHOLE = "SUBREDDIT: r/baking\nTITLE: Who takes it?\nPOST: Every day.\n\nTL;DR: not yet.\nTL;DR:"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": WHOLE, "label": "Bread goes."},
        {**PARTS, "summary": "Bread goes."},
        {**PARTS, "subreddit": "r/baking", "label": "Bread goes."},
    ],
)
def test_the_same_post_in_every_layout(tmp_path, row):
    """The post holds the marker itself; all of it stays."""
    file = lines(tmp_path, row)
    (prompt,) = made(tmp_path, tldr(file))
    assert prompt.text == WHOLE and prompt.reference == "Bread goes."
    (group,) = made(tmp_path, tldr_demonstrations(file))
    assert group.prompt.text == WHOLE and answers(group) == ("Bread goes.",)
    assert record(tmp_path, tldr_demonstrations(file))["counts"] == {"groups": 1, "samples": 1}


def test_parts_are_kept_and_a_summary_may_be_missing(tmp_path):
    (prompt,) = made(tmp_path, tldr(lines(tmp_path, {**PARTS, "id": "t3_1"})))
    assert prompt.meta == PARTS and prompt.id == "t3_1" and prompt.reference is None
    with pytest.raises(UserError, match="it has no summary"):
        made(tmp_path, tldr_demonstrations(lines(tmp_path, PARTS)))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Who bakes?", "label": "Ada."}, 'does not end with "TL;DR:".*prompts_file'),
        ({"subreddit": "baking", "title": "Bread"}, "the fields subreddit, title; a row with"),
        ({**PARTS, "title": None}, '"title" is null'),
        ({"prompt": WHOLE, "label": True}, '"label" is true or false'),
        ({**PARTS, "label": "a", "summary": "b"}, 'both "label" and "summary"'),
        ({**PARTS, "post": " "}, "the post is empty"),
        ({"prompt": " TL;DR:", "label": "a"}, "the post is empty"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, said):
    with pytest.raises(UserError, match=rf"line 2: .*{said}"):
        made(tmp_path, tldr(lines(tmp_path, {**PARTS, "label": "x"}, row)))


def test_empty_summaries_may_be_dropped(tmp_path):
    file = lines(tmp_path, {**PARTS, "label": "Bread goes."}, {**PARTS, "label": " "})
    handle = tldr_demonstrations(file, empty="drop", max_dropped=0.5)
    assert len(made(tmp_path, handle)) == 1
    assert dropped(tmp_path, handle)[0]["reason"] == "the summary is empty"
