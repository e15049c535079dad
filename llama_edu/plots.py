"""House style, and the figures that several chapters share.

`use_style` sets it for a whole notebook. Every figure is 6.4 x 3.6 inches on white, 9 pt, without
top and right spines; lines take the Okabe-Ito colours, which colour-blind readers can tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from math import log2

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .family import accounting
from .family.releases import Release

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)


@dataclass(frozen=True)
class FamilyStyle:
    """How one family stands in the tree: its mark, and where its name goes."""

    colour: str
    marker: str = "o"
    hollow: bool = False        # an outline, which shows what it lies upon
    lowest: bool = False        # the name stands below the smallest model, not above the largest
    nudge: tuple[float, float] = (0, 7)     # points from that model to the name


FAMILIES = {
    "Llama 1": FamilyStyle(BLACK), "Llama 2": FamilyStyle(BLUE, nudge=(-8, 7)),
    "Code Llama": FamilyStyle(SKY, "s", nudge=(-14, 7)), "Llama 3": FamilyStyle(VERMILION),
    "Llama 3.1": FamilyStyle(ORANGE), "Llama 3.3": FamilyStyle(VERMILION, nudge=(6, -14)),
    "Llama 3.2": FamilyStyle(GREEN, lowest=True, nudge=(-30, 0)),
    "Llama 3.2 Vision": FamilyStyle(GREEN, "D"),
    "Llama Guard": FamilyStyle(PURPLE, "^", hollow=True, nudge=(40, 3)),
}

STYLE = {
    "figure.figsize": (6.4, 3.6), "figure.dpi": 120, "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=COLOURS), "grid.color": "#e4e4e4", "grid.linewidth": 0.7,
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.6, "svg.hashsalt": "0",
}


def use_style() -> None:
    """Draw all that follows in the house style; `mpl.rc_context(STYLE)` does it for a while."""
    mpl.rcParams.update(STYLE)


def figure(title: str, *, x: str, y: str, rows: int = 1, columns: int = 1,
           size: tuple[float, float] = (6.4, 3.6)) -> tuple[Figure, Axes | Sequence[Axes]]:
    """A figure whose title states the finding, its axes labelled with their units.

    One panel gives (figure, axes); several give (figure, array of axes), the title above all.
    """
    fig, axes = plt.subplots(rows, columns, figsize=size)
    if rows * columns == 1:
        axes.set(xlabel=x, ylabel=y, title=title)
        return fig, axes
    fig.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    for ax in axes.flat:
        ax.set(xlabel=x, ylabel=y)
    return fig, axes


def label_lines(ax: Axes, *, offset: tuple[float, float] = (4, 0), gap: float = 10) -> None:
    """Write each line's label at its right end, in its colour, instead of a legend.

    offset: points from the line's end. Labels are pushed apart to be `gap` points from each other.
    """
    ax.figure.draw_without_rendering()      # only now are the axes' limits final
    ends = []
    for line in ax.get_lines():
        if not line.get_label().startswith("_"):
            xy = (line.get_xdata()[-1], line.get_ydata()[-1])
            ends.append([ax.transData.transform(xy)[1], xy, line])
    lowest = float("-inf")
    for pixels, xy, line in sorted(ends, key=lambda end: end[0]):
        points = pixels * 72 / ax.figure.dpi
        placed = max(points, lowest + gap)
        lowest = placed
        ax.annotate(line.get_label(), xy, (offset[0], offset[1] + placed - points),
                    textcoords="offset points", color=line.get_color(), va="center",
                    annotation_clip=False)


def heatmap(ax: Axes, values: Sequence[Sequence[float]], *, label: str | None = None,
            diverging: bool = False) -> None:
    """A matrix as colours, first row on top. diverging: red and blue around a meaningful zero."""
    values = [[float(cell) for cell in row] for row in values]
    reach = max(abs(cell) for row in values for cell in row if cell == cell)
    limits = {"vmin": -reach, "vmax": reach, "cmap": "RdBu_r"} if diverging else {"cmap": "viridis"}
    image = ax.imshow(values, aspect="auto", **limits)
    ax.grid(visible=False)
    if label is not None:
        ax.figure.colorbar(image, ax=ax, label=label)


def family_tree(releases: Sequence[Release]) -> Figure:
    """Every release by date and size, joined to the release whose weights it began from.

    A mark grows with the context. The size of a vision model is that of the whole model. Withheld
    models are left out.
    """
    places = {r.id: _place(r) for r in releases if r.released is not None}
    fig, ax = figure("One family in two years: three generations and their branches",
                     x="release date", y="parameters (billions)", size=(6.4, 4.6))
    for r in releases:
        if r.id in places and r.training.start in places:
            ax.plot(*zip(places[r.id], places[r.training.start], strict=True), color="#c4c4c4",
                    linewidth=0.9, zorder=1)
    for family, style in FAMILIES.items():
        rows = [r for r in releases if r.id in places and r.family == family]
        for r in rows:
            ax.plot(*places[r.id], style.marker, color="none" if style.hollow else style.colour,
                    markeredgecolor=style.colour if style.hollow else "white",
                    markersize=_mark(r.config.max_seq_len))
        end = (min if style.lowest else max)((places[r.id] for r in rows), key=lambda row: row[1])
        ax.annotate(family, end, style.nudge, textcoords="offset points", ha="center",
                    color=[0.75 * part for part in to_rgb(style.colour)])
    _label_contexts(ax, sorted({r.config.max_seq_len for r in releases}))
    _label_sizes(ax)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(ax.xaxis.get_major_locator()))
    ax.margins(x=0.09, y=0.1)
    return fig


# Three generations trained the same sizes on as many tokens; the later lie on the earlier ones.
ON_ONE_PLACE = {"Llama 3": 11, "Llama 3.1": 7.5, "Llama 3.3": 4}


def tokens_and_compute(releases: Sequence[Release]) -> Figure:
    """What a training read against what it trained, with lines of equal compute.

    Only releases whose tokens were published. Hollow: begun from another release, and these are
    the tokens that came on top.
    """
    fig, ax = figure("From generation to generation more text went into each parameter",
                     x="tokens (trillions)", y="parameters (billions)", size=(6.4, 4.2))
    tokens = (0.25, 30)
    for flops, at in ((1e22, 0.25), (1e23, 0.25), (1e24, 30), (1e25, 30)):
        ax.plot(tokens, [flops / 6 / t / 1e21 for t in tokens], color="#c4c4c4", linewidth=0.9)
        ax.annotate(f"{flops:.0e} operations".replace("e+", "e"), (at, flops / 6 / at / 1e21),
                    (8, 3), textcoords="offset points", color="#808080", fontsize=7,
                    annotation_clip=False)
    ax.plot(tokens, [1000 * t / 20 for t in tokens], "--", color=BLACK, linewidth=0.9)
    ax.annotate("20 tokens a parameter", (3.2, 160), (-3, 3), textcoords="offset points",
                ha="right", fontsize=7)
    named: set[str] = set()
    for r in releases:
        if r.training.tokens is None:
            continue
        style, fresh = FAMILIES[r.family], r.training.start is None
        ax.plot(r.training.tokens / 1e12, accounting.parameters(r.config).total / 1e9, style.marker,
                color=style.colour, markerfacecolor=style.colour if fresh else "none",
                markersize=ON_ONE_PLACE.get(r.family, 6),
                label=r.family if r.family not in named else None)
        named.add(r.family)
    _label_sizes(ax)
    ax.set(xscale="log", xlim=tokens, ylim=(0.8, 700))
    ax.set_xticks((0.5, 1, 2, 5, 10, 15), ("0.5", "1", "2", "5", "10", "15"))
    ax.minorticks_off()
    ax.legend(fontsize=7, loc="upper left", ncols=2)
    return fig


def _label_sizes(ax: Axes) -> None:
    """A logarithmic axis whose ticks are the sizes that the family has."""
    sizes = (1, 3, 8, 13, 34, 70, 405)
    ax.set_yscale("log")
    ax.set_yticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()


def _mark(context: int) -> float:
    """The size of a mark, in points: nearly one more for each doubling of the context."""
    return 5 + 0.9 * log2(context / 2048)


def _label_contexts(ax: Axes, contexts: Sequence[int]) -> None:
    """Which mark stands for which context, in the empty corner."""
    marks = [Line2D([], [], marker="o", linestyle="", color="#909090", markersize=_mark(context))
             for context in contexts]
    ax.legend(marks, [f"{context // 1024}K" for context in contexts], title="context (tokens)",
              loc="upper left", ncols=len(contexts), fontsize=7, title_fontsize=7,
              handletextpad=0.1, columnspacing=0.8)


def _place(r: Release) -> tuple[date, float]:
    """Where a release stands: its date, and its size in billions."""
    return r.released, (r.whole_parameters or accounting.parameters(r.config).total) / 1e9
