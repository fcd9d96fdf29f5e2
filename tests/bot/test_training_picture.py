"""What a training's card is drawn from: the table, the samples, and the picture of the curves."""

import io
import sys
from subprocess import run
from typing import Any

import discord
import pytest
from PIL import Image

from bot.ui.memory_chart import COLOURS, contrast
from bot.ui.training_card import Curves, curves, describe, embed, picture, table
from tests.support.tuned import evaluation, events

Json = dict[str, Any]


def test_the_table_marks_what_is_better_and_what_is_worse() -> None:
    assert table({"punchline": {"evaluation": evaluation()}}).split("\n") == [
        "```",
        "                      before   after",
        "Held-out loss          3.500   3.150 ✓",
        "  bits per character   1.712   1.541 ✓",
        "General loss           4.100   4.120 ✗",
        "  bits per character   1.900   1.909 ✗",
        "Distinct-2             0.710   0.834 ✓",
        "Copied word for word      0%      6% ✗",
        "Held back by filter     2/32    0/32 ✓",
        "```",
    ]


def test_long_and_hostile_samples_fit_and_cannot_format() -> None:
    told = evaluation()
    for pair in told["samples"]:
        pair["before"], pair["after"] = "**loud** @everyone " + "word " * 200, "`" * 300
    shown = embed({"punchline": {"evaluation": told}}, passed=True, image=None)
    assert all(len(field.value or "") <= 1024 for field in shown.fields)
    assert "@everyone" not in (shown.fields[0].value or "")
    assert len(shown) <= 6000
    assert isinstance(shown, discord.Embed)


def test_curves_are_read_from_events_in_any_order() -> None:
    told = events()
    found = curves(told)
    assert found == curves(told[::-1])
    assert found.best_step == 120
    assert found.held_out[0] == (0, 3.5)
    assert len(found.train) == 50
    assert describe(found).startswith("Loss curves over 200 steps. On the held-out jokes it went from 3.500 to ")
    assert not curves([{"data": None}, {"data": {"step": 4, "train_loss": 3.0}}]).is_worth_drawing


@pytest.mark.parametrize("found", [curves(events()), Curves((), ((0, 3.5), (10, 3.1)), 10)])
def test_the_picture_reads_on_dark_and_light_themes(found: Curves) -> None:
    from bot.ui import loss_chart

    image = Image.open(io.BytesIO(picture(found))).convert("RGB")
    assert image.size == (800, 460)
    corners = {image.getpixel((x, y)) for x in (0, 799) for y in (0, 459)}
    assert corners == {(0x1E, 0x1F, 0x22)}, "its own ground, whatever lies below"
    for colour in (*COLOURS[:2], loss_chart.TEXT, loss_chart.QUIET):
        assert contrast(colour, loss_chart.CARD) >= 4.5, colour


def test_the_best_step_is_ringed_and_named_inside_the_picture() -> None:
    from bot.ui import loss_chart

    for best_step in (20, 120, 200):
        drawing = loss_chart.figure(curves(events(best_step=best_step)))
        [axes] = drawing.axes
        [ring] = [line for line in axes.lines if line.get_gid() == "best"]
        assert list(ring.get_xdata()) == [curves(events(best_step=best_step)).best_step]
        [label] = axes.texts
        assert label.get_text().startswith("best: ")
        drawing.canvas.draw()
        box, frame = label.get_window_extent(), drawing.bbox
        assert 0 <= box.x0 < box.x1 <= frame.x1
        assert 0 <= box.y0 < box.y1 <= frame.y1


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_no_word_or_ring_is_cut_off_at_an_edge_or_lies_on_another(scale: float) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from bot.ui import loss_chart

    for found in (curves(events()), curves(events(total_steps=20, best_step=20)), Curves((), ((0, 3.5), (9, 3.1)), 9)):
        points = [tuple((step, loss * scale) for step, loss in each) for each in (found.train, found.held_out)]
        drawing = loss_chart.figure(Curves(points[0], points[1], found.best_step))
        FigureCanvasAgg(drawing).draw()
        [axes] = drawing.axes
        low, high = axes.get_ylim()
        ticks = [
            label for at, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True) if low <= at <= high
        ]
        legend = axes.get_legend()
        assert legend is not None
        for text in (axes.xaxis.label, axes.yaxis.label, *ticks, *axes.texts, *legend.get_texts()):
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= drawing.bbox.x1, text
            assert 0 <= box.y0 < box.y1 <= drawing.bbox.y1, text
        named = axes.yaxis.label.get_window_extent()
        assert not any(named.overlaps(tick.get_window_extent()) for tick in ticks)
        [ring] = [line for line in axes.lines if line.get_gid() == "best"]
        middle = axes.transData.transform((ring.get_xdata()[0], ring.get_ydata()[0]))  # type: ignore[index]
        radius = float(ring.get_markersize() + ring.get_markeredgewidth()) / 2 * drawing.dpi / 72
        assert middle[1] - radius >= axes.bbox.y0, "the ring is whole"


def test_the_bot_starts_without_matplotlib() -> None:
    code = "import sys, bot.app; sys.exit('matplotlib' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
