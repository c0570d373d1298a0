"""What tokens cost: the table shipped with the package, and the user's own before it.

Dollars per million tokens times tokens is micro-dollars, the unit of all counts: 30 prompt tokens at 0.25 and 10
written ones at 2.00 cost 30 * 0.25 + 10 * 2.00 = 27.5 micro-dollars. A model that no table lists has no price (None),
and what it costs is "unknown", never 0.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from trueline.errors import UserError

SHIPPED = Path(__file__).with_name("prices.toml")
SERVICES = ("openai", "anthropic", "compatible")
_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


@dataclass(frozen=True)
class Price:
    """Micro-dollars per prompt token and per written token."""

    input: float
    output: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Micro-dollars for so many tokens."""
        return prompt_tokens * self.input + completion_tokens * self.output


def price(service: str, model: str, own: str = "") -> Price | None:
    """The price of a model of a service ("openai", "anthropic", "compatible"); None where no table lists it.

    own: the user's table; "": the one that $TRUELINE_PRICES names. Raises `UserError` for a table that is none.
    """
    chosen = own or os.environ.get("TRUELINE_PRICES", "")
    for path in ([Path(chosen).expanduser()] if chosen else []) + [SHIPPED]:
        found = _find(table(path).get(service, {}), model)
        if found is not None:
            return found
    return None


def _find(known: dict[str, Price], model: str) -> Price | None:
    for name in (model, _DATED.sub("", model)):
        if name in known:
            return known[name]
    patterns = [name for name in known if fnmatchcase(model, name)]
    return known[max(patterns, key=len)] if patterns else None


def table(path: Path) -> dict[str, dict[str, Price]]:
    """A price table as {service: {model: price}}."""
    try:
        return _table(str(path), path.stat().st_mtime_ns)
    except OSError:
        raise UserError(str(path), "there is no such price table", "", "Mend $TRUELINE_PRICES or prices=...") from None


@lru_cache(maxsize=16)
def _table(path: str, mtime_ns: int) -> dict[str, dict[str, Price]]:
    try:
        read = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(path, f"it is no TOML ({error})", "a price table", f"See {SHIPPED}.") from None
    out: dict[str, dict[str, Price]] = {}
    for service, models in read.items():
        if service == "as_of":
            continue
        if service not in SERVICES or not isinstance(models, dict):
            raise UserError(path, f"got the section {service!r}", f"sections {', '.join(SERVICES)}")
        out[service] = {model: _price(path, f"{service}.{model!r}", entry) for model, entry in models.items()}
    return out


def _price(path: str, name: str, entry: Any) -> Price:
    numbers = entry if isinstance(entry, dict) else {}
    values = [numbers.get("input"), numbers.get("output")]
    good = all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in values)
    if not good or set(numbers) != {"input", "output"}:
        raise UserError(
            f"{path}, {name}", f"got {entry!r}", "{ input = ..., output = ... }, dollars per million tokens"
        )
    return Price(float(numbers["input"]), float(numbers["output"]))
