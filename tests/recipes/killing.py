"""`almost`, small, made whole in one store, and in another killed with -9 in stage after stage:

    python -m tests.recipes.killing FOLDER STAGE STAGE ...

Every attempt is a child of one process that has imported everything already, so that dying costs no new start. Prints
the stages in which it was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.recipes.test_almost import SMALL
from trueline.pipeline import make
from trueline.recipes.almost import almost
from trueline.store import Store, using


def attempt(store: Path, until: str = "") -> bool:
    """Make the report in a child; kill it when it begins to make `until`. Whether it was killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writing, 2)
        with using(Store(store)):
            make(almost(**SMALL))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        for line in said:
            if until and line.startswith(f"make  {until}-"):
                os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def main(folder: Path, stages: list[str]) -> None:
    """The whole one, then the broken one, which goes on after each kill and is let end at last."""
    import accelerate
    import peft
    import transformers

    assert accelerate and peft and transformers  # imported for the children
    attempt(folder / "whole")
    broken = folder / "broken"
    # What a child made before the signal reached it cannot be killed any more.
    waiting = (stage for stage in stages if not list(broken.glob(f"*/{stage}-????????/record.json")))
    print("killed in", *[stage for stage in waiting if attempt(broken, stage)])
    attempt(broken)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
