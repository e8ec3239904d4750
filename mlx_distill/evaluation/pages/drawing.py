"""A figure of matplotlib that becomes part of report.html: inline SVG whose looks are the page's, light, dark or on paper.

    with drawing(420, 120, left=78, right=22, top=8, bottom=22) as figure:
        figure.axes(across=(0, 1), up=(0, 1))
        figure.line("curve main", [(0, 0.2), (1, 0.9)])
        return figure.svg("Accuracy by step: from 20 % to 90 %")

Matplotlib does the geometry: scales, axes, marks. What comes out has none of its colours, fonts, ids, definitions or style sheet, which
would leak into the page or clash with the next figure's: every part keeps its place, and the class under which page.css knows it. Words
never pass through matplotlib: it would take `$` for mathematics and miss the glyphs of other scripts, and the browser has those.
It knows nothing of plots or metrics. Units are CSS pixels; the origin of a figure is its upper left corner.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from mlx_distill.evaluation.pages.markup import esc

DPI = 72
"""At which matplotlib's points are the pixels of an SVG."""
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
Ticks = Sequence[tuple[float, str]]
Points = Sequence[tuple[float, float]]
_STEP = re.compile(r"([MLCQz])([^MLCQz]*)")


@dataclass(frozen=True, slots=True)
class Part:
    """What a drawn thing is in the page: its class, what it says, a tooltip, and for a dot its radius."""

    css: str
    words: str = ""
    title: str = ""
    radius: float | None = None


@contextmanager
def drawing(width: float, height: float, *, left: float, right: float, top: float, bottom: float) -> Iterator[Drawing]:
    """A figure with margins. Until it is closed, matplotlib's settings are its defaults, whatever the user's matplotlibrc says."""
    import matplotlib

    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context({**defaults, "svg.fonttype": "none", "svg.hashsalt": "mlx-distill"}):
        yield Drawing(width, height, (left, right, top, bottom))


class Drawing:
    """See `drawing`. Areas and bars are drawn behind lines and dots, the grid behind all; else in the order in which they are given."""

    def __init__(self, width: float, height: float, margins: tuple[float, float, float, float]):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        left, right, top, bottom = margins
        self._size, self._parts = (width, height), list[Part]()
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasSVG(self._figure)
        inner = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        self._axes: Any = self._figure.add_axes(inner)
        self._axes.set_axisbelow(True)
        for patch in (self._figure.patch, self._axes.patch, *self._axes.spines.values()):
            patch.set_visible(False)

    def axes(self, across: tuple[float, float], up: tuple[float, float], *, log: bool = False) -> None:
        """What lies between the margins; `log`: across in powers."""
        self._axes.set_xscale("log" if log else "linear")
        self._axes.set_xlim(*across)
        self._axes.set_ylim(*up)
        self._axes.minorticks_off()
        self._axes.set_xticks([])
        self._axes.set_yticks([])

    def across(self, ticks: Ticks, *, grid: bool = True, css: str = "tick") -> None:
        """(place, words) below the axes, and a line up from each."""
        self._axes.set_xticks([place for place, _ in ticks], ["0"] * len(ticks))
        self._axes.grid(grid, axis="x")
        self._label(self._axes.xaxis, ticks, css, grid)

    def up(self, ticks: Ticks, *, grid: bool = True, css: str = "tick") -> None:
        """The same at the left of the axes."""
        self._axes.set_yticks([place for place, _ in ticks], ["0"] * len(ticks))
        self._axes.grid(grid, axis="y")
        self._label(self._axes.yaxis, ticks, css, grid)

    def _label(self, axis: Any, ticks: Ticks, css: str, grid: bool) -> None:
        axis.set_tick_params(length=0, pad=5)
        for label, line, (_, words) in zip(axis.get_ticklabels(), axis.get_gridlines(), ticks, strict=True):
            label.set_fontsize(12)
            self._name(label, Part(css, words))
            if grid:
                line.set_clip_on(False)
                self._name(line, Part("grid"))

    def line(self, css: str, points: Points, title: str = "") -> None:
        [drawn] = self._axes.plot(*zip(*points, strict=True), clip_on=False)
        self._name(drawn, Part(css, title=title))

    def area(self, css: str, points: Points, title: str = "") -> None:
        """A polygon, closed and filled."""
        [drawn] = self._axes.fill(*zip(*points, strict=True), clip_on=False)
        self._name(drawn, Part(css, title=title))

    def bar(self, css: str, corner: tuple[float, float], width: float, height: float, title: str = "") -> None:
        """A rectangle from its lower left corner, all in the units of the axes."""
        [drawn] = self._axes.bar([corner[0]], [height], width=[width], bottom=[corner[1]], align="edge", clip_on=False)
        self._name(drawn, Part(css, title=title))

    def dot(self, css: str, x: float, y: float, radius: float, title: str = "", shape: str = "o") -> None:
        """A mark as large everywhere: a circle, or a cross ("x") of that radius. The radius is in pixels."""
        [drawn] = self._axes.plot([x], [y], shape, markersize=2 * radius, clip_on=False)
        self._name(drawn, Part(css, title=title, radius=radius if shape == "o" else None))

    def write(self, css: str, x: float, y: float, words: str, anchor: str = "start") -> None:
        """Words at a place of the axes, on its base line; `anchor`: which part of them is there, start, middle or end."""
        side = {"start": "left", "middle": "center", "end": "right"}[anchor]
        self._name(self._axes.text(x, y, "0", ha=side, va="baseline", fontsize=12), Part(css, words))

    def _name(self, artist: Any, part: Part) -> None:
        artist.set_gid(f"part-{len(self._parts)}")
        self._parts.append(part)

    def svg(self, alt: str, kind: str = "") -> str:
        """The figure; `alt` says in words what is drawn, `kind` is its class."""
        written = io.StringIO()
        self._figure.savefig(written, format="svg", dpi=DPI, metadata={"Date": None})
        parts = {f"part-{i}": part for i, part in enumerate(self._parts)}
        root = ElementTree.fromstring(written.getvalue())
        shapes = {
            f"#{path.get('id')}": path for path in root.iterfind(f".//{SVG}defs/{SVG}path")
        }  # a shape is defined where it is first used
        named = [(parts[name], group) for group in root.iter(f"{SVG}g") if (name := group.get("id", "")) in parts]
        return svg(*self._size, alt, [_part(part, group, shapes) for part, group in named], kind)


def svg(width: float, height: float, alt: str, parts: Sequence[str], kind: str = "") -> str:
    css = f"plot {kind}".strip()
    return f'<svg viewBox="0 0 {width:g} {height:g}" class="{css}" role="img" aria-label="{esc(alt)}">{"".join(parts)}</svg>'


def _part(part: Part, group: ElementTree.Element, shapes: Mapping[str, ElementTree.Element]) -> str:
    """What matplotlib drew for one part, as one element of its class. `shapes`: the figure's marks by their address."""
    text, use, path = (group.find(f".//{SVG}{tag}") for tag in ("text", "use", "path"))
    css = f'class="{part.css}"'
    if text is not None:
        anchor = re.search(r"text-anchor: (\w+)", text.get("style", ""))
        place = f'x="{_round(text.get("x"))}" y="{_round(text.get("y"))}"'
        return f'<text {place} text-anchor="{anchor[1] if anchor else "start"}" {css}>{esc(part.words)}</text>'
    title = f"<title>{esc(part.title)}</title>" if part.title else ""
    if use is not None:
        x, y = _round(use.get("x")), _round(use.get("y"))
        if part.radius is not None:
            return _element("circle", f'cx="{x}" cy="{y}" r="{part.radius:g}" {css}', title)
        return _element("path", f'transform="translate({x} {y})" d="{_steps(shapes[use.get(LINK, "")])}" {css}', title)
    return "" if path is None else _line(path, css, title)


def _line(path: ElementTree.Element, css: str, title: str) -> str:
    """A path of straight lines as what it is: a polyline, or a polygon where it is closed."""
    steps = _STEP.findall(path.get("d", ""))
    letters = "".join(letter for letter, _ in steps)
    if not re.fullmatch(r"ML*z?", letters):
        return _element("path", f'd="{_steps(path)}" {css}', title)
    places = (",".join(map(_round, numbers.split())) for letter, numbers in steps if letter != "z")
    return _element("polygon" if letters.endswith("z") else "polyline", f'points="{" ".join(places)}" {css}', title)


def _steps(path: ElementTree.Element) -> str:
    return "".join(letter + " ".join(map(_round, numbers.split())) for letter, numbers in _STEP.findall(path.get("d", "")))


def _element(tag: str, attributes: str, title: str) -> str:
    return f"<{tag} {attributes}>{title}</{tag}>" if title else f"<{tag} {attributes}/>"


def _round(number: str | None) -> str:
    """A tenth of a pixel is finer than anyone sees."""
    return f"{round(float(number or 0), 1) + 0:g}"
