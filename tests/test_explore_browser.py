"""The page in a real browser, as a person uses it: no console error, and no request leaves the machine."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mlvae
from mlvae.explore.session import Session

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@contextmanager
def served(session: Session) -> Iterator[str]:
    """The address of a page over a session."""
    import socket

    from mlvae.explore.app import app

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app(session), log_level="error"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    torch.manual_seed(0)
    data = mlvae.read("digits").subset(slice(0, 400))
    model = mlvae.MLVAE.for_data(data, content_dim=4, style_dim=3, width=16)
    mlvae.fit(model, data, epochs=2)
    with served(Session(model, data, source="digits")) as place:
        yield place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=120_000)
        yield browser
        browser.close()


class Opened:
    """A page, what it complained of and what it asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=yes]")
        self.address = address

    def until(self, expression: str, argument: Any = None) -> None:
        """Waits for an expression; Playwright's own waiting evaluates text, which the page's policy forbids."""
        stop = time.monotonic() + 60
        while not self.page.evaluate(expression, argument):
            assert time.monotonic() < stop, expression
            time.sleep(0.01)

    def variance(self, count: str) -> float:
        """What the tray says, once it says it of `count` observations."""
        self.until(f"document.getElementById('evidence').textContent.startsWith('{count}')")
        return float(self.page.inner_text("#evidence").split("content ")[1].split(" ")[0])

    def keep(self, name: str) -> None:
        """A screenshot, where somebody wants to look."""
        if folder := os.environ.get("MLVAE_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def close(self, allowed: int = 0) -> None:
        outside = [url for url in self.requests if not url.startswith((self.address, "data:"))]
        assert outside == []
        assert len(self.complaints) == allowed, self.complaints
        self.page.close()


def test_a_persons_visit(browser: Any, address: str, tmp_path: Path) -> None:
    opened = Opened(
        browser, address, viewport={"width": 1280, "height": 900}, color_scheme="light", accept_downloads=True
    )
    page = opened.page
    assert opened.variance("0 observations") == 1
    page.select_option("#group", "3")
    page.wait_for_selector("#members button[aria-label$='of 3']")

    # Evidence is added, by click, by keyboard and by dragging, and taken out again.
    page.locator("#members button").nth(0).click()
    first = opened.variance("1 observation:")
    page.locator("#members button").nth(1).focus()
    page.keyboard.press("Enter")
    page.locator("#members button").nth(2).drag_to(page.locator("#tray"))
    third = opened.variance("3 observations")
    assert third < first < 1
    page.locator("#tray button").nth(2).click()
    assert third < opened.variance("2 observations") < first

    page.click("#identify")
    page.wait_for_selector("#groups li")
    assert page.locator("#groups li").count() == 5
    page.click("#expect")
    page.wait_for_selector("#expected img")

    # Two observations: swap, slide.
    page.check("input[value=a]")
    page.locator("#members button").nth(3).click()
    page.select_option("#group", "7")
    page.wait_for_selector("#members button[aria-label$='of 7']")
    page.check("input[value=b]")
    page.locator("#members button").nth(0).click()
    page.wait_for_selector("#between img")
    page.click("#swap")
    page.wait_for_selector("#swapped figure:nth-child(2)")
    before = page.get_attribute("#between img", "src")
    page.locator("#share").fill("0.9")
    opened.until("old => document.querySelector('#between img').src !== old", before)
    page.locator("#value").fill("2.5")
    page.wait_for_selector("#walked img")
    assert page.inner_text("#at") == "2.5"

    # Generated with a seed, the same again; downloaded, with its lines.
    page.fill("#seed", "4")
    page.click("#generate")
    page.wait_for_selector("#generated img:nth-child(1)")
    with page.expect_download() as download:
        page.locator("#generated a").first.click()
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "generated-1.png" and Image.open(saved).width >= 8
    page.locator("#generated button").first.click()
    assert "model.generate(8, seed=4)" in page.inner_text("#code")
    page.keyboard.press("Escape")
    opened.keep("explore-light")
    opened.close()


def test_uploads_good_and_bad(browser: Any, address: str) -> None:
    opened = Opened(browser, address)
    page = opened.page
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "white").save(file, "PNG")
    page.set_input_files("#upload", {"name": "mine.png", "mimeType": "image/png", "buffer": file.getvalue()})
    assert opened.variance("1 observation:") < 1
    page.set_input_files("#upload", {"name": "bad.png", "mimeType": "image/png", "buffer": b"not a picture"})
    opened.until("document.getElementById('message').textContent.includes('bad.png: Expected')")
    assert "a PNG or JPEG picture" in page.locator("#message").inner_text()
    assert page.locator("#tray button").count() == 1
    # The browser itself notes the refused upload, and nothing else.
    assert all("400" in complaint for complaint in opened.complaints)
    opened.close(allowed=1)


def test_rows_of_a_table_by_keyboard(browser: Any, tmp_path: Path) -> None:
    """A stranger's table: sent, a bad one refused, its rows picked and walked, all of it said in words."""
    torch.manual_seed(0)
    (tmp_path / "people.csv").write_text(
        "who,height,weight,hand\n" + "\n".join(f"{i % 4},{150 + i % 7},{50 + i / 3},{'ab'[i % 2]}" for i in range(40))
    )
    data = mlvae.read(tmp_path / "people.csv", by="who", features="height,weight,hand")
    model = mlvae.MLVAE.for_data(data, content_dim=4, style_dim=3, width=8)
    with served(Session(model, data, source="people.csv")) as place:
        opened = Opened(browser, place, viewport={"width": 1280, "height": 900}, color_scheme="light")
        page = opened.page
        assert "columns by name: height, weight, hand" in page.inner_text("#upload-note")
        mine = b"hand,weight,height\nb,61,171\nc,,160\n"
        page.set_input_files("#upload", {"name": "mine.csv", "mimeType": "text/csv", "buffer": mine})
        assert opened.variance("2 observations") < 1
        said = "mine.csv: 2 observations, 2 of their values unknown to the model or missing, in the tray."
        opened.until("said => document.getElementById('message').textContent === said", said)
        assert page.input_value("#group") == "" and "your own (2)" in page.inner_text("#group")
        wrong = {"name": "bad.csv", "mimeType": "text/csv", "buffer": b"hand,weight\nb,61\n"}
        page.set_input_files("#upload", wrong)
        opened.until("document.getElementById('message').textContent.includes(\"bad.csv: Expected the columns\")")
        assert page.locator("#tray button").count() == 2

        page.locator("#members button[aria-label='Observation 40 of your own']").wait_for()
        page.locator("input[value=tray]").focus()
        page.keyboard.press("ArrowDown")  # makes it A
        page.locator("#members button").nth(0).focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#walked img[alt^='walk from A: height 1']")
        assert page.inner_text("#message") == ""
        page.select_option("#group", "3")
        page.wait_for_selector("#members button[aria-label$='of 3']")
        opened.keep("explore-table")
        assert all("400" in complaint for complaint in opened.complaints)
        opened.close(allowed=1)


def test_of_many_groups_one_is_found(browser: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlvae.explore.session.LISTED", 4)
    opened = Opened(browser, address, viewport={"width": 360, "height": 740})
    page = opened.page
    names = "[...document.getElementById('group').options].map(o => o.value).join()"
    assert page.evaluate(names) == "0,1,2,3" and "of 10 groups" in page.inner_text("#summary")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    file = io.BytesIO()
    Image.new("L", (8, 8), "white").save(file, "PNG")
    page.set_input_files("#upload", {"name": "mine.png", "mimeType": "image/png", "buffer": file.getvalue()})
    opened.variance("1 observation:")
    page.fill("#find", "7")
    page.wait_for_selector("#members button[aria-label$='of 7']")
    assert page.evaluate(names) == ",7" and page.input_value("#group") == "7"
    page.fill("#find", "nobody")
    opened.until("document.getElementById('message').textContent === 'No group has that in its name.'")
    page.fill("#find", "")
    page.wait_for_selector("#members button[aria-label$='of 0']")
    assert page.evaluate(names) == ",0,1,2,3" and page.inner_text("#message") == ""
    opened.keep("explore-many")
    opened.close()
    monkeypatch.undo()
    opened = Opened(browser, address)
    assert opened.page.is_hidden("#find")
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens_in_light_and_dark(scheme: Any, browser: Any, address: str) -> None:
    opened = Opened(browser, address, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = opened.page
    page.locator("#members button").nth(0).click()
    opened.variance("1 observation:")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    named = "e.ariaLabel || e.labels?.length || e.textContent.trim()"
    unnamed = f"[...document.querySelectorAll('button, input, select')].filter(e => !({named})).length"
    assert page.evaluate(unnamed) == 0
    assert page.evaluate("[...document.images].every(i => i.hasAttribute('alt'))")
    opened.keep(f"explore-{scheme}-small")
    opened.close()


def test_a_slider_follows(browser: Any, address: str) -> None:
    """Every step of the slider ends in its own picture; how fast is measured in benchmarks, never here."""
    opened = Opened(browser, address)
    page = opened.page
    page.check("input[value=a]")
    page.locator("#members button").nth(0).click()
    seen = set()
    for value in ("-2", "-1", "1", "2"):
        before = page.locator("#walked img").get_attribute("src") if page.locator("#walked img").count() else ""
        page.locator("#value").fill(value)
        opened.until("old => (document.querySelector('#walked img')?.src ?? '') !== old", before)
        seen.add(page.locator("#walked img").get_attribute("src"))
    assert len(seen) == 4
    opened.close()
