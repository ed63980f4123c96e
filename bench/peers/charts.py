"""Bar charts as SVG: a panel for each size of call log, a bar for each contender, a line for the spread. Pure.

Colours come from a style sheet inside that follows the reader's light or dark background.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.figures import Figure
from bench.report import number

_WIDTH, _LABEL, _VALUE = 720, 132, 132
_BAR, _GAP, _HEAD, _PANEL_HEAD, _FOOT = 16, 8, 46, 30, 16
_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2733; }
  .title { font-size: 16px; font-weight: 600; }
  .soft { fill: #5c6675; font-weight: 400; }
  .ours { font-weight: 600; }
  .bar { fill: #9aa8bb; }
  .bar.ours { fill: #2563c9; }
  .spread { stroke: #1f2733; stroke-width: 1.5; }
  .ground { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e8ee; }
    .soft { fill: #9ca7b7; }
    .bar { fill: #59677b; }
    .bar.ours { fill: #6aa2f7; }
    .spread { stroke: #e4e8ee; }
    .ground { fill: #14181f; }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One contender's figure; `ours` stands out, `note` is said behind it."""

    label: str
    figure: Figure
    ours: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """The bars of one size, on a scale of their own that begins at 0."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> int:
        """Pixels, its title included."""
        return _PANEL_HEAD + len(self.bars) * (_BAR + _GAP)


def bar_chart(title: str, explanation: str, panels: Sequence[Panel]) -> str:
    """The chart as a document of its own; a figure that is not known has no bar."""
    height = _HEAD + sum(panel.height for panel in panels) + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
        f' role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(16, 26, title, "title"),
        _text(_WIDTH - 16, 26, explanation, "soft", anchor="end"),
    ]
    top = _HEAD
    for panel in panels:
        parts += _panel(panel, top)
        top += panel.height
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: int) -> list[str]:
    """The elements of one panel."""
    parts = [_text(16, top + 17, panel.title, "soft")]
    highs = [bar.figure.high for bar in panel.bars if not math.isnan(bar.figure.high)]
    scale = (_WIDTH - _LABEL - _VALUE - 32) / max(highs, default=1.0)
    for index, bar in enumerate(panel.bars):
        parts += _bar(bar, top + _PANEL_HEAD + index * (_BAR + _GAP), scale)
    return parts


def _bar(bar: Bar, top: int, scale: float) -> list[str]:
    """The elements of one bar: its label, its length, its spread, its figure."""
    kind, left, middle = ("ours" if bar.ours else ""), 16 + _LABEL, top + _BAR / 2
    parts = [_text(left - 8, top + 13, bar.label, kind, anchor="end")]
    figure = bar.figure
    if math.isnan(figure.median):
        return [*parts, _text(left + 4, top + 13, "-", "soft")]
    width = max(1.0, figure.median * scale)
    parts.append(f'<rect class="bar {kind}" x="{left}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>')
    low, high = left + figure.low * scale, left + figure.high * scale
    if high - low >= 1:
        parts.append(f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
    told = f'{number(figure.median)}<tspan class="soft" dx="8">{escape(bar.note)}</tspan>'
    parts.append(_raw_text(max(left + width, high) + 8, top + 13, told, kind))
    return parts


def _text(x: float, y: float, content: str, kind: str, *, anchor: str = "start") -> str:
    """A text, escaped."""
    return _raw_text(x, y, escape(content), kind, anchor=anchor)


def _raw_text(x: float, y: float, markup: str, kind: str, *, anchor: str = "start") -> str:
    """A text whose content is markup already."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{markup}</text>'
