"""The app in a real browser: Chromium without a window, driven by Selenium. It takes the pictures of docs/demo.md.

pip install "diffusers-autonat[app]" selenium; apt-get install chromium chromium-driver
SCREENSHOTS=docs/images python -m pytest -m slow tests/demo/test_app.py
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from diffusers_autonat import AutoNATPipeline


pytest.importorskip("gradio", reason="the app's extra is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "model_cards" / "autonat-fashion-mnist"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"),
]
HOSTILE = "<img src=x onerror=\"document.title='run'\"> **bold** [a](javascript:alert(1))"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1450"):
        options.add_argument(argument)
    options.add_argument("--enable-unsafe-swiftshader")  # the editor draws with WebGL, and there is no GPU
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def serve():
    """Start the app as a user does; gives its address."""
    started = []

    def start(pipeline, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, str(ROOT / "demo" / "app.py"), str(pipeline), "--port", str(port), *options]
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started.append(process)
        address = f"http://127.0.0.1:{port}/"
        for _ in range(240):
            try:
                urllib.request.urlopen(address).read()
                return address
            except OSError:
                assert process.poll() is None, process.stdout.read().decode()
                time.sleep(0.5)
        raise AssertionError("the app does not answer")

    yield start
    for process in started:
        process.terminate()
        process.wait()


class Page:
    """What a visitor sees and does."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.all("#generate"))
        self.wait(lambda: self.all("#schedules img"))  # drawn when the page has loaded

    def wait(self, seen):
        stale = [StaleElementReferenceException]  # what has been drawn anew meanwhile
        return WebDriverWait(self.browser, 60, ignored_exceptions=stale).until(lambda _: seen())

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.wait(lambda: self.all(selector))[0]

    def sees(self, selector):
        return any(one.is_displayed() for one in self.all(selector))

    def click(self, selector):
        self.wait(lambda: self.sees(selector))
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.one(selector))
        self.one(selector).click()

    def choose(self, group, text):
        """An option of a group of radio buttons."""
        label = next(one for one in self.all(f"#{group} label") if one.text.strip() == text)
        label.click()

    def tab(self, name):
        next(one for one in self.all("button[role=tab]") if one.text == name).click()

    def source(self, selector):
        return self.one(f"{selector} img").get_attribute("src")

    @property
    def said(self):
        return self.one("#said textarea").get_attribute("value")

    def run(self, button):
        """Press it, and what it says when it is done."""
        before = self.said
        self.click(button)
        self.wait(lambda: self.said != before)
        time.sleep(1.5)  # images are fetched
        return self.said

    def screenshot(self, name, folder):
        self.browser.execute_script("window.scrollTo(0, 0)")
        time.sleep(0.5)
        (folder / f"{name}.png").write_bytes(self.browser.get_screenshot_as_png())


def test_generate_change_the_strategy_and_inpaint(browser, serve, tmp_path):
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    page = Page(browser, serve(SHIPPED))

    page.click("#what input")
    page.wait(
        lambda: next((one for one in page.all("#what [role=option]") if one.text.strip() == "Ankle boot"), None)
    ).click()
    said = page.run("#generate")
    assert said.startswith("4 images in 8 steps: ") and said.endswith("Seed 0.")
    assert len(page.all("#images .grid-container img")) == 4
    assert {one.text for one in page.all("#images .caption-label")} == {"Ankle boot"}
    page.screenshot("demo-generate", folder)
    stored, schedules = page.source("#images"), page.source("#schedules")

    page.choose("kind", "Heuristic")
    page.wait(lambda: page.source("#schedules") != schedules)  # without a new image
    page.wait(lambda: page.sees("#lambda") and not page.sees("#stored-steps"))
    assert not page.sees("#guidance_scales-first")
    said = page.run("#generate")
    assert said.startswith("4 images in 8 steps") and page.source("#images") != stored

    page.choose("kind", "Own curves")
    page.wait(lambda: page.sees("#guidance_scales-first"))
    schedules = page.source("#schedules")
    slider = page.one("#guidance_scales-last input[type=range]")
    ActionChains(browser).click_and_hold(slider).move_by_offset(-30, 0).release().perform()
    page.wait(lambda: page.source("#schedules") != schedules)
    page.run("#generate")
    page.screenshot("demo-curves", folder)

    page.choose("kind", "Stored with the model")
    page.click("#send")
    time.sleep(1)
    page.tab("Inpaint")
    canvas = page.one("#editor canvas")
    time.sleep(4)
    side = canvas.size["height"] // 2
    stroke = (
        ActionChains(browser, duration=60).move_to_element_with_offset(canvas, -side // 3, side // 3).click_and_hold()
    )
    for across in (20, 20, 20, 20, 20, 20, 20, -30, -30, -30, -30):
        stroke.move_by_offset(across, -6)
    stroke.release().perform()
    said = page.run("#inpaint")
    assert said.startswith("4 images in 8 steps")
    assert len(page.all("#inpainted .grid-container img")) == 4
    page.screenshot("demo-inpaint", folder)


def test_what_cannot_be_done_is_said(browser, serve):
    page = Page(browser, serve(SHIPPED, "--max-images", "2"))
    page.tab("Inpaint")
    page.click("#inpaint")
    page.wait(lambda: page.sees(".toast-body") and "There is no image yet" in page.one(".toast-body").text)
    page.tab("Generate")
    assert page.run("#generate").startswith("2 images")  # four are shown at first where so many are allowed


def test_names_are_shown_as_text(browser, serve, tmp_path):
    pipe = AutoNATPipeline.from_pretrained(SHIPPED)
    pipe = AutoNATPipeline(pipe.vqvae, pipe.transformer, pipe.scheduler, pipe.id2label | {0: HOSTILE})
    folder = tmp_path / "<img src=x onerror=document.title=0>"
    pipe.save_pretrained(folder)
    page = Page(browser, serve(folder))
    page.run("#generate")
    assert {one.text for one in page.all("#images .caption-label")} == {HOSTILE}
    assert page.one("#what input").get_attribute("value") == HOSTILE
    page.click("#what input")
    page.wait(lambda: any(one.text.endswith(HOSTILE) for one in page.all("#what [role=option]")))
    page.one("#what input").send_keys("<img src=x onerror=document.title=1>\n")
    assert "<img" in page.one("h1").text
    assert browser.title == "AutoNAT" and not page.all("img[onerror]") and not page.all('a[href^="javascript"]')
