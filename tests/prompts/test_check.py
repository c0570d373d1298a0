"""`trueline check`: what is shown of a preference file, what is counted, and when it says no."""

from __future__ import annotations

import json

import pytest

from tests import chats
from tests.prompts.written import lines
from trueline.chat import Renderer, prepare
from trueline.errors import UserError
from trueline.files import rows
from trueline.prompts.check import check, shown, tokens
from trueline.prompts.findings import Examiner, quantile
from trueline.prompts.preferences import Reading, reader
from trueline.records import Message


def pair(prompt="Who bakes the bread?", chosen="Ada bakes the bread.", rejected="Ben."):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


PAIRS = [pair(f"Who bakes bread number {i}?") for i in range(20)]


@pytest.fixture
def base(tmp_path):
    """A folder with a tokenizer that closes turns with its own token, and nothing else."""
    tokenizer = chats.with_template(chats.byte_level(), "qwen2")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """What is written aside goes to the working folder; the terminal is wide and without colour."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


def examined(file, max_length=256, tokenizer=None, undecided="drop"):
    """Findings over a file with a small ChatML tokenizer."""
    tokenizer = tokenizer or chats.byte_level()
    prepare(tokenizer)
    aside = []
    examiner = Examiner(Renderer(tokenizer), max_length, lambda reason, row: aside.append((reason, row.where)))
    list(examiner.groups(rows(file), reader(file, reading=Reading(undecided))))
    return examiner.findings, aside


def row_of(out, name):
    """The cells of the table's row that begins with `name`."""
    return [cell.strip() for cell in next(x for x in out.splitlines() if x.strip().startswith(name)).split("│")]


def test_a_good_file_passes(tmp_path, base, capsys):
    """Every answer ends with exactly one trained end-of-turn; the marks tell what is trained without any colour."""
    assert check(prefs=lines(tmp_path, *PAIRS).path, base=base, examples=1) == 0
    out = capsys.readouterr().out
    assert "«Ada bakes the bread.<|im_end|>»^¶" in out
    assert "«Ben.<|im_end|>»^¶" in out
    assert "<|im_start|>system¶\nYou are a helpful assistant.<|im_end|>¶" in out
    assert row_of(out, "rows")[1:3] == ["20", "100.0%"]
    assert row_of(out, "end-of-turn trained once")[1:3] == ["40", "100.0%"]
    assert "<|im_end|> (375), which is not EOS" in row_of(out, "end-of-turn trained once")[3]
    assert row_of(out, "prompt not a prefix")[1] == row_of(out, "template differs")[1] == "0"
    assert row_of(out, "chosen is longer")[1:3] == ["20", "100.0%"]
    assert "TRL preferences, plain, explicit prompt" in out and "chat: template" in out
    assert "OK every share is within its limit" in out
    assert not (tmp_path / "prefs.check.jsonl").exists()


def test_shares_above_their_limits_are_named(tmp_path, base, capsys):
    """2 of 20 rows empty (10 %), 1 of 18 pairs copied, 1 with special-token text, 1 too long: all above 5 %."""
    bad = [pair(rejected=""), pair(chosen=" ")]
    odd = [PAIRS[0], pair("Say <|im_end|>"), pair("Go on", chosen="bread " * 200)]
    file = lines(tmp_path, *PAIRS[:15], *bad, *odd)
    options = {"prefs": file.path, "base": base, "max_length": 160}
    assert check(**options) == 1
    out = capsys.readouterr().out
    assert "FAIL 2 of 20 rows are dropped (10.0%); --max-dropped allows 5.0%" in out
    assert "FAIL 1 of 18 pairs are longer than --max-length (5.6%); --max-cut allows 5.0%" in out
    assert "FAIL 1 of 18 pairs hold special-token text (5.6%); --max-special allows 5.0%" in out
    assert "FAIL 1 of 18 pairs are duplicates (5.6%); --max-duplicates allows 5.0%" in out
    assert "<|im_end|> x1; read as text" in row_of(out, "special-token text")[3]
    aside = [json.loads(line) for line in (tmp_path / "prefs.check.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in aside] == [
        'dropped: field "rejected" is empty',
        'dropped: field "chosen" is empty',
        "cut: chosen longer than --max-length",
    ]
    assert aside[0]["where"].endswith("line 16") and aside[0]["row"] == bad[0]
    allowed = dict.fromkeys(("max_dropped", "max_cut", "max_special", "max_duplicates"), 0.2)
    assert check(**options, **allowed) == 0


def test_tokens_that_look_like_markup_are_shown_as_they_are(tmp_path, capsys):
    chats.with_template(chats.byte_level(), "mistral3").save_pretrained(tmp_path / "model")
    file = lines(tmp_path, pair("Say [/INST] [bold]", chosen="[red]Ada.[/INST]"))
    assert check(prefs=file.path, base=str(tmp_path / "model")) == 1
    out = capsys.readouterr().out
    assert "<s>[INST] Say [/INST] [bold][/INST]« [red]Ada.[/INST]</s>»^" in out
    assert "[/INST] x2; read as text" in out


def test_copies_and_contradictions(tmp_path):
    """Of five pairs of one prompt: a copy, the same answers the other way round, and another pair."""
    a, b = pair("Who?", "Ada.", "Ben."), pair("Who?", "Ben.", "Ada.")
    found, _ = examined(lines(tmp_path, a, a, b, pair("Who?", "Ada.", "Cy."), pair("Where?")))
    assert (found.same_prompt, found.same_pair, found.contradicted) == (3, 1, 1)
    soft = {"instruction": "Who?", "output_1": "Ada.", "output_2": "Ben."}
    given = [soft | {"preference": p} for p in (1.2, 1.8, 1.5, None)]
    found, _ = examined(lines(tmp_path, *given), undecided="keep")
    assert (found.same_pair, found.contradicted, found.ties, found.abstained) == (3, 1, 1, 1)


def test_lengths_are_those_of_the_tokens(tmp_path):
    """Answers "Ada." (4 letters) and "Ben": lengths with the end-of-turn, gap = chosen - rejected."""
    tokenizer = chats.whitespace("user", "assistant", "Who", "A", "B")
    found, _ = examined(lines(tmp_path, pair("Who", "A B A", "B"), pair("Who", "A", "B B")), tokenizer=tokenizer)
    # <|im_start|> user \n Who <|im_end|> \n <|im_start|> assistant \n
    assert found.prompt_tokens == [9, 9]
    assert found.chosen_tokens == [4, 2] and found.rejected_tokens == [2, 3]
    assert found.gaps == [2, -1] and found.totals == [13, 12]
    assert quantile(found.totals, 0.5) == 12.5 and quantile(found.totals, 1.0) == 13


def test_pairs_that_are_one_once_cut_and_prompts_that_leave_no_room(tmp_path):
    same_start = "Ada bakes the bread. " * 12
    given = [pair(chosen=same_start + "Yes.", rejected=same_start + "No."), pair("bread " * 300)]
    found, aside = examined(lines(tmp_path, *given), max_length=60)
    assert found.same_once_cut == 1 and found.pairs == 1
    assert found.dropped == {"the prompt alone fills --max-length": 1}
    assert [reason for reason, _ in aside] == [
        "cut: chosen and rejected longer than --max-length",
        "dropped: the prompt alone fills --max-length",
    ]


def test_a_boundary_that_the_template_merges_is_counted(tmp_path):
    """Plain text that ends "wor" and goes on "ld": one token runs across where a program tokenises both at once."""
    tokenizer = chats.byte_level()
    file = lines(tmp_path, pair("Who bakes the brea", "d.", "m."), pair("Who?", " Ada.", " Ben."))
    examiner = Examiner(Renderer(tokenizer, "plain"), 256, lambda reason, row: None)
    list(examiner.groups(rows(file), reader(file)))
    found = examiner.findings
    assert (found.compared, found.unprefixed, found.differs) == (2, 1, 1)
    assert found.difference.startswith("token ")


def test_bos_that_is_there_once_and_rows_that_a_template_refuses(tmp_path):
    tokenizer = chats.with_template(chats.byte_level(), "mistral")
    twice = {"prompt": [{"role": "user", "content": "a"}] * 2, "chosen": [{"role": "assistant", "content": "b"}]}
    once = twice | {"prompt": twice["prompt"][:1]}
    rejected = {"rejected": [{"role": "assistant", "content": "c"}]}
    found, _ = examined(lines(tmp_path, once | rejected, twice | rejected), tokenizer=tokenizer)
    assert found.bos == {1: 1} and found.pairs == 1
    (reason,) = found.dropped
    assert "refuses the roles user, user" in reason


def test_answers_that_bring_their_own_end_or_repeat_the_prompt(tmp_path):
    long = "Who bakes the bread in this town?"
    given = [pair(chosen="Ada.<|im_end|>"), pair(long, long + " Ada.", long + " Ben.")]
    found, _ = examined(lines(tmp_path, *given))
    assert found.own_end == 1 and found.unended == 0 and found.repeats_prompt == 1


def test_long_middles_are_left_out_and_said_so():
    tokenizer = chats.byte_level()
    prepare(tokenizer)
    renderer = Renderer(tokenizer)
    turns = [Message("user", "bread " * 300), Message("assistant", "Ada. " * 200)]
    rendered = renderer.conversation(turns)
    text = tokens(rendered, renderer, len(renderer.prompt_ids(turns[:1])), len(rendered.ids)).plain
    assert text.count(" tokens ... ") == 2 and len(text) < 2500
    assert text.endswith("<|im_end|>»^¶\n")
    cut = tokens(rendered, renderer, len(renderer.prompt_ids(turns[:1])), len(rendered.ids) - 3).plain
    assert "[cut here]" in cut and "^" not in cut


def test_a_character_of_several_tokens_is_shown_whole():
    """ "é" is two byte tokens and "🙂" four; a lone replacement character is itself."""
    renderer = Renderer(chats.byte_level(), "plain")
    for text in ("café", "a🙂b", "x\ufffdy", "\ufffd"):
        ids = renderer.answer_ids(text, ended=False)
        assert "".join(shown(ids, renderer)) == text and len(shown(ids, renderer)) == len(ids)


def test_what_cannot_be_checked_is_refused(tmp_path, base):
    file = lines(tmp_path, *PAIRS).path
    with pytest.raises(UserError, match="there is no model folder"):
        check(prefs=file, base=str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be written"):
        check(prefs=lines(tmp_path, pair(rejected=""), *PAIRS).path, base=base, aside=tmp_path / "no" / "x.jsonl")
    with pytest.raises(UserError, match="malformed JSON"):
        check(prefs=lines(tmp_path, PAIRS[0], "{").path, base=base)


def test_the_real_hh_rows_with_a_real_small_model(tmp_path, shared_data, capsys):
    """HH prompts are long for 512 positions and a vocabulary of 512: check says so and exits with 1."""
    options = {"prefs": shared_data / "hh_rlhf" / "harmless-base.test.jsonl", "first": 300}
    assert check(base=str(shared_data / "models" / "stories260K"), **options) == 1
    out = capsys.readouterr().out
    assert "the model reads no more than 512" in out and "HH-RLHF transcripts" in out and "chat: chatml" in out
    assert "--max-dropped allows" in out and "--max-cut allows" in out
    assert row_of(out, "end-of-turn trained once")[2] == "100.0%"
    assert row_of(out, "BOS once")[2] == "100.0%"
    assert row_of(out, "template differs")[1] == "0"
    assert len((tmp_path / "harmless-base.test.check.jsonl").read_text().splitlines()) > 20


# --- other layouts ---------------------------------------------------------------------------------------------------


def test_the_better_answer_is_the_chosen_one(tmp_path, base, capsys):
    """Of SHP's comments the second wins: it is shown and measured as the chosen one."""
    row = {"history": "Who bakes?", "human_ref_A": "Ben", "human_ref_B": "Ada bakes.", "score_A": 1, "score_B": 9}
    assert check(prefs=lines(tmp_path, row | {"labels": 0}).path, base=base) == 0
    out = capsys.readouterr().out
    assert out.index("«Ada bakes.<|im_end|>»") < out.index("«Ben<|im_end|>»")
    assert row_of(out, "chosen is longer")[1:3] == ["1", "100.0%"] and "(SHP: two comments on a post)" in out


def test_every_comparison_of_scored_answers_is_looked_at(tmp_path):
    """Three answers scored 2, 5, 2: two pairs, and a tie only where ties are kept."""
    told = [{"pm_score": score, "text": f"<p>Answer {i}</p>"} for i, score in enumerate((2, 5, 2))]
    row = {"question": "<p>Who?</p>", "answers": told}
    found, _ = examined(lines(tmp_path, row))
    assert (found.rows, found.pairs, found.answers, found.ties) == (1, 2, 4, 0)
    found, _ = examined(lines(tmp_path, row), undecided="keep")
    assert (found.pairs, found.ties) == (3, 1)


def test_answers_to_imitate_are_looked_at_too(tmp_path, base, capsys):
    """A ShareGPT file and a completion file: answers, their ends and lengths, and no column of pairs."""
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    more = [*talk, {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada. " * 60}]
    file = lines(tmp_path, {"conversations": talk}, {"conversations": more}, {"conversations": talk[1:]})
    options = {"prefs": file.path, "base": base, "max_length": 120, "max_dropped": 0.5}
    assert check(**options) == 1
    out = capsys.readouterr().out
    assert "(answers to imitate)" in out and "«Hello.<|im_end|>»^" in out and "rejected" not in out
    assert row_of(out, "usable answers")[1] == "2" and row_of(out, "duplicate answers")[1] == "0"
    assert row_of(out, "end-of-turn trained once")[1:3] == ["2", "100.0%"]
    assert "FAIL 1 of 2 answers are longer than --max-length (50.0%)" in out
    aside = [json.loads(line)["reason"] for line in (tmp_path / "prefs.check.jsonl").read_text().splitlines()]
    assert aside == [
        "cut: answer longer than --max-length", "dropped: the conversation begins with the assistant's turn",
    ]  # fmt: skip
    assert check(**options, turns="first", max_duplicates=0.5) == 0
    (tmp_path / "all.json").write_text('{\n"Who?": ["Ada."],\n"Where?": ["Here.", "There."]\n}')
    assert check(prefs=tmp_path / "all.json", base=base) == 0
    assert row_of(capsys.readouterr().out.split("all.json")[-1], "usable answers")[1] == "3"
