"""Tables against golden text and figures by hand; pictures; results.json there and back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import made_results, save_images
from matplotlib.axes import Axes
from PIL import Image

from lorarar.commands.evaluate import main
from lorarar.errors import InputError
from lorarar.evaluation.grids import bars, comparison_grid, matrix_grid, write_pictures
from lorarar.evaluation.mars2 import Interval
from lorarar.evaluation.method_names import method_info
from lorarar.evaluation.results import Results, pool, read_results, write_results
from lorarar.evaluation.tables import Table, all_tables, write_tables

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluation"


@pytest.fixture(scope="module")
def results() -> Results:
    return made_results()


@pytest.fixture(scope="module")
def tables(results: Results) -> dict[str, Table]:
    return {table.name: table for table in all_tables(results, resamples=500)}


def rows(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_golden_markdown_and_csv(tables: dict[str, Table], tmp_path: Path) -> None:
    """The files as they were looked at once. This file as a script, with tests/support in its path, makes them."""
    write_tables(list(tables.values()), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in GOLDEN.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_text() == (GOLDEN / path.name).read_text(), path.name


def test_table_1_by_hand(tables: dict[str, Table]) -> None:
    learned = rows(tables["table_1"])[1]
    assert learned["method"] == "LoRA.rar"
    assert float(learned["average case"]) == (3 + 2 + 4 + 1) / 16
    assert float(learned["best case"]) == 1
    assert float(learned["subject"]) == (3 + 4 + 4 + 2) / 16
    assert float(learned["style"]) == (3 + 2 + 4 + 2) / 16


def test_table_2_by_hand(tables: dict[str, Table]) -> None:
    direct, learned, ablation = rows(tables["table_2"])
    assert float(direct["merge, s"]) == pytest.approx(0.0025)
    assert float(learned["coefficients, s"]) == pytest.approx(0.0065)
    assert (direct["coefficients, s"], ablation["extra memory, MB"]) == ("", "")
    assert float(direct["attempts to a good image"]) == (1 + 5 + 3 + 5) / 4
    assert float(direct["expected attempts"]) == pytest.approx((5 / 2 + 5 + 5 / 3 + 5) / 4)
    assert direct["pairs without one"] == "2"


def test_differences_are_paired(tables: dict[str, Table]) -> None:
    against_direct = rows(tables["differences"])[0]
    assert against_direct["difference"] == "LoRA.rar − Direct merge"
    assert float(against_direct["average case"]) == pytest.approx((2 + 2 + 2 + 1) / 16)
    assert float(against_direct["average case low"]) < 0, "two subjects in two styles tell nothing"
    assert float(against_direct["average case high"]) == 1, "a difference of shares is no larger"


def test_merges_are_compared_that_are_drawn_in_the_same_way(results: Results) -> None:
    names = {"learned": "learned", "learned-acfg": "learned"}
    others = ("direct", "direct-acfg", "direct-composed-start", "composed", "composite", "switch", "q-only")
    others += ("q-only-acfg",)
    names |= dict.fromkeys(others, "direct")
    pairs = [
        replace(
            pair,
            methods={name: pair.methods[like] for name, like in names.items()},
            merges={name: pair.merges[like] for name, like in names.items()},
        )
        for pair in results.pairs
    ]
    made = replace(results, methods=tuple(map(method_info, names)), pairs=tuple(pairs))
    (table,) = [table for table in all_tables(made, resamples=10) if table.name == "differences"]
    plain, guided = "LoRA.rar", "LoRA.rar, asymmetric guidance"
    assert [row["difference"] for row in rows(table)] == [
        f"{plain} − Direct merge",
        f"{plain} − LoRA Composite",
        f"{plain} − LoRA Switch",
        f"{plain} − q-only",
        f"{guided} − {plain}",
        f"{guided} − Direct merge, asymmetric guidance",
        f"{guided} − Composed predictions",
        f"{guided} − q-only, asymmetric guidance",
    ]


def test_controls_are_shares_of_yes(tables: dict[str, Table]) -> None:
    direct = rows(tables["controls"])[0]
    # 7 of 16 images have 2 of 3 references on their side, the others 1 of 3
    assert float(direct["subject"]) == pytest.approx((7 * 2 + 9 * 1) / 48)
    assert float(direct["another subject"]) == 0
    assert float(direct["style"]) == float(direct["another style's image only"]) == (1 + 0 + 4 + 0) / 16


def test_breakdown_of_each_style(tables: dict[str, Table]) -> None:
    found = {(row["style"], row["method"]): row for row in rows(tables["per_style"])}
    assert float(found["ink", "LoRA.rar"]["average case"]) == (3 + 4) / 8
    assert float(found["neon glow", "Direct merge"]["best case"]) == 0


def test_table_a3_has_the_checkpoints_and_ours(tables: dict[str, Table], results: Results) -> None:
    assert [row["learned"] for row in rows(tables["table_a3"])] == ["LoRA.rar", "q-only"]
    plain = Results(results.settings, results.judge, results.methods[:2], results.pairs)
    assert "table_a3" not in {table.name for table in all_tables(plain, resamples=10)}


def test_table_a2_says_what_is_missing(tables: dict[str, Table]) -> None:
    assert tables["table_a2"].columns == ("method", "CLIP-I", "DINO")
    assert "Without a model for it: CLIP-T" in tables["table_a2"].note
    assert "stand in for CLIP and DINO" in tables["table_a2"].note


def test_markdown_escapes_and_shows_missing_cells() -> None:
    table = Table("t", "T", ("a", "x"), (("p|q", None), ("r", Interval(0.5, 0.25, 1.0))))
    assert "| p\\|q | – |" in table.markdown()
    assert "| r | 0.50 [0.25, 1.00] |" in table.markdown()
    assert table.csv() == "a,x,x low,x high\np|q,,,\nr,0.5,0.25,1.0\n"


def test_results_there_and_back(results: Results, tmp_path: Path) -> None:
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path) == read_results(tmp_path / "results.json") == results


Raw = dict[str, Any]


def image(**fields: Any) -> Callable[[Raw], None]:
    return lambda raw: raw["pairs"][1]["methods"]["direct"][0].update(fields)


BAD: dict[str, tuple[Callable[[Raw], object], str]] = {
    "another version": (lambda raw: raw.update(schema_version=9), r"\$\.schema_version .*1 was expected"),
    "no version": (lambda raw: raw.pop("schema_version"), "'schema_version' is a required"),
    "no pairs": (lambda raw: raw.update(pairs=[]), r"\$\.pairs "),
    "pairs a number": (lambda raw: raw.update(pairs=3), r"\$\.pairs .*not of type 'array'"),
    "half a method": (lambda raw: raw.update(methods=[{"name": "x"}]), r"\$\.methods\[0\]"),
    "an unknown kind": (lambda raw: raw["methods"][0].update(kind="best"), r"\$\.methods\[0\]\.kind"),
    "no judge": (lambda raw: raw.update(judge=None), r"\$\.judge .*not of type 'object'"),
    "a judge that can't be written": (lambda raw: raw["judge"].update(name="\ud800"), r"\$\.judge\.name"),
    "a part that can't be written": (lambda raw: raw["settings"].update(part="\ud800"), r"\$\.settings\.part"),
    "no references": (lambda raw: raw["pairs"][1].pop("references"), r"\$\.pairs\[1\] .*'references'"),
    "no subject": (lambda raw: raw["pairs"][0]["references"].update(subject=[]), r"references\.subject"),
    "no images": (lambda raw: raw["pairs"][1]["methods"].update(direct=[]), r"pairs\[1\]\.methods\.direct"),
    "a method less": (lambda raw: raw["pairs"][1]["methods"].pop("direct"), r"pairs\[1\] holds other methods"),
    "a method twice": (lambda raw: raw["methods"].append(raw["methods"][0]), "holds other methods"),
    "a reference without an answer": (image(p_subject=[0.5]), r"pairs\[1\] needs an answer for each"),
    "more than certain": (image(p_style=1.5), r"p_style .*greater than the maximum"),
    "a metric beyond all": (image(metrics={"dino": 10**400}), r"metrics\.dino"),
    "a metric of one image": (image(metrics={"dino": 0.1}), "some images have other metrics"),
    "a cost less": (lambda raw: raw["pairs"][1]["merges"].pop("direct"), r"pairs\[1\] holds other methods"),
    "an image that is a number": (image(image=3), r"\.image .*not of type 'string'"),
    "an unknown cost": (lambda raw: raw["pairs"][0]["merges"]["direct"].update(joules=1), "'joules' was unexpected"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_results(results: Results, tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    path = tmp_path / "results.json"
    write_results(results, path)
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_damaged_and_missing_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; give the output folder of a finished"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"pairs": [')
    with pytest.raises(InputError, match="not valid JSON"):
        read_results(tmp_path)


def test_runs_of_several_seeds_are_pooled(results: Results, tmp_path: Path) -> None:
    """Three runs that say the same give one run's tables; tables of several runs need a folder of their own."""
    runs = [tmp_path / f"run-{seed}" for seed in range(3)]
    for seed, run in enumerate(runs):
        save_images(results, run)
        write_results(replace(results, settings={**results.settings, "seed": seed}), run / "results.json")
    given = ["--from", *map(str, runs)]
    with pytest.raises(InputError, match="tables of several runs belong to none of them"):
        main(given)
    assert main([*given, "-o", str(tmp_path / "pooled")]) == 0
    assert main(["--from", str(runs[0]), "-o", str(tmp_path / "one")]) == 0
    for path in (tmp_path / "one").glob("*.csv"):
        assert (tmp_path / "pooled" / path.name).read_text() == path.read_text(), path.name
    assert "4 images each, in 3 runs." in (tmp_path / "pooled" / "tables.md").read_text()


def test_tables_of_an_earlier_evaluation_go(results: Results, tmp_path: Path) -> None:
    """A run without LoRA.rar has no differences, so those of the run before it must not stay; other files do."""
    save_images(results, tmp_path)
    (tmp_path / "controls.png").write_bytes(b"mine")
    first = results.methods[0]
    pairs = tuple(
        replace(pair, methods={first.name: pair.methods[first.name]}, merges={first.name: pair.merges[first.name]})
        for pair in results.pairs
    )
    alone = replace(results, methods=(first,), pairs=pairs)
    gone = {"differences.csv", "differences.png", "table_a3.csv"}
    for shown in (results, alone):
        write_results(shown, tmp_path / "results.json")
        assert main(["--from", str(tmp_path)]) == 0
        found = {path.name for path in tmp_path.iterdir()}
        assert found & gone == (gone if shown is results else set())
        assert found >= {"controls.png", "table_1.csv", "per_style.csv"}


def test_runs_that_say_otherwise_are_averaged_pair_by_pair(results: Results) -> None:
    swapped = {"direct": "learned", "learned": "direct", "q-only": "q-only"}
    pairs = [
        replace(pair, methods={name: pair.methods[other] for name, other in swapped.items()}) for pair in results.pairs
    ]
    both = pool([results, replace(results, pairs=tuple(reversed(pairs)))])
    table = {table.name: rows(table) for table in all_tables(both, resamples=500)}
    direct, learned, _ = table["table_1"]
    assert float(direct["average case"]) == float(learned["average case"]) == pytest.approx((3 + 10) / 32)
    difference = table["differences"][0]
    names = ("average case", "average case low", "average case high")
    assert [difference[name] for name in names] == ["0.0", "", ""]  # which says nothing of others


SETTINGS = ("base", "base_digest", "dataset", "files_digest", "split", "images", "steps", "dtype", "embedder")


def changed(name: str, one: Results) -> dict[str, Any]:
    return {"settings": {**one.settings, name: "another"}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: {"judge": {"name": "another"}}, "judge"),
        (lambda one: {"methods": one.methods[::-1]}, "methods"),
        (lambda one: {"pairs": one.pairs[1:]}, "pairs"),
        (lambda one: {"settings": {**one.settings, "part": "test", "guidance": 2.0}}, "part, guidance"),
        *((partial(changed, name), name) for name in SETTINGS),
        (lambda one: {"settings": {**one.settings, "options": {"direct": {"rule": "sum", "seed": 1}}}}, "options"),
    ],
)
def test_other_runs_are_not_pooled(change: Callable[[Results], dict[str, Any]], says: str, results: Results) -> None:
    with pytest.raises(InputError, match=f"run 2 and the first one differ in {says}; pool"):
        pool([results, replace(results, **change(results))])


def test_runs_of_other_trainings_are_pooled_and_one_run_twice_is_not(results: Results) -> None:
    seeds = [{"learned": {"hypernet": digest, "seed": seed}} for seed, digest in enumerate(("abc", "def"))]
    runs = [replace(results, settings={**results.settings, "options": options}) for options in seeds]
    assert len(pool(runs).pairs) == 2 * len(results.pairs)
    with pytest.raises(InputError, match="run 3 is the same as one before it"):
        pool([*runs, runs[1]])


def cell(sheet: Image.Image, column: int, row: int, columns: int, rows_: int) -> np.ndarray:
    """A cell of a grid, from its layout: 6 pixels between cells, the labels on top."""
    step = (sheet.width - 6) // columns
    top = sheet.height - step * rows_
    side = step - 6
    left, upper = 6 + column * step, top + row * step
    return np.asarray(sheet.crop((left, upper, left + side, upper + side)))


def test_grids_show_first_images_and_references(results: Results, tmp_path: Path) -> None:
    save_images(results, tmp_path)
    sheet = comparison_grid(results, tmp_path)
    for row, pair in enumerate(results.pairs):
        first = [pair.methods[method.name][0].image for method in results.methods]
        for column, path in enumerate([pair.subject_references[0], pair.style_reference, *first]):
            want = Image.open(tmp_path / path).convert("RGB").resize((96, 96), Image.Resampling.NEAREST)
            np.testing.assert_array_equal(cell(sheet, column, row, 5, 4), np.asarray(want))
    matrix = matrix_grid(results, tmp_path, "learned")
    pair = next(pair for pair in results.pairs if (pair.content, pair.style) == ("cat", "ink"))
    want = Image.open(tmp_path / pair.methods["learned"][0].image).convert("RGB").resize((96, 96), Image.NEAREST)
    np.testing.assert_array_equal(cell(matrix, 2, 1, 3, 3), np.asarray(want))
    assert (cell(matrix, 0, 0, 3, 3) == 255).all()


def test_a_grid_of_many_pairs_shows_each_subject_once(results: Results, tmp_path: Path) -> None:
    save_images(results, tmp_path)
    pairs = [
        replace(results.pairs[(3 * content + style) % 4], content=f"c{content}", style=f"s{style}")
        for content in range(6)
        for style in range(5)
    ]
    sheet = comparison_grid(replace(results, pairs=tuple(pairs)), tmp_path)
    for row, (content, style) in enumerate([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 0)]):
        for column, method in enumerate(results.methods):
            path = tmp_path / pairs[5 * content + style].methods[method.name][0].image
            want = Image.open(path).convert("RGB").resize((96, 96), Image.Resampling.NEAREST)
            np.testing.assert_array_equal(cell(sheet, 2 + column, row, 5, 6), np.asarray(want))


def test_pictures_are_written(results: Results, tables: dict[str, Table], tmp_path: Path) -> None:
    save_images(results, tmp_path)
    written = write_pictures(results, tables, tmp_path, tmp_path / "out")
    assert {path.name for path in written} == {
        "grid_methods.png",
        "matrix_direct.png",
        "matrix_learned.png",
        "matrix_q-only.png",
        "per_content.png",
        "per_style.png",
        "differences.png",
    }
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(1 << 20)) > 5


def test_bars_are_as_high_as_the_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average case is filled and the best case an outline, method by method."""
    drawn: list[tuple[bool, list[float], list[float]]] = []
    labels: list[str] = []
    bar = Axes.bar

    def noted(self: Axes, at: list[float], heights: list[float], *given: Any, fill: bool = True, **more: Any) -> Any:
        drawn.append((fill, list(at), list(heights)))
        labels.extend([more["label"]] if "label" in more else [])
        return bar(self, at, heights, *given, fill=fill, **more)

    monkeypatch.setattr(Axes, "bar", noted)
    dog = "a $^$ dog"  # not a formula, as which matplotlib would take it
    shares = [(dog, "a", 0.1, 0.4), (dog, "b", 0.2, 0.5), ("cat", "a", 0.3, 0.6), ("cat", "b", 0.25, 0.9)]
    columns = ("content", "method", "average case", "best case")
    bars(Table("per_content", "by content", columns, shares), tmp_path / "bars.png")
    assert labels == ["a", "b"] and [fill for fill, *_ in drawn] == [True, False] * 2
    assert [heights for _, _, heights in drawn] == [[0.1, 0.3], [0.4, 0.6], [0.2, 0.25], [0.5, 0.9]]
    places = [[-0.21, 0.79], [-0.21, 0.79], [0.21, 1.21], [0.21, 1.21]]
    np.testing.assert_allclose([at for _, at, _ in drawn], places)


@pytest.mark.parametrize("settings", [{"seeds": 3}, {"embedder": "clip"}, {"options": {"direct": 1}}])
def test_settings_of_another_program_are_refused(settings: dict[str, Any], results: Results, tmp_path: Path) -> None:
    write_results(replace(results, settings={**results.settings, **settings}), tmp_path / "results.json")
    with pytest.raises(InputError, match=rf"settings.{next(iter(settings))}"):
        read_results(tmp_path)


def test_pictures_stay_in_their_folder(results: Results, tables: dict[str, Table], tmp_path: Path) -> None:
    """Whatever a stranger's file calls its methods."""
    save_images(results, tmp_path)
    names = {"q-only": "../../gone", "direct": "methods"}
    methods = tuple(replace(method, name=names.get(method.name, method.name)) for method in results.methods)
    pairs = tuple(
        replace(pair, methods={names.get(name, name): images for name, images in pair.methods.items()})
        for pair in results.pairs
    )
    written = write_pictures(replace(results, methods=methods, pairs=pairs), tables, tmp_path, tmp_path / "a" / "b")
    assert len(set(written)) == 7 and all(path.parent == tmp_path / "a" / "b" for path in written)


def test_a_missing_image_is_told(results: Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such image"):
        comparison_grid(results, tmp_path)


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    write_tables(all_tables(made_results(), resamples=500), GOLDEN)
