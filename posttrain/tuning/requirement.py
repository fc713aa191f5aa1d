"""What a setting must be, said where it is read."""

from __future__ import annotations


def require(condition: bool, sentence: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Refuse a setting with a sentence that names it.

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(sentence)
