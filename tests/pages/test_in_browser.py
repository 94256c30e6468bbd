"""The report in a real browser: nothing leaves it, filters work, a cell opens its images, hostile names do nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_up_report import HOSTILE, report_page
from PIL import Image

from cnn_tl.pages import contact_sheet
from cnn_tl.pages.content import Card, ReportPage
from cnn_tl.pages.report import render_report
from cnn_tl.pages.thumbnail import thumbnail

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its chromedriver is installed")

Open = Callable[[ReportPage], str]


def start(folder: Path, *, javascript: bool) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=1200,900", f"user-data-dir={folder}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    opened = start(tmp_path_factory.mktemp("browser"), javascript=True)
    yield opened
    opened.quit()


@pytest.fixture
def show(browser: webdriver.Chrome, tmp_path: Path) -> Open:
    def show(page: ReportPage) -> str:
        path = tmp_path / "report.html"
        path.write_text(render_report(page), "utf-8")
        browser.get_log("performance")
        browser.get(path.as_uri())
        return path.as_uri()

    return show


def requests_of(browser: webdriver.Chrome, url: str) -> list[str]:
    """Return what the page asked for; the browser's own first page asks for other things."""
    events = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    sent = [one["params"] for one in events if one["method"] == "Network.requestWillBeSent"]
    return [one["request"]["url"] for one in sent if one["documentURL"].partition("#")[0] == url]


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [one.text for one in browser.find_elements(By.CSS_SELECTOR, selector)]


def choose(browser: webdriver.Chrome, field: str, text: str) -> None:
    Select(browser.find_element(By.ID, field)).select_by_visible_text(text)


def test_nothing_leaves_the_page_and_hostile_names_do_nothing(browser: webdriver.Chrome, show: Open) -> None:
    url = show(report_page(200, HOSTILE))
    asked = requests_of(browser, url)
    assert asked.count(url) == 1
    assert [one for one in asked if one != url and not one.startswith("data:")] == []
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hurt") is None
    assert texts(browser, "table.classes th[scope=row]") != []
    assert set(texts(browser, "#rows tr:first-child td:nth-child(2) bdi")) <= {
        "<script>window.hurt = 1</script>", '"><img src=x onerror="window.hurt=1">', "rtl \\u202egnp.exe", "a\\nb\\x07"
    }  # fmt: skip
    assert browser.find_elements(By.CSS_SELECTOR, "main script, main img") == []


def test_the_policy_stops_what_is_not_in_the_page(browser: webdriver.Chrome, show: Open) -> None:
    show(report_page())
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.hurt = 1';"
        "const image = document.createElement('img'); image.src = 'file:///nothing.png';"
        "document.body.append(script, image);"
    )
    assert browser.execute_script("return window.hurt") is None
    assert {"script-src" in one["message"] or "img-src" in one["message"] for one in browser.get_log("browser")} == {
        True
    }


def test_a_cell_opens_its_images(browser: webdriver.Chrome, show: Open) -> None:
    page = report_page(400)
    show(page)
    _, i, j = page.figures.confused()[0]
    body = browser.find_element(By.ID, f"pair-{i}-{j}")
    assert not body.is_displayed()
    browser.find_element(By.CSS_SELECTOR, f".confusion a[href='#pair-{i}-{j}']").send_keys(Keys.ENTER)
    assert body.is_displayed()
    assert body.find_elements(By.CSS_SELECTOR, ".card, .files li")
    browser.find_element(By.CSS_SELECTOR, ".confusion td.on a").click()
    assert set(texts(browser, "#rows td:nth-child(3)")) == {page.figures.classes[0]}
    assert texts(browser, "#found") == [f"1 to 100 of {page.figures.confusion[0, 0]} images"]


def test_a_cell_opens_its_images_without_javascript(tmp_path: Path) -> None:
    page = report_page(400)
    (tmp_path / "report.html").write_text(render_report(page), "utf-8")
    browser = start(tmp_path / "profile", javascript=False)
    try:
        browser.get((tmp_path / "report.html").as_uri())
        assert not browser.find_element(By.ID, "browse").is_displayed()
        assert "--wrong" in browser.find_element(By.CSS_SELECTOR, "noscript .note").text
        assert not [one for one in browser.find_elements(By.CSS_SELECTOR, "button") if one.is_displayed()]
        _, i, j = page.figures.confused()[0]
        browser.find_element(By.CSS_SELECTOR, f".confusion a[href='#pair-{i}-{j}']").click()
        assert browser.find_element(By.ID, f"pair-{i}-{j}").is_displayed()
    finally:
        browser.quit()


def test_the_list_filters_sorts_and_turns_its_pages(browser: webdriver.Chrome, show: Open) -> None:
    page = report_page(400)
    answers = page.answers
    show(page)
    assert texts(browser, "#found") == ["1 to 100 of 400 images"]
    browser.find_element(By.ID, "later").click()
    assert texts(browser, "#found") == ["101 to 200 of 400 images"]
    choose(browser, "f-right", "wrong")
    assert texts(browser, "#found")[0].endswith(f"of {(~answers.right).sum()} images")
    choose(browser, "f-label", "bee")
    assert texts(browser, "#found")[0].endswith(f"of {(~answers.right & (answers.labels == 1)).sum()} images")
    assert all(one.startswith("bee") for one in texts(browser, "#rows td:nth-child(2)"))
    choose(browser, "f-order", "least sure first")
    shares = [float(one.removesuffix("%")) for one in texts(browser, "#rows td:nth-child(4)")]
    assert shares == sorted(shares)
    choose(browser, "f-right", "right or wrong")
    browser.find_element(By.ID, "f-text").send_keys("GRAPH 000001")
    assert texts(browser, "#rows td:first-child") == ["bee/photograph 000001.jpg"]
    browser.find_element(By.ID, "f-text").send_keys("no such")
    assert texts(browser, "#found") == ["No image matches."]


def test_the_classes_sort_by_keyboard(browser: webdriver.Chrome, show: Open) -> None:
    show(report_page(400))
    button = browser.find_element(By.CSS_SELECTOR, "table.classes button.sort")
    button.send_keys(Keys.ENTER)
    assert texts(browser, "table.classes th[scope=row]") == ["ant", "bee", "cat"]
    button.send_keys(Keys.ENTER)
    assert texts(browser, "table.classes th[scope=row]") == ["cat", "bee", "ant"]
    assert browser.find_element(By.CSS_SELECTOR, "th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_a_path_is_copied(browser: webdriver.Chrome, show: Open) -> None:
    page = report_page()
    show(page)
    browser.execute_script(
        "document.addEventListener('copy', () => { window.copied = String(document.getSelection()); });"
    )
    browser.execute_script(
        "navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); };"
    )
    button = browser.find_element(By.CSS_SELECTOR, ".card button.copy")
    button.click()
    assert browser.execute_script("return window.copied") == page.galleries[0].cards[0].file
    assert button.text == "Copied"


def test_what_is_folded_is_printed_and_folded_again(browser: webdriver.Chrome, show: Open) -> None:
    show(report_page(400))
    browser.execute_script("addEventListener('beforeprint', () => { window.printed = folded(); })")
    browser.execute_script("window.folded = () => document.querySelectorAll('details:not([open])').length")
    before = browser.execute_script("return folded()")
    assert before > 0
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert browser.execute_script("return [printed, folded()]") == [0, before]


@pytest.mark.parametrize("fragment", ["a'b", "%"])
def test_an_address_with_an_odd_fragment_does_no_harm(browser: webdriver.Chrome, show: Open, fragment: str) -> None:
    url = show(report_page())
    browser.get(f"{url}#{fragment}")
    browser.refresh()
    browser.find_element(By.CSS_SELECTOR, ".card button.copy").click()
    assert texts(browser, "#found") != []
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("classes", [3, 40])
def test_nothing_but_tables_is_wider_than_the_screen(
    browser: webdriver.Chrome, show: Open, width: int, classes: int
) -> None:
    names = tuple(f"{k} {'very long ' * (k % 3)}{'x' * (40 * (k % 2))}" for k in range(classes))
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        show(report_page(10 * classes, names))
        root = "document.documentElement"
        assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_hundred_thousand_images_open_no_slower_than_a_thousand(browser: webdriver.Chrome, show: Open) -> None:
    took = []
    for images in (1_000, 100_000):
        show(report_page(images, tuple(f"class {k}" for k in range(10)), sure=3.0))
        entry = "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
        took.append(float(browser.execute_script(entry)))
        assert browser.get_log("browser") == []
    print(f"DOM ready after {took[0]:.0f} ms with 1,000 images, {took[1]:.0f} ms with 100,000")  # noqa: T201
    assert took[1] < 20 * took[0]
    assert "of 12,000 images" in texts(browser, "#found")[0]


def test_a_contact_sheet_filters(browser: webdriver.Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "MOST_THUMBNAILS", 4)
    evil = "<script>window.hurt = 1</script>"
    answers = [((evil, 0.9), ("bee", 0.1)), (("bee", 0.6), (evil, 0.4))] * 3
    cards = [Card(f"{evil}/{n}.jpg", None, ranked) for n, ranked in enumerate(answers)]
    cards.append(Card("broken.jpg", None, (), error="truncated JPEG"))
    sheet = contact_sheet.contact_sheet(cards, (evil, "bee"), 2, lambda card: thumbnail(Image.new("RGB", (9, 9))))
    path = tmp_path / "sheet.html"
    path.write_text("".join(sheet), "utf-8")
    browser.get_log("performance")
    browser.get(path.as_uri())

    def found() -> tuple[int, str]:
        shown = browser.find_elements(By.CSS_SELECTOR, "#sheet > .card, #more > tr")
        return sum(one.is_displayed() for one in shown), browser.find_element(By.ID, "s-found").text

    assert found() == (7, "7 of 7 images")
    choose(browser, "s-answer", "could not be read")
    assert found() == (1, "1 of 7 images")
    choose(browser, "s-answer", evil)
    assert found() == (3, "3 of 7 images")
    choose(browser, "s-answer", "any")
    browser.find_element(By.ID, "s-to").send_keys("60")
    assert found() == (3, "3 of 7 images")
    browser.find_element(By.ID, "s-text").send_keys("/5.JPG")
    assert found() == (1, "1 of 7 images")
    assert browser.execute_script("return window.hurt") is None
    assert browser.get_log("browser") == []
    assert {one for one in requests_of(browser, path.as_uri()) if not one.startswith("data:")} == {path.as_uri()}
