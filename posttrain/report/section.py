"""A section of the page, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from posttrain.report.render import Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one part of the page says. With `absent`, that sentence is all it says."""

    key: str
    title: str
    absent: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    plots: Mapping[str, Plot] = field(default_factory=dict)


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> Markup:
    """A number to read, with the exact one for machines; a dash for none.

    >>> str(number(0.12345))
    '<data value="0.12345">0.12</data>'
    """
    if value is None or not math.isfinite(value):
        return Markup("–")
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = f"{0:.{digits}f}"
    return Markup('<data value="{}">{}</data>').format(f"{value:.6g}", text.replace("-", "−"))


def plain(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """The same for figures and alternative texts."""
    return number(value, digits, signed=signed).striptags()


def count(value: float | None) -> Markup:
    """A whole number with its thousands apart."""
    return Markup("–") if value is None else Markup('<data value="{}">{}</data>').format(
        f"{value:.0f}", f"{value:,.0f}"
    )  # fmt: skip


def percent(value: float | None) -> Markup:
    """A share as a percentage; what is above none and below all is never rounded to either."""
    if value is None or not math.isfinite(value):
        return Markup("–")
    text = f"{100 * value:.0f}%"
    if text == "0%" and value > 0:
        text = "<1%"
    elif text == "100%" and value < 1:
        text = ">99%"
    return Markup('<data value="{}">{}</data>').format(f"{value:.6g}", text)


def interval(low: float, high: float, digits: int = 2, *, signed: bool = False) -> Markup:
    """An interval in brackets; nothing where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return Markup("")
    ends = number(low, digits, signed=signed), number(high, digits, signed=signed)
    return Markup('<span class="interval">[{}, {}]</span>').format(*ends)


def excerpt(text: Any, most: int = 420) -> str:
    """The two ends of a long text: a completion's answer stands at its end.

    A conversation is shown as its messages; a lone one of the user as what it says.
    """
    text = _conversation(text).strip()
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} […] {text[-most // 3 :]}"


def _conversation(text: Any) -> str:
    if not (isinstance(text, list) and all(isinstance(m, Mapping) for m in text)):
        return "" if text is None else str(text)
    if len(text) == 1:
        return str(text[0].get("content", ""))
    return "\n".join(f"{m.get('role', '?')}: {m.get('content', '')}" for m in text)


def sentence(text: str | None) -> str:
    """Plain text as a sentence of the page: a capital, a full stop, and its sign for pi_0."""
    text = symbols(text).strip()
    if text and text[0].isascii():
        text = text[0].upper() + text[1:]
    return text + "." if text and text[-1] not in ".!?" else text


def symbols(text: str | None) -> str:
    """The page's sign for pi_0 in a sentence that came as plain text."""
    return "" if text is None else text.replace("pi_0", "π₀")
