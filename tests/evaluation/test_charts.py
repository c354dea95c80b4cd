"""The chart of differences: what is drawn is what the table says, read again from its file too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_results import made_results, save_images
from matplotlib.figure import Figure
from PIL import Image

from lorarar.commands.evaluate import main
from lorarar.errors import InputError
from lorarar.evaluation import charts
from lorarar.evaluation.charts import Panel, draw_differences, panel_of, read_panel
from lorarar.evaluation.grids import write_pictures
from lorarar.evaluation.mars2 import Interval
from lorarar.evaluation.tables import Table, all_tables, write_tables

OURS = "LoRA.rar, composed start"
ROWS = [
    (f"{OURS} − TIES, composed start", Interval(0.2, 0.1, 0.3)),
    (f"{OURS} − NP-LoRA, composed start", Interval(0.1, -0.05, 0.25)),
    (f"{OURS} − LoRA.rar, asymmetric guidance", Interval(-0.2, -0.3, -0.1)),
    (f"{OURS} − KnOTS-TIES, composed start", Interval(-0.15)),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures, as they are before they become pictures."""
    figures: list[Figure] = []
    written = charts.png_figure

    @contextmanager
    def kept(path: Path, *size: float) -> Iterator[Figure]:
        with written(path, *size) as figure:
            yield figure
        figures.append(figure)

    monkeypatch.setattr(charts, "png_figure", kept)
    return figures


def differences() -> Table:
    return next(table for table in all_tables(made_results(), resamples=200) if table.name == "differences")


def lines(axes: Any) -> list[tuple[list[float], str]]:
    """Every interval's ends with its colour, and every point between them, without the line at 0."""
    return [(list(line.get_xdata()), str(line.get_color())) for line in axes.lines[1:]]


def test_each_difference_is_drawn_with_its_interval_and_coloured_where_it_is_clear(
    drawn: list[Figure], tmp_path: Path
) -> None:
    draw_differences([Panel("as the apps draw", ROWS)], tmp_path / "chart.png")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "as the apps draw" and axes.get_xlabel() == f"{OURS}, minus each"
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["TIES", "NP-LoRA", "LoRA.rar, asymmetric guidance", "KnOTS-TIES"]
    more, unclear, less = "C0", "0.55", "C3"
    want = [((0.1, 0.3), 0.2, more), ((-0.05, 0.25), 0.1, unclear), ((-0.3, -0.1), -0.2, less)]
    want.append(((-0.15, 0), -0.15, unclear))  # without an interval: it is not clear
    pairs = [item for ends, point, colour in want for item in ((list(ends), colour), ([point], colour))]
    assert lines(axes) == pairs
    low, high = axes.get_xlim()
    assert low < -0.3 and high > 0.3
    assert [line.get_ydata()[0] for line in axes.lines[1::2]] == [0, 1, 2, 3]
    top = axes.get_ylim()
    assert top[0] > top[1]  # the first row is above
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(1 << 20)) <= 64


def test_an_evaluation_without_lora_rar_has_no_such_chart(tmp_path: Path) -> None:
    whole = made_results()
    save_images(whole, tmp_path)
    direct = [method for method in whole.methods if method.name == "direct"]
    results = replace(whole, methods=tuple(direct))
    tables = {table.name: table for table in all_tables(results, resamples=50)}
    written = write_pictures(results, tables, tmp_path, tmp_path / "out")
    assert "differences" not in tables and {path.name for path in written} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert tmp_path / "out" / "differences.png" not in written


def test_differences_of_several_methods_keep_both_names(drawn: list[Figure], tmp_path: Path) -> None:
    rows = [("a − b", Interval(0.1)), ("c − b", Interval(0.2))]
    draw_differences([Panel("x", rows)], tmp_path / "chart.png")
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["a − b", "c − b"]


def test_panels_share_their_scale(drawn: list[Figure], tmp_path: Path) -> None:
    panels = [Panel(name, ROWS[at:]) for at, name in enumerate("abc")]
    draw_differences(panels, tmp_path / "chart.png")
    axes = drawn[0].axes
    assert [one.get_title() for one in axes] == ["a", "b", "c"]
    assert len({one.get_xlim() for one in axes}) == 1
    assert len({one.get_ylim() for one in axes[:2]}) == 1  # of one line: their rows are as high


def test_the_table_comes_back_from_its_file(tmp_path: Path) -> None:
    table = differences()
    write_tables([table], tmp_path)
    read = read_panel(tmp_path, "x")
    assert read == panel_of(table, "x") and len(read.rows) == len(table.rows)
    assert {one.estimate for _, one in read.rows} == {row[1].estimate for row in table.rows}


HEADER = "difference,average case,average case low,average case high\n"
BROKEN = {
    "no such column": "method,average case\na,0.1\n",
    "no number": f"{HEADER}a − b,high,0,1\n",
    "not finite": f"{HEADER}a − b,nan,0,1\n",
    "no estimate": f"{HEADER}a − b,,0,1\n",
    "a short row": f"{HEADER}a − b\n",
    "no row": HEADER,
    "nothing": "",
    "no text": b"\xff\xfe\x00difference",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_table_of_differences_is_refused(name: str, tmp_path: Path) -> None:
    text = BROKEN[name]
    (tmp_path / "differences.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"differences\.csv"):
        read_panel(tmp_path, "x")


def test_the_command_draws_finished_runs(
    drawn: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "x=y"):
        write_tables([differences()], tmp_path / name)
    runs = [f"with 4 = images={tmp_path / 'one'}", str(tmp_path / "x=y")]
    assert main(["--chart", *runs, "-o", str(tmp_path / "chart.png")]) == 0
    assert [axes.get_title() for axes in drawn[0].axes] == ["with 4 = images", "x=y"]
    assert (tmp_path / "chart.png").is_file() and "chart.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more", [["-o", "chart.jpg"], [], ["-o", "chart.png", "--steps", "3"], ["-o", "chart.png", "--from", "run"]]
)
def test_what_a_chart_can_not_have_is_refused(more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tables([differences()], tmp_path / "one")
    with pytest.raises(InputError):
        main(["--chart", "one", *more])
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
