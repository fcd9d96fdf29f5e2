"""Draws how full the devices' memory is, with matplotlib's objects (never pyplot), which is imported here.

    cuda:0              2.1 GiB free of 8.0 GiB
    | gpt2-xl 3.9 GiB | gpt2-large |░░░░░░░░░░|
    ■ gpt2-xl 3.9 GiB      ■ gpt2-large 2.0 GiB

The picture brings its own dark ground, so it reads the same on Discord's dark and light themes. The colours are those
of Okabe and Ito, which people with any kind of colour vision tell apart; from the eighth model on they come back
hatched. It is as wide as Discord shows it, in twice as many pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image

from bot.ui.charts import Bar, Share, size

CARD, FREE, OTHER = "#1e1f22", "#383a40", "#80848e"
TEXT, QUIET = "#f2f3f5", "#b5bac1"
ON_PART = ("#111214", "#ffffff")
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")  # neighbours far apart
HATCHES = ("", "////", "xxxx", "....")

WIDTH, SCALE = 400, 2  # as Discord shows it, and pixels per that
EDGE = 14
LABEL, BAR, BELOW = 20, 24, 13  # a device: its name, its bar, the space below
ROW, SWATCH, COLUMN_GAP = 19, 11, 14  # the legend
LEAST, SEAM = 4.0, 1.0  # the narrowest part of a bar, so that a tiny model is seen too; the line between two parts
MOST_LISTED = 16
LEAST_NAME = 80  # a long name may be cut to this where two columns are wanted
NUM_COLOURS = 96
POINTS = 12 * 0.72  # letters of 12 pixels; 100 pixels are an inch here
PLAIN, BOLD = (FontProperties(family="DejaVu Sans", size=POINTS, weight=weight) for weight in ("normal", "bold"))


@dataclass(frozen=True, slots=True)
class Look:
    """How one model is painted."""

    colour: str
    hatch: str = ""

    @property
    def ink(self) -> str:
        """What can be read on it."""
        return max(ON_PART, key=lambda ink: contrast(ink, self.colour))


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the legend; what is in no memory right now has an empty swatch."""

    look: Look
    name: str
    words: str
    is_there: bool = True


def look_of(place: int) -> Look:
    """How the model at this place of the list is painted."""
    again, at = divmod(place, len(COLOURS))
    return Look(COLOURS[at], HATCHES[again % len(HATCHES)])


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG defines it: 1 for equal ones, 21 for black and white."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def png(bars: Sequence[Bar], shares: Sequence[Share]) -> bytes:
    """Draw a PNG, WIDTH * SCALE pixels wide."""
    drawn, body = io.BytesIO(), io.BytesIO()
    figure(bars, shares).savefig(drawn, format="png", backend="agg")
    _with_few_colours(Image.open(drawn).convert("RGB")).save(body, "png", optimize=True)
    return body.getvalue()


def figure(bars: Sequence[Bar], shares: Sequence[Share]) -> Figure:
    """Draw the card, a bar per device, and the legend."""
    entries = legend_of(bars, shares)
    num_columns = 2 if all(_width(entry) <= _column_width(2) for entry in entries) else 1
    num_rows = -(-len(entries) // num_columns)
    card = Card(2 * EDGE + len(bars) * (LABEL + BAR + BELOW) + num_rows * ROW)
    top = float(EDGE)
    for bar in bars:
        _draw_bar(card, bar, shares, top)
        top += LABEL + BAR + BELOW
    room = _column_width(num_columns)
    for place, entry in enumerate(entries):
        column, row = divmod(place, num_rows)
        _draw_entry(card, entry, EDGE + column * (room + COLUMN_GAP), top + row * ROW, room)
    return card.figure


def _with_few_colours(whole: Image.Image) -> Image.Image:
    """Keep the colours there is most of, which a third of the bytes can hold; edges of letters take the nearest."""
    counted = whole.getcolors(whole.width * whole.height) or []
    kept = [colour for _, colour in sorted(counted, reverse=True)[:NUM_COLOURS]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in kept for channel in cast(tuple[int, ...], colour)])
    return whole.quantize(palette=palette, dither=Image.Dither.NONE)


def legend_of(bars: Sequence[Bar], shares: Sequence[Share]) -> list[Entry]:
    """List every model, then what else is used."""
    there = {place for bar in bars for place, _ in bar.parts}
    entries = [Entry(look_of(at), share.model, share.words, at in there) for at, share in enumerate(shares)]
    hidden = entries[MOST_LISTED:]
    if hidden:
        entries = [*entries[:MOST_LISTED], Entry(Look(OTHER), f"and {len(hidden)} more", "", is_there=False)]
    other_bytes = sum(bar.other_bytes for bar in bars)
    return [*entries, Entry(Look(OTHER), "other", size(other_bytes))] if other_bytes else entries


class Card:
    """A figure to draw on in the pixels people see, from the top left corner."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100 * SCALE, facecolor=CARD)
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self._axes.set_axis_off()

    def box(
        self, name: str, x: float, y: float, width: float, height: float, look: Look, *, corner: float = 0
    ) -> FancyBboxPatch:
        """Paint a box; what it stands for is its gid."""
        style = f"round,pad=0,rounding_size={corner}" if corner else "square,pad=0"
        box = FancyBboxPatch(
            (x, y), width, height, boxstyle=style, fc=look.colour, ec=CARD, lw=0, hatch=look.hatch, gid=name
        )
        self._axes.add_patch(box)
        return box

    def text(self, x: float, y: float, words: str, colour: str, *, bold: bool = False, align: str = "left") -> Text:
        """Write one line with its middle at y."""
        font = BOLD if bold else PLAIN
        return self._axes.text(
            x, y, drawable(words), color=colour, fontproperties=font, parse_math=False, ha=align, va="center_baseline"
        )


def text_width(words: str, *, bold: bool = False) -> float:
    """Measure a line of text."""
    points, _, _ = text_to_path.get_text_width_height_descent(words, BOLD if bold else PLAIN, ismath=False)
    return float(points) * 100 / 72


def drawable(words: str) -> str:
    """Put a question mark for each character the font does not have."""
    font = get_font(findfont(PLAIN))
    return "".join(char if font.get_char_index(ord(char)) else "?" for char in words)


def fitted(words: str, room: float, *, bold: bool = False) -> str:
    """Leave out as much of the middle as it takes to fit; both ends of a name say something."""
    words, kept = drawable(words), len(words)
    shown = words
    while text_width(shown, bold=bold) > room and kept > 2:
        kept -= 1
        shown = f"{words[: kept - kept // 2]}…{words[len(words) - kept // 2 :]}"
    return shown


def _draw_bar(card: Card, bar: Bar, shares: Sequence[Share], top: float) -> None:
    """Name and free memory above; below, the models in the order of the list, what else is used, what is free."""
    name, width = bar.device.name, WIDTH - 2.0 * EDGE
    y = top + LABEL * 0.4
    told = card.text(WIDTH - EDGE, y, bar.words, QUIET, align="right")
    room = width - text_width(told.get_text()) - COLUMN_GAP
    card.text(EDGE, y, fitted(name, room, bold=True), TEXT, bold=True)
    y = top + LABEL
    frame = card.box(name, EDGE, y, width, BAR, Look(FREE), corner=4)
    parts = [(shares[place].model, taken, look_of(place)) for place, taken in bar.parts]
    parts += [("other", bar.other_bytes, Look(OTHER))] if bar.other_bytes else []
    x = float(EDGE)
    for (model, taken, look), wide in zip(parts, widths([taken for _, taken, _ in parts], bar, width), strict=True):
        box = card.box(f"{name}: {model}", x, y, wide - SEAM, BAR, look)
        box.set_clip_path(frame)
        _label(card, [f"{model} {size(taken)}", model, size(taken)], look, x, y, wide)
        x += wide
    card.box(f"edge of {name}", EDGE, y, width, BAR, Look(FREE), corner=4).set(fc="none", ec=OTHER, lw=0.6)


def widths(parts: Sequence[int], bar: Bar, width: float) -> list[float]:
    """Share out a bar's width by bytes; no part is too narrow to be seen, and together they do not pass the end."""
    full = max(bar.device.total_bytes, sum(parts))
    wide = [max(LEAST, width * taken / full) for taken in parts]
    too_much = sum(wide) / width
    return [each / too_much for each in wide] if too_much > 1 else wide


def _label(card: Card, choices: Sequence[str], look: Look, x: float, y: float, wide: float) -> None:
    """Write the first of the choices that fits onto a part of a bar, or nothing."""
    for words in choices:
        if text_width(drawable(words)) <= wide - 10:
            text = card.text(x + 6, y + BAR / 2, words, look.ink)
            if look.hatch:
                text.set_bbox({"facecolor": look.colour, "edgecolor": "none", "pad": 1.5})
            return


def _draw_entry(card: Card, entry: Entry, x: float, top: float, room: float) -> None:
    y = top + ROW / 2
    swatch = card.box(f"legend: {entry.name}", x, y - SWATCH / 2, SWATCH, SWATCH, entry.look, corner=2)
    if not entry.is_there:
        swatch.set(facecolor=CARD, edgecolor=entry.look.colour, linewidth=1.2, hatch=None)
    left = x + SWATCH + 6
    told = drawable(entry.words)
    name = fitted(entry.name, room - (left - x) - text_width(told) - 6)
    card.text(left, y, name, TEXT)
    card.text(left + text_width(name) + 6, y, told, QUIET)


def _column_width(num_columns: int) -> float:
    return (WIDTH - 2 * EDGE - (num_columns - 1) * COLUMN_GAP) / num_columns


def _width(entry: Entry) -> float:
    """The least room an entry needs."""
    return SWATCH + 12 + min(LEAST_NAME, text_width(drawable(entry.name))) + text_width(drawable(entry.words))


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
