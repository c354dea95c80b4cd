"""What Android devices write, in the formats of several versions, read as facts and conditions."""

from __future__ import annotations

import pytest
from replayed_phone import conditions_text, facts_text, output

from benchmarks.devices.adb import notes
from benchmarks.devices.adb_facts import (
    big_cores,
    parse_battery,
    parse_conditions,
    parse_cores,
    parse_cpu,
    parse_facts,
    parse_pss,
    parse_thermal_service,
    parse_zones,
)
from benchmarks.devices.adb_link import STATES, advice, free_bytes, parse_devices
from benchmarks.devices.adb_run import Ran


def test_every_state_of_adb_devices() -> None:
    assert parse_devices(output("devices")) == {
        "3A021JEHN02756": "device",
        "R5CT70ABCDE": "unauthorized",
        "ce0117111a2b3c": "offline",
        "0123456789ABCDEF": "no permissions",
        "ZY22FAKE01": "no permissions",
        "emulator-5554": "device",
        "192.168.1.20:37000": "connecting",
        "adb-AYLVBB52-bReb3a._adb-tls-connect._tcp": "device",
        "FA79J1A00421": "recovery",
    }
    assert parse_devices("List of devices attached\n\n") == {}
    assert parse_devices("* daemon not running; starting now at tcp:5037\n") == {}


def test_a_dark_screen_is_noted() -> None:
    states = {"Awake": True, "Asleep": False, "Dozing": False, "Dreaming": False}
    found = {state: parse_conditions(conditions_text(wakefulness=state), 8) for state in states}
    assert {state: now.awake for state, now in found.items()} == states
    silent = parse_conditions(conditions_text().partition("@power")[0], 8)
    assert silent.awake is None
    light, dark, ran = found["Awake"], found["Asleep"], Ran("", None)
    assert not any("dark" in said for said in (*notes(light, light, ran), *notes(silent, silent, ran)))
    for before, after in ((dark, light), (light, dark)):
        assert any("the screen was dark" in said for said in notes(before, after, ran))


def test_every_state_has_its_own_advice() -> None:
    assert len({advice(state) for state in (*STATES, "fastbootd")}) == len(STATES) + 1


@pytest.mark.parametrize(
    ("text", "status", "hottest"),
    [
        ("thermalservice_10", "none", 66.5),
        ("thermalservice_12_own_types", "moderate", 44.0),
        ("thermalservice_14", "none", 41.5),
        ("thermalservice_15", "light", 52.7),
    ],
)
def test_the_thermal_service_tells_what_is_now_and_not_what_was(text: str, status: str, hottest: float) -> None:
    found, zones = parse_thermal_service(output(text))
    assert found == status
    assert max(celsius for celsius, cpu in zones.values() if cpu) == hottest
    assert all(celsius > -30 for celsius, _ in zones.values())


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (output("thermalservice_13_no_hal"), "none"),
        ("Can't find service: thermalservice\n", None),  # Android 9
        ("Thermal Status: 9\n", None),
    ],
)
def test_a_thermal_service_without_sensors(text: str, status: str | None) -> None:
    assert parse_thermal_service(text) == (status, {})


def test_thermal_zones_in_either_unit() -> None:
    text = "45100 cpu-1-0-usr\n44000 cpu-1-0-usr\n38 gpuss-0\n-273000 broken\n4200000 vbat\n ddr\n"
    assert parse_zones(text) == {"cpu-1-0-usr": (45.1, True), "gpuss-0": (38.0, False)}


def test_the_battery() -> None:
    assert parse_battery(output("battery_14")) == (22, True, 28.0)
    assert parse_battery(output("battery_10")) == (54, False, 22.0)
    assert parse_battery("Can't find service: battery\n") == (None, None, None)
    assert parse_battery("  level: 50\n  scale: 0\n  status: 1\n") == (None, None, None)


def test_pss_of_old_and_new_meminfo() -> None:
    assert parse_pss(output("meminfo_10")) == 174545 * 1024
    assert parse_pss(output("meminfo_14")) == 39321 * 1024
    assert parse_pss("No process found for: 12345\n") is None


def test_the_facts_of_a_phone() -> None:
    facts = parse_facts(facts_text())
    assert not facts.emulated
    assert facts.device == {
        "model": "Pixel 8",
        "manufacturer": "Google",
        "soc": "Google Tensor G3",
        "os": "android",
        "os_version": "14",
        "os_build": "AP2A.240805.005",
        "abi": "arm64-v8a",
        "cpu": "Cortex-A510 ×4, Cortex-A715 ×4, Cortex-X3 ×1",
        "cores": 9,
        "ram_bytes": 7741392 * 1024,
    }


def test_older_phones_and_emulators() -> None:
    assert parse_facts(facts_text("getprop_10")).device["soc"] == "msm8998"
    assert parse_facts(facts_text("getprop_emulator_12")).emulated
    assert parse_facts("").device["model"] == "unknown"
    assert parse_cpu(output("cpuinfo_other")) == "implementer 0x51 part 0x804 ×1, Arm 0xdff ×1"
    assert parse_cores("0-3,6\n") == [0, 1, 2, 3, 6]


def test_conditions_of_all_sources() -> None:
    found = parse_conditions(conditions_text(), cores=9)
    assert found.hottest_cpu_c == 45.1  # a kernel's zone that the service doesn't know
    assert found.condition["temperatures_c"] == {
        "cpu-1-0-usr": 45.1,
        "gpuss-0": 38.0,
        "BIG": 41.5,
        "LITTLE": 39.0,
        "VIRTUAL-SKIN": 28.9,
        "battery": 27.0,
    }
    assert (found.condition["battery_percent"], found.condition["charging"]) == (54, False)
    assert found.condition["cpu_mhz"] == [300, 2850]
    assert found.condition["load"] == pytest.approx(0.2)
    nothing = parse_conditions("", cores=9)
    assert nothing.hottest_cpu_c is None and nothing.condition["load"] is None


def test_big_cores_and_free_space() -> None:
    assert big_cores("0 1700000\n1 1700000\n2 2400000\n3 2850000\n") == [2, 3]
    assert big_cores("0 1700000\n1 1700000\n") == big_cores("0 \n1 \n") == []
    assert free_bytes(output("df_10")) == 21029556 * 1024
    assert free_bytes("df: /data: Permission denied\n") is None
