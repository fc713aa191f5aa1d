"""How figures and page look: one palette, used by matplotlib and by CSS alike.

Three colours carry meaning everywhere: blue is pi_0, orange is the dataset D, green is the
fine-tuned policy. They stay apart under the common colour-vision deficiencies, and every mark
also differs in shape or in its written label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour with a part to play, in light and in dark surroundings."""

    name: str
    light: str
    dark: str


INK = Colour("ink", "#1b1f24", "#e8eaed")
SOFT = Colour("soft", "#57606b", "#a7b0ba")
RULE = Colour("rule", "#d4d9df", "#3b424a")
PAPER = Colour("paper", "#fefefe", "#14171a")
CARD = Colour("card", "#f5f6f8", "#1d2125")
PI0 = Colour("pi0", "#2f57c9", "#86a6ff")
DATA = Colour("data", "#b8480a", "#f29a5c")
TUNED = Colour("tuned", "#00734f", "#47c795")

PALETTE = (INK, SOFT, RULE, PAPER, CARD, PI0, DATA, TUNED)

SIZE = 10.5
"""Font size in figures, in pixels of the page."""

RC: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, in the reader's own font
    "figure.dpi": 72,  # one unit of the SVG is one pixel of the page
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so layouts repeat anywhere
    "font.size": SIZE,
    "axes.labelsize": SIZE,
    "axes.titlesize": SIZE,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "text.color": INK.light,
    "axes.labelcolor": SOFT.light,
    "axes.edgecolor": RULE.light,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE.light,
    "grid.linewidth": 0.6,
    "xtick.color": RULE.light,
    "ytick.color": RULE.light,
    "xtick.labelcolor": SOFT.light,
    "ytick.labelcolor": SOFT.light,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.parse_math": False,  # a "$" in a label is a dollar
    "axes.unicode_minus": True,
    "path.simplify": True,
}


def css_variables() -> str:
    """The palette as CSS custom properties, dark where the reader prefers it.

    Paper that is printed is white, whatever the screen shows.
    """
    light = "".join(f"--{c.name}:{c.light};" for c in PALETTE)
    dark = "".join(f"--{c.name}:{c.dark};" for c in PALETTE)
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    )
