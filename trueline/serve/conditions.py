"""What "best" and "worst" mean to a policy that was trained on conditions: read off the record of its training.

A policy of the store knows its condition (`train(..., Conditioned(rounds, condition))`); to any other one it can be
told (`--best`, `--worst`). A text is rendered as the condition renders words; without a condition it is taken as it is.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueline.conditions.attributes import Attributes
from trueline.conditions.critiques import Critiques, Exemplars
from trueline.conditions.labels import Labels
from trueline.conditions.phrases import QuantilePhrases
from trueline.conditions.protocol import NO_CLASS, Condition, Described
from trueline.conditions.tokens import QuantileTokens
from trueline.records import Group, Prompt, read_jsonl
from trueline.serve.wire import Refused

KINDS = {kind.__name__: kind for kind in (QuantileTokens, QuantilePhrases, Labels, Attributes, Critiques)}


@dataclass(frozen=True)
class WaysToAsk:
    """How a policy is asked for an answer of a kind.

    condition: what it was trained on, if that is known. said: what stands for "best" and "worst" instead, where the
    server was told. sentences: of a policy that learned from sentences, those that ask for each.
    """

    condition: Condition | None = None
    said: dict[str, str] = field(default_factory=dict)
    sentences: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def banned(self) -> tuple[str, ...]:
        """Texts of tokens that are never drawn while a condition asks."""
        return self.condition.banned if self.condition is not None else ()

    def rendered(self, wanted: str, prompt: Prompt) -> str:
        """What is put in front of `prompt`. Raises `Refused` for "best" and "worst" of a policy that knows neither."""
        if wanted in self.said:
            return self.said[wanted]
        if self.condition is None:
            if wanted in ("best", "worst"):
                message = (
                    f"This policy knows no condition, so nobody can ask it for its {wanted}: start the server with "
                    f"--{wanted} TEXT, or send the text that is to stand in front of the prompt."
                )
                raise Refused(400, message, param="condition")
            return wanted
        if wanted not in ("best", "worst"):
            return self.condition.render(Described(wanted, NO_CLASS))
        target = 0 if wanted == "best" else self.condition.classes - 1
        if isinstance(self.condition, Critiques):
            texts = self.sentences.get(wanted, ())
            if not texts:
                raise Refused(400, f"No sentence is known that asks for the {wanted}: send one.", param="condition")
            return self.condition.render(Described(self.condition.exemplars.of(texts, prompt), target))
        asks: Any = self.condition
        return str(dataclasses.replace(asks, target=target).ask(prompt))


def found(folder: Path, best: str = "", worst: str = "") -> WaysToAsk:
    """The condition of the policy in `folder`; of one that was not trained on any, and without `best` and `worst`,
    none."""
    said = {name: text for name, text in (("best", best), ("worst", worst)) if text}
    try:
        record = json.loads((folder / "record.json").read_bytes())
        view = record["inputs"]["view"]
        condition = _value(view["condition"])
    except (OSError, ValueError, KeyError, TypeError):
        return WaysToAsk(said=said)
    sentences = {}
    if isinstance(condition, Critiques):
        groups = _last_round(folder, record, view)
        for name, target in (("best", 0), ("worst", condition.classes - 1)):
            if target == 0 and condition.exemplars.texts:
                sentences[name] = condition.exemplars.texts
            elif groups:
                sentences[name] = dataclasses.replace(condition, target=target).chosen(groups)
    return WaysToAsk(condition, said, sentences)


def _value(form: Any) -> Any:
    """A condition as its training's record holds it. Raises KeyError or TypeError for another kind."""
    if isinstance(form, list):
        return tuple(map(_value, form))
    if not isinstance(form, dict):
        return form
    fields = {name: value for name, value in form.items() if name != "~"}
    if form["~"] == "Exemplars":
        return Exemplars(**{name: _value(value) for name, value in fields.items() if name != "source"})
    return KINDS[form["~"]](**{name: _value(value) for name, value in fields.items()})


def _last_round(folder: Path, record: dict[str, Any], view: dict[str, Any]) -> list[Group]:
    """The groups that were judged last, where they are still in the store."""
    name = record["parents"].get(view["rounds"][-1]["fingerprint"], "")
    path = folder.parent.parent / "groups" / name / "groups.jsonl"
    return list(read_jsonl(path, Group)) if name and path.is_file() else []
