"""A hard budget: no request is sent that could bring an engine above what it may cost.

What a request will cost is not known before its reply, so room for the worst case (every byte of the prompt a token,
every answer as long as allowed) is set aside first and given back when the reply has come. Where there is no room, a
request waits for those in flight; where none is in flight, the run stops, with every reply kept.

Worked: a budget of 1.00 dollar of which 0.97 is spent, and requests that cost 0.02 at most. One is sent, the next waits
for it. The reply cost 0.005: 0.975 is spent, and one more has room. At 0.985 none has, and the run stops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from trueline.errors import UserError
from trueline.sample.served.connection import Connection
from trueline.sample.served.replies import Spent


class Budget:
    """What may still be asked. `spent` tells what the engine has cost so far, whoever asked."""

    def __init__(self, name: str, connection: Connection, spent: Callable[[], Spent]) -> None:
        self.name, self.connection, self._spent = name, connection, spent
        self._changed = threading.Condition()
        self._in_flight, self._reserved = 0, 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.connection.max_calls is not None or self.connection.max_cost is not None

    def reserve(self, worst: float) -> None:
        """Set room for one request aside; `worst` micro-dollars at most. Raises `UserError` where there is none."""
        if not self.limited:
            return
        with self._changed:
            while not self._fits(spent := self._spent(), worst):
                if not self._in_flight:
                    raise self._used_up(spent, worst)
                self._changed.wait()
            self._in_flight += 1
            self._reserved += worst

    def settle(self, worst: float) -> None:
        """Give the room back, after the reply was kept or the request failed."""
        if not self.limited:
            return
        with self._changed:
            self._in_flight -= 1
            self._reserved -= worst
            self._changed.notify_all()

    def _fits(self, spent: Spent, worst: float) -> bool:
        calls, cost = self.connection.max_calls, self.connection.max_cost
        enough_calls = calls is None or spent.calls + self._in_flight < calls
        return enough_calls and (cost is None or spent.microusd + self._reserved + worst <= cost * 1e6)

    def _used_up(self, spent: Spent, worst: float) -> UserError:
        calls, cost = self.connection.max_calls, self.connection.max_cost
        by_calls = calls is not None and spent.calls >= calls
        money = "" if cost is None else f" and ${spent.microusd / 1e6:.4f}"
        limit = f"max_calls={calls}" if by_calls else f"max_cost={cost}, the next may cost ${worst / 1e6:.4f}"
        knob = "max_calls" if by_calls else "max_cost"
        return UserError(
            f"engine {self.name}", f"the budget is used up: {spent.calls} calls{money} were spent in this store", limit,
            f"Every reply is kept: run again with a larger {knob}, and it goes on from here.",
        )  # fmt: skip
