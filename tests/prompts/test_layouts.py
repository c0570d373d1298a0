"""Votes, scored answers and texts behind their prompt as pairs; what is undecided, too near, barred or repeated."""

from __future__ import annotations

import pytest

from tests.prompts.written import answers, dropped, lines, made, record, said
from trueline.errors import UserError
from trueline.prompts.markup import text_of
from trueline.prompts.preferences import Reading, preferences, reader
from trueline.prompts.ratings import ratings
from trueline.train.views import Pairs

SHP = {
    "post_id": "p1", "history": "Who bakes?", "human_ref_A": "Ada.", "human_ref_B": "Go away.",
    "score_A": 30, "score_B": 10, "labels": 1, "score_ratio": 3.0,
}  # fmt: skip


def decided(groups):
    return [(x.left, x.right, x.p) for group in groups for x in group.preferences]


def refused(tmp_path, *rows, read=preferences, **options):
    with pytest.raises(UserError) as error:
        made(tmp_path, read(lines(tmp_path, *rows), **options))
    return str(error.value).removeprefix(f"{tmp_path}/")


# --- SHP -------------------------------------------------------------------------------------------------------------


def test_votes_on_two_comments(tmp_path):
    """Label 1 says A, 0 says B; the votes stand beside as scores."""
    handle = preferences(lines(tmp_path, SHP, SHP | {"labels": 0, "score_A": 10, "score_B": 15}))
    groups = made(tmp_path, handle)
    assert said(groups[0].prompt) == [("user", "Who bakes?")] and answers(groups[0]) == ("Ada.", "Go away.")
    assert decided(groups) == [(0, 1, 1.0), (0, 1, 0.0)]
    assert [group.scores() for group in groups] == [[30.0, 10.0], [10.0, 15.0]]
    assert record(tmp_path, handle)["notes"]["layout"] == "SHP: two comments on a post"


def test_votes_that_are_near_are_left_out_and_counted(tmp_path):
    """Ratios 3, 1.5, 2 and, with no vote at all, infinity: at least 2 leaves one out. It is no damage of the file."""
    given = [(30, 10), (10, 15), (20, 10), (4, 0)]
    file = lines(tmp_path, *(SHP | {"score_A": a, "score_B": b} for a, b in given))
    handle = preferences(file, min_ratio=2.0)
    assert [group.scores()[0] for group in made(tmp_path, handle)] == [30, 20, 4]
    assert record(tmp_path, handle)["counts"] == {"groups": 3, "samples": 6, "left_out": 1}
    assert [group.scores()[0] for group in made(tmp_path, preferences(file, min_margin=10))] == [30, 20]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": 2}, 'line 2: field "labels" is the number 2; 1 (A is better) or 0 (B is)'),
        ({"labels": True}, 'field "labels" is true or false'),
        ({"score_A": "30"}, 'field "score_A" is text; a number, or null'),
        ({"human_ref_A": None}, 'line 2: field "human_ref_A" is null'),
        ({"human_ref_B": "Ada."}, 'fields "human_ref_A" and "human_ref_B" hold the same answer'),
        ({"history": " "}, 'field "prompt" is empty'),
    ],
)
def test_what_is_no_vote_is_refused(tmp_path, change, expected):
    assert expected in refused(tmp_path, SHP, SHP | change)


def test_thresholds_need_scores(tmp_path):
    row = {"prompt": "Who?", "chosen": "Ada.", "rejected": "Ben."}
    assert refused(tmp_path, row, min_ratio=2.0).startswith("prefs.jsonl line 1: min_ratio: its answers have no scores")
    assert "preferences(min_margin=...): got -1; 0 or more" in refused(tmp_path, SHP, min_margin=-1)


# --- Stack Exchange --------------------------------------------------------------------------------------------------


def question(*scores, texts=()):
    told = texts or [f"<p>Answer {i}</p>" for i in range(len(scores))]
    given = [{"answer_id": i, "pm_score": s, "text": t} for i, (s, t) in enumerate(zip(scores, told, strict=True))]
    return {"qid": 7, "question": "<p>Who bakes?</p>", "answers": given}


def test_every_two_answers_are_compared(tmp_path):
    """Scores 2, 5, 2 are three comparisons, of which one is a tie: it is not kept, and it is counted."""
    file = lines(tmp_path, question(2, 5, 2))
    handle = preferences(file)
    (group,) = made(tmp_path, handle)
    assert said(group.prompt) == [("user", "Who bakes?")] and answers(group) == ("Answer 0", "Answer 1", "Answer 2")
    assert decided([group]) == [(0, 1, 0.0), (1, 2, 1.0)] and group.scores() == [2, 5, 2]
    assert record(tmp_path, handle)["counts"] == {"groups": 1, "samples": 3, "preferences": 2, "ties": 1}
    assert decided(made(tmp_path, preferences(file, undecided="keep"))) == [(0, 1, 0.0), (0, 2, 0.5), (1, 2, 1.0)]


def test_the_original_gives_an_equal_score_to_the_later_answer(tmp_path):
    """DPO's reference implementation: of two equally scored answers i < j, j wins."""
    handle = preferences(lines(tmp_path, question(2, 5, 2)), undecided="second")
    assert decided(made(tmp_path, handle)) == [(0, 1, 0.0), (0, 2, 0.0), (1, 2, 1.0)]
    assert record(tmp_path, handle)["counts"]["overruled"] == 1


def test_questions_that_compare_nothing(tmp_path):
    given = [question(3, 1), question(3), question(2, 2), question(None, 4)]
    handle = preferences(lines(tmp_path, *given), max_dropped=0.8)
    assert len(made(tmp_path, handle)) == 1
    assert [row["reason"] for row in dropped(tmp_path, handle)] == [
        "it has 1 answers", "it is a tie", "no two of its answers are scored",
    ]  # fmt: skip
    empty = question(3, 1, texts=("<p>Ada</p>", '<p><img src="x"></p>'))
    assert 'field "answers[1].text" is empty' in refused(tmp_path, empty)
    bad = question(3, 1) | {"answers": [{"pm_score": 1, "text": "a"}, "b"]}
    assert 'line 2: "answers[1]" is text; an object' in refused(tmp_path, question(3, 1), bad)


def test_posts_keep_their_words_and_their_code():
    """What the original loses: links, emphasis, lists and quotes inside a post."""
    html = (
        '<p>See <a href="https://x.y">the <em>oven</em></a>:</p>\n<pre><code>a &lt; b\n  c\n</code></pre>\n'
        "<blockquote><p>Hot.</p></blockquote><ol><li>wait</li>\n<li>eat</li></ol><script>alert(1)</script><p>So<br>on</p>"
    )
    assert text_of(html) == "See the oven:\n\n```\na < b\n  c\n```\n\nHot.\n\n- wait\n- eat\n\nSo\non"
    assert text_of("no markup, 1 < 2") == "no markup, 1 < 2"
    assert text_of("") == ""


# --- UltraFeedback ---------------------------------------------------------------------------------------------------


def test_texts_behind_their_prompt(tmp_path):
    """The prompt is cut off by its length: an answer may hold the marks, and rows without their prompt are no pairs."""
    start = "Human: Who bakes?\n\nAssistant: "
    row = {"prompt": "Who bakes?", "chosen": f"{start}Ada.\n\nAssistant: too", "rejected": f"{start}Ben."}
    handle = preferences(lines(tmp_path, row, row | {"rejected": "Ben."}), max_dropped=0.5)
    (group,) = made(tmp_path, handle)
    assert said(group.prompt) == [("user", "Who bakes?")] and answers(group) == ("Ada.\n\nAssistant: too", "Ben.")
    assert record(tmp_path, handle)["notes"]["layout"] == "UltraFeedback pairs as texts"
    assert dropped(tmp_path, handle)[0]["reason"] == 'field "rejected" does not begin with its prompt'


def test_binarised_pairs_keep_their_scores(tmp_path):
    asked = {"role": "user", "content": "Who bakes?"}

    def row(chosen, rejected):
        talks = [[asked, {"role": "assistant", "content": text}] for text in ("Ada.", "Ben.")]
        scores = {"score_chosen": chosen, "score_rejected": rejected}
        return {"prompt": "Who bakes?", "chosen": talks[0], "rejected": talks[1]} | scores

    file = lines(tmp_path, row(8.5, 3), row(7, 6.5))
    groups = made(tmp_path, preferences(file))
    assert [group.scores() for group in groups] == [[8.5, 3.0], [7.0, 6.5]]
    assert decided(groups) == [(0, 1, 1.0)] * 2
    assert len(made(tmp_path, preferences(file, min_margin=1.0))) == 1


def rated(*scores):
    told = [
        {
            "model": f"model-{i}", "response": f"Answer {i}", "overall_score": score, "fine-grained_score": 3.5,
            "annotations": {"helpfulness": {"Rating": "4"}, "honesty": {"Rating": "N/A"}},
        }
        for i, score in enumerate(scores)
    ]  # fmt: skip
    return {"source": "x", "instruction": "Who bakes?", "models": [], "completions": told}


def test_four_completions_and_their_ratings(tmp_path):
    """One group per row, a score by aspect, None where the annotator wrote N/A; the pair is the best and the worst."""
    handle = ratings(lines(tmp_path, rated(6.5, 9, 2, 7)))
    (group,) = made(tmp_path, handle)
    assert [c.author for c in group.completions] == ["model-0", "model-1", "model-2", "model-3"]
    names = ("overall_score", "fine-grained_score", "helpfulness", "honesty")
    assert [(f.by, f.score) for f in group.feedback[1]] == list(zip(names, (9.0, 3.5, 4.0, None), strict=True))
    assert record(tmp_path, handle)["counts"] == {"groups": 1, "samples": 4, "abstained": 4}
    assert list(Pairs(handle, by="overall_score").decided(group)) == [(1, 2, 1.0, 7.0)]
    bad = rated(1)
    bad["completions"][0]["annotations"]["helpfulness"]["Rating"] = "good"
    got = refused(tmp_path, rated(1), bad, read=ratings)
    assert 'line 2 completions[0]: the "Rating" of "helpfulness" is \'good\'; a number, or "N/A"' in got
    assert "--empty drop" in refused(tmp_path, rated(1), rated(), read=ratings)
    assert "prompts.ratings.ratings(file) reads it" in refused(tmp_path, rated(1))


# --- annotation files ------------------------------------------------------------------------------------------------

ANNOTATION = {"instruction": "Who?", "output_1": "Ada.", "output_2": "Ben.", "generator_1": "a", "generator_2": "b"}
VALUES = [1, 2, 0, 1.5, None, 1.2, 1.8, 1.0000001827]


def annotations(tmp_path):
    return lines(tmp_path, *(ANNOTATION | {"preference": value} for value in VALUES))


def test_what_is_undecided_is_written_aside_and_counted(tmp_path):
    """Two ties and an abstention of eight; soft labels stay soft."""
    handle = preferences(annotations(tmp_path), max_dropped=0.4)
    p = [p for _, _, p in decided(made(tmp_path, handle))]
    assert p == pytest.approx([1, 0, 0.8, 0.2, 1 - 1.827e-7])
    counts = {"groups": 5, "samples": 10, "dropped": 3, "ties": 2, "abstained": 1}
    assert record(tmp_path, handle)["counts"] == counts
    reasons = [row["reason"] for row in dropped(tmp_path, handle)]
    assert reasons == ["it is a tie", "it is a tie", "its annotator abstained"]
    with pytest.raises(UserError, match=r'3 of 8 rows .* are dropped \(3 undecided: undecided="keep" keeps those\)'):
        made(tmp_path, preferences(annotations(tmp_path)))


def test_the_original_reads_whatever_is_not_1_as_the_second(tmp_path):
    """Preference 1 -> (0, 1); 2, 0, 1.5, null and every soft value -> (1, 0): five labels say something else."""
    handle = preferences(annotations(tmp_path), undecided="second")
    assert [p for _, _, p in decided(made(tmp_path, handle))] == [1, 0, 0, 0, 0, 0, 0, 0]
    counts = {"groups": 8, "samples": 16, "ties": 2, "abstained": 1, "overruled": 5}
    assert record(tmp_path, handle)["counts"] == counts
    with pytest.raises(UserError, match=r'undecided=\.\.\.\): got "first"; "drop", "keep", "second"'):
        reader(annotations(tmp_path), reading=Reading("first"))


def test_rows_with_special_token_texts_may_be_barred(tmp_path):
    """The original drops them, strike-through tags included; by default they are texts like any other."""
    marked = ANNOTATION | {"output_2": "It is <s>Ben</s>."}
    file = lines(tmp_path, ANNOTATION | {"preference": 1}, marked | {"preference": 1})
    assert len(made(tmp_path, preferences(file))) == 2
    handle = preferences(file, without=("<s>", "</s>", "<|endoftext|>"), max_dropped=0.5)
    assert len(made(tmp_path, handle)) == 1
    assert dropped(tmp_path, handle)[0]["reason"] == 'it holds "<s>"'
    with pytest.raises(UserError, match="a tuple of texts, such as"):
        made(tmp_path, preferences(file, without="</s>"))


def test_of_repeated_prompts_one_row_may_be_kept(tmp_path):
    """Ada, Eve, Bob answer Who?, Where?, Who?: the last row of Who? stands where the first did, as in the original."""
    given = [("Who?", "Ada."), ("Where?", "Eve."), ("Who?", "Bob.")]
    row = ANNOTATION | {"preference": 1, "output_2": "No."}
    file = lines(tmp_path, *(row | {"instruction": asked, "output_1": said} for asked, said in given))
    kept = {}
    for rule in ("keep", "first", "last"):
        handle = preferences(file, repeated=rule)
        kept[rule] = [answers(group)[0] for group in made(tmp_path, handle)]
        assert record(tmp_path, handle)["counts"].get("repeated", 0) == (rule != "keep")
    assert kept == {"keep": ["Ada.", "Eve.", "Bob."], "first": ["Ada.", "Eve."], "last": ["Bob.", "Eve."]}
    with pytest.raises(UserError, match=r'preferences\(repeated=\.\.\.\): got "one"'):
        made(tmp_path, preferences(file, repeated="one"))


def test_a_cap_is_a_cap(tmp_path):
    """200 of 205 rows are 200; the original's labelling ends two rows later."""
    rows = (ANNOTATION | {"instruction": f"Who bakes bread {i}?", "preference": 1} for i in range(205))
    assert len(made(tmp_path, preferences(lines(tmp_path, *rows), first=200))) == 200
