"""The embedded default: an invented town, tiny models, an oracle teacher and critics. No download, no key, exact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trueline.errors import UserError, closest
from trueline.world.facts import Facts
from trueline.world.grade import Grades, gold, grade
from trueline.world.judge import Judge
from trueline.world.oracle import Gold, Oracle, Teacher, demonstrations
from trueline.world.questions import ask, prompts

if TYPE_CHECKING:
    from trueline.store import Policy

__all__ = [
    "Facts", "Gold", "Grades", "Judge", "Oracle", "Teacher", "ask", "base", "demonstrations", "gold", "grade",
    "prompts",
]  # fmt: skip

MODELS = Path(__file__).parent / "models"


def base(name: str = "tiny") -> Policy:
    """A handle on one of the town's pretrained models: "tiny" (about 0.5M parameters) or "small" (about 2M).

    Its identity is the content of its files, wherever the package lies.
    """
    from trueline.models import pretrained

    if not (MODELS / name / "config.json").is_file():
        known = sorted(p.parent.name for p in MODELS.glob("*/config.json"))
        raise UserError(
            f'world.base("{name}")', "the town has no such model", f"one of {', '.join(known)}", closest(name, known)
        )
    return pretrained(MODELS / name)
