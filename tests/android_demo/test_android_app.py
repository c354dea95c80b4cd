"""The Android app: an APK with the real arm64 ONNX Runtime, built and signed here, and what can be said of its sources.

It is never started: no Android runs here. Its framework is stubs made from the published ones of API 36.
"""

from __future__ import annotations

import re
import struct
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from android import apk, framework, sentences
from android.kotlin import MERGER, ROOT
from android.references import Reference, of_jar
from android.shared import folder, merger
from devices.fetch import run
from shared_bundles import MiniatureBundle

from benchmarks.devices import adb_run
from benchmarks.devices.adb_link import AdbLink
from benchmarks.devices.device import MeasureOptions, Watch
from benchmarks.devices.phone import APP
from benchmarks.processes import ProgramOutput
from export.targets import bundle_folder, find_target
from lorarar import __version__

pytestmark = pytest.mark.apps

DEMO = ROOT / "android_demo"
KOTLIN = sorted(DEMO.rglob("*.kt"))
RES = apk.MAIN / "res"
ANDROID = "{http://schemas.android.com/apk/res/android}"


@pytest.fixture(scope="session")
def built(miniature_bundle: MiniatureBundle) -> apk.Built:
    return apk.build(folder("apk"), merger(), miniature_bundle("pipeline", "onnx", "fp32"))


def test_it_is_signed(built: apk.Built) -> None:
    said = run("apksigner", "verify", "--verbose", "--min-sdk-version", str(apk.MIN_SDK), str(built.apk))
    assert said.startswith("Verifies")
    assert "Verified using v2 scheme (APK Signature Scheme v2): true" in said
    run("zipalign", "-c", "4", str(built.apk))


def test_what_it_says_of_itself(built: apk.Built) -> None:
    said = run("aapt2", "dump", "badging", str(built.apk))
    assert "package: name='org.lorarar.demo' versionCode='1' versionName='0.1.0'" in said
    assert "launchable-activity: name='org.lorarar.demo.MainActivity'" in said
    assert "minSdkVersion:'26'" in said or "sdkVersion:'26'" in said
    assert f"targetSdkVersion:'{apk.TARGET_SDK}'" in said
    assert "native-code: 'arm64-v8a'" in said
    assert "application-label:'LoRA.rar'" in said
    asked = set(re.findall(r"uses-permission: name='android\.permission\.(\w+)'", said))
    assert asked == {"FOREGROUND_SERVICE", "FOREGROUND_SERVICE_DATA_SYNC", "POST_NOTIFICATIONS", "WAKE_LOCK"}


def test_only_adb_can_start_the_benchmark(built: apk.Built) -> None:
    tree = run("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", str(built.apk))
    (activity,) = [part for part in tree.split("E: activity") if "BenchmarkActivity" in part]
    assert re.search(r"permission\(0x[0-9a-f]+\)=\"android.permission.DUMP\"", activity)
    assert re.search(r"exported\(0x[0-9a-f]+\)=true", activity)
    (provider,) = [part for part in tree.split("E: provider") if "SharedImage" in part]
    assert re.search(r"exported\(0x[0-9a-f]+\)=false", provider)


def test_what_is_in_it(built: apk.Built) -> None:
    with zipfile.ZipFile(built.apk) as archive:
        names = set(archive.namelist())
        stored = {info.filename for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED}
        libraries = {name: archive.read(name) for name in names if name.startswith("lib/")}
        starts = {info.filename: _start(archive, info) for info in archive.infolist() if info.filename in libraries}
    assert {"classes.dex", "manifest.schema.json", "record.schema.json", "assets/bundles/onnx/manifest.json"} <= names
    wanted = ("onnxruntime", "onnxruntime4j_jni", "executorch")
    assert set(libraries) == {f"lib/arm64-v8a/lib{name}.so" for name in wanted}
    assert set(libraries) <= stored
    for role, chosen in apk.sample_names().items():
        assert len(chosen) == 6
        for name in chosen:
            assert {f"assets/samples/{role}/{name}.safetensors", f"assets/samples/{role}/{name}.png"} <= names
    for name, data in libraries.items():
        assert _machine(data) == 183, name  # EM_AARCH64
        assert all(alignment >= apk.PAGE for alignment in _alignments(data)), name
        assert starts[name] % apk.PAGE == 0, name  # so that it is mapped from the APK


def _start(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Where an entry's data begins in the archive: after its own header, whose lengths the directory may not have."""
    assert archive.fp is not None
    archive.fp.seek(entry.header_offset + 26)
    name, extra = struct.unpack("<HH", archive.fp.read(4))
    return int(entry.header_offset + 30 + name + extra)


def _machine(elf: bytes) -> int:
    return int(struct.unpack_from("<H", elf, 18)[0])


def _alignments(elf: bytes) -> list[int]:
    """Of the segments that are loaded."""
    (headers,) = struct.unpack_from("<Q", elf, 32)
    (count,) = struct.unpack_from("<H", elf, 56)
    found = [struct.unpack_from("<IIQQQQQQ", elf, headers + 56 * at) for at in range(count)]
    return [entry[7] for entry in found if entry[0] == 1]


def test_its_code(built: apk.Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.apk) as archive:
        dex = [Path(archive.extract(name, tmp_path)) for name in archive.namelist() if name.endswith(".dex")]
    classes = {name for path in dex for name in re.findall(r"Class descriptor  : '(L.+;)'", run("dexdump", str(path)))}
    wanted = {
        "demo/MainActivity",
        "demo/BenchmarkActivity",
        "demo/EngineService",
        "demo/SharedImage",
        "demo/CoefficientChart",
        "merger/Studio",
    }
    assert {f"Lorg/lorarar/{name};" for name in wanted} <= classes
    assert {"Lai/onnxruntime/OrtSession;", "Lorg/pytorch/executorch/Module;", "Lkotlin/Unit;"} <= classes
    assert not any(name.startswith("Landroid/") for name in classes)


# --- what the classes ask for


def test_the_engine_names_no_class_of_android() -> None:
    assert not {reference.owner for reference in of_jar(merger()) if reference.owner.startswith("android")}


def test_no_method_that_android_8_lacks(built: apk.Built) -> None:
    """Java 9 gave ByteBuffer and its kin methods that return their own type, which Android has from version 9 on."""
    found = {reference for jar in (merger(), built.app) for reference in of_jar(jar)}
    moved = re.compile(r"java/nio/\w+Buffer")
    assert not [
        reference
        for reference in found
        if moved.fullmatch(reference.owner)
        and reference.name in ("position", "limit", "flip", "clear", "rewind", "mark", "reset")
        and not reference.descriptor.endswith("Ljava/nio/Buffer;")
    ]


def test_every_class_of_java_that_is_used_is_on_android(built: apk.Built) -> None:
    found = {reference for jar in (merger(), built.app) for reference in of_jar(jar)}
    # D8 replaces what java.lang.invoke is used for.
    owners = {name for name in (reference.owner for reference in found) if re.match(r"java/(?!lang/invoke/)", name)}
    assert len(owners) > 40
    for owner in owners:
        framework.find_class(owner.replace("/", ".").replace("$", "."))


def test_references_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "A.java"
    source.write_text("class A { double f(java.nio.ByteBuffer b) { b.position(1); return Math.rint(2.5); } }")
    run("javac", "--release", "11", "-d", str(tmp_path), str(source))
    with zipfile.ZipFile(tmp_path / "a.jar", "w") as jar:
        jar.write(tmp_path / "A.class", "A.class")
    found = of_jar(tmp_path / "a.jar")
    assert Reference("java/lang/Math", "rint", "(D)D") in found
    assert Reference("java/nio/ByteBuffer", "position", "(I)Ljava/nio/ByteBuffer;") in found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("class android.widget.Button: sing", "android.widget.Button has no sing"),
        ("class android.widget.Bell:", "Android has no android.widget.Bell"),
        ("class android.view.View:\n+ public native int findViewById();", "no findViewById of 0 parameters"),
    ],
)
def test_what_android_lacks_can_not_be_stubbed(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        framework.java_sources(framework.read_spec(spec))


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


def test_what_the_engine_says_can_be_translated(built: apk.Built) -> None:
    """Each sentence is a resource of the app, as it is in the code: its spaces, quotes and places arrive."""
    assert sentences.RESOURCES.read_text(encoding="utf-8") == sentences.document(), sentences.__doc__
    told = run("aapt2", "dump", "resources", str(built.apk))
    texts = dict(re.findall(r'string/(said_\w+)\n\s+\(\) "(.*)"', told))
    templates = sentences.templates()
    assert len(templates) > 150 and texts.keys() == {sentences.resource(template) for template in templates}
    for template in templates:
        said = re.sub(r"%\d\$s", "%s", texts[sentences.resource(template)])
        assert said.replace("\\n", "\n").replace('\\"', '"') == template


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
