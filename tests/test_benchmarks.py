"""The harness: ratios, interleaving, who counts as the peer, and how results are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import conditional, harness, train
from benchmarks.harness import Options, Result, race, ratios


def scripted(log: list[str], name: str, *seconds: float):
    """A contestant that reports these seconds, one per call, the uncounted first call included."""
    left = iter(seconds)

    def run() -> float:
        log.append(name)
        return next(left)

    return run


def test_a_race_is_interleaved_and_reports_the_median_ratio_to_the_fastest_peer():
    """Ours takes 1, 2, 1, 2, 1; the peer "fast" 3, 4, 5, 6, 2: ratios 3, 2, 5, 3, 2, median 3, from 2 to 5."""
    log: list[str] = []
    ours = scripted(log, "ours", 9, 1, 2, 1, 2, 1)
    peers = {"slow": scripted(log, "slow", 9, 4, 5, 6, 7, 5), "fast": scripted(log, "fast", 9, 3, 4, 5, 6, 2)}
    # The best of two rounds is 4 for "slow" and 3 for "fast": 4/3 > 1.3 sends it away, beaten by 4 and 2.5.
    result = race("case", ours, peers, bound=5.0, unit="step")
    assert log == ["ours", "slow", "fast"] * 3 + ["ours", "fast"] * 3
    assert result == Result(
        "case", 3.0, 2.0, 5.0, "fast", 5.0, "step", "against its other settings: slow 3.25 (2 rounds)"
    )


def test_a_close_peer_stays_and_the_least_median_is_the_peer():
    """Medians 3 ("a") and 2.9 ("b"): "b" is the peer, though "a" won single rounds."""
    log: list[str] = []
    peers = {"a": scripted(log, "a", 1, 2, 3, 3, 3, 4), "b": scripted(log, "b", 1, 2.5, 2.9, 2.9, 2.9, 4)}
    result = race("case", scripted(log, "ours", 1, 1, 1, 1, 1, 1), peers)
    assert (result.peer, result.ratio) == ("b", 2.9)


def test_a_contestant_that_times_nothing_itself_is_timed_whole():
    assert 0 <= harness.timed(lambda: None) < 1
    assert harness.timed(lambda: 7.0) == 7.0


def test_ratios_are_taken_round_by_round():
    """A slow round of the machine hits both: (10, 20) and (1, 2) are both a ratio of 2."""
    assert ratios([10, 1, 1], [20, 2, 3]) == (2, 2, 3)


def test_the_page_is_rewritten_between_its_markers_only(tmp_path: Path):
    page = tmp_path / "performance.md"
    page.write_text("# Speed\n\n<!-- benchmarks.train: begin -->\nold\n<!-- benchmarks.train: end -->\n\nTail.\n")
    harness.write_page("train", [Result("a|b", 2.5, 2.0, 3.0, "peer", None, "step")], page, said="Here.")
    harness.write_page("sample", [Result("c", 1.0, 1.0, 1.0, "peer", 1.5, "batch")], page)
    text = page.read_text()
    assert "old" not in text and text.startswith("# Speed\n") and "Tail.\n\n<!-- benchmarks.sample: begin -->" in text
    assert "| a\\|b | **2.50** | 2.00–3.00 | – | peer | step |  |" in text
    again = text
    harness.write_page("sample", [Result("c", 1.0, 1.0, 1.0, "peer", 1.5, "batch")], page)
    assert page.read_text() == again


def test_the_command_line_writes_json_and_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def bench(options: Options):
        for case in ("DPO HH 5M", "SFT HH 5M"):
            if options.wants(case):
                yield Result(case, 2.0, 1.5, 2.5, "peer", 3.0, "step", "note")

    out = tmp_path / "out.json"
    harness.main("toy", bench, "A toy.", ["--only", "hh sft", "--json", str(out)])
    row = {"case": "SFT HH 5M", "ratio": 2.0, "low": 1.5, "high": 2.5, "peer": "peer", "bound": 3.0}
    assert json.loads(out.read_text()) == [row | {"unit": "step", "note": "note"}]
    assert "SFT HH 5M: 2.00 (1.50–2.50)" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--repeats", "4"], ["--only", "nothing"], ["--write", "--quick"]])
def test_too_few_rounds_no_case_and_a_partial_page_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        harness.main("toy", lambda options: [], "A toy.", argv)
    assert argv[0] in capsys.readouterr().err


def test_the_arithmetic_of_a_step_is_what_counting_by_hand_gives(monkeypatch: pytest.MonkeyPatch):
    """One pair: a prompt of 20, answers of 2 and 4 tokens.

    Ours: 26 trie tokens; the state before each answer and every answer token but the last is read: 1 + 1 + 3 = 5. A
    token at depth d attends d + 1: 1 + ... + 20 = 210 for the prompt, 21 + 22 and 21 + 22 + 23 + 24 for the answers:
    343 in all; the read states (depths 19; 20; 20, 21, 22) 20 + 21 + 66 = 107. TRL: two rows of 24, and square, since
    one is padded.
    """
    plan = train.Plan("DPO", train.SMALL, train.Lengths("toy", (20, 20), (2, 4)), steps=1, batch=1)
    pair = train.Pair(tuple(range(2, 22)), (30, 0), (31, 32, 33, 0))
    monkeypatch.setitem(plan.__dict__, "pairs", [pair])
    assert train.our_work(plan) == train.Work(tokens=26, last=5, attended=343, last_attended=107, head=5)
    assert train.peer_work(plan, 1) == train.Work(tokens=48, last=48, attended=1152, last_attended=1152, head=46)
    # 6 layers of 4 * 256^2 + 3 * 256 * 704 weights; attention 2 * 256 a pair; the head 256 * 8192 a row.
    layers = 6 * 4 * 256**2 * 26 + 3 * 256 * 704 * (5 * 26 + 5)
    expected = layers + 2 * 256 * (5 * 343 + 107) + 256 * 8192 * 5
    assert train.our_work(plan).multiply_adds(train.SMALL) == expected


def test_the_arithmetic_of_a_conditional_step_is_what_counting_by_hand_gives():
    """Four answers of 3 tokens to a prompt of 20, behind two conditions of 2.

    Ours: 2 * 22 + 4 * 3 tokens, 20 + 4 * 3 for the reference; read are the states before an answer and its tokens but
    the last: 2 + 4 * 2 of the policy, 1 + 4 * 2 of the reference, which the head meets once for each of the policy's.
    The peer in twos: rows of 25 and 23.
    """
    samples = conditional.Samples(train.SMALL, 4, 2, 2, (20, 20), (3, 3))
    ours, beside = conditional.our_work(samples, train.Work)
    assert (ours.tokens, ours.last, ours.head) == (56, 10, 10)
    assert (beside.tokens, beside.last, beside.head) == (32, 9, 10)
    assert ours.attended == 2 * 22 * 23 // 2 + 4 * (23 + 24 + 25)
    padded, bare = conditional.peer_work(samples, conditional.Padding(2, True), train.Work)
    assert padded == train.Work(100, 100, 4 * 25 * 26 // 2, 4 * 25 * 26 // 2, 16)
    assert (bare.tokens, bare.head) == (92, 16)
    assert conditional.peer_work(samples, conditional.Padding(2, False), train.Work)[1].head == 92


def test_a_conditional_race_compares_one_and_the_same_loss(monkeypatch: pytest.MonkeyPatch):
    size = train.Size("toy", 64, 2, 256)
    monkeypatch.setattr(conditional, "SETTINGS", (conditional.Padding(3, True), conditional.Padding(2, False)))
    small = conditional.Samples(size, 6, 2, 2, (20, 24), (3, 6))
    result = train.run_conditional(small, Options(repeats=2))
    assert result.ratio > 0 and result.bound > 1.5 and "losses within" in result.note


def test_the_arithmetic_of_scoring_is_what_counting_by_hand_gives(monkeypatch: pytest.MonkeyPatch):
    """A question of 20 words with two options, of 3 words and of 1; another of 30 with two options of 1.

    Ours: no last token stands, so 20 + 2 and 30 tokens; read are the state before each option and the first two of the
    longer one: 3 + 1. Depths 20, 21, 22 and 30 (+1 as a query sees itself): read states see 20 + 21 + 22 + 30.
    The harness at batch 2: rows of 22, 20 and 30 tokens (the last two options differ in their last token only), sorted
    and padded: 2 * 30 and 20.
    """
    pytest.importorskip("lm_eval")
    from benchmarks import evaluate

    case = evaluate.Case("ARC", train.SMALL, 2)
    first, second = (" ".join(f"w{i}" for i in range(start, start + n)) for start, n in ((100, 20), (200, 30)))
    asked = [(first, " w5 w6 w7"), (first, " w8"), (second, " w5"), (second, " w6")]
    monkeypatch.setitem(case.__dict__, "requests", asked)
    attended = 20 * 21 // 2 + 21 + 22 + 30 * 31 // 2
    assert evaluate.our_work(case) == train.Work(52, 4, attended, 20 + 21 + 22 + 30, 4)
    padded = 2 * 30 * 31 // 2 + 20 * 21 // 2
    assert evaluate.peer_work(case, 2) == train.Work(80, 80, padded, padded, 80)


def test_questions_have_the_lengths_of_real_ones():
    """Lengths stay within the quantiles they are drawn along, half of them under the median."""
    pytest.importorskip("lm_eval")
    from benchmarks import evaluate

    rng = np.random.default_rng(0)
    drawn = [evaluate.BOOLQ.draw(rng) for _ in range(400)]
    assert min(drawn) >= 38 and max(drawn) <= 403
    assert sum(n <= 124 for n in drawn) == pytest.approx(200, abs=30)
    asked = evaluate.Case("RACE", train.SMALL, 2).requests
    assert len(asked) == 2 * 4 * 4 and len({a.rsplit(" ", 30)[0][:400] for a, _ in asked}) == 2


def test_random_pairs_keep_to_their_lengths_and_end_once():
    lengths = train.LENGTHS[1]
    for pair in train.draw(lengths, 50, 100, seed=1):
        assert lengths.prompt[0] <= len(pair.prompt) <= lengths.prompt[1]
        for answer in (pair.chosen, pair.rejected):
            assert lengths.answer[0] <= len(answer) <= lengths.answer[1]
            assert answer[-1] == 0 and 0 not in answer[:-1] and 1 not in answer
