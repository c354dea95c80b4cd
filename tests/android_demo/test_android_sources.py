"""The Android app's sources, which need no tool of Android's: versions, layouts, colours, texts, what a host sends."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from android import apk, sentences
from android.kotlin import MERGER, ROOT

from benchmarks.devices import adb_run
from benchmarks.devices.adb_link import AdbLink
from benchmarks.devices.device import MeasureOptions, Watch
from benchmarks.devices.phone import APP
from benchmarks.processes import ProgramOutput
from export.targets import bundle_folder, find_target
from lorarar import __version__

DEMO = ROOT / "android_demo"
KOTLIN = sorted(DEMO.rglob("*.kt"))
RES = apk.MAIN / "res"
ANDROID = "{http://schemas.android.com/apk/res/android}"


# --- the sources


def test_the_versions_are_said_alike() -> None:
    versions = tomllib.loads((DEMO / "gradle" / "libs.versions.toml").read_text(encoding="utf-8"))["versions"]
    folder = apk.MAIN / "kotlin" / "org" / "lorarar" / "demo"
    application, libraries = ((folder / f"{name}.kt").read_text() for name in ("DemoApplication", "Libraries"))
    assert f'VERSION = "{__version__}"' in application
    assert f'EXECUTORCH_VERSION = "{versions["executorch"]}"' in libraries
    assert f'QNN_VERSION = "{versions["qairt"]}"' in libraries
    assert (int(versions["minSdk"]), int(versions["targetSdk"])) == (apk.MIN_SDK, apk.TARGET_SDK)
    wrapper = (DEMO / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text(encoding="utf-8")
    (gradle,) = re.findall(r"/gradle-([\d.]+)-bin\.zip", wrapper)
    assert f'tasks.wrapper {{ gradleVersion = "{gradle}" }}' in (DEMO / "build.gradle.kts").read_text(encoding="utf-8")


def test_gradle_names_only_what_its_catalogue_has() -> None:
    catalogue = tomllib.loads((DEMO / "gradle" / "libs.versions.toml").read_text(encoding="utf-8"))
    names = {f"libs.{name.replace('-', '.')}" for name in catalogue["libraries"]}
    names |= {f"libs.plugins.{name.replace('-', '.')}" for name in catalogue["plugins"]}
    names |= {f"libs.versions.{name}" for name in catalogue["versions"]}
    used = {
        name.removesuffix(".get")
        for path in DEMO.rglob("*.gradle.kts")
        for name in re.findall(r"libs\.[\w.]+", path.read_text(encoding="utf-8"))
    }
    assert used <= names
    assert len(used) >= 9
    assert {entry["version"]["ref"] for entry in catalogue["libraries"].values()} <= set(catalogue["versions"])


# --- the screens


def layouts() -> list[tuple[str, ElementTree.Element]]:
    return [
        (path.name, element)
        for path in sorted((RES / "layout").glob("*.xml"))
        for element in ElementTree.parse(path).getroot().iter()
    ]


def test_every_control_says_what_it_is() -> None:
    """To a screen reader: by its own text, a description, or the label that stands before it."""
    labelled = {element.get(f"{ANDROID}labelFor", "").rpartition("/")[2] for _, element in layouts()}
    silent = []
    for name, element in layouts():
        if element.tag in ("Spinner", "SeekBar", "EditText", "ImageView", "Button", "RadioButton"):
            described = {f"{ANDROID}contentDescription", f"{ANDROID}importantForAccessibility"} & set(element.attrib)
            own = element.tag in ("Button", "RadioButton") and f"{ANDROID}text" in element.attrib
            if not (described or own or element.get(f"{ANDROID}id", "").rpartition("/")[2] in labelled):
                silent.append((name, element.tag, element.get(f"{ANDROID}id")))
    assert not silent


def test_a_screen_reader_says_what_is_chosen_and_no_step_on_the_way() -> None:
    """A description is read in the place of a Spinner's choice; `say` in Screen.kt marks what is said by itself."""
    for name, element in layouts():
        assert not (element.tag == "Spinner" and f"{ANDROID}contentDescription" in element.attrib), name
        assert f"{ANDROID}accessibilityLiveRegion" not in element.attrib, name


def test_a_notifications_icon_is_an_outline_of_one_colour() -> None:
    """Android paints all that is not transparent: a ground would be a blank square."""
    service = (apk.MAIN / "kotlin" / "org" / "lorarar" / "demo" / "EngineService.kt").read_text(encoding="utf-8")
    (name,) = re.findall(r"R\.drawable\.(\w+)", service)
    icon = ElementTree.parse(RES / "drawable" / f"{name}.xml").getroot()
    side = float(icon.attrib[f"{ANDROID}viewportWidth"])
    assert len({path.attrib[f"{ANDROID}fillColor"] for path in icon}) == 1
    bars = [re.fullmatch(r"M.+h([\d.]+)v([\d.]+)h.+z", path.attrib[f"{ANDROID}pathData"]) for path in icon]
    assert bars and sum(float(bar[1]) * float(bar[2]) for bar in bars if bar) < side**2 / 3


def test_texts_can_grow_and_be_translated() -> None:
    for name, element in layouts():
        assert f"{ANDROID}textSize" not in element.attrib, name
        for attribute in ("text", "contentDescription", "hint"):
            value = element.get(f"{ANDROID}{attribute}", "@string/")
            assert value.startswith("@string/") or value == "0", (name, value)
        # A text in a box of fixed height is cut off where letters are large.
        if element.tag in ("TextView", "Button", "EditText", "RadioButton"):
            assert element.get(f"{ANDROID}layout_height", "wrap_content") == "wrap_content", name


def test_everything_to_touch_is_large_enough() -> None:
    for name, element in layouts():
        if element.tag in ("Spinner", "SeekBar", "EditText", "Button", "RadioButton"):
            assert element.get("style") in ("@style/Touchable", "@style/Tab"), (name, element.get(f"{ANDROID}id"))
    styles = {style.get("name"): style for style in ElementTree.parse(RES / "values" / "styles.xml").getroot()}
    for name in ("Touchable", "Tab"):
        assert {item.get("name"): item.text for item in styles[name]}["android:minHeight"] == "48dp"


@pytest.mark.parametrize("name", ["colors.xml", "styles.xml"])
def test_dark_mode_has_colours_of_its_own(name: str) -> None:
    day, night = (ElementTree.parse(RES / place / name).getroot() for place in ("values", "values-night"))
    if name == "colors.xml":
        colours = [{color.get("name"): color.text for color in root} for root in (day, night)]
        assert colours[0].keys() == colours[1].keys()
        assert all(colours[0][key] != colours[1][key] for key in colours[0])
    else:
        assert [style.get("parent") for style in night] == ["android:Theme.Material.NoActionBar"]


@pytest.mark.parametrize("ground", ["values", "values-night"])
def test_colours_stand_out(ground: str) -> None:
    """Contrast of at least 3 to 1, as WCAG 2.2 asks of graphics, against Material's ground."""
    colours = {item.get("name"): item.text or "" for item in ElementTree.parse(RES / ground / "colors.xml").getroot()}
    paper = _luminance("#FAFAFA" if ground == "values" else "#303030")
    for name, colour in colours.items():
        low, high = sorted((_luminance(colour), paper))
        assert (high + 0.05) / (low + 0.05) >= 3, name


def _luminance(colour: str) -> float:
    levels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    names = {item.get("name") for item in ElementTree.parse(RES / "values" / "strings.xml").getroot()}
    sources = [*KOTLIN, *(RES / "layout").glob("*.xml"), apk.MAIN / "AndroidManifest.xml"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert set(re.findall(r"(?:R\.string\.|@string/)(\w+)", text)) == names


def test_every_sentence_of_the_engine_is_a_resource() -> None:
    assert sentences.RESOURCES.read_text(encoding="utf-8") == sentences.document(), sentences.__doc__


CODE = """
    /** InputError("of a comment") */
    val first = Sentence("it's %s \\"so\\" at 5 %%", name("x"))
    throw InputError(
        "%s: %s, " +
            "again",
        if (isCut) Sentence("cut") else first,
    )
"""


def test_sentences_are_found_in_kotlin() -> None:
    assert set(sentences.sentences(CODE)) == {'it\'s %s "so" at 5 %%', "%s: %s, again", "cut"}
    with pytest.raises(ValueError, match="no literal: 'InputError"):
        list(sentences.sentences("throw InputError(text + other)"))


# --- together with the host


class Recorded(AdbLink):
    """A link that notes what is asked and answers as a phone does whose app has just written its record."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def shell(self, command: str, *_: Any) -> ProgramOutput:
        self.asked.append(command)
        return ProgramOutput(0, '{"error": "x"}' if " cat " in command else "", "")


def test_the_activity_takes_what_the_host_sends() -> None:
    link = Recorded()
    adb_run.run_app(link, "/data/local/tmp/lorarar/x", "hypernet", MeasureOptions(threads=2), Watch())
    (start,) = [command for command in link.asked if command.startswith("am start")]
    source = (apk.MAIN / "kotlin" / "org" / "lorarar" / "demo" / "BenchmarkActivity.kt").read_text(encoding="utf-8")
    sent = re.findall(r"--e([si]) (\w+)", start)
    assert {name for _, name in sent} == {"bundle", "component", "runs", "warmup", "threads"}
    for kind, name in sent:
        assert f'get{"String" if kind == "s" else "Int"}Extra("{name}"' in source
    assert f"{APP}/.BenchmarkActivity" in start
    assert f'File({"filesDir"}, "{Path(adb_run.RESULT).name}")' in source and adb_run.RESULT.startswith("files/")


@pytest.mark.parametrize("target", ["onnx", "executorch", "qnn"])
def test_the_export_puts_bundles_where_the_app_looks(target: str) -> None:
    assert bundle_folder(DEMO, find_target(target)) == apk.MAIN / "assets" / "bundles" / target


def test_the_readme_states_the_benchmarks_command() -> None:
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    assert "am start -W -S -n org.lorarar.demo/.BenchmarkActivity --es bundle" in text
    assert "run-as org.lorarar.demo cat files/benchmark.json" in text
    assert "--target onnx --into android_demo" in text
    assert MERGER.is_dir()
