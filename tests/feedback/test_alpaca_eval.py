"""AlpacaEval's configurations become comparers: the kinds it ships, in words of our own, and what is refused."""

from __future__ import annotations

import json
import math

import pytest

from tests.sample.served.loopback import Loopback
from trueline.errors import UserError
from trueline.feedback.alpaca_eval import PARSERS, annotator, critic, parser_of
from trueline.feedback.annotator import Annotator, Pool
from trueline.feedback.compare import Compare
from trueline.feedback.switching import AlpacaEvalOrder, chosen_annotator, switched
from trueline.feedback.verdicts import FirstToken, JsonField, Literally, Ranking, Regex, ScorePair
from trueline.records import Completion, Group, Message, Prompt
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.served import Connection, OpenAI
from trueline.store import using

BASIC = """
gpt4:
  prompt_template: "chatgpt/basic.txt"
  fn_completions: "openai_completions"
  completions_kwargs:
    model_name: "gpt-4-0314"
    max_tokens: 50
    temperature: 0
  completion_parser_kwargs:
    outputs_to_match:
      1: '(?:^|\\n) ?Output \\(a\\)'
      2: '(?:^|\\n) ?Output \\(b\\)'
  batch_size: 1
"""
RANKED = """
ranked:
  prompt_template: "{instruction} {output_1} {output_2}"
  fn_completions: "openai_completions"
  completions_kwargs: {model_name: "gpt-4", max_tokens: 100, temperature: 0}
  fn_completion_parser: "ranking_parser"
"""
WEIGHTED = """
weighted:
  prompt_template: "{instruction} {output_1} {output_2}"
  fn_completions: "openai_completions"
  completions_kwargs: {model_name: "gpt-4-turbo", max_tokens: 1, temperature: 1, logprobs: true, top_logprobs: 5}
  fn_completion_parser: "logprob_parser"
  completion_parser_kwargs: {numerator_token: "m", denominator_tokens: ["m", "M"], is_binarize: false}
  completion_key: "completions_all"
"""
POOL = """
one:
  prompt_template: "1 {instruction} {output_1} {output_2}"
  completions_kwargs: {model_name: "gpt-4"}
  fn_completion_parser: "lmsys_parser"
  is_randomize_output_order: false
two:
  prompt_template: "2 {instruction} {output_1} {output_2}"
  completions_kwargs: {model_name: "davinci", stop: "\\n\\n", top_p: 0.9}
  fn_completion_parser: "eval_parser"
  is_randomize_output_order: false
"""
TEMPLATE = """<|im_start|>system
Choose.<|im_end|>
<|im_start|>user
## Instruction: {instruction}
## Output (a): {output_1}
## Output (b): {output_2}<|im_end|>"""
M_FIRST = {"model_1_name": "m"}
QUESTIONS = ("2+2", "2+3", "What is the capital of France?", "How did US states get their names?")


def written(tmp_path, text, name="gpt4"):
    """A folder of configurations as AlpacaEval lays it out."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "configs.yaml").write_text(text)
    (tmp_path / "chatgpt").mkdir()
    (tmp_path / "chatgpt" / "basic.txt").write_text(TEMPLATE)
    return tmp_path / name


def prefer_longer(prompt, index):
    """What a judge says that likes long outputs, in the words of the basic prompt."""
    a, b = (prompt.text.split(f"({x}): ")[1].split("\n")[0] for x in "ab")
    return "Output (a)" if len(a) > len(b) else "Output (b)"


def test_the_basic_annotator_as_published(tmp_path):
    """One question per pair, in the drawn order; the longer output wins whichever side it stood on."""
    made = critic(written(tmp_path, BASIC), by=Scripted(prefer_longer))
    assert isinstance(made, Compare) and made.orders == 1 and made.order == AlpacaEvalOrder()
    by = made.by
    assert by.parser == Regex(((r"(?:^|\n) ?Output \(a\)", 1.0), (r"(?:^|\n) ?Output \(b\)", 0.0)))
    assert (by.sampling, by.tries, by.cut) == (Sampling(temperature=0.0, max_tokens=50), 1, "read")
    asked = by.put((Prompt.of("2+2"), "4", "five"))
    assert asked.messages == (
        Message("system", "Choose."), Message("user", "## Instruction: 2+2\n## Output (a): 4\n## Output (b): five"),
    )  # fmt: skip
    groups = [Group(Prompt.of(text), (Completion("x" * (3 + i % 2)), Completion("yyy!"[: 4 - i % 2])))
              for i, text in enumerate(QUESTIONS)]  # fmt: skip
    with using(tmp_path / "store"):
        judged = made(groups)
    assert [g.preferences[0].p for g in judged] == [0.0, 1.0, 0.0, 1.0]
    raws = ["Output (a)" if (p == 1.0) is not switched(text) else "Output (b)"
            for p, text in zip([0.0, 1.0, 0.0, 1.0], QUESTIONS, strict=True)]  # fmt: skip
    assert [g.preferences[0].raw for g in judged] == [(raw,) for raw in raws], "a raw reply is as it was said"


def test_rankings_and_first_tokens(tmp_path):
    by = annotator(
        written(tmp_path, RANKED), by=Scripted(("[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]",))
    )
    assert isinstance(by, Annotator) and by.parser == Ranking(strict=False) and by.tries == 3
    assert [v.p for v in by.compare([(Prompt.of("q"), "x", "y")])] == [0.0]
    (tmp_path / "gpt4" / "configs.yaml").write_text(WEIGHTED)

    told = annotator(tmp_path / "gpt4" / "configs.yaml", by=Told())
    assert told.parser == FirstToken() and told.sampling.max_tokens == 1
    (verdict,) = told.compare([(Prompt.of("q"), "x", "y")])
    assert 2 - verdict.p == pytest.approx(1.017442, abs=1e-6)
    with pytest.raises(UserError, match="tells no log-probs"):
        annotator(tmp_path / "gpt4", by=Scripted(("m",)))


class Told(Scripted):
    """An engine that tells the log-probs of one published row."""

    def __init__(self):
        super().__init__(("m",))

    def first_logprobs(self, prompts, among):
        return [{"m": -0.017597131, "M": -4.048847} for _ in prompts]


def test_a_pool_with_engines_by_model(tmp_path):
    engines = {"gpt-4": Scripted(("7 2",)), "davinci": Scripted(("2",))}
    folder = written(tmp_path, POOL)
    pool = annotator(folder, by=engines)
    assert isinstance(pool, Pool) and [name for name, _ in pool.members] == ["one", "two"]
    prompts = [Prompt.of(str(i)) for i in range(20)]
    said = [v.p for v in pool.compare([(p, "x", "y") for p in prompts])]
    assert said == [1.0 if chosen_annotator(p.text, ["one", "two"]) == "one" else 0.0 for p in prompts]
    two = dict(pool.members)["two"]
    assert (two.parser, two.sampling) == (Literally(), Sampling(max_tokens=256, top_p=0.9, stop=("\n\n",)))
    made = critic(folder, by=engines, output_1="right")
    assert made.order == "right", "these two show output_1 first, always"
    with pytest.raises(UserError, match="its order is not drawn"):
        critic(folder, by=engines, p_label_flip=0.25)
    with pytest.raises(UserError, match="no engine is given for its model 'davinci'"):
        annotator(folder, by={"gpt-4": Scripted(("1 2",))})


CALLED = """
called:
  prompt_template: "{instruction} {output_1} {output_2}"
  completions_kwargs: {model_name: "gpt-4-turbo", max_tokens: 100, temperature: 0, functions: [{name: rank}]}
  fn_completion_parser: "pipeline_meta_parser"
  completion_parser_kwargs:
    parsers_to_kwargs: {json_parser: {annotation_key: "ordered_models"}, ranking_parser: {model_1_name: "m"}}
"""


@pytest.mark.parametrize("extra", [{"functions": [{"name": "rank"}]}, {"tools": [{"type": "function"}]}], ids=list)
def test_a_verdict_that_is_a_function_call(tmp_path, extra):
    """The engine asks for the call; its arguments are the reply."""
    folder = written(tmp_path, CALLED)
    reply = {"ordered_models": [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}
    with using(tmp_path / "store"), Loopback(say=lambda body, number: (json.dumps(reply), "stop")) as server:
        engine = OpenAI("gpt-4-turbo", Connection(server.url + "/v1"), extra=extra)
        with pytest.raises(UserError, match="ignore="):
            annotator(folder, by=engine)
        (verdict,) = annotator(folder, by=engine, ignore=("functions",)).compare([(Prompt.of("q"), "x", "y")])
    assert verdict.p == 0.0 and json.loads(verdict.raw) == reply


@pytest.mark.parametrize(
    ("named", "arguments", "wanted"),
    [
        ("lmsys_parser", {}, ScorePair()),
        ("ranking_parser", {"model_1_name": "m"}, Ranking(("m", "M"), strict=False)),
        ("json_parser", {"annotation_key": "pick"}, JsonField("pick", Literally())),
        ("json_parser", {"annotation_key": None}, Literally()),
        ("replace_parser", {"replacer": {"first": 1, "second": 2}}, Literally((("first", 1), ("second", 2)))),
        ("pipeline_meta_parser", {"parsers_to_kwargs": {"eval_parser": None}}, Literally()),
        (
            "pipeline_meta_parser",
            {"parsers_to_kwargs": {"json_parser": {"annotation_key": "ordered"}, "ranking_parser": M_FIRST}},
            JsonField("ordered", Ranking(("m", "M"), strict=False)),
        ),
        (
            "logprob_parser",
            {"numerator_token": "M", "denominator_tokens": ["m", "M"], "is_binarize": True},
            FirstToken("M", "m", binarize=True),
        ),
    ],
)  # fmt: skip
def test_parsers(named, arguments, wanted):
    assert parser_of("here", named, arguments) == wanted


def test_a_pipeline_reads_as_alpaca_evals_does():
    steps = {"json_parser": {"annotation_key": "rank"}, "ranking_parser": {}}
    parser = parser_of("here", "pipeline_meta_parser", {"parsers_to_kwargs": steps})
    reply = {"ex": "...", "rank": [{"model": "model_1", "rank": 1}, {"model": "model_2", "rank": 2}]}
    assert parser.parse(json.dumps(reply)) == 1.0
    assert math.isclose(FirstToken().preferred({"m": -0.5, "M": -0.5}), 0.5)


@pytest.mark.parametrize(
    ("named", "arguments", "message"),
    [
        ("regexp_parser", {}, f'one of {", ".join(PARSERS)}. Did you mean "regex_parser"'),
        ("regex_parser", {"patterns": {}}, "the argument patterns"),
        ("regex_parser", {"outputs_to_match": {3: "x"}}, "the key 3"),
        ("logprob_parser", {"numerator_token": "m", "denominator_tokens": ["m"]}, "two denominator tokens"),
        (
            "logprob_parser",
            {"numerator_token": "m", "denominator_tokens": ["m", "M"], "log_prob_index": -1},
            "the first token decides",
        ),
        ("replace_parser", {"replacer": {"a": "b"}}, "a preference"),
        ("pipeline_meta_parser", {"parsers_to_kwargs": {"regex_parser": {}, "json_parser": {}}}, "steps regex_parser"),
        ("pipeline_meta_parser", {}, "the steps none"),
    ],
)  # fmt: skip
def test_parsers_that_are_refused(named, arguments, message):
    with pytest.raises(UserError) as error:
        parser_of("here", named, arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 1", "batch_size: 5", "several pairs in one question"),
        ("batch_size: 1", "batchsize: 1", 'Did you mean "batch_size"'),
        ("temperature: 0", "temperature: 0\n    functions: []", "a function call (functions)"),
        ("temperature: 0", "temperature: 0\n    best_of: 2", "the client's setting best_of"),
        ("chatgpt/basic.txt", "chatgpt/other.txt", "no template 'chatgpt/other.txt'"),
        ('prompt_template: "chatgpt/basic.txt"', "is_shuffle: true", "no prompt_template"),
        ("batch_size: 1", "processors_to_kwargs: {Mine: {}}", "the processor Mine"),
        ("gpt4:", "gpt4: [", "it is no YAML"),
        ("gpt4:", "- gpt4:", "it names no annotators"),
    ],
)
def test_configurations_that_are_refused(tmp_path, old, new, message):
    folder = written(tmp_path, BASIC.replace(old, new))
    with pytest.raises(UserError) as error:
        annotator(folder, by=Scripted(("Output (a)",)))
    assert message in str(error.value)
    assert "best_of" not in str(error.value) or annotator(folder, by=Scripted(("Output (a)",)), ignore=("best_of",))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        annotator(tmp_path, by=Scripted(("",)))
    (tmp_path / "configs.yaml").write_text("")
    with pytest.raises(UserError, match="names no annotators"):
        annotator(tmp_path, by=Scripted(("",)))
