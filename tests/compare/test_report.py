"""The report in a real browser, and the table in pdflatex. What is missing skips, but fails under CI's variable."""

import json
import subprocess
from pathlib import Path

import pytest
from browsers import chromium, needed


@pytest.fixture
def report(compared, study, tmp_path) -> Path:
    """The report of a board with a system that has a hostile name and hostile texts."""
    texts = ["<img src=x onerror=alert(1)></script><script>alert(2)</script>", "سلام عليكم", "", "again " * 10_000]
    texts += [u["reference"] for u in study.utterances[4:]]
    rows = [{"id": u["id"], "hypothesis": t} for u, t in zip(study.utterances, texts, strict=True)]
    path = tmp_path / "api.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compared("--add", f"<b>API</b>={path}").folder / "report.html"


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "profile") as opened:
        yield opened


def column(browser, name: str) -> list[str]:
    script = "return [...document.querySelectorAll('#board tbody tr')].filter(r => !r.hidden).map(r => r.querySelector('td.' + arguments[0]).textContent)"
    return browser.execute_script(script, name)


def test_the_report_works_and_asks_nothing_of_a_network(browser, report):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    browser.get("about:blank")
    browser.get_log("performance")  # what a fresh profile did before
    browser.get(report.as_uri())
    # the table sorts
    ranks = column(browser, "rank")
    assert ranks == sorted(ranks, key=int)
    heading = next(b for b in browser.find_elements(By.CSS_SELECTOR, "#board th button") if b.text == "#")
    heading.click()
    heading.click()
    assert column(browser, "rank") == ranks[::-1]
    # the filter filters
    box = browser.find_element(By.ID, "filter")
    box.send_keys("tutorial")
    assert column(browser, "system") == ["tutorial"]
    box.clear()
    box.send_keys(" ")
    # all columns on request
    shown = "return [...document.querySelectorAll('#board th')].filter(c => !c.hidden).length"
    few = browser.execute_script(shown)
    browser.find_element(By.ID, "all").click()
    assert browser.execute_script(shown) > few
    # the Pareto answers a hover
    assert not browser.find_element(By.ID, "tip").is_displayed()
    points = browser.find_elements(By.CSS_SELECTOR, "circle.point")
    assert len(points) == 3
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[0])
    ActionChains(browser).move_to_element(points[0]).perform()
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed() and "WER" in tip.text
    # hostile texts are texts
    assert "<b>API</b>" in column(browser, "system")
    Select(browser.find_element(By.ID, "second")).select_by_visible_text("<b>API</b>")
    assert browser.find_elements(By.CSS_SELECTOR, ".utterance .ins")
    assert browser.find_elements(By.CSS_SELECTOR, ".utterance .sub")
    assert not browser.find_elements(By.CSS_SELECTOR, "#utterances img, #board b")
    find = browser.find_element(By.ID, "find")
    find.send_keys("onerror")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".utterance")) == 1
    assert "<img" in browser.find_element(By.CSS_SELECTOR, ".utterance").text
    # nothing left the file, nothing was complained of
    assert browser.get_log("browser") == []
    requests = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if json.loads(entry["message"])["message"]["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith(("data:", report.as_uri()))] == []


def test_a_narrow_screen_does_not_scroll_sideways(browser, report):
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(report.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400


DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}\usepackage{textcomp,booktabs,siunitx}
\begin{document}\input{leaderboard.tex}\end{document}
"""


@pytest.mark.parametrize("preset", ["short", "paper", "cost", "full"])
def test_pdflatex_sets_the_table(compared, study, tmp_path, preset):
    (pdflatex,) = needed("pdflatex")
    path = tmp_path / "api.jsonl"
    path.write_text("".join(json.dumps({"id": u["id"], "hypothesis": "x"}) + "\n" for u in study.utterances))
    name = r"50% & more_$\x^~#{}<|>`'\"" + "\u0e01 \u0645 Å"
    folder = compared("--no-figures", "--columns", preset, "--add", f"{name}={path}").folder
    (folder / "main.tex").write_text(DOCUMENT)
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (folder / "main.log").read_text(errors="replace")
