"""Plots: where a figure lies, and that an SVG is a good guest in a page: no id, no style, no address, no word that is not safe."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.drawing import drawing

NASTY = 'a<b> & "c" $x^2$ \x00 \ud800 שלום 🔥 %s {0}'
SHARES = [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")]
CURVE = [(i, 2 + (i * 7 % 5) / 10 - i / 50) for i in range(1, 60)]
EVERY = {
    "dots": lambda: plots.dots([plots.Dot(NASTY, 0.5, 0.4, 0.6, NASTY, main=True), plots.Dot("b", 0.7, 0.7, 0.7, "")], 0, 1, SHARES, NASTY),
    "bars": lambda: plots.bars([plots.Pair(NASTY, 0.1, 0.3), plots.Pair("b", 0.9, 0.0)], NASTY),
    "reliability": lambda: plots.reliability([(0.2, 0.3, 10), (0.9, 0.8, 90)], NASTY, before=[(0.3, 0.2), (0.9, 0.6)]),
    "interval": lambda: plots.interval(0.5, 0.4, 0.6, 0, 1, NASTY),
    "curves": lambda: plots.curves(
        [plots.Line("main", CURVE, dots=True), plots.Line("other", CURVE, band=[(x, y - 0.1, y + 0.1) for x, y in CURVE])],
        NASTY,
        marks=[plots.Mark("kept", 5, NASTY, 2.0), plots.Mark("resumed", 9, NASTY), plots.Mark("skipped", 9, NASTY)],
        axes=plots.Axes(across=NASTY, up=NASTY),
    ),
}


def parts(svg, tag, css=""):
    """The attributes of an SVG's elements of one kind."""
    return [element.attrib for element in ElementTree.fromstring(svg).iter(tag) if css in element.get("class", "")]


@pytest.mark.parametrize("name", EVERY)
def test_a_plot_brings_nothing_that_could_leak_into_its_page(name):
    svg = EVERY[name]()
    elements = list(ElementTree.fromstring(svg).iter())
    assert {element.tag for element in elements} <= {"svg", "path", "polyline", "polygon", "circle", "line", "text", "title"}
    assert not {name for element in elements for name in element.attrib} & {"id", "style", "href", "fill", "stroke", "font-family"}
    assert "url(" not in svg and "http" not in svg and "matplotlib" not in svg.lower()
    assert elements[0].get("role") == "img" and elements[0].get("aria-label", "").startswith("a<b>")


@pytest.mark.parametrize("name", EVERY)
def test_the_same_figures_give_the_same_bytes(name):
    assert EVERY[name]() == EVERY[name]()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EVERY)
def test_every_script_is_drawn_as_text_and_as_it_was_given(name):
    svg = EVERY[name]()
    words = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert "nan" not in svg and "None" not in svg
    assert name in ("reliability", "interval") or any("$x^2$" in word or "a<b>" in word for word in words)


def test_a_dot_lies_where_its_value_is_and_within_the_axis():
    svg = plots.dots([plots.Dot("a", 0.25, -1.0, 2.0, "x"), plots.Dot("b", 7.0, 0.0, 1.0, "y")], 0, 1, SHARES, "")
    zero, _, one = (float(line["points"].split(",")[0]) for line in parts(svg, "polyline", "grid"))
    [first, second] = parts(svg, "circle")
    assert float(first["cx"]) == pytest.approx(zero + 0.25 * (one - zero), abs=0.1)
    assert float(second["cx"]) == pytest.approx(one, abs=0.1)
    assert [bar["points"].split()[0].split(",")[0] for bar in parts(svg, "polyline", "bar")] == [f"{zero:g}"] * 2
    assert float(first["cy"]) < float(second["cy"])


def test_many_dots_are_all_drawn_equally_large():
    svg = plots.dots([plots.Dot(f"{i}", 0.5, 0.4, 0.6, "") for i in range(40)], 0, 1, SHARES, "")
    assert [circle["r"] for circle in parts(svg, "circle")] == ["4.5"] * 40
    assert len({circle["cy"] for circle in parts(svg, "circle")}) == 40


def test_bars_are_as_long_as_their_shares_and_the_judges_stands_above():
    svg = plots.bars([plots.Pair("a", 0.2, 0.4)], "")
    boxes = []
    for bar in parts(svg, "polygon", "fill"):
        xs, ys = zip(*(map(float, point.split(",")) for point in bar["points"].split()), strict=True)
        boxes.append((bar["class"], max(xs) - min(xs), min(ys)))
    (judge, short, above), (student, long, below) = boxes
    assert (judge, student) == ("fill other", "fill main")
    assert long == pytest.approx(2 * short, abs=0.2) and above < below


def test_a_student_that_is_as_sure_as_it_is_right_lies_on_the_diagonal():
    svg = plots.reliability([(share, share, 10) for share in (0.1, 0.5, 0.9)], "")
    [ends] = [[tuple(map(float, p.split(","))) for p in line["points"].split()] for line in parts(svg, "polyline", "diagonal")]
    (x0, y0), (x1, y1) = ends
    for dot in parts(svg, "circle"):
        share = (float(dot["cx"]) - x0) / (x1 - x0)
        assert float(dot["cy"]) == pytest.approx(y0 + share * (y1 - y0), abs=0.1)


def test_a_band_lies_around_its_curve():
    svg = plots.curves([plots.Line("main", [(0, 1.0), (10, 2.0)], band=[(0, 0.5, 1.5), (10, 1.5, 2.5)])], "", low=0)
    [curve], [band] = parts(svg, "polyline", "curve"), parts(svg, "polygon", "band")
    assert band["class"] == "band main"
    (_, first), (_, last) = (tuple(map(float, point.split(","))) for point in curve["points"].split())
    ys = [float(point.split(",")[1]) for point in band["points"].split()]
    assert (ys[0] + ys[3]) / 2 == pytest.approx(first, abs=0.1) and (ys[1] + ys[2]) / 2 == pytest.approx(last, abs=0.1)


def test_shares_are_numbered_in_percent_and_powers_stand_evenly_apart():
    svg = plots.curves([plots.Line("main", [(0.0, 0.0), (1.0, 0.07)])], "", low=0, axes=plots.Axes(shares=(True, True)))
    assert {"0 %", "6 %", "100 %"} <= {text.text for text in ElementTree.fromstring(svg).iter("text")}
    svg = plots.curves([plots.Line("main", [(10, 1), (100, 2), (1000, 3)], dots=True)], "", axes=plots.Axes(log=True))
    first, second, third = (float(dot["cx"]) for dot in parts(svg, "circle"))
    assert second - first == pytest.approx(third - second, abs=0.2)


def test_a_long_name_is_cut_beside_the_plot():
    svg = plots.dots([plots.Dot("w" * 60, 0.5, 0.4, 0.6, "")], 0, 1, SHARES, "")
    [name] = [text.text for text in ElementTree.fromstring(svg).iter("text") if "w" in (text.text or "")]
    assert name.strip() == "w" * 19 + "…"
    wide = plots.dots([plots.Dot("水" * 60, 0.5, 0.4, 0.6, "")], 0, 1, SHARES, "")
    assert "水" * 9 + "…" in wide and "水" * 10 not in wide


def test_the_users_own_settings_of_matplotlib_neither_matter_nor_change(tmp_path):
    import matplotlib

    plain = EVERY["curves"]()
    with matplotlib.rc_context({"axes.grid": True, "lines.marker": "o", "path.sketch": (3, 10, 1), "figure.autolayout": True}):
        before = dict(matplotlib.rcParams)
        assert EVERY["curves"]() == plain
        assert dict(matplotlib.rcParams) == before


def test_drawing_needs_no_window_and_no_pyplot():
    import subprocess

    code = "import sys; from mlx_distill.evaluation.pages import plots; assert 'matplotlib' not in sys.modules\n"
    code += "plots.reliability([(0.5, 0.5, 1)], 'a'); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=120)


def test_a_style_for_every_class_that_is_drawn():
    css = Path(plots.__file__).with_name("page.css").read_text(encoding="utf-8")
    for name, draw in EVERY.items():
        for kind in {word for words in re.findall(r'class="([^"]*)"', draw()) for word in words.split()} - {"name", "tick", "kept", "soft"}:
            assert re.search(rf"\.{kind}\b", css), (name, kind)


def test_a_path_that_is_closed_is_a_polygon_and_one_that_is_not_a_polyline():
    with drawing(100, 100, left=0, right=0, top=0, bottom=0) as figure:
        figure.axes((0, 1), (0, 1))
        figure.area("a", [(0, 0), (1, 0), (1, 1)])
        figure.line("b", [(0, 0), (0.5, 0.25)])
        svg = figure.svg("words")
    assert parts(svg, "polygon")[0]["points"] == "0,100 100,100 100,0"
    assert parts(svg, "polyline")[0]["points"] == "0,100 50,75"
