"""The page in a real browser: upload, transcribe, both texts; and which hosts it is reachable from."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from browsers import chromium

from harness.app import marked, parser
from harness.catalog import ROOT

pytest.importorskip("gradio")


def test_words_of_one_transcript_only_are_marked_and_escaped():
    html = marked("turn <b>on</b> the light", "turn off the light", "ins")
    assert html == '<p class="transcript">turn <ins>&lt;b&gt;on&lt;/b&gt;</ins> the light</p>'
    assert "(no speech)" in marked("", "turn off", "ins")


def test_it_listens_on_this_machine_alone_unless_told():
    assert parser().parse_args(["--study", "x"]).host == "127.0.0.1"


@pytest.fixture(scope="module")
def address(studies, tmp_path_factory):
    """The page of the LoRA study, served by the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("app") / "log.txt"
    command = [sys.executable, "-m", "harness.app", "--study", "lora", "--results", studies.results, "--port", port]
    with log.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(240):
            with socket.socket() as reach:
                if reach.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_upload_transcribe_and_see_both_texts(address, speech_folder, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    clip = next((speech_folder / "test").glob("*.ogg"))
    with chromium(tmp_path / "profile") as browser:
        browser.get("about:blank")
        browser.get_log("performance")  # what a fresh profile did before
        browser.get(address)
        wait = WebDriverWait(browser, 60)
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "input[type=file]"))
        browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(clip))
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "audio, [data-testid*=waveform], .waveform-container"))
        texts = _transcribed(browser)
        assert len(texts) == 2 and all(len(text.split()) > 1 for text in texts)
        assert browser.find_elements(By.CSS_SELECTOR, "#tuned ins") or texts[0] == texts[1]
        requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
        assert [url for url in urls if not url.startswith((address, "data:", "blob:"))] == [], (
            "nothing leaves the machine"
        )
        if pictures := os.environ.get("WHISPER_SWEEP_PICTURES"):
            for width in (1300, 500):
                metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                time.sleep(1)
                browser.save_screenshot(f"{pictures}/app-{width}.png")
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def _transcribed(browser) -> list[str]:
    """Both texts; until the upload behind the waveform is complete the page asks for a file, so click again."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    for _ in range(6):
        browser.find_element("id", "transcribe").click()
        with suppress(TimeoutException):
            return WebDriverWait(browser, 10).until(lambda b: _texts(b) if all(_texts(b)) else None)
    raise AssertionError("no transcripts appeared")


def _texts(browser) -> list[str]:
    script = "return ['tuned', 'untouched'].map(i => document.querySelector('#' + i + ' .transcript')?.innerText ?? '')"
    return browser.execute_script(script)
