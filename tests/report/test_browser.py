"""The page in a real browser, headless: figures are there, nothing overflows, the console stays silent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from surge_sweeps.report.write import write_report

from .conftest import Case

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason="no chromium to look at the page with: apt-get install chromium"
    ),
]

#: Goes into a copy of the page: collects complaints, presses every choice, then tells the frame around it.
PROBE = """<script>
const complaints = [];
addEventListener("error", (event) => complaints.push(String(event.message)));
addEventListener("unhandledrejection", (event) => complaints.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => complaints.push(event.blockedURI));
for (const level of ["error", "warn"]) console[level] = (...words) => complaints.push(words.join(" "));
addEventListener("load", async () => {
  const rest = (time) => new Promise((done) => setTimeout(done, time));
  const shown = () => [...document.querySelectorAll(".plot")].filter((plot) => plot.offsetParent);
  for (let turn = 0; turn < 100 && !shown().every((plot) => plot.dataset.drawn); turn += 1) await rest(100);
  const first = shown().map((plot) => plot.querySelectorAll(".main-svg").length);
  document.querySelectorAll(".choices button:first-child").forEach((button) => button.click());
  for (let turn = 0; turn < 100 && !shown().every((plot) => plot.dataset.drawn); turn += 1) await rest(100);
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  await rest(200);
  parent.postMessage({
    complaints, first, chosen: shown().map((plot) => plot.querySelectorAll(".main-svg").length),
    page: document.documentElement.scrollWidth, window: innerWidth,
    wide: shown().filter((plot) => plot.scrollWidth > plot.clientWidth + 1).map((plot) => plot.id),
  }, "*");
});
</script>"""


def look(case: Case, folder: Path, width: int) -> dict[str, Any]:
    page = write_report(*case, folder)[0].read_text(encoding="utf-8")
    (folder / "probed.html").write_text(page.replace("<head>", f"<head>{PROBE}"), encoding="utf-8")
    # A window cannot be as narrow as a phone, a frame can.
    (folder / "frame.html").write_text(
        '<p id="found">nothing</p><script>addEventListener("message", (event) => '
        '{ document.getElementById("found").textContent = JSON.stringify(event.data); });</script>'
        f'<iframe src="probed.html" style="width:{width}px;height:30000px;border:0"></iframe>'
    )
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1400,30200", "--virtual-time-budget=30000",
        "--dump-dom", (folder / "frame.html").as_uri(),
    ]  # fmt: skip
    dump = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<p id="found">(.*?)</p>', dump, re.DOTALL)
    assert found is not None, dump[:2000]
    result: dict[str, Any] = json.loads(unescape(found.group(1)))
    return result


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_draws(demo: Case, tmp_path: Path, width: int) -> None:
    found = look(demo, tmp_path, width)
    assert found["complaints"] == []
    assert found["window"] == width
    assert found["page"] <= width
    assert found["wide"] == []
    assert len(found["first"]) == len(found["chosen"]) == 16
    assert min(found["first"] + found["chosen"]) >= 1


def test_hostile_names_run_nothing_and_fit(hostile: Case, tmp_path: Path) -> None:
    found = look(hostile, tmp_path, 390)
    assert found["complaints"] == []
    assert found["page"] <= 390


def test_an_empty_report_opens(empty: Case, tmp_path: Path) -> None:
    found = look(empty, tmp_path, 390)
    assert (found["complaints"], found["first"]) == ([], [])
    assert found["page"] <= 390
