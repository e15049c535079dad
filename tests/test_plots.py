"""House style, and figures that show what they say."""

import subprocess
import sys
from itertools import pairwise

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgba

from llama_edu import plots
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES


@pytest.fixture(autouse=True)
def close_figures():
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def test_importing_the_package_leaves_the_settings_of_matplotlib_alone():
    code = ("import matplotlib as mpl, matplotlib.pyplot; before = dict(mpl.rcParams);"
            "import llama_edu.training.run, llama_edu.plots, llama_edu.claims, llama_edu.exercises;"
            "changed = [k for k, v in before.items() if mpl.rcParams[k] != v];"
            "assert changed == [], changed")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_figure_has_the_house_style_a_title_and_units():
    fig, ax = plots.figure("Waves grow", x="pair", y="wavelength (tokens)")
    assert tuple(fig.get_size_inches()) == (6.4, 3.6)
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == (
        "Waves grow", "pair", "wavelength (tokens)")
    assert not ax.spines["top"].get_visible()
    assert not ax.spines["right"].get_visible()
    assert plt.rcParams["font.size"] == 9


def test_several_panels_share_one_title():
    fig, axes = plots.figure("Two views", x="t", y="v", columns=2)
    assert axes.shape == (2,)
    assert fig.get_suptitle() == "Two views"
    assert [ax.get_xlabel() for ax in axes] == ["t", "t"]


def test_line_colours_are_distinct():
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) == 7


def test_labels_stand_apart_in_the_colours_of_their_lines():
    fig, ax = plots.figure("Close lines", x="step", y="loss")
    for i in range(4):
        ax.plot([0, 1], [1, 1 + i / 1000], label=f"line {i}")
    ax.plot([0, 1], [0, 100], label="_hidden")
    plots.label_lines(ax, gap=10)
    texts = {t.get_text(): t for t in ax.texts}
    assert set(texts) == {f"line {i}" for i in range(4)}
    for line in ax.get_lines()[:4]:
        assert to_rgba(texts[line.get_label()].get_color()) == to_rgba(line.get_color())
    fig.canvas.draw()
    heights = sorted(t.get_window_extent().y0 * 72 / fig.dpi for t in ax.texts)
    # The layout moves the lines a little once the labels are there.
    assert all(high - low > 9 for low, high in pairwise(heights))


def test_a_heatmap_shows_its_numbers_first_row_on_top():
    _, ax = plots.figure("Scores", x="key", y="query")
    plots.heatmap(ax, [[0.0, 1.0], [2.0, 3.0]], label="score")
    image = ax.get_images()[0]
    assert image.get_array().tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert image.origin == "upper"
    assert image.get_cmap().name == "viridis"
    assert image.colorbar.ax.get_ylabel() == "score"


def test_a_diverging_heatmap_is_white_at_zero():
    _, ax = plots.figure("Differences", x="key", y="query")
    plots.heatmap(ax, [[-1.0, 3.0, float("nan")]], diverging=True)
    image = ax.get_images()[0]
    assert image.get_clim() == (-3.0, 3.0)
    assert image.get_cmap().name == "RdBu_r"


def tree():
    """The drawing, taken apart: its points by date and size, its branches, its words."""
    ax = plots.family_tree(RELEASES).axes[0]
    marked = [line for line in ax.get_lines() if line.get_marker() not in ("None", "", None)]
    points = [point for line in marked
              for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]
    branches = [line for line in ax.get_lines() if line not in marked]
    return points, branches, {t.get_text() for t in ax.texts}


RELEASED = {r.id: r for r in RELEASES if r.released is not None}


def test_the_family_tree_shows_every_released_model_at_its_size():
    points, _, _ = tree()
    sizes = [(r.whole_parameters or parameters(r.config).total) / 1e9 for r in RELEASED.values()]
    assert len(points) == 36
    assert sorted(float(y) for _, y in points) == pytest.approx(sorted(sizes))


def test_every_model_stands_on_its_date():
    points, _, _ = tree()
    for r in RELEASED.values():
        size = (r.whole_parameters or parameters(r.config).total) / 1e9
        assert any(when == r.released and y == pytest.approx(size) for when, y in points), r.id


def test_what_came_on_one_day_in_one_size_is_seen_through_the_guard():
    ax = plots.family_tree(RELEASES).axes[0]
    guards = [line for line in ax.get_lines() if line.get_marker() == "^"]
    assert len(guards) == sum(r.family == "Llama Guard" for r in RELEASED.values()) == 6
    assert {line.get_markerfacecolor() for line in guards} == {"none"}


def test_every_branch_joins_two_releases():
    branches = [r for r in RELEASED.values() if r.training.start in RELEASED]
    assert len(tree()[1]) == len(branches) > 10


def test_every_family_has_its_name_in_the_tree():
    assert tree()[2] == {r.family for r in RELEASES}
