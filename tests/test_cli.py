"""The command line: a recipe's signature is its options; mistakes name the cure; nothing is remade or slow."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trueline import cli
from trueline.pipeline.loading import names

STUDY = '''"""A toy study."""
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trueline.errors import UserError
from trueline.pipeline import shards, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import File, Groups, Prompts, Report


@dataclass(frozen=True)
class Tone:
    """How to answer.

    warmth: degrees Celsius above the room.
    style: plain or ornate.
    """

    warmth: float = 1.0
    style: Literal["plain", "ornate"] = "plain"


@stage(Prompts, estimate=lambda n, **_: {"prompts": n})
def ask(work, n: int, rows: File | None = None):
    write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(f"question {i}") for i in range(n)])
    work.count("prompts", n)


@stage(Groups, estimate=lambda prompts, k, **_: {"samples": k * prompts.count["prompts"]})
def answer(work, prompts: Prompts, tone: Tone, k: int, extra: int, seeds: tuple[int, ...], slow: float = 0.0):
    def process(batch):
        time.sleep(slow)
        return [Group(prompt, (Completion("yes"),) * k) for prompt in batch]

    shards(work, list(prompts.read()), process, size=2)


@stage(Report)
def tell(work, groups: Groups):
    (work.dir / "table.txt").write_text("policy  gold\\nbase    0.50\\n")
    (work.dir / "report.html").write_text("<h1>a report</h1>")


def study(
    *,
    prompts: int = 4,
    rows: Path | None = None,
    tone: Tone = Tone(warmth=0.3),
    k: int = 2,
    mode: Literal["plain", "rich"] = "plain",
    extra: int = 0,
    rounds: int = 1,
    seeds: tuple[int, ...] = (1,),
    slow: float = 0.0,
):
    """Study how warmth pays.

    Args:
        prompts: questions to ask.
        rows: a file of the user's,
            as JSON lines.
        k: answers per question.
        mode: plain leaves extra out.
        extra: grams of it.
        rounds: how often; 0 leaves the answers out.
        seeds: of the answers.
        slow: seconds per two answers.
    """
    if prompts > 1000:
        raise UserError("--prompts", f"{prompts}", "at most 1000")
    asked = ask(prompts, File(rows) if rows else None)
    if not rounds:
        return asked
    return tell(answer(asked, tone, k, extra if mode == "rich" else 0, seeds, slow))


def pair(*, n: int = 2):
    return {"one": ask(n), "two": ask(n + 1)}


def wrong():
    return 3


def must(*, rows: Path, lonely: dict | None = None):
    return ask(1, File(rows))


def impossible(thing: dict):
    return ask(1)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRUELINE_STORE", raising=False)
    (tmp_path / "my.py").write_text(STUDY)
    return tmp_path


def run(capsys, *words: str) -> tuple[int, str, str]:
    status = cli.main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


def refused(capsys, *words: str) -> str:
    status, out, error = run(capsys, *words)
    assert (status, out) == (2, "")
    assert error.startswith("error: ") and "Traceback" not in error
    return error.removeprefix("error: ").strip()


def test_plan_make_show_and_make_again(here, capsys):
    status, out, _ = run(capsys, "plan", "my.py:study", "--prompts", "3", "--tone.warmth", "2")
    assert status == 0
    assert re.findall(r"^make +(\w+)-", out, re.M) == ["ask", "answer", "tell"]
    assert out.splitlines()[-1] == "To make: 3 of 3 artefacts: prompts 3, samples 6."
    assert not (here / "store").exists()

    status, out, error = run(capsys, "make", "my.py:study", "--prompts", "3", "--tone.warmth", "2")
    assert status == 0
    assert re.findall(r"^made  (\w+)-", error, re.M) == ["ask", "answer", "tell"]
    table, _, places = out.partition("\n\n")
    assert table == "policy  gold\nbase    0.50"
    assert re.fullmatch(r"tell +store/report/tell-\w+\npage +report\.html\nrun +runs/study/[\d_-]+\n", places)
    assert (here / "report.html").read_text() == "<h1>a report</h1>"

    status, again, error = run(
        capsys, "make", "my.py:study", "--prompts", "3", "--tone.warmth", "2", "--out", "x/y.html"
    )
    assert status == 0 and again.startswith(table)
    assert re.findall(r"^(\w+)  (\w+)-", error, re.M) == [("have", "ask"), ("have", "answer"), ("have", "tell")]
    assert (here / "x/y.html").exists()

    name = re.search(r"tell-\w+", out)[0]
    for what in (["my.py:study", "--prompts", "3", "--tone.warmth", "2"], [name]):
        shown = run(capsys, "show", *what)[1]
        assert "my.tell rev 1 (my:tell)" in shown and shown.endswith(f"{table}\n\n")
    shown = run(capsys, "show", "my.py:study", "--prompts", "3", "--tone.warmth", "2", "--artifact", "answer")[1]
    assert re.search(r"tone\.warmth +2\n", re.sub(r" +\n", "\n", shown))
    assert "n: 3 -> 5" in run(capsys, "why", "my.py:study", "--prompts", "5", "--tone.warmth", "2")[1]


def test_a_recipe_by_path_by_module_and_by_name_is_the_same(here, capsys, monkeypatch):
    monkeypatch.syspath_prepend(here)
    run(capsys, "make", "my.py:study", "--store", "elsewhere")
    for reference in ("my:study", str(here / "my.py") + ":study"):
        assert "Nothing to make" in run(capsys, "plan", reference, "--store", "elsewhere")[1]
    assert (here / "elsewhere" / "store.json").exists()
    assert run(capsys, "plan", "my.py:pair")[1].count("make  ask-") == 2
    assert "tour" in names()


def test_options_become_values_of_the_types_that_the_recipe_names(here, capsys):
    """`--tone.style` keeps the recipe's own default warmth of 0.3, not the class's 1.0."""
    words = ["--tone.style", "ornate", "--seeds", "3", "4", "--mode", "rich", "--extra", "5", "--machine.shard", "9"]
    run(capsys, "make", "my.py:study", *words)
    shown = run(capsys, "show", "my.py:study", *words[:-2], "--artifact", "answer")[1]
    told = dict(line.split(maxsplit=1) for line in shown.splitlines() if len(line.split()) > 1)
    assert (told["tone.warmth"], told["tone.style"].strip(), told["seeds"].strip(), told["extra"].strip()) == (
        told["tone.warmth"], '"ornate"', "[3, 4]", "5"
    )  # fmt: skip
    assert told["tone.warmth"].strip() == "0.3"


def test_help_says_what_each_knob_means(here, capsys):
    out = run(capsys, "make", "my.py:study", "--help")[1]
    flat = re.sub(r"[│\s]+", " ", out)
    for said in (
        "Study how warmth pays.", "--prompts INT questions to ask. [default: 4]",
        "--rows PATH a file of the user's, as JSON lines.",
        "--tone.warmth FLOAT degrees Celsius above the room. [default: 0.3]",
        "[choices: plain, rich] [default: plain]",
        "--machine.micro-tokens INT trie tokens per forward and backward pass",
        "--seeds INT... of the answers. [default: 1]",
    ):  # fmt: skip
        assert said in flat
    assert max(map(len, out.splitlines())) <= 80
    out = run(capsys)[1]
    assert all(command in out for command in ("plan", "make", "why", "show", "check", "doctor", "tour"))
    assert run(capsys, "--version")[1].startswith("trueline ")


def test_mistakes_on_the_command_line_name_the_cure(here, capsys):
    said = lambda *words: refused(capsys, *words)  # noqa: E731
    where = "trueline plan my.py:study"
    plan = ("plan", "my.py:study")
    assert said("mak", "my.py") == "trueline: unknown command 'mak'. Did you mean \"make\"?"
    assert said("plan").startswith("trueline plan: no recipe is named. Known: ")
    assert said("plan", "tuor").endswith('Did you mean "tour"?')
    assert said("plan", "my.py").endswith("Write my.py:study.")
    assert said("plan", "my.py:studi").endswith('Did you mean "study"?')
    assert "there is no such file" in said("plan", "your.py:study")
    assert "there is no such module" in said("plan", "your.module:study")
    assert said(*plan, "--promts", "3") == f'{where}: unknown option --promts. Did you mean "--prompts"? See --help.'
    assert (
        said(*plan, "--tone.warmt=3")
        == f'{where}: unknown option --tone.warmt. Did you mean "--tone.warmth"? See --help.'
    )
    assert said(*plan, "3") == f"{where}: ['3'] belongs to no option. Write --name VALUE."
    assert said(*plan, "--prompts", "3.5") == "--prompts: 3.5 is not a whole number."
    assert 'unable to convert "x" into int' in said(*plan, "--prompts", "x")
    assert 'Choose from: "plain", "rich"' in said(*plan, "--mode", "odd")
    assert 'Choose from: "auto", "fp32", "bf16"' in said(*plan, "--machine.precision", "fp8")
    assert said(*plan, "--prompts", "2000") == "--prompts: 2000; at most 1000."
    assert said("plan", "my.py:must").startswith("trueline plan my.py:must: parameter --rows requires an argument")
    assert re.match(r"my\.py:\d+: there is no file 'x\.jsonl'", said("plan", "my.py:must", "--rows", "x.jsonl"))
    assert "no command line can give thing: <class 'dict'>" in said("plan", "my.py:impossible")
    assert "it returned int; a recipe returns artefacts" in said("plan", "my.py:wrong")
    assert said("show", "tell-01234567").startswith("trueline show tell-01234567: there is none of this name in")
    assert said("show", "my.py:study", "--artifact", "tel").endswith('Did you mean "tell"?')
    assert said("make", "my.py:pair", "--out", "x.html").startswith("--out: 0 of the recipe's results are reports")
    (here / "broken.py").write_text("def study(:\n")
    assert re.match(r".*broken\.py:1: this is no Python", said("plan", "broken.py:study"))


def test_an_option_without_effect_is_an_error_that_says_when_it_would_have_one(here, capsys):
    where = "trueline make my.py:study"
    assert refused(capsys, "make", "my.py:study", "--extra", "3") == (
        f"{where}: --extra 3 has no effect. Leave --extra out, or add --mode rich."
    )
    assert refused(capsys, "make", "my.py:study", "--rounds", "0", "--k", "5") == (
        f"{where}: --k 5 has no effect with --rounds 0. Leave --k out."
    )
    assert refused(capsys, "make", "my.py:study", "--rounds", "0", "--tone.warmth", "5").startswith(
        f"{where}: --tone.warmth 5.0 has no effect with --rounds 0."
    )
    assert not (here / "store").exists()
    assert run(capsys, "make", "my.py:study", "--extra", "3", "--mode", "rich")[0] == 0


def test_a_traceback_is_shown_only_under_debug(here, capsys):
    from trueline.errors import UserError

    with pytest.raises(UserError):
        cli.main(["plan", "my.py:study", "--promts", "3", "--debug"])


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(here):
    words = [sys.executable, "-m", "trueline.cli", "make", "my.py:study", "--prompts", "20", "--slow", "0.2"]
    # Tests that a shell runs in the background ignore Ctrl-C, and so would what they start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 60
    while not list(here.glob("store/groups/*.part/shards/*/*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error.rstrip().endswith("stopped: what is finished is kept; the same command goes on from there.")
    assert "Traceback" not in error
    kept = len(list(here.glob("store/groups/*.part/shards/*/*.jsonl")))
    assert 0 < kept < 10
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "have  ask-" in done.stderr and "made  answer-" in done.stderr


def test_making_what_is_there_is_quick_and_imports_nothing_heavy(here):
    """Under two seconds, import included: of processor time, since tests run beside others; the best of three."""
    words = [sys.executable, "-m", "trueline.cli", "make", "my.py:study"]
    subprocess.run(words, capture_output=True, check=True)
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run(words, capture_output=True, check=True)
        now = os.times()
        seconds.append(now.children_user + now.children_system - before.children_user - before.children_system)
    assert min(seconds) < 2.0
    said = subprocess.run([words[0], "-X", "importtime", *words[1:]], capture_output=True, text=True, check=True).stderr
    assert "trueline.store" in said
    assert not re.search(r"\|\s+(torch|transformers|numpy|matplotlib)$", said, re.M)


def test_doctor_says_what_runs_here(here, capsys):
    status, out, _ = run(capsys, "doctor", "--store", "elsewhere")
    assert status == 0
    assert re.search(r"device +(cpu|cuda)", out) and "0 artefacts" in out and f"of {os.cpu_count()} cores" in out


def test_check_is_a_command_with_its_own_signature(here, capsys):
    out = run(capsys, "check", "--help")[1]
    assert "--prefs" in out and "--base" in out
    assert refused(capsys, "check", "--prefs", str(Path("nowhere.jsonl")), "--base", "nothing")
