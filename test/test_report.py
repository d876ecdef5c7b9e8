"""--report: a page that needs nothing else, and what a browser shows of it."""

from __future__ import annotations

import dataclasses
import html
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hauling import haul, refused, unchanged
from lab import Host, Lab, workloads
from PIL import Image

from phaul.report_page import FROZEN, Report, Span, page

CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
WIDTH, HEIGHT = 1100, 900
MADE = Report(
    head={"haul": "x", "haul_type": "docker", "subject": "web", "target": "b", "mode": "auto", "version": "1"},
    began=0,
    seconds=4.0,
    here=(Span("check", 0, 0.3, 0), Span("freeze", 3.0, 3.1, 7), Span("release", 3.1, 3.2, 0)),
    there=(Span("restore", 3.1, 3.15, 0),),
    frozen=3.0,
    released=3.2,
    said=(("choice", "Expected <b>downtime</b> & more"), ("error", "It failed.")),
    facts={
        **{"downtime": 0.2, "dependent": 0.0, "total": 4.0, "sent": 99, "by_kind": {"image": 0, "memory": 99}},
        **{"content": 99, "codec": ""},
    },
    failed=False,
)


class Seen(HTMLParser):
    """Its tags are closed, and it asks for nothing from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.boxes: dict[str, dict[str, str | None]] = {}
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert not {"src", "href", "onload"} & named.keys() and tag not in ("script", "link", "img", "iframe")
        if tag == "rect":
            self.boxes[named.get("id") or f"box{len(self.boxes)}"] = named
        if tag not in ("meta", "rect"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_all_of_it_is_on_the_page() -> None:
    seen = Seen(page(MADE))
    for words in (
        "Moved to b",
        "web (docker)",
        "200 ms",
        "freeze",
        "restore",
        "Expected <b>downtime</b> & more",
        "99 B",
    ):
        assert words in seen.text, words
    assert "image" not in seen.text  # nothing of it was sent
    assert "url(" not in page(MADE) and "//" not in page(MADE)


def test_the_downtime_has_the_middle() -> None:
    for frozen, released in ((3.0, 3.2), (0.1, 0.11), (1.0, 3.9)):
        box = Seen(page(dataclasses.replace(MADE, frozen=frozen, released=released))).boxes["downtime"]
        left, width = float(box["x"] or 0), float(box["width"] or 0)
        assert 350 < left < 450 and 250 < width < 300


def test_what_was_not_frozen_or_not_released() -> None:
    facts = {**MADE.facts, "downtime": None, "dependent": None}
    untouched = dataclasses.replace(MADE, frozen=None, released=None, facts=facts, failed=True)
    assert "downtime" not in Seen(page(untouched)).boxes and "Not moved to b" in Seen(page(untouched)).text
    broken = dataclasses.replace(MADE, released=None, facts=facts, failed=True)
    assert "frozen 1000 ms" in Seen(page(broken)).text
    assert "Not moved" in Seen(page(dataclasses.replace(broken, head={}, here=(), there=(), seconds=0.0))).text


@pytest.mark.parametrize("word", ["<script>alert(1)</script>", '"><img src=x>', "&lt;"])
def test_nothing_in_it_is_markup(word: str) -> None:
    head = {**MADE.head, "subject": word, "target": word, "notes": [word]}
    text = page(dataclasses.replace(MADE, head=head, here=(Span(word, 0, 1, 0),), said=(("note", word),)))
    assert Seen(text).text.count(word) >= 4 and text.count(html.escape(word)) >= 4


# Of real hauls


@pytest.mark.parametrize("mode", ["auto", "postcopy"])
def test_a_browser_shows_the_timeline(served: Lab, tmp_path: Path, mode: str) -> None:
    a, b = served.hosts
    workloads.memhog(a, "hog", mib=64)
    haul(a, "docker", "hog", b.ip, "--mode", mode, "--report", "/root/report.html")
    seen = Seen(report_of(a))
    for words in ("Moved to", "hog (docker)", "freeze", "restore", "release", "memory", "Expected downtime"):
        assert words in seen.text, words
    if not shutil.which("chromium"):
        pytest.skip("there is no chromium on this machine, and it could not be installed")
    picture = looked_at(report_of(a), tmp_path)
    frozen = columns_of(picture, FROZEN)
    # The middle third of the picture, which begins behind the names of the hosts.
    assert WIDTH * 0.3 < min(frozen) < WIDTH * 0.5 < max(frozen) < WIDTH * 0.75
    assert len(frozen) > WIDTH * 0.2
    for colour, left_of_it in (("#1d4ed8", True), ("#15803d", False)):
        found = columns_of(picture, colour)
        assert found and (min(found) < min(frozen)) is left_of_it


def test_a_haul_that_fails_has_one_too(served: Lab) -> None:
    a, b = served.hosts
    a.docker("run", "-dt", "--name", "bad", "busybox", "sleep", "1000")
    refused(haul(a, "docker", "bad", b.ip, "--report", "/root/report.html", check=False), "tty")
    seen = Seen(report_of(a))
    assert "Not moved to" in seen.text and "[tty]" in seen.text


@pytest.mark.parametrize("path", ["/root", "/no/such/place.html", ""])
def test_where_it_cannot_be_written(served: Lab, path: str) -> None:
    a, b = served.hosts
    workloads.counter(a, "count")
    with unchanged(a, b):
        refused(haul(a, "docker", "count", b.ip, "--report", path, check=False), "report-file", 2)


def report_of(host: Host) -> str:
    return host.path("/root/report.html").read_text()


def looked_at(text: str, where: Path) -> Image.Image:
    (where / "report.html").write_text(text)
    shot = where / "shot.png"
    command = (*CHROMIUM, f"--user-data-dir={where / 'profile'}", f"--window-size={WIDTH},{HEIGHT}")
    page_there = (where / "report.html").as_uri()
    subprocess.run([*command, f"--screenshot={shot}", page_there], check=True, timeout=120, capture_output=True)
    return Image.open(shot).convert("RGB")


def columns_of(picture: Image.Image, colour: str) -> list[int]:
    """Where there is anything of it."""
    wanted = tuple(bytes.fromhex(colour[1:]))
    pixels = picture.load()
    assert pixels
    width, height = picture.size
    return [x for x in range(width) if any(pixels[x, y] == wanted for y in range(0, height, 2))]
