"""Are held-out prompts among those that are trained on, word for word or nearly?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding, clip

_WORD = re.compile(r"\w+|[^\w\s]", re.UNICODE)
COMMON = 0.05
"""A gram that stands in more than this share of the held-out prompts is the template's."""
ENOUGH = 20
"""Held-out prompts below which no gram can be told to be the template's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What counts as the same prompt.

    Prompts of at least `words` words (the median) share content when they share that many in a
    row, the habit since GPT-3 (arXiv 2005.14165, appendix C, 13 words). Shorter ones are compared
    by grams of `characters`, of which `near` must occur in one and the same training prompt.
    """

    words: int = 13
    characters: int = 8
    near: float = 0.95

    def __post_init__(self) -> None:
        for name in ("words", "characters"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be >= 2, got {getattr(self, name)!r}")
        if not 0 < self.near <= 1:
            raise ValueError(f"near must lie in (0, 1], got {self.near!r}")


@dataclass(frozen=True, slots=True)
class Twin:
    """A held-out prompt and the training prompt that is most like it."""

    heldout: str
    train: str
    overlap: float
    """Share of the held-out prompt's own grams that the training prompt holds."""


def normalise(text: str) -> str:
    """Letters in lower case, one space between words and signs.

    >>> normalise("Calculate  2+3 .")
    'calculate 2 + 3 .'
    """
    return " ".join(_WORD.findall(text.casefold()))


def leak_checks(
    train: Sequence[Row], heldout: Sequence[Row], *, overlap: Overlap | None = None
) -> tuple[Finding, ...]:
    """Exact repetitions after normalisation, and overlaps by grams.

    Args:
        train: rows of D, whose prompts are also RL's.
        heldout: rows whose prompts decide the diagnosis and the outcome.
        overlap: what counts as near.
    """
    asked, known = ({_key(row): row for row in rows} for rows in (heldout, train))
    again = [row.text for key, row in asked.items() if key in known]
    # A question about another picture is another question, however alike the words.
    left = [row.text for key, row in asked.items() if key not in known and not row.images]
    near = _near(left, list(dict.fromkeys(row.text for row in train)), overlap or Overlap())
    return _exact(again, len(asked), len(known)), near


def _key(row: Row) -> tuple[str, ...]:
    """What two rows have in common when they ask the same."""
    return normalise(row.text), *row.images


def _exact(again: Sequence[str], asked: int, known: int) -> Finding:
    share = len(again) / asked
    value = {"heldout": asked, "train": known, "repeated": len(again)}
    text = f"{len(again)} of {asked} held-out prompts are among the {known} of training"
    if not again:
        return Finding(check="leak.exact", severity="ok", text=text, value=value)
    return Finding(
        check="leak.exact",
        severity="stop" if share > 0.1 else "warn",
        text=f"{text} but for case and white space, such as {clip(again[0])}",
        change="take them out of data.path, or name other prompts in data.heldout_path: on them "
        "memorising looks like skill",
        value={**value, "examples": again[:3]},
    )


def _near(left: Sequence[str], known: Sequence[str], overlap: Overlap) -> Finding:
    twins, by_words, own = near_twins(left, known, overlap)
    unit = f"{overlap.words} words in a row" if by_words else f"{overlap.characters} characters"
    value = {
        "compared": len(left),
        "near": len(twins),
        "by": unit,
        "without_own_grams": len(left) - own,
        "worst": [
            {"heldout": t.heldout, "train": t.train, "overlap": t.overlap} for t in twins[:3]
        ],
    }
    how = "share" if by_words else f"share {overlap.near:.0%} of their own grams of"
    text = (
        f"{len(twins)} of {len(left)} other held-out prompts {how} {unit} with a training prompt "
        f"(grams of more than {COMMON:.0%} of prompts left out as the template's)"
    )
    if not twins:
        return Finding(check="leak.near", severity="ok", text=text, value=value)
    worst = f"; the worst: {clip(twins[0].heldout, 60)} and {clip(twins[0].train, 60)}"
    return Finding(
        check="leak.near",
        severity="stop" if len(twins) > 0.5 * len(left) else "warn",
        text=text + worst,
        change="read the pairs in preflight.json; if they are the same question, take them out of "
        "data.path or name other prompts in data.heldout_path; --ngram sets the grams' length",
        value=value,
    )


def near_twins(
    asked: Sequence[str], known: Sequence[str], overlap: Overlap
) -> tuple[list[Twin], bool, int]:
    """Held-out prompts with a near twin in training, worst first.

    Only the held-out grams are indexed, and training prompts pass by one at a time, so memory
    does not grow with D.

    Returns:
        the twins, whether grams were of words, and how many prompts had grams of their own.
    """
    if not asked:
        return [], False, 0
    by_words = median(len(normalise(text).split()) for text in asked) >= overlap.words
    size = overlap.words if by_words else overlap.characters
    grams = [set(_grams(text, size, by_words=by_words)) for text in asked]
    often = Counter(gram for own in grams for gram in own)
    most = COMMON * len(asked) if len(asked) >= ENOUGH else len(asked)
    grams = [{gram for gram in own if often[gram] <= max(1, most)} for own in grams]
    places: dict[str, list[int]] = {}
    for i, own in enumerate(grams):
        for gram in own:
            places.setdefault(gram, []).append(i)
    best: dict[int, Twin] = {}
    for text in known:
        hits = Counter(
            i for gram in set(_grams(text, size, by_words=by_words)) for i in places.get(gram, ())
        )
        for i, count in hits.items():
            share = count / len(grams[i])
            if i not in best or share > best[i].overlap:
                best[i] = Twin(asked[i], text, share)
    least = 0.0 if by_words else overlap.near
    found = [twin for twin in best.values() if twin.overlap >= least]
    return (
        sorted(found, key=lambda t: (-t.overlap, t.heldout)),
        by_words,
        sum(bool(own) for own in grams),
    )


def _grams(text: str, size: int, *, by_words: bool) -> Iterator[str]:
    plain = normalise(text)
    pieces: Sequence[str] = plain.split() if by_words else plain
    joint = " " if by_words else ""
    for i in range(len(pieces) - size + 1):
        yield joint.join(pieces[i : i + size])
