"""Axes functions into SVG that lives inside a page, and into PNG files."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from markupsafe import Markup, escape

from posttrain.report.style import PALETTE, RC

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw: TypeAlias = "Callable[[Axes], None]"
Size: TypeAlias = tuple[int, int]

_DROPPED = re.compile(
    r"<metadata>.*?</metadata>|<!--.*?-->|<style type=\"text/css\">.*?</style>"
    r"|\s+xmlns(?::\w+)?=\"[^\"]*\"|\s+version=\"1.1\"",
    re.DOTALL,
)
_FONT = re.compile(r"(?<!-)font: (?:\w+ )*?([\d.]+)px [^;\"]*|font-family: [^;\"]*; ?")
_REFERENCE = re.compile(r"(\bid=\"|href=\"#|url\(#)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure of the page: what draws it, how large, and what it says to who cannot see it."""

    name: str
    draw: Draw
    alt: str
    caption: str = ""
    size: Size = (368, 220)
    """Width and height in pixels."""
    wide: Size | None = None
    """A second drawing for wide screens, where the first would waste them."""

    def html(self) -> Markup:
        """Inline SVG: one drawing, or a narrow and a wide one of which CSS shows one."""
        if self.wide is None:
            return svg(self.draw, self.size, name=self.name, alt=self.alt)
        narrow = svg(self.draw, self.size, name=self.name, alt=self.alt)
        wide = svg(self.draw, self.wide, name=f"{self.name}-wide", alt=self.alt)
        return Markup('<div class="narrow">{}</div><div class="wide">{}</div>').format(narrow, wide)

    def png(self, folder: Path) -> Path:
        """Write `<name>.png` on white at twice the screen's resolution."""
        path = folder / f"{self.name}.png"
        path.write_bytes(
            _bytes(self.draw, self.wide or self.size, name=self.name, format="png", dpi=144,
                   facecolor="white", metadata={"Software": None})
        )  # fmt: skip
        return path


def _bytes(draw: Draw, size: Size, *, name: str, **options: Any) -> bytes:
    """Draw on a fresh figure, outside matplotlib's global state, and encode it."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context({**RC, "svg.hashsalt": name}):
        figure: Figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def svg(draw: Draw, size: Size, *, name: str, alt: str) -> Markup:
    """Draw as SVG that takes its colours and its font from the page around it.

    Colours of the palette become CSS variables, so the dark page needs no second drawing.
    Ids are prefixed by `name`, since many drawings share one page. Namespaces, metadata and
    matplotlib's page-wide style are dropped: HTML needs none, and the page holds no address.
    """
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    text = _bytes(draw, size, name=name, format="svg", metadata=metadata).decode()
    text = _DROPPED.sub("", text[text.index("<svg") :]).replace("xlink:href", "href")
    text = _FONT.sub(lambda m: f"font-size: {m[1]}px" if m[1] else "", text)
    text = _REFERENCE.sub(rf"\g<1>{name}-", text)
    for colour in PALETTE:
        text = text.replace(colour.light, f"var(--{colour.name})")
    head, _, body = text.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    label = f' role="img" aria-label="{escape(alt)}" style="max-width:{size[0] * 1.2:.0f}px">'
    return Markup(head + label + re.sub(r"\n\s*", "\n", body))  # noqa: S704 - matplotlib escapes
