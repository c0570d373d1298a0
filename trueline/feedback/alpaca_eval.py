"""AlpacaEval's annotators: a `configs.yaml` with its prompt templates and parsers, read into our comparers.

    critic("evaluators_configs/alpaca_eval_gpt4", by=OpenAI("gpt-4-0613"))         as published: one order, by its rule
    Compare(by=annotator("evaluators_configs/alpaca_eval_gpt4", by=engine))        the same question, in both orders
    annotator("evaluators_configs/alpaca_farm", by={"gpt-4": one, "text-davinci-003": other})      a pool

Read: the template (a path beside the configuration's folder, or the text itself), the parser with its arguments,
`max_tokens`, `temperature`, `top_p` and stop texts, and whether the order is drawn. Who answers is an engine of ours,
since model names retire and clients change; what else a configuration asks of its client is refused by name, or left
to the engine with `ignore`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trueline.errors import UserError, closest
from trueline.feedback.annotator import Annotator, Pool
from trueline.feedback.compare import Compare
from trueline.feedback.switching import AlpacaEvalOrder, Side
from trueline.feedback.template import PairTemplate
from trueline.feedback.verdicts import (
    FirstToken,
    JsonField,
    Literally,
    Ranking,
    Regex,
    ScorePair,
    VerdictParser,
    as_p,
)  # fmt: skip
from trueline.sample.protocol import Engine, Sampling

By = Engine | Mapping[str, Engine]

PLAIN = ("fn_completions", "completion_key", "is_shuffle")  # say how it is run there, and nothing of what is asked
FIELDS = (
    "prompt_template", "completions_kwargs", "fn_completion_parser", "completion_parser_kwargs", "batch_size",
    "is_randomize_output_order", "processors_to_kwargs", *PLAIN,
)  # fmt: skip
STOPS = ("stop", "stop_sequences")
SETTINGS = ("max_tokens", "max_tokens_to_sample", "max_new_tokens", "temperature", "top_p", *STOPS)
HELD = ("model_name", "logprobs", "top_logprobs")  # said by the engine, or by the parser
COLUMNS = ("ChainOfThoughtProcessor",)  # adds columns to AlpacaEval's files and changes no verdict


def annotator(
    config: str | Path, by: By, seed: int = 0, ignore: Sequence[str] = (), tries: int = 3
) -> Annotator | Pool:
    """The annotator of a configuration (a `configs.yaml` or the folder that holds it), asked through `by`.

    by: an engine, or engines by the configuration's model names (or its annotators' names). seed: of the choice among
    several annotators. ignore: settings of its client (`completions_kwargs`) that the engine takes care of. tries: how
    often an unread reply is asked for; AlpacaEval itself asks once.

    Raises `UserError` for what is not known, naming what is.
    """
    path, found = _read(Path(config))
    members = []
    for name, one in found.items():
        members.append((name, _one(path, name, one, _engine(path, name, one, by), ignore, tries)))
    return members[0][1] if len(members) == 1 else Pool(tuple(members), seed)


def critic(
    config: str | Path,
    by: By,
    seed: int = 0,
    output_1: Side = "left",
    p_label_flip: float = 0.0,
    ignore: Sequence[str] = (),
) -> Compare:
    """AlpacaEval's way of asking: each pair once, in one order, drawn by its rule (or output_1 first, where the
    configuration says so).

    output_1: which completion of a pair is AlpacaEval's output_1; of `duel(model, reference, ...)` it is the right one.
    p_label_flip: label noise.
    """
    path, found = _read(Path(config))
    drawn = {bool(one.get("is_randomize_output_order", True)) for one in found.values()}
    if len(drawn) > 1:
        raise UserError(str(path), "some of its annotators draw the order and others do not", "all or none")
    by_rule = drawn == {True}
    if not by_rule and p_label_flip:
        raise UserError("critic(p_label_flip=...)", "its order is not drawn", "an annotator whose order is")
    order = AlpacaEvalOrder(seed, output_1, p_label_flip) if by_rule else output_1
    return Compare(annotator(config, by, seed, ignore, tries=1), orders=1, order=order)


def _read(path: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The configuration's file and its annotators."""
    import yaml

    path = path / "configs.yaml" if path.is_dir() else path
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            str(path), "there is no such file", "a configs.yaml, or its folder", "Check the path."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            str(path), f"it is no YAML ({' '.join(str(error).split())})", "AlpacaEval's configs.yaml"
        ) from None
    if not isinstance(found, dict) or not found or not all(isinstance(one, dict) for one in found.values()):
        raise UserError(str(path), "it names no annotators", "a mapping of annotators' names to their settings")
    for name, one in found.items():
        _known(f"{path}, annotator {name}", "the setting", one, FIELDS)
    return path, {str(name): one for name, one in found.items()}


def _known(where: str, what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(where, f"{what} {name}", f"one of {', '.join(known)}", closest(str(name), list(known)))


def _engine(path: Path, name: str, one: Mapping[str, Any], by: By) -> Engine:
    if not isinstance(by, Mapping):
        return by
    model = (one.get("completions_kwargs") or {}).get("model_name", "")
    for key in (name, model):
        if key in by:
            return by[key]
    raise UserError(
        f"{path}, annotator {name}", f"no engine is given for its model {model!r}", f'by={{"{model}": ...}}'
    )


def _one(path: Path, name: str, one: Mapping[str, Any], by: Engine, ignore: Sequence[str], tries: int) -> Annotator:
    where = f"{path}, annotator {name}"
    if one.get("batch_size", 1) != 1:
        raise UserError(
            where, f"batch_size {one['batch_size']}: several pairs in one question", "1", "Use a template of one pair."
        )
    _known(where, "the processor", one.get("processors_to_kwargs") or {}, COLUMNS)
    if "prompt_template" not in one:
        raise UserError(where, "it has no prompt_template", "a template, or its path")
    parser = parser_of(
        where, str(one.get("fn_completion_parser") or "regex_parser"), one.get("completion_parser_kwargs") or {}
    )
    settings = dict(one.get("completions_kwargs") or {})
    for setting in ignore:
        settings.pop(setting, None)
    if called := [key for key in ("functions", "function_call", "tools", "tool_choice") if key in settings]:
        raise UserError(
            where, f"its verdict is a function call ({', '.join(called)})", "one that is written",
            f"Let the engine ask for it, OpenAI(..., extra={{...}}), and say ignore={tuple(called)!r}.",
        )  # fmt: skip
    _known(where, "the client's setting", settings, (*SETTINGS, *HELD))
    # A first token alone, or a verdict before an explanation, is all that AlpacaEval reads: a cut reply is read too.
    wording, sampling = _wording(path, where, one), _sampling(settings)
    return Annotator(by, wording=wording, parser=parser, cut="read", sampling=sampling, tries=tries)


def _wording(path: Path, where: str, one: Mapping[str, Any]) -> PairTemplate:
    said = str(one["prompt_template"])
    for folder in (path.resolve().parents[1], path.parent):
        if "\n" not in said and (folder / said).is_file():
            return PairTemplate((folder / said).read_text(encoding="utf-8"))
    if "{output_1}" not in said:
        raise UserError(where, f"there is no template {said!r} beside its folder", "a template, or its path")
    return PairTemplate(said)


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    limits = [settings[name] for name in SETTINGS[:3] if settings.get(name)]
    stops = next((settings[name] for name in STOPS if settings.get(name)), ())
    return Sampling(
        temperature=float(settings.get("temperature", 1.0)), top_p=float(settings.get("top_p", 1.0)),
        max_tokens=int(limits[0]) if limits else 256, stop=(stops,) if isinstance(stops, str) else tuple(stops),
    )  # fmt: skip


# --- parsers ----------------------------------------------------------------------------------------------------------


def parser_of(where: str, named: str, given: Mapping[str, Any]) -> VerdictParser:
    """Our parser for one of AlpacaEval's, by its name and arguments. Raises `UserError` for one that is not known."""
    if named not in PARSERS:
        raise UserError(where, f"the parser {named}", f"one of {', '.join(PARSERS)}", closest(named, list(PARSERS)))
    arguments, build = PARSERS[named]
    _known(f"{where}, {named}", "the argument", given, arguments)
    return build(f"{where}, {named}", given)


def _regex(where: str, given: Mapping[str, Any]) -> Regex:
    patterns = []
    for preference, pattern in (given.get("outputs_to_match") or {}).items():
        p = as_p(preference)
        if p is None:
            raise UserError(where, f"the key {preference!r}", "preferences: 1, 2, or 1.5 for a tie")
        patterns.append((str(pattern), p))
    return Regex(tuple(patterns))


def _ranking(where: str, given: Mapping[str, Any]) -> Ranking:
    one = str(given.get("model_1_name", "model_1"))
    other = str(given.get("model_2_name", {"m": "M"}.get(one, "model_2")))
    return Ranking((one, other), strict=False)


def _first_token(where: str, given: Mapping[str, Any]) -> FirstToken:
    one, both = str(given.get("numerator_token", "")), [str(token) for token in given.get("denominator_tokens") or ()]
    if given.get("log_prob_index", 0) != 0:
        raise UserError(where, f"log_prob_index {given['log_prob_index']}", "0: the first token decides")
    if len(set(both)) != 2 or one not in both:
        raise UserError(where, f"numerator {one!r} over {both!r}", "two denominator tokens, one of them the numerator")
    return FirstToken(one, next(token for token in both if token != one), bool(given.get("is_binarize", False)))


def _field(where: str, given: Mapping[str, Any], then: VerdictParser | None = None) -> VerdictParser:
    key = given.get("annotation_key")
    then = then or Literally()
    return then if key is None else JsonField(str(key), then)


def _replaced(where: str, given: Mapping[str, Any]) -> Literally:
    means = []
    for text, preference in (given.get("replacer") or {}).items():
        if as_p(preference) is None:
            raise UserError(where, f"{text!r} is replaced by {preference!r}", "a preference: 1, 2, or 1.5 for a tie")
        means.append((str(text), float(preference)))
    return Literally(tuple(means))


def _pipeline(where: str, given: Mapping[str, Any]) -> VerdictParser:
    """JSON first, then what reads the value: the pipelines that a single pair has a use for."""
    steps = list((given.get("parsers_to_kwargs") or {}).items())
    if len(steps) == 2 and steps[0][0] in ("json_parser", "eval_parser"):
        then = parser_of(where, steps[1][0], steps[1][1] or {})
        if not isinstance(then, FirstToken | JsonField):
            return _field(where, steps[0][1] or {}, then)
    if len(steps) == 1:
        return parser_of(where, steps[0][0], steps[0][1] or {})
    raise UserError(
        where, f"the steps {' > '.join(name for name, _ in steps) or 'none'}",
        "json_parser or eval_parser, and then one that reads its value",
    )  # fmt: skip


Build = Callable[[str, Mapping[str, Any]], VerdictParser]
PARSERS: dict[str, tuple[tuple[str, ...], Build]] = {
    "regex_parser": (("outputs_to_match",), _regex),
    "ranking_parser": (("model_1_name", "model_2_name"), _ranking),
    "logprob_parser": (("numerator_token", "denominator_tokens", "is_binarize", "log_prob_index"), _first_token),
    "lmsys_parser": ((), lambda where, given: ScorePair()),
    "json_parser": (("annotation_key",), _field),
    "eval_parser": ((), lambda where, given: Literally()),
    "replace_parser": (("replacer",), _replaced),
    "pipeline_meta_parser": (("parsers_to_kwargs", "is_squeeze"), _pipeline),
}
