"""The one error a user meets: where, what it got, what it wanted, and the cure.

Everything a user can cause (a bad row, an unknown option, a missing file) raises `UserError`; the command line prints
its text without a traceback. Programming mistakes stay ordinary exceptions, so that they are never mistaken for a
user's.
"""


class UserError(Exception):
    """A mistake a user can mend.

    The parts are kept apart so that tests and tools can read them; `str()` joins them into one sentence per part:

    >>> str(UserError("prefs.jsonl line 17", 'field "rejected" is empty', "a pair needs two answers", "Drop the row."))
    'prefs.jsonl line 17: field "rejected" is empty; a pair needs two answers. Drop the row.'
    """

    def __init__(self, where: str, got: str, wanted: str = "", cure: str = "") -> None:
        self.where, self.got, self.wanted, self.cure = where, got, wanted, cure
        text = f"{where}: {got}"
        text += f"; {wanted.rstrip('.')}." if wanted else "."
        super().__init__(f"{text} {cure}".strip())

    @property
    def parts(self) -> dict[str, str]:
        """What it is made from: `UserError(**error.parts)` is the same in another process."""
        return {"where": self.where, "got": self.got, "wanted": self.wanted, "cure": self.cure}


def closest(word: str, known: list[str]) -> str:
    """The known word nearest to `word`, as a cure ('Did you mean "beta"?'), or the list of what is known."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f'Did you mean "{near[0]}"?'
    return f"Known: {', '.join(sorted(known))}." if known else ""
