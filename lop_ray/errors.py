"""What a person did wrong, said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message names the key, the value, what is allowed and the nearest known name.

    The command line prints it as `error: ...` and exits with 2; nothing has been written.
    """


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when none is close.

    Spelling first (`difflib`, ratio >= 0.6, case and `-`/`_` not counted); failing that, a known name that
    contains `name` or is contained in it, or one that is the other's initials (`learning_rate` and `lr`).
    """
    by_folded = {_folded(each): each for each in known}
    folded = _folded(name)
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    if not close and len(folded) > 2:
        close = [each for each in by_folded if folded in each or (len(each) > 2 and each in folded)]
    if not close:
        close = [each for each in by_folded if _initials(each) == folded or each == _initials(folded)]
    return by_folded[close[0]] if close else None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line on an unknown name, such as "unknown variant 'cpb'; did you mean 'cbp'? known: cbp, std"."""
    names = list(known)
    guess = nearest(name, names)
    hint = f"did you mean '{guess}'? " if guess else ""
    return f"unknown {what} '{name}'; {hint}known: {', '.join(names) or 'none'}"


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _initials(folded: str) -> str:
    parts = [part for part in folded.split("_") if part]
    return "".join(part[0] for part in parts) if len(parts) > 1 else ""
