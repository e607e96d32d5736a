"""The chart of a comparison: an SVG that is legible on a light and on a dark page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

WIDTH: Final = 860
LABELS: Final = 190  # left of the bars
VALUES: Final = 70  # right of the bars
BAR: Final = 16
GAP: Final = 4
HEADING: Final = 34

# The first one is for this service. All of them are visible on white and on black.
COLOURS: Final = ("#2f81f7", "#2da44e", "#bf8700", "#8250df", "#8b949e")

STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.route { font-weight: 600 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }"""


def draw(title: str, routes: Mapping[str, Mapping[str, float]]) -> str:
    """Draw a group of bars for each route, with one bar for each server: requests per second."""
    scale = (WIDTH - LABELS - VALUES) / max(value for bars in routes.values() for value in bars.values())
    servers = list(dict.fromkeys(server for bars in routes.values() for server in bars))
    colours = dict(zip(servers, COLOURS, strict=False))
    lines = [_text(0, 20, title, "route")]
    y = HEADING
    for route, bars in routes.items():
        lines.append(_text(0, y + 20, route, "route"))
        y += HEADING
        for server, value in bars.items():
            middle = y + BAR - GAP
            lines += [
                _text(0, middle, server),
                f'<rect x="{LABELS}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{colours[server]}"/>',
                _text(LABELS + value * scale + 6, middle, f"{value:,.0f}"),
            ]
            y += BAR + GAP
    return _document(lines, title, height=y + GAP)


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y}"{kind}>{escape(text)}</text>'


def _document(lines: Sequence[str], title: str, height: int) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", *lines, "</svg>\n"])
