"""The picture of the devices' memory: what is drawn, whether it can be read, and what is said in its place."""

import io
import struct
import subprocess
import sys
from itertools import combinations, pairwise

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageChops, ImageStat

from bot.ui import charts, memory_chart
from bot.ui.charts import Bar, Device, Share, bars, describe, picture
from bot.ui.memory_chart import CARD, COLOURS, EDGE, FREE, OTHER, QUIET, TEXT, WIDTH, contrast, look_of

GIB = 2**30
DEVICES = [Device("cuda:0", 8 * GIB, 5 * GIB), Device("cuda:1", 24 * GIB, 4 * GIB), Device("cpu", 16 * GIB, GIB)]
SHARES = [
    Share("gpt2-xl", {"cuda:0": 3 * GIB, "cuda:1": 2 * GIB}),
    Share("gpt2", {"cuda:0": GIB}),
    Share("gpt2-large", {"cuda:1": 2 * GIB}, "loading 43 %"),
    Share("jokes-mini", {"cpu": 11_800_000}),
    Share("distilgpt2", {}, "not loaded"),
]


def drawn(devices: list[Device], shares: list[Share]) -> Figure:
    return memory_chart.figure(bars(devices, shares), shares)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def last(shown: list[str], text: str) -> int:
    """Where a text stands last: in the legend."""
    return len(shown) - 1 - shown[::-1].index(text)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def boxes(figure: Figure) -> dict[str, FancyBboxPatch]:
    found = {}
    for patch in figure.axes[0].patches:
        assert isinstance(patch, FancyBboxPatch)
        found[str(patch.get_gid())] = patch
    return found


def test_it_is_a_small_png_of_twice_the_size_it_is_shown_at() -> None:
    png = picture(DEVICES, SHARES)
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    assert struct.unpack(">II", png[16:24]) == image.size
    assert image.width == 2 * WIDTH
    assert image.height < image.width
    assert len(png) < 25_000


def test_with_few_colours_the_small_file_shows_what_was_drawn() -> None:
    shares = [Share(f"model-{number}", {"cuda:1": 2 * GIB} if number < 4 else {}) for number in range(9)]
    whole = io.BytesIO()
    drawn(DEVICES, shares).savefig(whole, format="png")
    small = Image.open(io.BytesIO(picture(DEVICES, shares))).convert("RGB")
    large = Image.open(whole).convert("RGB")
    painted = {rgb(CARD), rgb(FREE), rgb(OTHER), *(rgb(colour) for colour in COLOURS)}
    for image in (large, small):
        assert painted <= {colour for _, colour in image.getcolors(10**6) or []}
    assert max(ImageStat.Stat(ImageChops.difference(small, large)).mean) < 0.5, "of 255 steps"


def test_every_device_and_every_model_is_named_with_its_gib() -> None:
    shown = texts(drawn(DEVICES, SHARES))
    for device, left in (("cuda:0", "3.0 GiB free of 8.0 GiB"), ("cuda:1", "20.0 GiB free of 24.0 GiB")):
        assert device in shown
        assert left in shown
    for model, words in (("gpt2-xl", "5.0 GiB"), ("gpt2", "1.0 GiB"), ("jokes-mini", "11 MiB")):
        assert shown[last(shown, model) + 1] == words
    assert {"gpt2-large", "loading 43 %", "distilgpt2", "not loaded"} <= set(shown)
    assert "other" in shown


def test_parts_of_a_bar_stand_side_by_side_as_long_as_their_bytes() -> None:
    found = boxes(drawn(DEVICES, SHARES))
    width = WIDTH - 2 * EDGE
    xl, small, other = (found[f"cuda:0: {name}"] for name in ("gpt2-xl", "gpt2", "other"))
    assert xl.get_x() == EDGE
    assert xl.get_width() == pytest.approx(width * 3 / 8, abs=1.5)
    assert small.get_x() == pytest.approx(EDGE + width * 3 / 8)
    assert other.get_x() + other.get_width() == pytest.approx(EDGE + width * 5 / 8, abs=1.5)
    assert {box.get_y() for box in (xl, small, other)} == {found["cuda:0"].get_y()}
    assert "cuda:1: gpt2" not in found
    tiny = found["cpu: jokes-mini"]
    assert tiny.get_width() >= 3, "a model of a few megabytes is seen beside gigabytes"


def test_no_bar_runs_over_its_end_however_full_the_device_is() -> None:
    shares = [Share(f"m{number}", {"cpu": GIB // 50}) for number in range(200)] + [Share("big", {"cpu": 5 * GIB})]
    [bar] = bars([Device("cpu", 4 * GIB, 0)], shares)
    wide = memory_chart.widths([taken for _, taken in bar.parts], bar, 372)
    assert sum(wide) == pytest.approx(372)
    assert (bar.free_bytes, bar.other_bytes) == (0, 0)
    assert bar.words == "0 MiB free of 4.0 GiB"


def test_what_is_used_by_nobody_listed_is_drawn_as_other_and_free_is_the_rest() -> None:
    [bar, second, _] = bars(DEVICES, SHARES)
    assert bar == Bar(DEVICES[0], ((0, 3 * GIB), (1, GIB)), other_bytes=GIB, free_bytes=3 * GIB)
    assert second.other_bytes == 0
    assert bars([Device("gone", 0, 0)], SHARES) == []


def test_everything_written_stays_inside_the_card_and_inside_its_part() -> None:
    long = Share("ft:jokes-mini:123456789012345678:ftjob-0a1b2c3d4e5f", {"cuda:0": GIB})
    wide = [Device("NVIDIA H200 NVL with a very long name, number 0", 8 * GIB, 0), *DEVICES]
    shares = [*SHARES, long, Share("日本語 $x^2$ _a_", {"cpu": 5 * GIB})]
    figure = drawn(wide, shares)
    figure.canvas.draw()
    card = figure.bbox
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        assert extent.x0 >= 2 * EDGE - 2, text.get_text()
        assert extent.x1 <= card.x1 - 2 * EDGE + 4, text.get_text()
        assert extent.y0 >= 0
        assert extent.y1 <= card.y1
    on_bars = [text for text in figure.axes[0].texts if text.get_color() in memory_chart.ON_PART]
    assert on_bars
    parts = [box for name, box in boxes(figure).items() if ": " in name and not name.startswith("legend")]
    for text in on_bars:
        extent = text.get_window_extent()
        assert any(
            box.get_window_extent().x0 <= extent.x0 and extent.x1 <= box.get_window_extent().x1 for box in parts
        ), text.get_text()


def test_lines_of_text_do_not_overlap() -> None:
    figure = drawn(DEVICES, [Share(f"model-{number}", {"cuda:1": GIB}) for number in range(15)])
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in figure.axes[0].texts]
    for place, one in enumerate(extents):
        assert not any(one.overlaps(other) for other in extents[place + 1 :]), texts(figure)[place]


def test_text_and_parts_have_contrast_on_a_ground_that_covers_either_theme() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast(TEXT, CARD) >= 7
    assert contrast(QUIET, CARD) >= 7
    for colour in (*COLOURS, OTHER):
        assert contrast(colour, CARD) >= 3, colour
        assert contrast(memory_chart.Look(colour).ink, colour) >= 4.5, colour
        assert contrast(colour, FREE) >= 1.9, colour
    edge = boxes(drawn(DEVICES, SHARES))["edge of cuda:0"]
    assert contrast(to_hex(edge.get_edgecolor()), CARD) >= 3, "one sees how far an empty bar goes"
    image = Image.open(io.BytesIO(picture(DEVICES, SHARES))).convert("RGBA")
    assert image.getchannel("A").getextrema() == (255, 255), "nothing of the theme shines through"
    assert image.getpixel((2, 2)) == (*rgb(CARD), 255)


def test_no_two_models_look_alike_and_neighbours_differ_for_the_colour_blind_too() -> None:
    looks = [look_of(place) for place in range(28)]
    assert len(set(looks)) == 28
    for simulated in (protanopia, deuteranopia, tritanopia):
        for one, other in combinations(COLOURS, 2):
            assert distance(simulated(one), simulated(other)) >= 15, (simulated.__name__, one, other)
        for one, other in pairwise(COLOURS):
            assert distance(simulated(one), simulated(other)) >= 35, (simulated.__name__, one, other)


def test_a_long_list_names_the_first_and_counts_the_rest() -> None:
    shares = [Share(f"model-{number}", {"cuda:1": GIB // 2}) for number in range(30)]
    shown = texts(drawn(DEVICES, shares))
    assert "and 14 more" in shown
    assert sum(text.startswith("model-") for text in shown) == 16


def test_what_is_said_in_its_place_has_every_device_and_model_and_fits_discord() -> None:
    assert describe(DEVICES, SHARES) == (
        "Memory of the devices. cuda:0, 3.0 GiB free of 8.0 GiB: gpt2-xl 3.0 GiB, gpt2 1.0 GiB, other 1.0 GiB."
        " cuda:1, 20.0 GiB free of 24.0 GiB: gpt2-xl 2.0 GiB, gpt2-large 2.0 GiB."
        " cpu, 15.0 GiB free of 16.0 GiB: jokes-mini 11 MiB, other 0.99 GiB."
    )
    many = [Device(f"cuda:{number}", 8 * GIB, 0) for number in range(60)]
    assert len(describe(many, SHARES)) == charts.ALT_LIMIT


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 MiB"),
        (1000, "less than 1 MiB"),
        (11_800_000, "11 MiB"),
        (int(0.25 * GIB), "0.25 GiB"),
        (int(12.06 * GIB), "12.1 GiB"),
    ],
)
def test_sizes_are_short(size_bytes: int, words: str) -> None:
    assert charts.size(size_bytes) == words


def test_the_bot_starts_without_matplotlib_and_draws_without_torch_or_pyplot() -> None:
    program = (
        "import sys, bot.app; assert 'matplotlib' not in sys.modules\n"
        "from bot.ui.charts import Device, Share, picture\n"
        "assert picture([Device('cpu', 100, 50)], [Share('m', {'cpu': 20})])[:4] == b'\\x89PNG'\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


Linear = tuple[float, float, float]


def protanopia(colour: str) -> Linear:
    return _seen(
        colour, ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
    )


def deuteranopia(colour: str) -> Linear:
    return _seen(
        colour, ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
    )


def tritanopia(colour: str) -> Linear:
    return _seen(
        colour, ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900))
    )


def _seen(colour: str, matrix: tuple[Linear, Linear, Linear]) -> Linear:
    """A colour as somebody with this kind of vision sees it: Machado, Oliveira and Fernandes, 2009, full severity."""
    linear = [_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5)]
    red, green, blue = (sum(weight * each for weight, each in zip(row, linear, strict=True)) for row in matrix)
    return red, green, blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def distance(one: Linear, other: Linear) -> float:
    """How far apart two colours are, in CIE Lab: 2 can just be told apart side by side."""
    return sum((a - b) ** 2 for a, b in zip(_lab(one), _lab(other), strict=True)) ** 0.5


def _lab(linear: Linear) -> Linear:
    red, green, blue = (min(1.0, max(0.0, each)) for each in linear)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    fx, fy, fz = (each ** (1 / 3) if each > 0.008856 else 7.787 * each + 16 / 116 for each in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
