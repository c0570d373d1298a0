"""HH-RLHF transcripts: where the prompt ends, and which rows have none in common."""

from __future__ import annotations

from tests.prompts.written import answers, dropped, lines, made, record, said
from trueline.prompts.preferences import preferences


def transcript(*turns):
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {turn}" for i, turn in enumerate(turns))


def test_the_prompt_runs_to_the_last_assistant_of_the_chosen_transcript(tmp_path):
    """Three turns, then two answers; text that mentions Human: inside a line starts no turn."""
    chosen = transcript("Hi", "Hello. Human: no turn", "Who bakes?", "Ada.\n\nShe does.")
    rejected = transcript("Hi", "Hello. Human: no turn", "Who bakes?", "Ben.")
    (group,) = made(tmp_path, preferences(lines(tmp_path, {"chosen": chosen, "rejected": rejected})))
    assert said(group.prompt) == [("user", "Hi"), ("assistant", "Hello. Human: no turn"), ("user", "Who bakes?")]
    assert answers(group) == ("Ada.\n\nShe does.", "Ben.")


def test_a_prompt_field_of_its_own_is_joined(tmp_path):
    row = {"prompt": "\n\nHuman: Who?\n\nAssistant:", "chosen": " Ada.", "rejected": " Ben."}
    (group,) = made(tmp_path, preferences(lines(tmp_path, row)))
    assert said(group.prompt) == [("user", "Who?")] and answers(group) == ("Ada.", "Ben.")


def test_two_turns_of_one_role_become_one(tmp_path):
    chosen = "\n\nHuman: One\n\nHuman: Two\n\nAssistant: Ada."
    (group,) = made(tmp_path, preferences(lines(tmp_path, {"chosen": chosen, "rejected": chosen + "!"})))
    assert said(group.prompt) == [("user", "One\n\nTwo")]


def test_rows_without_a_common_context_are_dropped_with_the_reason(tmp_path):
    good = {"chosen": transcript("Who?", "Ada."), "rejected": transcript("Who?", "Ben.")}
    rows = [
        good,
        {"chosen": transcript("Who?", "Ada."), "rejected": transcript("Where?", "Ben.")},
        {"chosen": transcript("Who?", "Ada."), "rejected": transcript("Who?", "Ben.", "Why?", "So.")},
        {"chosen": transcript("Who?", "Ada.", "Why?"), "rejected": transcript("Who?", "Ben.")},
    ]
    handle = preferences(lines(tmp_path, *rows), max_dropped=0.8)
    assert len(made(tmp_path, handle)) == 1
    assert [row["reason"] for row in dropped(tmp_path, handle)] == [
        "chosen and rejected have different contexts",
        "a transcript goes on after the answer",
        "a transcript goes on after the answer",
    ]


def test_the_published_test_rows(tmp_path, shared_data):
    """helpful-base and harmless-base: 4,666 rows, of which some have an empty or a repeated answer."""
    from trueline.store import File

    counts = {}
    for name in ("helpful-base", "harmless-base"):
        file = File(shared_data / "hh_rlhf" / f"{name}.test.jsonl")
        handle = preferences(file, empty="drop", same="drop")
        groups = made(tmp_path, handle)
        counts[name] = record(tmp_path, handle)["counts"]
        assert len(groups) + counts[name]["dropped"] == handle.inputs["file"].path.read_bytes().count(b"\n")
        for group in groups:
            roles = [message.role for message in group.prompt.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    assert counts["harmless-base"] == {"groups": 2303, "samples": 4606, "dropped": 9}
    assert counts["helpful-base"]["groups"] > 2330
