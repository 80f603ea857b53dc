"""The report in a headless Chromium; skipped where none is installed."""

import pytest
from playwright.sync_api import sync_playwright

from ctwa.report.html import write_report
from tests.report.browsers import CHROMIUM, needs_chromium

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
pytestmark = [pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser, tmp_path):
    """Opens the report of runs with all its figures drawn; the page's messages and requests are checked at the end."""
    pages = []

    def open_it(runs, width=1440, scheme="light"):
        write_report(runs, tmp_path / "report.html")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        seen = {"messages": [], "requests": []}
        page.on("console", lambda message: seen["messages"].append(message.text))
        page.on("pageerror", lambda error: seen["messages"].append(str(error)))
        page.on("request", lambda request: seen["requests"].append(request.url))
        pages.append((page, seen))
        page.goto((tmp_path / "report.html").as_uri())
        for plot in page.locator(".plot").all():
            plot.scroll_into_view_if_needed()
            plot.locator(".main-svg").first.wait_for()
        return page

    yield open_it
    for page, seen in pages:
        page.close()
        assert (seen["messages"], set(seen["requests"])) == ([], {(tmp_path / "report.html").as_uri()})


def test_the_page_fits_tells_numbers_hides_methods_and_changes_its_theme(open_report, paths):
    page = open_report(paths, scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    empty = "[...document.querySelectorAll('.plot')].filter((p) => !p.querySelector('.trace path, .point path')).length"
    assert page.evaluate(empty) == 0
    plot = page.locator("figure", has_text="accuracy, held-out problems").locator(".plot")
    plot.scroll_into_view_if_needed()
    plot.locator(".nsewdrag").first.hover(position={"x": 40, "y": 50}, force=True)
    plot.locator(".hoverlayer text").first.wait_for()
    assert all(text in plot.locator(".hoverlayer").text_content() for text in ("0.5", "linear"))

    assert plot.locator(".trace").count() == 4  # a band and a mean of each method
    key = page.get_by_role("button", name="linear")
    for pressed, shown in (("false", 2), ("true", 4)):
        key.click()
        plot.locator(".trace").nth(1).wait_for()
        assert key.get_attribute("aria-pressed") == pressed
        assert plot.locator(".trace").count() == shown

    told = page.locator("#filter output")
    assert told.text_content() == "2 prompts"
    page.get_by_label("containing").fill("OF 10")
    assert (told.text_content(), page.locator(".pair:visible").count()) == ("1 prompt", 1)
    page.get_by_label("whose reward differs").select_option("in clarity")
    assert told.text_content() == "0 prompts"

    line = page.locator(".plot .js-line").first
    before = line.evaluate("(each) => each.style.stroke")
    page.get_by_role("button", name="dark or light").click()
    assert page.locator(".plot .js-line").first.evaluate("(each) => each.style.stroke") != before
    page.set_viewport_size({"width": 390, "height": 900})
    page.reload()
    page.locator(".plot .main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # What was sacrificed, what the methods did and what to try is on the first screen.
    assert page.locator(".glance dd").last.evaluate("(each) => each.getBoundingClientRect().bottom") <= 900
    # All of a verdict can be seen without scrolling sideways, and no button lies over a plot.
    outside = (
        "[...document.querySelectorAll('#verdict td')].filter((td) => td.getBoundingClientRect().right > 390).length"
    )
    assert page.evaluate(outside) == 0
    assert page.locator(".modebar-btn").count() == 0


def test_a_script_as_a_name_stays_text(open_report, make_full_run):
    name = "<script>alert(1)</script><img src=x>"
    page = open_report([make_full_run("run", (name, "b"), method=name)])
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    assert name in page.locator("figcaption").first.text_content()
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    plot.locator(".nsewdrag").first.hover(position={"x": 40, "y": 50}, force=True)
    plot.locator(".hoverlayer text").first.wait_for()
    assert "<script>" in plot.locator(".hoverlayer").text_content()
