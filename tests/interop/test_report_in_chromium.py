"""A report in a real browser: its charts are drawn, in light and dark, wide and narrow."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from scenario.report.charts import draw
from scenario.report.page import page
from scenario.report.palette import COLOURS
from tests.scenario.report_world import result

pytestmark = [
    pytest.mark.interop, pytest.mark.slow, pytest.mark.needs_tool("chromium"),
    pytest.mark.timeout(180),
]  # fmt: skip
LANES = ("faults", "nodes", "regions", "exposed", "latency", "throughput", "hosts")
# Added for the test only: where the browser has put each lane, and how much it drew there.
PROBE = """<script>
const told = {};
for (const lane of document.querySelectorAll('g[id]')) {
  const box = lane.getBoundingClientRect();
  told[lane.id] = [box.width, box.height, lane.querySelectorAll('path').length];
}
told.page = [document.documentElement.scrollWidth, innerWidth, 0];
document.body.setAttribute('data-told', JSON.stringify(told));
</script>"""


def chromium(path: Path, *options: str, width: int, dark: bool = False) -> str:
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={path.parent / 'profile'}", f"--window-size={width},2400",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}", *options, path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page(result(), draw), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "end"), [(1180, "w"), (500, "n")])
def test_every_chart_is_laid_out_and_none_is_wider_than_the_window(
    report: Path, width: int, end: str
) -> None:
    text = re.sub(r"<meta http-equiv[^>]*>", "", report.read_text())
    report.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    shown = re.search(r'data-told="([^"]*)"', chromium(report, "--dump-dom", width=width))
    assert shown is not None
    told = json.loads(unescape(shown[1]))
    for lane in LANES:
        wide, high, paths = told[f"{lane}-{end}"]
        assert wide > width * 0.6, (lane, wide)
        assert high > 20, (lane, high)
        assert paths >= 3, (lane, paths)
        assert told[f"{lane}-{'n' if end == 'w' else 'w'}"][0] == 0, "the other width is hidden"
    assert told["page"][0] <= told["page"][1]


@pytest.mark.parametrize("dark", [False, True])
def test_colours_of_what_happened_are_seen_on_the_screen(report: Path, dark: bool) -> None:
    picture = report.with_suffix(".png")
    chromium(report, f"--screenshot={picture}", width=1180, dark=dark)
    pixels = (matplotlib.image.imread(picture)[..., :3] * 255).round().astype(np.int64)
    shown = np.unique(
        pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2], return_counts=True
    )
    counts = dict(zip(shown[0].tolist(), shown[1].tolist(), strict=True))

    def seen(name: str) -> int:
        return counts.get(int(COLOURS[name][dark][1:], 16), 0)

    assert seen("page") > 100_000
    for name in ("ink", "fault-process", "node0", "node1", "node2", "bad", "good"):
        assert seen(name) > 50, (name, seen(name))
