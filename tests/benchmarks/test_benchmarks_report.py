"""The benchmark report: every record in it, nothing of a record taken for HTML, kinds in plain sight."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from records import RECORD, changed, estimated, of_a_unet

from benchmarks.record import runs, write_records
from benchmarks.report import main
from benchmarks.report_pages import COLUMNS, markdown, page, row, short_names
from benchmarks.report_plots import pictures
from lorarar.errors import InputError

EVIL = r'$\frac{$<script>alert(1)</script> | & "x"' + "\n## heading"


class Cells(HTMLParser):
    """The text of every table cell, by its label, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[dict[str, str]] = []
        self.label: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append({})
        if tag == "td":
            self.label = dict(attrs)["data-label"]
            self.rows[-1][str(self.label)] = ""

    def handle_endtag(self, tag: str) -> None:
        self.label = None if tag == "td" else self.label

    def handle_data(self, data: str) -> None:
        if self.label:
            self.rows[-1][self.label] += data


def records() -> list[dict[str, Any]]:
    hot = changed("conditions.after", RECORD["conditions"]["after"] | {"thermal_status": "severe"})
    hot["conditions"]["after"]["temperatures_c"] = {"cpu-0": 41.2, "gpu": 71.4}
    return [RECORD | {"runs": runs(0.5, 1, [0.25] * 6)}, hot | {"kind": "emulated"}, estimated()]


def test_every_record_is_in_the_table() -> None:
    cells = Cells(page(records()))
    found = [entry for entry in cells.rows if entry]
    assert [tuple(entry) for entry in found] == [COLUMNS] * 3
    assert [entry["kind"] for entry in found] == ["measured", "emulated", "estimated"]
    assert [entry["p50"] for entry in found] == ["250 ms", "500 ms", "≥ 100 ms"]
    assert found[0]["peak memory"] == "0 MB RSS" and found[2]["peak memory"] == "≥ 0 MB"
    assert [entry["parity"] for entry in found] == ["140.0 dB", "140.0 dB", "not run"]
    assert found[1]["heat"] == "? → severe 71\u00a0°C"
    assert cells.tags.count("svg") == 3


def test_bars_and_dots_are_of_the_records_that_they_stand_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row a record: dots of its runs and a bar at their p50; below, its cold and its warm load."""
    lines: list[tuple[list[float], list[float]]] = []
    loads: list[tuple[list[float], list[float]]] = []
    names: list[list[str]] = []
    plot, barh, ticks = Axes.plot, Axes.barh, Axes.set_yticks

    def plotted(self: Axes, x: Any, y: Any, *given: Any, **more: Any) -> Any:
        lines.append((np.atleast_1d(x).tolist(), np.atleast_1d(y).tolist()))
        return plot(self, x, y, *given, **more)

    def loaded(self: Axes, y: Any, width: Any, *given: Any, **more: Any) -> Any:
        loads.append((np.asarray(y).tolist(), list(width)))
        return barh(self, y, width, *given, **more)

    def named(self: Axes, places: Any, labels: Any) -> Any:
        names.append(list(labels))
        return ticks(self, places, labels)

    for name, spy in (("plot", plotted), ("barh", loaded), ("set_yticks", named)):
        monkeypatch.setattr(Axes, name, spy)
    slow = changed("load", {"cold_s": 3.0, "warm_s": 2.0}) | {"runs": runs(4.0, 1, [2.0, 3.0, 5.0])}
    never = estimated() | {"load": {"cold_s": None, "warm_s": None}}
    pictures([("slow", slow), ("a host", RECORD), ("never", never)])
    assert names == [["slow", "a host", "never"], ["slow", "a host"]]
    wanted = (([2000, 3000, 5000], 3000), ([250, 500, 750], 500))
    for at, (samples, median) in enumerate(wanted):
        dots, bar = lines[2 * at : 2 * at + 2]
        assert dots[0] == pytest.approx(samples) and bar[0] == pytest.approx([median] * 2)
        assert np.mean(dots[1]) == pytest.approx(at) and np.mean(bar[1]) == pytest.approx(at)
    assert lines[4:] == [([100], [2])]
    cold, warm = loads
    assert (cold[1], warm[1]) == ([3000, 500], [2000, 250])
    np.testing.assert_allclose((cold[0], warm[0]), [[-0.19, 0.81], [0.19, 1.19]])


def test_parity_tells_which_bound_is_broken_and_what_the_loras_change() -> None:
    runs = [
        of_a_unet(),
        of_a_unet(psnr_db=54.0, within_tolerance=False),
        of_a_unet(psnr_db=45.0, within_tolerance=False, status="below"),
        of_a_unet(delta={"gain": None, "cosine": None, "snr_db": None}, within_tolerance=False),
    ]
    text = page(runs)
    found = [entry for entry in Cells(text).rows if entry]
    assert [entry["parity"] for entry in found] == [
        "64.0 dB",
        "54.0 dB, out of the bundle's tolerance",
        "45.0 dB, below the gate of 50 dB",
        "64.0 dB, out of the bundle's tolerance",
    ]
    assert [entry["LoRAs' gain"] for entry in found] == ["0.9987", "0.9987", "0.9987", "–"]
    assert [entry["p50"] for entry in found] == ["500 ms"] * 4  # no time is withheld
    assert text.count('class="number below"') == 1
    for cell in ("45.0 dB, below the gate of 50 dB", "LoRAs' gain", "0.9987"):
        assert cell in markdown(runs)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page(records())
    assert "default-src 'none'" in text
    outside = [url for url in re.findall(r"(?:src|href)=\"([^\"]+)\"", text) if not url.startswith("#")]
    assert outside == []


def test_texts_of_a_record_are_no_markup() -> None:
    record = changed("device.model", EVIL) | {"notes": [EVIL]}
    cells = Cells(page([record]))
    assert "script" not in cells.tags
    assert EVIL in next(entry for entry in cells.rows if entry)["device"]
    lines = markdown([record]).splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## Notes"]
    table = [line for line in lines if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<script>" not in "\n".join(lines)


def test_kinds_are_explained_where_they_occur() -> None:
    text = markdown(records())
    for said in ("**measured**: run on", "**emulated**: run under an emulator", "**estimated**: never run"):
        assert said in text
    assert "estimated" not in markdown([RECORD])
    assert "a data sheet" in text


def test_equal_names_are_numbered() -> None:
    names = short_names([RECORD, RECORD, estimated()])
    assert len(set(names)) == 3 and names[1].endswith(" · 2")


def test_times_have_their_unit() -> None:
    record = changed("load.cold_s", 12.345)
    record["load"]["warm_s"] = None
    cells = row(record)
    assert (cells["cold load"], cells["warm load"], cells["p50"]) == ("12.3 s", "–", "500 ms")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(records(), tmp_path / "r.json")
    given = [str(tmp_path / "r.json"), "-o", str(tmp_path / "r.html"), "--markdown", str(tmp_path / "r.md")]
    assert main(given) == 0
    assert "3 records" in capsys.readouterr().out
    first = (tmp_path / "r.html").read_bytes()
    assert main(given) == 0
    assert (tmp_path / "r.html").read_bytes() == first  # same records, same bytes
    assert (tmp_path / "r.md").read_text().count("\n| ") == 5
    with pytest.raises(InputError, match="this is a folder"):
        main([given[0], "-o", str(tmp_path)])
    kept = (tmp_path / "r.json").read_bytes()
    for outputs in (["-o", given[0]], ["-o", str(tmp_path / "new.html"), "--markdown", given[0]]):
        with pytest.raises(InputError, match="would overwrite the input"):
            main([given[0], *outputs])
    with pytest.raises(InputError, match="are the same file"):
        main([given[0], "-o", str(tmp_path / "new.html"), "--markdown", str(tmp_path / "new.html")])
    assert (tmp_path / "r.json").read_bytes() == kept
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"bad\.json: not a benchmark record"):
        main([str(tmp_path / "bad.json"), "-o", str(tmp_path / "new.html")])
    assert not (tmp_path / "new.html").exists()
