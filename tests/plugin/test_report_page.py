"""The page in a real Chromium: opened, filtered, clicked, zoomed, linked to, in both themes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from support.chromium import Chromium
from support.pages import HOSTILE, make_page

from pytest_easycluster.reporting.ending import Ending

TESTS, HOSTS = 120, 6

ROWS = "[...document.querySelectorAll('.row:not(.top)')].map((row) => row.querySelector('.word').textContent.trim())"
SHOWN = "document.querySelector('#count').textContent"
OPEN = "document.querySelector('#detail h2')?.textContent"

# Contrast of every text with what is behind it, as WCAG 2 counts it; the lowest of what is below 4.5.
CONTRAST = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const rgb = parse(getComputedStyle(one).backgroundColor);
      if (rgb.length === 3 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const hidden = node.closest("script, noscript, option, [hidden], :disabled") || !node.getClientRects().length;
    if (hidden || !walker.currentNode.data.trim()) continue;
    const two = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    const ratio = (two[0] + 0.05) / (two[1] + 0.05);
    if (ratio < 4.5) found.set(`${node.tagName}.${node.className}`, ratio.toFixed(2));
  }
  return [...found].map((one) => one.join(" "));
})()
"""


@pytest.fixture(scope="module")
def browser():
    # A profile with its sockets wants a short path.
    with tempfile.TemporaryDirectory(prefix="ec-page-") as folder, Chromium(Path(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "lab.html"
    make_page(path, TESTS, HOSTS)
    return path


@pytest.fixture
def tab(browser, page):
    found = browser.open(page)
    yield found
    complaints = found.complaints()
    found.close()
    assert complaints == []


def test_filters_narrow_the_list_and_are_in_the_address(tab):
    assert tab.value(SHOWN) == f"{TESTS} tests"

    tab.click("#words button[data-word=FAILED]")
    failed = tab.value(ROWS)
    assert set(failed) == {"✗FAILED"}
    assert tab.value("location.hash") == "#verdict=FAILED"

    tab.click("#words button[data-word=LOST]")
    assert set(tab.value(ROWS)) == {"✗FAILED", "LLOST"}
    assert tab.value("location.hash") == "#verdict=FAILED,LOST"

    tab.click("#clear")
    tab.press("/")
    tab.type("test_7[")
    assert tab.value(SHOWN) == f"1 of {TESTS} tests"
    assert tab.value("location.hash") == "#q=test_7%5B"

    tab.press("Escape")
    tab.click("#clear")
    tab.value(
        "(() => { const one = document.querySelector('#role'); one.value = 'san'; "
        "one.dispatchEvent(new Event('change')); })()"
    )
    hosts = tab.value("[...document.querySelectorAll('.row:not(.top) .mark')].length > 0")
    assert hosts
    assert re.fullmatch(rf"\d+ of {TESTS} tests", tab.value(SHOWN))


def test_a_test_opens_with_its_lanes_and_closes_again(tab):
    tab.click("#words button[data-word=FAILED]")
    tab.click(".row:not(.top) .name")

    shown = tab.text("#detail")
    assert "ValueError: 3 is not 4" in shown
    assert "What happened on which host" in shown
    assert tab.value("document.querySelectorAll('#detail canvas.plot').length") == 3
    assert tab.value("document.querySelector('#detail a[href$=\"dmesg.txt\"]').getAttribute('href')").startswith("./")

    tab.press("Escape")
    assert tab.value("document.querySelector('#detail').hidden")
    tab.value("history.back()")
    tab.wait("!document.querySelector('#detail').hidden")


def test_keys_go_from_one_test_that_is_wrong_to_the_next(tab):
    tab.press("n")
    first = tab.value(OPEN)
    tab.press("n")
    second = tab.value(OPEN)
    tab.press("p")

    assert HOSTILE in first
    assert "test_1[" in second
    assert tab.value(OPEN) == first
    tab.press("j")
    assert tab.value(OPEN) == second
    tab.press("?")
    assert tab.value("document.querySelector('#keys').open")
    tab.press("Escape")
    assert not tab.value("document.querySelector('#keys').open")


def test_a_stretch_of_a_lane_is_zoomed_into_and_can_be_linked_to(browser, page, tab):
    tab.press("n")
    tab.drag("#detail canvas.lane", (0.4, 0.5), (0.6, 0.5))
    address = tab.wait("location.hash.includes('&t=') && location.hash")
    start, end = map(float, re.search(r"&t=([\d.]+)~([\d.]+)", address).groups())
    assert 100 < end - start < 600  # of the 1.3 s of the test

    other = browser.open(page, address)
    assert other.value(OPEN) == tab.value(OPEN)
    other.settle()
    assert other.value("location.hash") == address
    # It can be zoomed by keys as well, back to all that there is.
    other.value("document.querySelector('#detail canvas.lane').focus()")
    other.press("0")
    other.wait("location.hash.includes('&t=0~')")
    assert other.complaints() == []
    other.close()


def test_the_pointer_over_a_lane_says_what_happened_and_a_click_finds_it_in_the_events(tab):
    tab.press("n")
    # A call of the first lane; where exactly it lies is for the page to say.
    found = None
    for step in range(12, 100, 2):
        tab.hover("#detail canvas.lane", step / 100, 0.3)
        if not tab.value("document.querySelector('#tip').hidden"):
            found = step / 100
            break
    assert found is not None
    said = tab.text("#tip")
    assert re.match(r"\w+: call at [\d.]+ s, took [\d.]+ \w+\ncall number \d+", said), said

    tab.click("#detail canvas.lane", found, 0.3)
    assert said.splitlines()[1].strip() in tab.text("#detail .events tr.chosen")


def test_the_overview_opens_the_test_that_is_clicked(tab):
    step = (1 - 110 / tab.value("document.querySelector('#map').clientWidth")) / TESTS
    test = 5
    left = 1 - step * (TESTS - test - 0.5)
    name = tab.value("JSON.parse(document.querySelector('#run').textContent).tests[5]")
    line = (name[4][0] + 0.5) / HOSTS
    tab.click("#map", left, line)
    assert tab.value(OPEN) == name[0]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read_in_both_themes(tab, dark):
    tab.colours(dark)
    tab.press("n")
    assert tab.value("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert tab.value(CONTRAST) == []


def test_the_theme_can_be_chosen_whatever_the_system_has(tab):
    tab.colours(dark=True)
    tab.wait("document.documentElement.dataset.theme === 'dark'")
    before = tab.value("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme-button")  # from system to light
    assert tab.value("document.documentElement.dataset.theme") == "light"
    assert tab.value("getComputedStyle(document.body).backgroundColor") != before
    tab.value("localStorage.clear()")


def test_nothing_that_a_host_has_said_becomes_part_of_the_page(tab):
    for _ in range(4):
        tab.press("n")
        tab.value("document.querySelectorAll('#detail details').forEach((one) => { one.open = true; })")
        tab.settle()
        assert HOSTILE in tab.value("document.querySelector('#detail').textContent")
    assert HOSTILE in tab.value("document.title")
    assert tab.value("document.images.length") == 0
    assert tab.value("document.scripts.length") == TESTS + 2
    # And if something did, it would not run.
    tab.value("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert tab.value("window.ran === undefined")
    refused = [one for one in tab.complaints() if "Content Security Policy" in one]
    assert len(refused) == 1
    tab.forget_complaints()


def test_only_rows_that_are_seen_are_in_the_page_but_all_are_printed(tab):
    assert tab.value("document.querySelectorAll('.row').length") < 70
    tab.value("document.querySelector('#list').scrollTop = 1e6")
    tab.settle()
    assert tab.value("[...document.querySelectorAll('.row:not(.top)')].some((row) => row.dataset.at === '119')")
    tab.value("dispatchEvent(new Event('beforeprint'))")
    assert tab.value("document.querySelectorAll('.row:not(.top)').length") == TESTS
    tab.ask("Emulation.setEmulatedMedia", media="print")
    assert tab.value("document.querySelector('#list').getBoundingClientRect().height") > TESTS * 26
    tab.ask("Emulation.setEmulatedMedia", media="")
    tab.value("dispatchEvent(new Event('afterprint'))")
    assert tab.value("document.querySelectorAll('.row').length") < 70


def test_a_page_of_a_run_that_was_interrupted_says_so_first(browser, tmp_path):
    path = tmp_path / "lab.html"
    make_page(path, 9, 2, ending=Ending(interrupted="SIGTERM", cut_off=1, not_run=12))

    tab = browser.open(path)

    said = "Incomplete: the run was interrupted (SIGTERM); 1 test was cut off; 12 have not run"
    assert tab.text("#state") == said
    assert tab.complaints() == []
    tab.close()


def test_without_scripts_the_counts_and_what_went_wrong_are_there(browser, page):
    tab = browser.open(page)
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    tab.go(page.as_uri() + "?again")
    shown = tab.text("body")
    assert "no heartbeat for 15 s" in shown
    tab.close()
