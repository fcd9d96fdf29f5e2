"""Draws a fine-tune's loss curves, with matplotlib's objects (never pyplot), which is imported here.

    — jokes it learns from   — held-out jokes
    3.5 |‾·.
        |   ‾‾·-._ ●············ best: 3.150 at step 120
    3.0 |_________________ step

The picture brings its own dark ground and the colours of `bot.ui.memory_chart`, so it reads the same on Discord's dark
and light themes. It is as wide as Discord shows it, in twice as many pixels.
"""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bot.ui.memory_chart import BOLD, CARD, COLOURS, FREE, PLAIN, QUIET, SCALE, TEXT, WIDTH
from bot.ui.training_card import Curves, Points

HEIGHT = 230
TRAIN, HELD_OUT = COLOURS[0], COLOURS[1]
SMOOTHED_OVER = 5  # steps' losses; one batch says little
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 34, 36  # pixels around the curves
LABEL_LEFT = 12  # pixels from the edge to the middle of the label of the losses, however long these are
LABEL_ROOM = 0.45  # of the width, for the label of the best step; it stands to the left where less is left
HEADROOM, FOOTROOM = 0.12, 0.04  # of the height, kept free for that label and for the ring


def png(curves: Curves) -> bytes:
    """Draw a PNG, WIDTH * SCALE pixels wide."""
    drawn = io.BytesIO()
    figure(curves).savefig(drawn, format="png", backend="agg")
    return drawn.getvalue()


def figure(curves: Curves) -> Figure:
    """Draw both curves and mark the best step."""
    drawing = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100 * SCALE, facecolor=CARD)
    inside = (LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT)
    axes = drawing.add_axes(inside, facecolor=CARD)
    _dress(axes)
    if curves.train:
        axes.plot(*_columns(curves.train), color=TRAIN, lw=0.8, alpha=0.4)
        axes.plot(*_columns(smoothed(curves.train)), color=TRAIN, lw=1.8, label="jokes it learns from")
    axes.plot(*_columns(curves.held_out), color=HELD_OUT, lw=2, marker="o", ms=3.5, label="jokes it never sees")
    _mark_best(axes, curves)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=2,
        frameon=False,
        prop=PLAIN,
        labelcolor=TEXT,
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.4,
    )
    return drawing


def smoothed(points: Points) -> Points:
    """Average each loss with its neighbours; both ends with fewer of them."""
    half = SMOOTHED_OVER // 2
    losses = [loss for _, loss in points]
    windows = [losses[max(0, i - half) : i + half + 1] for i in range(len(losses))]
    return tuple((step, sum(w) / len(w)) for (step, _), w in zip(points, windows, strict=True))


def _mark_best(axes: Axes, curves: Curves) -> None:
    """Put a ring around the step that was kept, a line down to the axis, and its loss beside it."""
    if curves.best_step is None:
        return
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - FOOTROOM * (top - bottom), top + HEADROOM * (top - bottom))
    step, loss = curves.best_step, dict(curves.held_out)[curves.best_step]
    axes.axvline(step, color=QUIET, lw=1, ls=(0, (3, 3)), zorder=1)
    axes.plot([step], [loss], "o", ms=9, mfc="none", mec=TEXT, mew=1.5, gid="best")
    low, high = axes.get_xlim()
    fits_right = (high - step) / (high - low) > LABEL_ROOM
    axes.annotate(
        f"best: {loss:.3f} at step {step}",
        (step, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(6 if fits_right else -6, 0),
        textcoords="offset points",
        ha="left" if fits_right else "right",
        va="top",
        color=TEXT,
        fontproperties=BOLD,
    )


def _dress(axes: Axes) -> None:
    """Quiet axes: no frame, thin lines across."""
    axes.set_xlabel("step", color=QUIET, fontproperties=PLAIN, labelpad=2)
    axes.set_ylabel("loss", color=QUIET, fontproperties=PLAIN, va="center")
    axes.yaxis.set_label_coords((LABEL_LEFT - LEFT) / (WIDTH - LEFT - RIGHT), 0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(axis="y", color=FREE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=QUIET, pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_fontproperties(PLAIN)


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]
