"""What a report found, as it lies in its folder: `report.json`, from which its table and its page are drawn."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from trueline.pipeline import Work
from trueline.records import Record, encode
from trueline.store import Report

Found = TypeVar("Found", bound=Record)


def write_figures(work: Work, found: Record) -> None:
    """Write what was found."""
    (work.dir / "report.json").write_bytes(msgspec.json.format(encode(found), indent=1))


def read_figures(report: Report, kind: type[Found]) -> Found:
    """What a made report found. Raises `UserError` while it is not made."""
    return msgspec.json.decode((report.path / "report.json").read_bytes(), type=kind)
