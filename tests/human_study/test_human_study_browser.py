"""The human study's page in a real, headless Chromium, the size of a phone and of a desktop.

    python -m pytest tests/human_study/test_human_study_browser.py

Needs a Chromium or Chrome on the PATH (Debian: apt-get install chromium; make test does it as root). Without one
these tests are skipped, and under CI=true they fail: a page that nothing opened has not been tested.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright
from study_run import OURS, RIVAL, SECRETS, new_study, rows, serving

from human_study.definition import Study, clean_png
from human_study.store import Store

TASKS = 4
expect.set_options(timeout=20_000)  # milliseconds; a busy machine is slow, not wrong
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = (
    f"no {' or '.join(BROWSERS)} on the PATH; install one (Debian: apt-get install chromium) and run  "
    "python -m pytest tests/human_study/test_human_study_browser.py"
)
PHONE = {"viewport": {"width": 360, "height": 640}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}


def find_browser() -> str:
    """Path of the browser; without one, a skip, or a failure in CI."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(NO_BROWSER)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Playwright makes a new profile for each start.
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    path = find_browser()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, headless=True, args=[*flags, "--disable-sync", "--no-first-run"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return new_study(tmp_path_factory.mktemp("study"), TASKS)


@pytest.fixture
def server(study: Study, tmp_path: Path) -> Iterator[tuple[str, Store]]:
    with serving(study, tmp_path / "answers.sqlite") as (port, store):
        yield f"http://127.0.0.1:{port}/", store


def opened(context: BrowserContext, url: str) -> Page:
    """A page that fails the test on any script error, refused request or line of the console."""
    page = context.new_page()
    page.set_default_timeout(20_000)
    for event in ("pageerror", "console"):
        page.on(event, lambda what: context.problems.append(getattr(what, "text", str(what))))
    page.goto(url)
    return page


@pytest.fixture(params=["phone", "desktop dark"])
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    options = PHONE if request.param == "phone" else DESKTOP | {"color_scheme": "dark"}
    yield from clean_context(browser, options)


@pytest.fixture
def phone(browser: Browser) -> Iterator[BrowserContext]:
    yield from clean_context(browser, PHONE)


def clean_context(browser: Browser, options: dict) -> Iterator[BrowserContext]:
    made = browser.new_context(**options)
    made.problems = []
    yield made
    made.close()
    assert not made.problems


def at(page: Page, position: int) -> None:
    """Wait until the comparison is shown and can be answered."""
    expect(page.locator("#progress-text")).to_have_text(f"{position + 1} of {TASKS}")
    expect(page.locator("#choices button").first).to_be_enabled()


def choose(page: Page, position: int, choice: str) -> None:
    at(page, position)
    page.locator(f"[data-choice={choice}]").click()


def start(page: Page) -> None:
    page.get_by_role("button", name=f"Start ({TASKS} comparisons)").click()
    at(page, 0)


def answers(store: Store) -> list[tuple[str, str, str, str | None, float, int]]:
    query = (
        "SELECT option1, option2, choice, preferred, seconds, corrections "
        "FROM answers JOIN assignments USING (participant, task) ORDER BY position"
    )
    return rows(store.path, query)


def check_layout(page: Page) -> None:
    """No scrolling to the side, and every button that is seen is large enough for a finger."""
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box is not None and box["width"] >= 44 and box["height"] >= 44, button.inner_text()
        assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]


def test_from_the_example_to_the_thank_you(
    context: BrowserContext, server: tuple[str, Store], study: Study, tmp_path: Path
) -> None:
    url, store = server
    page = opened(context, url)
    # The example first, explained, with the better option marked; nobody is a participant yet.
    expect(page.get_by_text("Here Option 2 is better.")).to_be_visible()
    expect(page.locator("#figure2")).to_have_class("better")
    expect(page.locator("#option2 img")).to_be_visible()
    check_layout(page)
    assert context.cookies() == [] and store.counts() == (0, 0)
    start(page)

    choices = ["option1", "similar", "option2", "option1"]
    by_image = {clean_png(path): method for task in study.tasks for method, path in task.images.items()}
    seen = []
    for position, choice in enumerate(choices):
        at(page, position)
        expect(page.locator("#figure2")).not_to_have_class("better")
        check_layout(page)
        sources = [page.locator(f"#option{side} img").get_attribute("src") for side in (1, 2)]
        seen.append(tuple(by_image[context.request.get(url + str(source)).body()] for source in sources))
        choose(page, position, choice)
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    check_layout(page)
    page.screenshot(path=tmp_path / "thanks.png")

    recorded = answers(store)
    # What the images showed is what the answers say: the method of the side that was chosen.
    assert [row[:2] for row in recorded] == seen
    expected = [options[0] if c == "option1" else options[1] if c == "option2" else None
                for options, c in zip(seen, choices, strict=True)]  # fmt: skip
    assert [row[3] for row in recorded] == expected
    assert {row[3] for row in recorded} <= {OURS, RIVAL, None}
    assert all(0 < row[4] < 60 and row[5] == 0 for row in recorded)


def test_the_screen_of_a_phone_holds_a_whole_comparison(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)
    assert page.evaluate("document.scrollingElement.scrollHeight <= window.innerHeight")
    image, button = page.locator("#option1").bounding_box(), page.locator("[data-choice=option1]").bounding_box()
    assert image is not None and button is not None
    assert image["y"] + image["height"] <= button["y"]


@pytest.mark.parametrize("size", [(320, 568), (360, 640), (740, 360), (768, 1024), (1920, 1080)])
def test_no_size_scrolls_to_the_side(browser: Browser, server: tuple[str, Store], size: tuple[int, int]) -> None:
    for made in clean_context(browser, {"viewport": {"width": size[0], "height": size[1]}}):
        page = opened(made, server[0])
        expect(page.locator("#option2 img")).to_be_visible()
        check_layout(page)
        start(page)
        check_layout(page)


def test_keys_answer_and_a_held_key_answers_once(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)
    page.keyboard.down("3")
    at(page, 1)
    page.keyboard.down("3")  # a second down without up is a repeat
    page.keyboard.up("3")
    page.keyboard.press("Control+1")
    at(page, 1)
    page.keyboard.press("2")
    at(page, 2)
    page.keyboard.press("1")
    at(page, 3)
    assert [row[2] for row in answers(server[1])] == ["option2", "similar", "option1"]


def test_back_corrects_and_next_keeps(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)
    choose(page, 0, "option1")
    choose(page, 1, "option1")
    at(page, 2)
    expect(page.locator("#forward")).to_be_hidden()
    page.locator("#back").click()
    at(page, 1)
    expect(page.locator("[data-choice=option1]")).to_have_attribute("aria-pressed", "true")
    page.locator("#back").click()
    choose(page, 0, "similar")
    at(page, 1)
    page.locator("#forward").click()
    at(page, 2)
    expect(page.locator("[aria-pressed=true]")).to_have_count(0)
    assert [(row[2], row[5]) for row in answers(server[1])] == [("similar", 1), ("option1", 0)]
    choose(page, 2, "option1")
    choose(page, 3, "option1")
    page.get_by_role("button", name="Correct my last answer").click()
    choose(page, 3, "option2")
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    assert [(row[2], row[5]) for row in answers(server[1])][3] == ("option2", 1)


def test_the_example_can_be_read_again(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)
    page.locator("#back").click()
    expect(page.get_by_text("Here Option 2 is better.")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    at(page, 0)
    assert rows(server[1].path, "SELECT count(*) FROM participants") == [(1,)]


def test_a_reload_goes_on_where_it_was(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)
    choose(page, 0, "option1")
    choose(page, 1, "similar")
    at(page, 2)
    shown = page.locator("#option1 img").get_attribute("src")
    page.reload()
    at(page, 2)
    assert page.locator("#option1 img").get_attribute("src") == shown
    page.close()
    page = opened(phone, server[0])
    choose(page, 2, "similar")
    choose(page, 3, "similar")
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    assert server[1].counts() == (1, TASKS)


def test_a_lost_connection_loses_no_answer(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)

    def cut(route: Route) -> None:
        route.abort("internetdisconnected")

    page.route("**/api/answers", cut)
    choose(page, 0, "option2")
    expect(page.get_by_role("alert")).to_contain_text("The server can't be reached.")
    at(page, 0)
    assert answers(server[1]) == []
    page.unroute("**/api/answers", cut)
    page.get_by_role("button", name="Try again").click()
    at(page, 1)
    expect(page.get_by_role("alert")).to_be_hidden()
    assert [row[2] for row in answers(server[1])] == ["option2"]
    phone.problems[:] = [line for line in phone.problems if "ERR_INTERNET_DISCONNECTED" not in line]


def test_no_choice_before_the_images_are_seen(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    expect(page.locator("#option2 img")).to_be_visible()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/images/*", hold)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#progress-text")).to_have_text(f"1 of {TASKS}")
    expect(page.locator("[data-choice=option1]")).to_be_disabled()
    page.keyboard.press("1")
    page.wait_for_timeout(200)
    assert answers(server[1]) == [] and held
    page.unroute("**/images/*", hold)  # lets go of those held
    at(page, 0)
    assert answers(server[1]) == []


def test_images_enlarge_and_alt_texts_tell_nothing(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)
    alts = [image.get_attribute("alt") for image in page.locator("main img").all()]
    assert alts == ["Reference image of the subject", "Reference image of the style", "Option 1", "Option 2"]
    page.locator("#option2").click()
    large = page.locator("#close img")
    expect(large).to_be_visible()
    box = large.bounding_box()
    assert box is not None and box["width"] > 340
    page.keyboard.press("1")  # no answer to what is hidden
    page.locator("#close").click()
    expect(large).to_be_hidden()
    at(page, 0)
    assert answers(server[1]) == []


def test_nothing_in_the_pages_memory_names_a_method(phone: BrowserContext, server: tuple[str, Store]) -> None:
    urls: list[str] = []
    phone.on("request", lambda request: urls.append(request.url))
    page = opened(phone, server[0])
    start(page)
    for position in range(TASKS):
        choose(page, position, "option1")
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    everything = page.content() + page.evaluate("JSON.stringify(study)") + repr(urls) + repr(phone.cookies())
    assert not [word for word in SECRETS if word in everything.lower()]
    # Nothing is asked of any other host.
    assert all(url.startswith(server[0]) for url in urls if not url.startswith("data:"))


def test_a_shared_device_lets_the_next_person_start(phone: BrowserContext, study: Study, tmp_path: Path) -> None:
    with serving(study, tmp_path / "shared.sqlite", shared_device=True) as (port, store):
        page = opened(phone, f"http://127.0.0.1:{port}/")
        for person in (1, 2):
            start(page)
            for position in range(TASKS):
                choose(page, position, "similar")
            expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
            assert store.counts() == (person, person * TASKS)
            page.get_by_role("button", name="Let the next person start").click()


def test_alone_there_is_no_second_start(phone: BrowserContext, server: tuple[str, Store]) -> None:
    page = opened(phone, server[0])
    start(page)
    for position in range(TASKS):
        choose(page, position, "similar")
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    expect(page.get_by_role("button", name="Let the next person start")).to_be_hidden()


def test_without_a_browser_it_fails_in_ci_and_is_skipped_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no chromium or .* on the PATH; install one"):
        find_browser()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        find_browser()
