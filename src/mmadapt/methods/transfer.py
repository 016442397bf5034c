"""What a trained method can tell of classes it was not trained on; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmadapt.errors import UserError, one_of
from mmadapt.results import Classifier

Transfer = Literal["names", "text_only", "none"]
"""What a trained method can tell of other classes: all of it works by ``names``; its text side does, its image side
(a cache of shots) is tied to the trained classes; or nothing, as with a linear head."""
NewClasses = Literal["refuse", "text_only"]


def choose_classifier(
    method: str,
    transfer: Transfer,
    own: Sequence[str],
    wanted: Sequence[str],
    where: str,
    new_classes: NewClasses = "refuse",
) -> Classifier:
    """Return how the classes of a set are told apart by a method trained on its own classes.

    Args:
        method: Name of the method, for the message.
        transfer: What the method can tell of other classes.
        own: Keys of the classes that it was trained on.
        wanted: Keys of the classes of the set.
        where: Name of the set, for the message.
        new_classes: Whether a method tied to its classes may be scored by its text side alone.

    Raises:
        UserError: If the method is not defined on these classes.
    """
    one_of("protocol.new_classes", new_classes, ("refuse", "text_only"))
    if list(wanted) == list(own):
        return "own"
    if transfer == "names":
        return "names"
    known = set(own)
    foreign = [key for key in wanted if key not in known]
    if not foreign:
        return "sliced"
    if transfer == "text_only" and new_classes == "text_only":
        return "text_only"
    hint = (
        " Use protocol.new_classes=text_only to score its text side alone, which the result then says."
        if transfer == "text_only"
        else ""
    )
    raise UserError(
        f"{method} is not defined on {len(foreign)} of the {len(wanted)} classes of {where}, such as {foreign[0]!r}: "
        f"it holds something for each class it was trained on.{hint}"
    )


def positions(own: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the place of each wanted class among the trained ones."""
    place = {key: i for i, key in enumerate(own)}
    return [place[key] for key in wanted]
