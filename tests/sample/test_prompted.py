"""Prompted engines: what is shown, how it is laid out and signed, where answers end, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from tests.sample import given
from trueline import world
from trueline.errors import UserError
from trueline.fingerprint import File, fingerprint
from trueline.pipeline import make
from trueline.records import Completion, Message, Prompt
from trueline.sample.draw import draw
from trueline.sample.hf import HF
from trueline.sample.prompted import Prompted, cut_turns
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.served import OpenAI
from trueline.sample.shots import Shots, shots
from trueline.store import using

ASKED = Prompt.of("Who bakes the bread?", id="q1")
THREE = Shots("three", tuple((Message("user", f"q{i}?"), Message("assistant", f"a{i}.")) for i in range(3)), "Be kind.")
GOOD = "This is an answer of sixty-five characters or more, as you can see"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with using(tmp_path_factory.mktemp("store")):
        yield make(world.base("tiny"))


def echo(prompt, index):
    """Says what it was asked, all of it."""
    return "|".join(f"{m.role}:{m.content}" for m in prompt.messages)


def heard(engine, prompt=ASKED):
    return engine.asking(prompt).messages


def said(raw, form="text"):
    with Prompted(Scripted((raw,)), THREE, 0, form=form, stop=()) as engine:
        return engine.generate([ASKED], Sampling(max_tokens=1000))[0][0]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_so_many_dialogues_are_shown_and_none_at_all_with_0(n):
    """n = 0, 1 and all there are: released, ALMoST shows all with 0."""
    engine = Prompted(Scripted(("x",)), THREE, n)
    (message,) = heard(engine)
    shown = "".join(f"\n\nHuman: q{i}?\n\nAssistant: a{i}.\n\n-----" for i in range(n))
    assert message.content == f"Be kind.\n\n-----{shown}\n\nHuman: Who bakes the bread?\n\nAssistant:"
    assert engine.name == f"scripted-three-{n}shot"


def test_more_dialogues_than_there_are_are_refused():
    for n in (4, -1, True, 1.0):
        with pytest.raises(UserError, match="0 to 3, which is how many dialogues three has"):
            Prompted(Scripted(("x",)), THREE, n)
    with pytest.raises(UserError, match=r"0 to 3.*answering has"):
        Prompted(Scripted(("x",)), "answering", 5)


def test_as_a_chat_the_dialogues_are_turns():
    engine = Prompted(Scripted(("x",)), THREE, 2, form="chat")
    roles = [m.role for m in heard(engine)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert heard(engine)[0].content == "Be kind."
    assert heard(dataclasses.replace(engine, preamble="", shots=0)) == ASKED.messages
    own = Prompt((Message("system", "Be brief."), *ASKED.messages))
    assert heard(engine, own)[0].content == "Be kind.\n\nBe brief."
    assert "Be kind.\n\nBe brief.\n\n-----" in heard(dataclasses.replace(engine, form="text"), own)[0].content


def test_as_released_dialogues_stand_as_in_the_file_and_a_space_follows(tmp_path):
    """Two spaces after the colons of the file, one in the live question, one after the last "Assistant:"."""
    path = tmp_path / "Faithful_prompt.txt"
    path.write_text("P.\n\n-----\n\nHuman:  q?\n\nAssistant:  a.\n")
    engine = Prompted(Scripted(("x",), name="llama-2-13b-hf"), File(path), 1, form="almost")
    assert heard(engine)[0].content == (
        "P.\n\n-----\n\nHuman:  q?\n\nAssistant:  a.\n\n-----\n\nHuman: Who bakes the bread?\n\nAssistant: "
    )
    assert engine.name == "llama-2-13b-hf-Faithful-1shot"
    assert heard(dataclasses.replace(engine, form="text"))[0].content.endswith("Assistant: a.\n\n-----"
        "\n\nHuman: Who bakes the bread?\n\nAssistant:")  # fmt: skip


def test_a_conversation_of_several_turns_is_laid_out_whole():
    several = Prompt((Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Who?")))
    (message,) = heard(Prompted(Scripted(("x",)), THREE, 0, preamble=""), several)
    assert message.content == "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant:"


def test_with_a_seed_every_prompt_has_its_own_dialogues_fewer_the_beginning_of_more():
    pool = Shots.of("good", world.demonstrations(8))
    five, two = (Prompted(Scripted(("x",)), pool, n, form="chat", seed=3) for n in (5, 2))
    prompts = [Prompt.of(f"{i}?") for i in range(6)]
    assert all(heard(five, p)[:4] == heard(two, p)[:4] for p in prompts)
    assert len({heard(two, p)[:4] for p in prompts}) > 1
    static = Prompted(Scripted(("x",)), pool, 2, form="chat")
    assert len({heard(static, p)[:4] for p in prompts}) == 1


def test_the_group_keeps_the_bare_prompt_and_its_id(tmp_path):
    """The engine sees the dialogues under the prompt's own id, by which it draws its random numbers."""
    with using(tmp_path):
        made = make(draw(Prompted(Scripted(echo), THREE, 1, form="chat"), given.questions(2), Sampling(max_tokens=99)))
        groups = list(made.read())
    assert [g.prompt for g in groups] == [Prompt.of(f"{i}. {given.QUESTIONS[i]}") for i in range(2)]
    assert groups[0].completions[0].text.startswith("system:Be kind.|user:q0?|assistant:a0.|user:0. Who")
    assert {c.author for g in groups for c in g.completions} == {"scripted-three-1shot"}


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        (".\n\nHuman: thanks", "."), (". Human: inline.", "."), (".\t", ".\t"), (".  \n", "."), (".)", ".)"),
        (". The Assistant: label appears.", ". The"), (".\n\n-----\n\nHuman: and", "."),
    ],
)  # fmt: skip
def test_tails_are_cut_as_released(tail, kept):
    """The table of the released post-processing: markers anywhere; tabs stay, so that a later rule sees them."""
    assert said(GOOD + tail, "almost").text == GOOD + kept.rstrip("\n ")


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        (".\n\nHuman: thanks", "."), (". Human: inline.", ". Human: inline."), (".\t", "."),
        (".\nAssistant: more", "."), ("\n\n-----\n\nHuman: and", ""),
    ],
)  # fmt: skip
def test_tails_are_cut_where_a_turn_begins(tail, kept):
    assert said(GOOD + tail).text == GOOD + kept


def test_an_answer_that_was_cut_before_an_invented_turn_has_ended():
    engine = Prompted(Scripted(("One two.\n\nHuman: three four five six",)), THREE, 0, stop=())
    with engine:
        whole, cut = (engine.generate([ASKED], Sampling(max_tokens=n))[0][0] for n in (5, 1))
    assert (whole.text, whole.stopped) == ("One two.", "stop")
    assert (cut.text, cut.stopped) == ("One", "length")
    assert cut_turns("Human: me first") == ""


def test_the_engine_is_told_where_turns_begin_and_the_budget_is_equal():
    """Stop texts are asked for, those of the sampling too; max_tokens is the sampling's whatever is shown."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Listening(Scripted):
        def generate(self, prompts, sampling):
            seen.append(sampling)
            return super().generate(prompts, sampling)

    for form, shots_ in (("text", 3), ("chat", 1), ("almost", 0)):
        with Prompted(Listening(("x",)), THREE, shots_, form=form) as engine:
            engine.generate([ASKED], Sampling(stop=("END",), max_tokens=77))
    assert [s.stop for s in seen] == [
        ("\n\n-----", "\nHuman:", "\nAssistant:", "END"), ("END",), ("\n\n-----", "Human:", "Assistant:", "END"),
    ]  # fmt: skip
    assert {s.max_tokens for s in seen} == {77}


def test_the_context_check_counts_what_is_shown(tiny):
    with Prompted(tiny, "hedging", 14, form="chat") as engine:
        error = engine.too_long(ASKED, Sampling())
        assert "at most the 1024" in str(error)
        assert dataclasses.replace(engine, shots=0).name.endswith("0shot")
        with pytest.raises(UserError, match="at most the 1024"):
            engine.generate([ASKED], Sampling())


@pytest.mark.parametrize("form", ["text", "chat"])
def test_a_policy_continues_a_text_or_answers_a_chat(tiny, form):
    """Plain: the rendered prompt is the text itself; log-probs are read after what is shown."""
    with Prompted(tiny, THREE, 1, form=form) as engine:
        writer = engine.opened.writer
        text = writer.loaded.renderer.text_of(writer.prompt_ids(engine.asking(ASKED)))
        assert text.endswith("Human: Who bakes the bread?\n\nAssistant:") == (form == "text")
        (answers,) = engine.generate([ASKED], Sampling(n=2, max_tokens=8))
        assert all(c.tokens is None and c.logprobs is None and c.author == engine.name for c in answers)
        (logps,) = engine.logprobs([ASKED], [[Completion("Ada does.")]])
        assert logps[0]


def test_a_text_for_a_model_that_answers_messages_is_refused(tiny):
    with pytest.raises(UserError, match="renders prompts as template"), Prompted(HF(tiny), THREE):
        pass
    with pytest.raises(UserError, match='protocol="completion"'):
        Prompted(OpenAI("gpt-x"), THREE)
    assert Prompted(OpenAI("gpt-x"), THREE, form="chat").calls(4, 4) == 4


def test_it_is_an_engine_and_knows_what_it_wraps():
    engine = Prompted(Scripted(("x",), name="llama-7b"), THREE, 2, size=7e9)
    assert isinstance(engine, Engine)
    assert (engine.model, engine.style, engine.shots) == ("llama-7b", "three", 2)
    assert not hasattr(engine, "calls")
    assert Prompted(Scripted(("x",)), THREE, 1, label="big").name == "big-three-1shot"
    with pytest.raises(RuntimeError, match="inside `with`"):
        engine.generate([ASKED], Sampling())


def test_identity_is_what_is_shown_and_how(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("P.\n\n-----\n\nHuman: q?\n\nAssistant: a.")
    base = Prompted(Scripted(("x",)), File(tmp_path / "one.txt"), 1)
    others = [
        dataclasses.replace(base, shots=0), dataclasses.replace(base, form="almost"), dataclasses.replace(base, seed=0),
        dataclasses.replace(base, preamble=""), dataclasses.replace(base, demonstrations=File(tmp_path / "two.txt")),
    ]  # fmt: skip
    assert len({fingerprint(one) for one in (base, *others)}) == 6
    assert fingerprint(base) == fingerprint(Prompted(Scripted(("x",)), File(tmp_path / "one.txt"), 1))
    assert shots("answering") == Prompted(Scripted(("x",))).shown


def test_what_is_no_engine_or_form_is_refused():
    with pytest.raises(UserError, match="a policy or an engine"):
        Prompted("gpt", THREE)
    with pytest.raises(UserError, match='"text", "chat" or "almost"'):
        Prompted(Scripted(("x",)), THREE, form="chatml")
    with pytest.raises(UserError, match="a number of parameters"):
        Prompted(Scripted(("x",)), THREE, size=-1)
