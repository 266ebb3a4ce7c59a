"""The leaderboard page in a real browser, opened from disk."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from petlbench.report.page import page_html
from petlbench.report.page_data import page_data
from tests.record_factory import TASKS, make_record
from tests.report.pages import FGVC, HOSTILE, VIT, VIT_AS_PRINTED, page, printed

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the one that PETLBENCH_BROWSER names, which then has to work, or one on the path."""
    found = os.environ.get("PETLBENCH_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is on the path; `make browser` installs Debian's")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])  # a container's root needs that
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(page())
    return path


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Open]:
    """Open a file, by default the page of ``tests.report.pages``; check at the end that no page logged errors or requested anything but files."""
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def open_(path: Path = file, address: str = "", width: int = 1280, clock: bool = False, **settings: str) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **settings))  # type: ignore[arg-type]
        shown = contexts[-1].new_page()
        shown.set_default_timeout(5000)
        shown.on("console", lambda message: complaints.append(f"console: {message.text}"))
        shown.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        shown.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        shown.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(f"request: {request.url}"))
        if clock:
            shown.clock.install()
        shown.goto(f"{path.as_uri()}{address}")
        return shown

    yield open_
    for context in contexts:
        context.close()
    assert not complaints


def methods(page: Page, table: str = "summary") -> list[str]:
    return page.locator(f"table.{table} tbody th button").all_text_contents()


def column(page: Page, heading: str, table: str = "summary") -> list[str]:
    headings = page.locator(f"table.{table} thead th").all_text_contents()
    return page.locator(f"table.{table} tbody tr > :nth-child({headings.index(heading) + 1})").all_text_contents()


def select(page: Page, suite: str, backbone: str = "", protocol: str = "") -> None:
    for name, value in (("Suite", suite), ("Backbone", backbone), ("Protocol", protocol)):
        page.get_by_label(name, exact=True).select_option(value)


def sort(page: Page, heading: str, table: str = "summary") -> None:
    page.locator(f"table.{table} thead").get_by_role("button", name=heading, exact=True).click()


def test_a_heading_sorts_and_sorts_the_other_way_when_pressed_again(opened: Open) -> None:
    page = opened()
    select(page, "mini", "mini_clip", "native-1a2b3c4d")
    assert methods(page) == ["lora", "lora [rank=4]", "craft", "zero_shot"]
    sort(page, "mean")
    assert methods(page) == ["zero_shot", "craft", "lora [rank=4]", "lora"]
    expect(page.get_by_role("status")).to_have_text("4 rows, sorted by mean, ascending")
    expect(page.locator("table.summary th[aria-sort]")).to_have_text("mean")


def test_a_cost_sorts_the_cheapest_to_the_top(opened: Open) -> None:
    page = opened()
    select(page, "mini", "mini_clip", "native-1a2b3c4d")
    sort(page, "trainable")
    assert column(page, "trainable") == ["0", "20k", "147k", "147k"]


def test_a_task_sorts_both_tables(opened: Open) -> None:
    page = opened()
    select(page, "fgvc")
    sort(page, "nabirds", "tasks")
    assert column(page, "nabirds", "tasks")[0].startswith("90.0")
    assert methods(page) == methods(page, "tasks") == ["bitfit", "full", HOSTILE, "linear"]


def test_what_is_missing_is_last_in_either_direction_and_a_mean_without_it_is_withheld(opened: Open) -> None:
    page = opened()
    select(page, "fgvc")
    assert methods(page)[-1] == "bitfit"
    sort(page, "mean")
    assert methods(page)[-1] == "bitfit"
    assert column(page, "mean")[-1] == "3 of 5 tasks"
    assert column(page, "stanford_cars", "tasks")[-1].startswith("–")


def test_suite_backbone_and_protocol_filter(opened: Open) -> None:
    page = opened()
    select(page, "")
    expect(page.locator("section.part h2")).to_have_text(["mini on mini_clip", "mini on mini_clip", "mini on vit_tiny", f"fgvc on {VIT}"])
    select(page, "mini", "vit_tiny")
    expect(page.locator("section.part h2")).to_have_text(["mini on vit_tiny"])
    select(page, "mini", "", "p-2")
    expect(page.locator("section.part > .note").first).to_contain_text("protocol p-2")
    assert methods(page) == ["full"]


def test_backbones_are_offered_that_the_suite_has(opened: Open) -> None:
    page = opened()
    select(page, "mini", "vit_tiny")
    page.get_by_label("Suite").select_option("fgvc")
    expect(page.get_by_label("Backbone").locator("option")).to_have_text(["all", VIT])
    assert methods(page)


def test_rungs_and_names_filter(opened: Open) -> None:
    page = opened()
    select(page, "mini", "mini_clip", "native-1a2b3c4d")
    page.get_by_label("WEIGHTS").uncheck()
    assert methods(page) == ["craft", "zero_shot"]
    page.get_by_placeholder("part of a name").fill("SHOT")
    assert methods(page) == ["zero_shot"]
    page.get_by_placeholder("part of a name").fill("nothing has this name")
    expect(page.get_by_text("No method passes the filters.").first).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    assert "lora" in methods(page)


def test_the_switch_shows_ours_beside_published_numbers_or_either(opened: Open) -> None:
    page = opened()
    select(page, "fgvc")
    assert column(page, "published")[0] == f"88.5{VIT_AS_PRINTED}, shots: full, reprint"
    assert column(page, "points ahead")[0] == "−6.4"
    assert column(page, "nabirds", "tasks")[0] == "81.182.7 −1.6"
    assert column(page, "nabirds", "tasks")[-1].strip() == "90.088.0"  # on another backbone: no difference
    page.get_by_label("ours", exact=True).check()
    assert "published" not in page.locator("table.summary thead").inner_text()
    page.get_by_label("published", exact=True).check()
    expect(page.locator("section.part h2")).to_have_text(["fgvc as published"])
    assert methods(page) == ["Full", "Full", "Bias", "Linear"]
    assert column(page, "mean") == ["99.0", "88.5", "88.0", "2 of 5 tasks"]
    assert page.locator("td.best").count() == 0  # papers differ in protocol
    page.get_by_label("WEIGHTS").uncheck()
    expect(page.get_by_text("No method passes the filters.")).to_be_visible()


def test_no_difference_is_shown_between_other_numbers_of_shots(opened: Open, tmp_path: Path) -> None:
    numbers = [printed("Full", FGVC[0], "88", shots="16"), printed("Linear", FGVC[0], "70")]
    runs = [make_record(method, FGVC[0], accuracy=80, backbone=VIT) for method in ("full", "linear")]
    (tmp_path / "page.html").write_text(page_html(page_data(runs, {"fgvc": FGVC[:1]}, numbers)))
    page = opened(tmp_path / "page.html", "#sort=method")
    assert [cell.strip() for cell in column(page, "cub200_2011", "tasks")] == ["80.088.0", "80.070.0 +10.0"]


def test_a_row_of_as_many_shots_stands_beside_ours_before_a_fuller_one(opened: Open, tmp_path: Path) -> None:
    numbers = [*(printed("Full", task, "88", shots="16") for task in FGVC[:2]), printed("Full", FGVC[0], "70")]
    runs = [make_record("full", task, accuracy=80, backbone=VIT) for task in FGVC[:2]]
    (tmp_path / "page.html").write_text(page_html(page_data(runs, {"fgvc": FGVC[:2]}, numbers)))
    assert column(opened(tmp_path / "page.html"), "cub200_2011", "tasks") == ["80.070.0 +10.0"]


def test_published_numbers_of_a_suite_stand_once_however_many_backbones_there_are(opened: Open) -> None:
    page = opened(address="#suite=mini&show=published")
    expect(page.locator("section.part h2")).to_have_text(["mini as published"])
    expect(page.get_by_text("No published numbers on these tasks.")).to_be_visible()


def test_a_row_opens_its_records_seeds_and_configuration(opened: Open) -> None:
    page = opened()
    select(page, "fgvc")
    page.locator("table.summary tbody tr").first.locator("td").nth(2).click()
    details = page.get_by_role("dialog")
    expect(details.get_by_role("heading", level=2)).to_have_text("full")
    expect(details.locator("svg .mark.white-box")).to_have_count(2 * len(FGVC))
    expect(details.locator("svg .mark.published")).to_have_count(len(FGVC))
    record = details.locator('a[href^="records/fgvc/nabirds/full-timm_vit_base_patch16_224.augreg_in21k-s1-"]')
    expect(record).to_have_count(1)
    expect(details.locator("tr", has_text="train.epochs")).to_contain_text("20")
    expect(details.get_by_text("Source: main table <as reprinted>")).to_be_visible()


def test_settings_that_differ_between_tasks_are_told_apart(opened: Open, tmp_path: Path) -> None:
    records = [make_record("lora", task, train={"epochs": epochs}) for task, epochs in zip(FGVC, (20, 20, 20, 20, 50), strict=True)]
    (tmp_path / "page.html").write_text(page_html(page_data(records, {"fgvc": FGVC}, [])))
    page = opened(tmp_path / "page.html")
    page.get_by_role("button", name="lora").first.click()
    differing = page.get_by_role("region", name="Settings that differ").locator("tbody tr")
    expect(differing).to_have_count(2)
    expect(differing.last).to_have_text("stanford_cars50")


def test_a_hostile_method_name_is_text_everywhere(opened: Open) -> None:
    page = opened()
    select(page, "fgvc")
    assert HOSTILE in methods(page)
    page.get_by_role("button", name=HOSTILE).first.click()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(HOSTILE)
    expect(page.locator("#left_out")).to_contain_text(HOSTILE)
    assert page.locator("img, script[src]").count() == 0
    assert page.title() == "petlbench leaderboard"


def test_all_of_it_works_with_the_keyboard(opened: Open) -> None:
    page = opened()
    select(page, "fgvc")
    heading = page.locator("table.summary thead").get_by_role("button", name="method")
    heading.focus()
    page.keyboard.press("Enter")
    assert methods(page) == [HOSTILE, "bitfit", "full", "linear"]
    expect(heading).to_be_focused()
    row = page.locator("table.summary tbody").get_by_role("button", name="full")
    row.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(row).to_be_focused()
    point = page.locator(".point").first
    point.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_the_scatter_shows_the_cost_that_is_chosen(opened: Open) -> None:
    page = opened()
    select(page, "mini", "mini_clip", "native-1a2b3c4d")
    expect(page.locator(".point")).to_have_count(4)
    page.get_by_label("Accuracy against", exact=True).select_option("queries")
    expect(page.locator(".point")).to_have_count(2)  # methods at WEIGHTS send no queries
    expect(page.locator(".point").first).to_have_attribute("aria-label", re.compile(r"queries \(images sent per run\) "))
    expect(page.get_by_text("Not drawn, because a result or the count is missing: lora")).to_be_visible()


def test_what_costs_nothing_stands_left_of_what_costs_least(opened: Open, tmp_path: Path) -> None:
    runs = [make_record(method, TASKS[0], trainable=count) for method, count in (("zero_shot", 0), ("bar", 10), ("lora", 10_000))]
    (tmp_path / "page.html").write_text(page_html(page_data(runs, {"mini": TASKS[:1]}, [])))
    page = opened(tmp_path / "page.html")
    centres = {
        str(point.get_attribute("aria-label")).partition(":")[0]: float(str(point.locator(".target").get_attribute("cx")))
        for point in page.locator(".point").all()
    }
    assert sorted(centres, key=lambda name: centres[name]) == ["zero_shot", "bar", "lora"]


def test_mean_ranks_are_drawn_with_their_critical_difference(opened: Open) -> None:
    page = opened()
    select(page, "mini", "mini_clip", "native-1a2b3c4d")
    diagram = page.get_by_role("group", name=re.compile(r"^Mean ranks: lora 1\.\d\d, .*Critical difference 1\.91"))
    expect(diagram).to_be_visible()
    expect(diagram.locator(".bar")).not_to_have_count(0)


def test_what_is_chosen_survives_a_reload(opened: Open) -> None:
    page = opened()
    select(page, "mini", "mini_clip", "native-1a2b3c4d")
    page.get_by_placeholder("part of a name").fill("r")
    page.get_by_label("SCORES").uncheck()
    sort(page, "trainable")
    page.get_by_role("button", name="craft").first.click()
    page.reload()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text("craft")
    page.keyboard.press("Escape")
    assert methods(page) == ["craft", "lora", "lora [rank=4]"]


def test_the_theme_follows_the_system_until_one_is_chosen(opened: Open) -> None:
    page = opened(color_scheme="dark")

    def ground() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = ground()
    page.emulate_media(color_scheme="light")
    light = ground()
    assert dark != light == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Theme: auto").click()
    page.get_by_role("button", name="Theme: light").click()
    assert ground() == dark
    page.reload()
    assert ground() == dark


def test_a_browser_that_keeps_nothing_for_files_shows_the_page(browser: Browser, file: Path) -> None:
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied'); } })")
    page = context.new_page()
    page.goto(file.as_uri())
    assert methods(page)
    page.get_by_role("button", name="Theme: auto").click()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_only_tables_scroll_sideways(opened: Open, width: int) -> None:
    page = opened(address="#suite=", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name=HOSTILE).first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("(dialog => dialog.scrollWidth - dialog.clientWidth)(document.getElementById('details'))") <= 0


def test_paper_shows_tables_without_controls_on_white(opened: Open) -> None:
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    expect(page.locator("#filters")).to_be_hidden()
    expect(page.locator("table.summary").first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def write_refreshed(path: Path, *seeds: int) -> None:
    data = page_data([make_record(task=TASKS[0], seed=seed) for seed in seeds], {"mini": TASKS[:1]}, [])
    path.write_text(page_html(data, refresh_seconds=10))


def test_a_page_that_is_kept_up_to_date_loads_itself_again_and_can_be_paused(opened: Open, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_refreshed(file, 0)
    page = opened(file, "#q=lora", clock=True)  # the test moves the page's clock: no machine is too slow for it
    write_refreshed(file, 0, 1)
    page.clock.run_for(10_000)
    expect(page.locator("table.summary td").last).to_have_text("0,1")
    expect(page.get_by_placeholder("part of a name")).to_have_value("lora")
    page.get_by_role("button", name="Pause").click()
    write_refreshed(file, 0, 1, 2)
    page.clock.run_for(60_000)
    expect(page.locator("table.summary td").last).to_have_text("0,1")
    page.get_by_role("button", name="Continue").click()
    page.clock.run_for(10_000)
    expect(page.locator("table.summary td").last).to_have_text("0,1,2")


def test_pause_holds_a_load_that_has_begun(opened: Open, tmp_path: Path) -> None:
    write_refreshed(tmp_path / "page.html", 0)
    page = opened(tmp_path / "page.html")
    page.evaluate("() => { location.reload(); document.querySelector('#refresh button').click(); }")
    page.wait_for_timeout(500)
    expect(page.get_by_role("button", name="Continue")).to_be_visible()


def test_an_open_row_stays_open_when_parts_change_places(opened: Open, tmp_path: Path) -> None:
    def write(*others: str) -> None:
        runs = [make_record("lora", TASKS[0], backbone="vit_tiny")]
        runs += [make_record(method, TASKS[0]) for method in others]
        (tmp_path / "page.html").write_text(page_html(page_data(runs, {"mini": TASKS[:1]}, [])))

    write()
    page = opened(tmp_path / "page.html")
    page.get_by_role("button", name="lora").first.click()
    write("lora", "full")
    page.reload()
    expect(page.locator("section.part h2")).to_have_text(["mini on mini_clip", "mini on vit_tiny"])
    expect(page.get_by_role("dialog").locator('a[href*="lora-vit_tiny-s0"]')).to_have_count(1)


def test_a_page_without_a_finished_run_says_so(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page_html(page_data([], {}, [])))
    expect(opened(tmp_path / "page.html").get_by_role("status")).to_have_text("No finished run yet.")


MANY = 230  # settings of one method: rows of one table


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one suite with many rows, which lack a task and so are not compared in pairs, and as many runs that failed."""
    records = [make_record(settings={"rank": i}, accuracy=20 + i / 4) for i in range(MANY)]
    records += [make_record(seed=i, status="failed") for i in range(MANY)]
    path = tmp_path_factory.mktemp("large") / "leaderboard.html"
    path.write_text(page_html(page_data(records, {"mini": TASKS[:2]}, [])))
    return path


def rows(page: Page, table: str) -> int:
    return page.locator(f"{table} tbody tr").count()


def test_rows_become_nodes_a_hundred_at_a_time(opened: Open, large: Path) -> None:
    page = opened(large)
    assert [rows(page, table) for table in ("table.summary", "table.tasks", "#left_out")] == [100, 100, 100]
    expect(page.get_by_role("status")).to_contain_text(f"{MANY} rows")
    more = page.locator("#left_out").get_by_role("button", name="Show 100 more of 130")
    more.click()
    page.locator("#left_out").get_by_role("button", name="Show 30 more of 30").click()
    assert rows(page, "#left_out") == MANY
    expect(page.locator("#left_out button.more")).to_be_hidden()


def test_sorting_orders_all_rows_makes_only_the_first_and_leaves_figures_alone(opened: Open, large: Path) -> None:
    page = opened(large)
    page.evaluate("document.querySelectorAll('figure svg').forEach((node) => (node.isKept = true))")
    page.evaluate(
        "window.made = 0; new MutationObserver((all) => all.forEach((one) => one.addedNodes.forEach((node) =>"
        " (window.made += 1 + (node.querySelectorAll?.('*').length ?? 0))))).observe(document.getElementById('parts'), {childList: true, subtree: true})"
    )
    sort(page, "digits", "tasks")
    assert column(page, "digits", "tasks")[0] == "77.3" and rows(page, "table.summary") == 100
    assert page.evaluate("[...document.querySelectorAll('figure svg')].every((node) => node.isKept)")
    columns = page.locator("table.summary thead th, table.tasks thead th").count()
    assert 0 < page.evaluate("window.made") < 100 * 5 * columns  # nodes of a hundred rows in two tables, not of all rows


def test_a_search_reaches_rows_that_are_no_nodes_yet(opened: Open, large: Path) -> None:
    page = opened(large)
    page.get_by_label("Method").fill("rank=7]")
    assert methods(page) == ["lora [rank=7]"]
