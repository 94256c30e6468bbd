"""The page in a real browser: an image is dropped on it, and classes and a heat map appear."""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_server import Served, image, running, serving

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its chromedriver is installed")

DROP = """
const [target, name, type, base64] = arguments;
const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type }));
for (const kind of ["dragenter", "dragover", "drop"])
  target.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
"""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=1000,760",
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, served: Served) -> webdriver.Chrome:
    browser.get(served.url)
    until(browser, lambda: "3 classes" in text(browser, "#facts"))
    return browser


def until(browser: webdriver.Chrome, true: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, 60).until(lambda _: true())


def text(browser: webdriver.Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [one.text for one in browser.find_elements(By.CSS_SELECTOR, selector)]


def heat_is_drawn(browser: webdriver.Chrome) -> bool:
    images = browser.find_elements(By.CSS_SELECTOR, "article .heat img")
    return bool(images) and all(
        one.is_displayed() and browser.execute_script("return arguments[0].naturalWidth", one) == 16 for one in images
    )


def drop(browser: webdriver.Chrome, name: str, content: bytes, kind: str = "image/png") -> None:
    target = browser.find_element(By.ID, "drop")
    browser.execute_script(DROP, target, name, kind, base64.b64encode(content).decode())


def test_a_dropped_image_gets_classes_and_a_heat_map(page: webdriver.Chrome, served: Served) -> None:
    drop(page, "<i>light</i>.png", image(255))
    until(page, lambda: heat_is_drawn(page))
    assert texts(page, "article h2") == ["<i>light</i>.png"]
    assert texts(page, "article .label") == ["<b>light</b>", "grün", "dark"]
    assert texts(page, "article .share") == ["98.0%", "1.9%", "0.0%"]
    assert "evidence for <b>light</b> (occlusion)" in text(page, ".heat figcaption")
    assert not page.find_elements(By.CSS_SELECTOR, "article b, article i")
    original = page.find_element(By.CSS_SELECTOR, ".original img")
    assert page.execute_script("return arguments[0].naturalWidth", original) == 20
    before = page.find_element(By.CSS_SELECTOR, ".heat img").get_attribute("src")
    page.find_elements(By.CSS_SELECTOR, "article button")[2].send_keys(Keys.ENTER)  # by keyboard: evidence for dark
    until(page, lambda: heat_is_drawn(page) and "for dark" in text(page, ".heat figcaption"))
    assert page.find_element(By.CSS_SELECTOR, ".heat img").get_attribute("src") != before
    assert [one.get_attribute("aria-pressed") for one in page.find_elements(By.CSS_SELECTOR, "article button")] == [
        "false", "false", "true"
    ]  # fmt: skip
    assert page.get_log("browser") == []
    asked = page.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert all(one.startswith((served.url, "blob:")) for one in asked)


def test_a_map_that_proves_nothing_says_so_beside_it(page: webdriver.Chrome) -> None:
    drop(page, "nearly grey.png", image(136))
    until(page, lambda: heat_is_drawn(page))
    assert text(page, ".heat .caveat") == "a grey image scores as high for this class: no evidence here"
    drop(page, "light.png", image(255))
    until(page, lambda: len(texts(page, "article")) == 2 and heat_is_drawn(page))
    assert texts(page, ".heat .caveat") == ["", "a grey image scores as high for this class: no evidence here"]


def test_chosen_files_and_broken_ones(page: webdriver.Chrome, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("good.png", "broken.png", "large.png")]
    for path, content in zip(paths, (image(0), image(0)[:99], os.urandom(2**21)), strict=True):
        path.write_bytes(content)
    page.find_element(By.ID, "files").send_keys("\n".join(map(str, paths)))
    until(page, lambda: text(page, "#status") == "1 image classified, 2 failed")
    assert texts(page, "article h2") == ["large.png", "broken.png", "good.png"]
    assert texts(page, "article .problem")[:2] == ["larger than the 1 MB that this server accepts", "truncated PNG"]
    assert texts(page, "article .label")[0] == "dark"


@pytest.fixture(scope="module")
def odd() -> Iterator[Served]:
    """Yield a server that takes one file a request and has a class with a lone surrogate."""
    fewer = "small_server.Limits = functools.partial(small_server.Limits, files=1)"
    names = r"small_server.CLASSES = ('dark \udcff', 'light', 'c')"
    code = f"import functools, small_server; {fewer}; {names}; small_server.main()"
    with running([sys.executable, "-c", code, "0", "10", "30"]) as one:
        yield one


def test_each_image_is_a_request_and_any_class_is_explained(
    browser: webdriver.Chrome, odd: Served, tmp_path: Path
) -> None:
    browser.get(odd.url)
    until(browser, lambda: "small" in browser.title)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes(image(0))
    browser.find_element(By.ID, "files").send_keys("\n".join(map(str, paths)))
    until(browser, lambda: text(browser, "#status") == "3 images classified")
    assert len(browser.find_elements(By.TAG_NAME, "article")) == 3
    until(browser, lambda: heat_is_drawn(browser))
    caption = browser.find_element(By.CSS_SELECTOR, ".heat figcaption")  # its driver cannot read a lone surrogate
    said = r"return arguments[0].textContent.startsWith('evidence for dark \udcff (')"
    assert browser.execute_script(said, caption)


def test_it_fits_a_phone_and_the_keyboard_reaches_the_field(page: webdriver.Chrome) -> None:
    page.set_window_size(500, 800)  # as narrow as a headless window gets
    drop(page, f"{'long' * 40}.png", image(255))
    until(page, lambda: heat_is_drawn(page))
    root = "document.documentElement"
    assert page.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    page.get(page.current_url)
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("id") == "files"
    page.set_window_size(1000, 760)
    assert page.execute_script("return getComputedStyle(document.body).fontSize") == "16px"


def test_a_server_that_is_gone_is_said(browser: webdriver.Chrome) -> None:
    with serving() as one:
        browser.get(one.url)
        until(browser, lambda: "3 classes" in text(browser, "#facts"))
        one.stop()
    drop(browser, "a.png", image(0))
    until(browser, lambda: "is it still running?" in text(browser, ".problem"))


@pytest.fixture(params=["", "max_error=0.05, unknown=0.01"], ids=["default", "promise"])
def judged(request: pytest.FixtureRequest) -> Iterator[tuple[Served, bool]]:
    """Yield a server whose model knows what it does not know, and whether it promises anything."""
    patch = f"s.classifier = s.judging; s.service = functools.partial(s.service, {request.param})"
    code = f"import functools, small_server as s; {patch}; s.main()"
    with running([sys.executable, "-c", code, "0", "10", "30"]) as one:
        yield one, bool(request.param)


def test_it_says_in_words_what_it_does_not_know(browser: webdriver.Chrome, judged: tuple[Served, bool]) -> None:
    served, promises = judged
    browser.get_log("browser")  # of earlier tests
    browser.get(served.url)
    until(browser, lambda: "small" in browser.title)
    for count, value in enumerate((0, 100, 128), start=1):
        drop(browser, f"{value}.png", image(value))
        until(browser, lambda count=count: len(texts(browser, ".heat img:not([hidden])")) == count)
    unknown, unsure, answered = texts(browser, "article .verdict")
    assert re.fullmatch(
        r"I do not know this: it looks unlike anything I was trained on\. I would have said .+ \(\d\d\.\d%\)\.", unknown
    )
    assert re.fullmatch(r"I am not sure: dark \(\d\d\.\d%\) or grün \(\d\d\.\d%\)\.", unsure)
    assert answered == ""
    assert len(texts(browser, "article .label")) == 9  # the classes are there in any case
    said = text(browser, "#rule")
    assert "called unknown, and so are about 1% of the others" in said
    assert ("at most 5% of its answers are wrong" in said) == promises
    assert browser.get_log("browser") == []


def test_a_model_without_distances_is_not_said_to_know_them(page: webdriver.Chrome) -> None:
    drop(page, "grey.png", image(128))
    until(page, lambda: heat_is_drawn(page))
    assert texts(page, "article .verdict") == [""]
    assert text(page, "#rule") == "The model always answers with one of its classes, whatever the image shows."
