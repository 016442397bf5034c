"""The page of results in a real Chromium: it opens quietly, sorts, filters, and fits a phone."""

import os
import shutil

import pytest
from tests.support.report_trees import METHODS, SEEDS, SHOTS, TARGETS, campaign, hostile

from mmadapt.collect import load_results
from mmadapt.collect.page.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is installed"),
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, load_results(campaign(path.parent / "runs")))
    return path


@pytest.fixture
def visit(browser):
    """Open a file; at the end there must have been no message, no error and no request but for the file."""
    pages, noise = [], []

    def open_page(path, viewport=WIDE, scheme="light"):
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: noise.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda asked: asked.url == path.as_uri() or noise.append(f"request: {asked.url}"))
        page.goto(path.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert noise == []


def column(page, place):
    return page.locator(f"#runs-table tbody tr.run td:nth-child({place})").all_inner_texts()


def place_of(page, name):
    return [text.strip() for text in page.locator("#runs-table thead th").all_inner_texts()].index(name) + 1


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["1280px", "390px"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_and_fits(visit, report, viewport, scheme):
    page = visit(report, viewport, scheme)
    page.locator(".open").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert page.evaluate("document.fonts.status") == "loaded"
    red, *_ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red < 60) == (scheme == "dark")
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_theme_button(visit, report):
    page = visit(report)
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != before
    page.locator("#theme").click()
    assert page.evaluate(colour) == before


def test_curves_have_the_expected_series(visit, report):
    page = visit(report)
    panels = page.locator("#b0 .panel")
    assert panels.locator("h3").all_inner_texts() == ["Average over 2 data sets", "caltech101", "dtd"]
    for panel in panels.all():
        counts = [group.locator(".mk").count() for group in panel.locator("g.s").all()]
        assert sorted(counts) == [0, len(SHOTS), len(SHOTS)]  # zero-shot is a line across
        assert panel.locator(".flat").count() == 1
        box = panel.locator("svg").bounding_box()
        for mark in panel.locator(".mk").all():
            at = mark.bounding_box()
            assert box["x"] <= at["x"] <= box["x"] + box["width"]
            assert box["y"] <= at["y"] <= box["y"] + box["height"]
    colours = page.evaluate(
        "[...document.querySelector('#b0 svg.fig').querySelectorAll('g.s')].map(g => getComputedStyle(g).color)"
    )
    assert len(set(colours)) == len(METHODS)


def test_scatter_and_bars_have_the_expected_marks(visit, report):
    page = visit(report)
    for panel in page.locator("#b1 .panel").all():
        spots = {}
        for mark in panel.locator(".mk").all():
            box = mark.bounding_box()
            spots[mark.get_attribute("data-t").split(":")[0]] = box["x"], box["y"]
        assert spots.keys() == METHODS.keys()
        assert spots["zero_shot"][0] < spots["coop"][0] < spots["maple"][0]  # base rises, new falls
        assert spots["zero_shot"][1] < spots["coop"][1] < spots["maple"][1]
    bars = [panel.locator(".bar").count() for panel in page.locator("#b2 .panel").all()]
    assert bars == [len(METHODS)] * (len(TARGETS) + 2)  # source, targets, average


def test_legend_hides_a_method_everywhere(visit, report):
    page = visit(report)
    rows = page.locator("#b0 table tr[data-m]:visible th")
    assert "coop" in rows.all_inner_texts()
    page.locator("#b0 .chip", has_text="coop").click()
    assert "coop" not in rows.all_inner_texts()
    assert page.locator(".mk[data-t^=coop]:visible").count() == 0
    assert page.locator("#b1 .chip", has_text="coop").get_attribute("aria-pressed") == "false"
    page.locator("#b1 .chip", has_text="coop").click()
    assert "coop" in rows.all_inner_texts()


def test_menus_switch_tables(visit, report):
    page = visit(report)
    page.locator("[data-pick=b1-t]").select_option(label="H of all data sets")
    assert page.locator("#b1 figure.tab:visible figcaption b").all_inner_texts() == ["H of all data sets."]
    assert page.locator("#b1 figure.tab:visible thead th").all_inner_texts()[1:] == [
        "caltech101", "dtd", "Average, 2 data sets",
    ]  # fmt: skip
    assert page.locator("#calibration .rb:visible").count() == 2 * len(METHODS)  # two bins have images
    page.locator("[data-pick=cal]").select_option(label="Base to new")
    assert "No details.json" in page.locator("#cal-1:visible").inner_text()


def test_tables_sort_by_mouse_and_keyboard(visit, report):
    page = visit(report)
    header = page.locator("#b0 figure.tab:visible thead th").nth(3)
    order = page.locator("#b0 figure.tab:visible tbody th")
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert order.all_inner_texts() == ["maple", "coop", "zero_shot"]
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert order.all_inner_texts() == ["zero_shot", "coop", "maple"]

    place = place_of(page, "Score (%)")
    page.locator(f"#runs-table thead th:nth-child({place}) button").click()
    values = [float(text.split()[-1]) for text in column(page, place)]
    assert values == sorted(values, reverse=True)
    place = place_of(page, "Method")
    page.locator(f"#runs-table thead th:nth-child({place}) button").click()
    assert column(page, place) == sorted(column(page, place))
    nll = place_of(page, "NLL")
    for _ in range(2):  # runs without the value stay last in both directions
        page.locator(f"#runs-table thead th:nth-child({nll}) button").click()
        assert column(page, nll)[-1] == "–" != column(page, nll)[0]


def test_filters_and_search(visit, report):
    page = visit(report)
    shown = page.locator("#shown")
    assert shown.inner_text() == "54 runs"
    page.locator("[data-filter=method]").select_option("coop")
    page.locator("[data-filter=protocol]").select_option("few_shot")
    assert shown.inner_text() == f"{2 * len(SHOTS) * len(SEEDS)} of 54 runs"
    assert set(column(page, place_of(page, "Method"))) == {"coop"}
    page.locator("#q").fill("DTD seed=2")
    assert column(page, place_of(page, "Seed")) == ["2"] * len(SHOTS)
    page.locator("[data-filter=shots]").select_option("16")
    assert shown.inner_text() == "1 of 54 runs"
    page.locator("#q").fill("nothing like this")
    assert "No run matches" in page.locator("#runs-table tbody").inner_text()


def test_a_run_opens_with_its_command(visit, report):
    page = visit(report)
    page.locator("#q").fill("maple dtd few_shot shots=16 seed=1")
    button = page.locator(".open")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    command = "python -m mmadapt protocol=few_shot clip=vit_b16 data=dtd method=maple shots=16 seed=1"
    assert page.locator(".detail .command").inner_text() == command
    page.locator(".copy").click()
    page.wait_for_function("document.querySelector('.copy').textContent !== 'Copy'")
    page.locator(".detail summary").click()
    detail = page.locator(".detail").inner_text()
    for words in ("alpha", "d" * 64, "2048", "0.1.0", '"lr": 0.002', "70.0", "onerror"):
        assert words in detail
    button.click()
    assert page.locator(".detail").count() == 0


def test_a_mark_tells_its_value(visit, report):
    page = visit(report)
    mark = page.locator("#b0 .mk[data-t^='maple, 16']").first
    mark.hover(force=True)
    assert page.locator("#tip").inner_text() == mark.get_attribute("data-t")


def test_hostile_names_are_harmless(visit, tmp_path):
    path = tmp_path / "hostile.html"
    write_report(path, load_results(hostile(tmp_path / "runs")))
    page = visit(path, PHONE)
    page.locator(".open").click()
    page.locator("#q").fill("script")
    assert "onerror" in page.locator("h1").inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
