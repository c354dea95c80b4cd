"""What devicectl writes of iPhones, in both of its shapes, and what is read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from devices.ios_replay import UDID, ReplayedIphone, answer, document
from pymobiledevice3.irecv_devices import IRECV_DEVICES

from benchmarks.devices.device import Description
from benchmarks.devices.ios import Ios
from benchmarks.devices.ios_facts import chip, model_name, parse_facts, parse_list
from benchmarks.devices.ios_link import DEVELOPER_MODE, FULL, LOCKED, NOT_CONNECTED, UNTRUSTED, DevicectlOutput, cause


def test_every_phone_of_the_list_says_what_to_do() -> None:
    found = {device.name: device for device in Ios(ReplayedIphone()).describe()}
    phone = Description(f"ios:{UDID}", "ready", "iPhone 15 Pro", "Apple A17 Pro", "arm64e", "iOS 18.5")
    assert found[f"ios:{UDID}"] == phone
    assert [device.state for device in found.values()] == [
        "ready",
        NOT_CONNECTED,
        UNTRUSTED,
        DEVELOPER_MODE,
        "iOS 16.7.10 is too old for devicectl; update it to iOS 17 or later",
        "ready",  # devicectl tells too little of it to know better
    ]
    assert found["ios:00008120-000000000000004E"].model == "iPhone 15"  # by its product type
    old = found["ios:A0000000-0000-5000-8000-000000000006"]
    assert (old.model, old.soc, old.system) == (None, None, "iOS ?")


def test_the_newer_shape_goes_before_the_older_one() -> None:
    found = parse_list(document("list_5")["result"])
    assert [(facts.name, facts.model, facts.os_version, facts.os_build) for facts in found] == [
        (UDID, "iPhone 15 Pro", "27.0.1", "24A446"),
        ("1D0F2CAF-0000-4000-8000-00000000000A", "iPhone 17 Pro", "27.0.1", "24A446"),
    ]
    assert [facts.simulated for facts in found] == [False, True]
    assert [facts.state for facts in found] == ["ready", "ready"]
    assert {facts.developer_mode for facts in found} == {"enabled"}
    device = Ios(ReplayedIphone(rules={"^list devices": answer("list_5")})).describe()[1]
    assert (device.soc, device.system) == (None, "iOS 27.0.1 (Simulator)")


@pytest.mark.parametrize("name", ["details_2", "details_5"])
def test_the_facts_of_a_phone(name: str) -> None:
    facts = parse_facts(document(name)["result"])
    assert facts.record == {
        "model": "iPhone 15 Pro",
        "manufacturer": "Apple",
        "soc": "Apple A17 Pro",
        "os_version": facts.os_version,
        "os_build": facts.os_build,
    }
    assert (facts.os_version, facts.os_build) in [("18.5", "22F76"), ("27.0.1", "24A446")]


@pytest.mark.parametrize("result", [{}, {"devices": None}, {"devices": [None, {}, {"identifier": ""}]}])
def test_a_list_of_nothing(result: dict[str, Any]) -> None:
    assert parse_list(result) == []
    assert parse_facts({"properties": 5, "deviceProperties": {"developerModeStatus": ""}}).name == ""


def test_the_table_of_models_agrees_with_pymobiledevice3s() -> None:
    known = {device.product_type: device for device in IRECV_DEVICES}
    ours = [f"iPhone{number}" for number in known_numbers()]
    generations: dict[int, set[str]] = {}
    for product in ours:
        theirs = known[product].display_name.replace(" gen)", " generation)").removesuffix(" (China)")
        assert model_name(product) == theirs
        name = chip(product) or ""
        generations.setdefault(known[product].chip_id, set()).add(name.removeprefix("Apple A")[:2])
    # One number of a chip, one generation: A18 and A18 Pro share theirs.
    assert sorted(next(iter(names)) for names in generations.values()) == [str(number) for number in range(12, 20)]
    assert all(len(names) == 1 for names in generations.values())


def known_numbers() -> list[str]:
    path = Path(__file__).parents[2] / "benchmarks" / "devices" / "ios_models.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    assert {entry["chip"][:7] for entry in models.values()} == {"Apple A"}
    return [product.removeprefix("iPhone") for product in models]


def test_an_unknown_model_is_its_product_type_and_nothing_is_guessed() -> None:
    assert (model_name("iPhone99,9"), chip("iPhone99,9")) == ("iPhone99,9", None)
    assert (model_name(None), chip(None)) == (None, None)


def test_the_innermost_sentence_is_the_one_to_tell() -> None:
    assert answer("launch_unknown").last_words == "Launch failed"
    assert answer("launch_not_installed").last_words.startswith("The requested application")
    assert DevicectlOutput(64, "", "\nERROR: Missing value for '-t'\n").last_words == "Missing value for '-t'"
    assert DevicectlOutput(1).last_words == "it said nothing"
    assert DevicectlOutput(1, document={"info": {"outcome": "timeout"}}).last_words == "it timed out"
    assert [fault.code for fault in answer("launch_locked").faults] == [10002, 1, 7]
    endless: dict[str, Any] = {"code": "x", "domain": 3}
    endless["userInfo"] = {"NSUnderlyingError": {"error": endless}}
    assert len(DevicectlOutput(1, document={"error": endless}).faults) == 16


def test_a_cause_is_found_in_words_where_there_is_no_json() -> None:
    assert cause(DevicectlOutput(1, err="ERROR: the device was not, or could not be, unlocked.\n")) == LOCKED
    assert cause(DevicectlOutput(1, err="The operation failed since the device is out of storage.")) == FULL
    assert cause(DevicectlOutput(1, err="an unlocked phone blocked it")) is None
