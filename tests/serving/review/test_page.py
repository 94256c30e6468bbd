"""The page in a real browser: everything by keyboard, and a kill in the middle loses nothing that was answered."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from examined_folder import CLASSES, excluded, reviewing, rows, write_examined_folder

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its chromedriver is installed")

DECISIONS, KILLED_AFTER = 100, 43


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=1200,900",
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


def press(browser: webdriver.Chrome, *keys: str) -> None:
    ActionChains(browser, duration=0).send_keys(*keys).perform()


def text(browser: webdriver.Chrome, id: str) -> str:
    return browser.find_element(By.ID, id).text


def until(browser: webdriver.Chrome, true: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, 60, poll_frequency=0.01).until(lambda _: true())


def opened(browser: webdriver.Chrome, url: str, decided: str) -> None:
    browser.get(url)
    until(browser, lambda: text(browser, "progress") == f"{decided} decided")


def is_at(browser: webdriver.Chrome, place: str, decided: str) -> None:
    until(browser, lambda: (text(browser, "place"), text(browser, "progress")) == (place, f"{decided} decided"))


def test_a_hundred_decisions_by_keyboard_and_a_kill_in_the_middle(browser: webdriver.Chrome, tmp_path: Path) -> None:
    folder = write_examined_folder(tmp_path, labels=DECISIONS + 5, outliers=0)
    chance = random.Random(7)
    keys = [chance.choice(["k", " ", "r", "x"]) for _ in range(DECISIONS)]
    with reviewing(folder) as (process, url):
        opened(browser, url, "0 of 108")
        press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)  # past the leaks: every key decides about one image
        is_at(browser, "3 of 108", "0 of 108")
        for number, key in enumerate(keys[:KILLED_AFTER], 1):
            press(browser, key)
            until(browser, lambda number=number: text(browser, "progress") == f"{number} of 108 decided")
        process.kill()
        process.wait()
        press(browser, "x")
        until(browser, lambda: "does not answer any more" in text(browser, "problem"))
        assert text(browser, "progress") == f"{KILLED_AFTER} of 108 decided"
    log = folder / "decisions.jsonl"
    with log.open("ab") as stream:
        stream.write(b'{"at": "2026-11-28T08')  # as a kill in the middle of a line leaves it
    with reviewing(folder) as (process, url):
        opened(browser, url, f"{KILLED_AFTER} of 108")
        is_at(browser, "1 of 108", f"{KILLED_AFTER} of 108")
        press(browser, *[Keys.ARROW_RIGHT] * (2 + KILLED_AFTER))
        is_at(browser, f"{3 + KILLED_AFTER} of 108", f"{KILLED_AFTER} of 108")
        press(browser, *keys[KILLED_AFTER:])  # all at once: keys wait for the answer to the one before
        until(browser, lambda: text(browser, "progress") == f"{DECISIONS} of 108 decided")
        process.kill()
    names = [f"train/{CLASSES[n % 2]}/label {n}.png" for n in range(DECISIONS)]
    decided = dict(zip(names, keys, strict=True))
    assert excluded(folder) == [name for name, key in decided.items() if key == "x"]
    others = {"cat": "dog", "dog": CLASSES[2]}
    assert rows(folder / "relabel.csv") == [
        [name, others[name.split("/")[1]]] for name, key in decided.items() if key == "r"
    ]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["decided"][0]["image"] for event in events] == names
    assert set(keys) == {"k", " ", "r", "x"}


def test_a_group_is_marked_by_digits(browser: webdriver.Chrome, tmp_path: Path) -> None:
    folder = write_examined_folder(tmp_path)
    with reviewing(folder) as (_, url):
        opened(browser, url, "0 of 9")
        browser.get_log("browser")
        boxes = browser.find_elements(By.CSS_SELECTOR, "#stage input")
        assert [box.is_selected() for box in boxes] == [True, False]
        assert text(browser, "exclude").startswith("Exclude 1 marked")
        press(browser, "1")
        assert not browser.find_element(By.ID, "exclude").is_enabled()
        press(browser, "x")  # nothing is marked: nothing happens
        press(browser, "2", "x")
        is_at(browser, "2 of 9", "1 of 9")
        assert excluded(folder) == ["test/dog/a.png"]
        press(browser, "1", "2", "x")
        is_at(browser, "3 of 9", "2 of 9")
        assert excluded(folder) == ["test/dog/a.png", "test/dog/b.png"]
        press(browser, "u")
        is_at(browser, "2 of 9", "1 of 9")
        assert (text(browser, "said"), excluded(folder)) == ("train/dog/b.png and 1 more: undone", ["test/dog/a.png"])
        press(browser, Keys.ARROW_LEFT)
        is_at(browser, "1 of 9", "1 of 9")
        assert text(browser, "outcome") == "1 kept, 1 excluded"
        press(browser, *[Keys.ARROW_RIGHT] * 3)
        is_at(browser, "4 of 9", "1 of 9")
        assert text(browser, "change").split() == ["dog", "→", "<b>owl</b>"]
        assert text(browser, "relabel").startswith("Relabel to <b>owl</b>")
        assert browser.find_elements(By.CSS_SELECTOR, "main b, main script") == []
        assert browser.get_log("browser") == []


def test_another_class_is_chosen_by_typing_among_a_thousand(browser: webdriver.Chrome, tmp_path: Path) -> None:
    classes = ["cat", "dog", *(f"class {number:03}" for number in range(997)), "<i>Écru</i>"]
    folder = write_examined_folder(tmp_path, classes=classes)
    with reviewing(folder) as (_, url):
        opened(browser, url, "0 of 9")
        press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        is_at(browser, "3 of 9", "0 of 9")
        press(browser, "k", "c", "9", "9", Keys.ARROW_DOWN, Keys.ENTER)  # without a pause: typed while k is on its way
        is_at(browser, "5 of 9", "2 of 9")
        assert rows(folder / "relabel.csv") == [["train/dog/label 1.png", "class 199"]]
        press(browser, "/")
        until(browser, lambda: browser.find_element(By.ID, "wanted").is_displayed())
        assert "and 940 more; type on" in text(browser, "chooser")
        press(browser, "écru")
        assert [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#found li")] == ["<i>Écru</i>"]
        press(browser, Keys.ESCAPE)
        until(browser, lambda: not browser.find_element(By.ID, "wanted").is_displayed())
        press(browser, "c")
        press(browser, "no such")
        press(browser, Keys.ENTER)
        assert "no such class" in text(browser, "chooser")
        press(browser, *[Keys.BACKSPACE] * 7)
        press(browser, "ÉCRU", Keys.ENTER)
        is_at(browser, "6 of 9", "3 of 9")
        assert rows(folder / "relabel.csv")[-1] == ["train/cat/label 2.png", "<i>Écru</i>"]


def test_buttons_do_what_keys_do_and_help_is_there(browser: webdriver.Chrome, tmp_path: Path) -> None:
    folder = write_examined_folder(tmp_path)

    def click(id: str) -> None:
        browser.find_element(By.ID, id).click()

    with reviewing(folder) as (_, url):
        opened(browser, url, "0 of 9")
        click("next")
        is_at(browser, "2 of 9", "0 of 9")
        click("previous")
        is_at(browser, "1 of 9", "0 of 9")
        browser.find_elements(By.CSS_SELECTOR, "#kinds button")[1].click()  # labels
        is_at(browser, "3 of 9", "0 of 9")
        click("exclude")
        is_at(browser, "4 of 9", "1 of 9")
        press(browser, " ")  # keeps; the button that was clicked has not the focus any more
        is_at(browser, "5 of 9", "2 of 9")
        assert excluded(folder) == ["train/cat/label 0.png"]
        click("undo")
        is_at(browser, "4 of 9", "1 of 9")
        click("relabel")
        is_at(browser, "5 of 9", "2 of 9")
        assert rows(folder / "relabel.csv") == [["train/dog/label 1.png", CLASSES[2]]]
        press(browser, "?")
        assert "undo the last decision" in text(browser, "keys")
        press(browser, "x", Keys.ESCAPE)  # keys decide nothing behind the help
        until(browser, lambda: not browser.find_element(By.ID, "keys").is_displayed())
        is_at(browser, "5 of 9", "2 of 9")
        for _ in range(7):
            press(browser, "k")
        until(browser, lambda: browser.find_element(By.ID, "done").is_displayed())
        assert text(browser, "progress") == "9 of 9 decided"
