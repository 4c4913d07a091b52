"""The page of a large run, measured in a real Chromium:  python -m tests.pages --tests 2000 --hosts 32

A box of hosts is made, and pytest runs a suite on them with ``-n 2`` and ``--ec-report``; in the middle one host loses
its power.  The page is opened, filtered, scrolled and clicked, and the figures are printed; ``--pictures FOLDER`` keeps
what was seen.  ``--made`` measures a page of a run that never was, ``--page FILE`` one that is there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Shared parts of the tests are imported as ``support``.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.chromium import Chromium
from support.pages import Page, make_page

HERE = Path(__file__).resolve().parent

# Milliseconds until an action has returned, and until what it changed has been drawn.
MEASURE = """(async () => {{
  const begin = performance.now();
  {action};
  const returned = performance.now();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return [returned - begin, performance.now() - begin];
}})()"""

SCROLL = """(async () => {
  const list = document.querySelector("#list");
  const frames = [];
  let last = performance.now();
  for (let step = 0; step < 120; step++) {
    list.scrollTop = step * list.scrollHeight / 120;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  frames.sort((one, two) => one - two);
  list.scrollTop = 0;
  return [frames[60], frames[114]];
})()"""

ZOOM = """(async () => {
  const canvas = document.querySelector("#detail canvas.lane");
  const frames = [];
  let last = performance.now();
  for (let step = 0; step < 60; step++) {
    canvas.dispatchEvent(new KeyboardEvent("keydown", {key: step < 30 ? "+" : "-", bubbles: true}));
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  frames.sort((one, two) => one - two);
  return [frames[30], frames[57]];
})()"""

ACTIONS = (
    (
        "filter by text",
        "const box = document.querySelector('#text'); box.value = '1'; box.dispatchEvent(new Event('input'))",
    ),
    ("show all again", "document.querySelector('#clear').click()"),
    ("filter by verdict", "document.querySelector('#words button').click()"),
    ("show all again", "document.querySelector('#clear').click()"),
    (
        "sort by verdict",
        "const box = document.querySelector('#order'); box.value = 'worst'; box.dispatchEvent(new Event('change'))",
    ),
    ("open a test", "document.querySelectorAll('.row:not(.top)')[0].click()"),
    ("the next that is wrong", "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'n', bubbles: true}))"),
    ("change the theme", "document.querySelector('#theme-button').click()"),
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.pages", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tests", type=int, default=2000, help="how many (%(default)s)")
    parser.add_argument("--hosts", type=int, default=32, help="of the box (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of pytest-xdist (%(default)s)")
    parser.add_argument("--made", action="store_true", help="run nothing: a page of made data")
    parser.add_argument("--page", type=Path, help="run nothing: this page")
    parser.add_argument("--out", type=Path, help="folder for the page, the traces and what was collected")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the page")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="ec-pages-") as folder:
        out = (options.out or Path(folder) / "out").resolve()
        out.mkdir(parents=True, exist_ok=True)
        path: Path = (options.page or out / "lab.html").resolve()
        if options.made:
            make_page(path, options.tests, options.hosts)
        elif options.page is None:
            run(options, out, path)
        page = Page(path)
        counts = ", ".join(f"{count} {word}" for word, count in page.run["counts"].items())
        print(f"{len(page.run['tests'])} tests on {len(page.run['hosts'])} hosts: {counts}")
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n")
        with Chromium(Path(folder) / "profile", size=(1400, 1000)) as browser:
            wrong = measure(browser, path)
            if options.pictures:
                take_pictures(browser, path, page, options.pictures)
    for one in wrong:
        print(one, file=sys.stderr)
    return bool(wrong)


def run(options: argparse.Namespace, out: Path, page: Path) -> None:
    """Run the suite on a box."""
    from easycluster.labbox import LabBox

    sans = max(1, options.hosts // 8)
    names = [f"gpu[01:{options.hosts - sans:02}]", f"san[01:{sans:02}]"]
    root = HERE.parents[1]
    with LabBox(names, share=[root]) as box:
        gpus = options.hosts - sans
        each = max(1, options.tests * 95 // 100 // gpus)
        environment = {
            **os.environ,
            "EC_PAGES_EACH": str(each),
            "EC_PAGES_PAIRS": str(max(1, options.tests - each * gpus)),
            "EC_PAGES_SANS": str(sans),
            "EC_PAGES_BOX": str(box.folder),
            "EC_PAGES_VICTIM": f"gpu{min(7, gpus):02}",
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:timeout", "--noconftest"]
        command += [f"--rootdir={HERE}", "-c", os.devnull, "-n", str(options.workers)]
        command += [f"--ec-inventory={one}" for one in (HERE / "roles.yaml", box.inventory)]
        command += [f"--ec-report={page}", f"--ec-trace={out / 'traces'}", str(HERE / "suite.py")]
        begin = time.monotonic()
        with open(out / "pytest.txt", "w+b") as log:
            done = subprocess.run(
                command, cwd=out, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
            print(f"pytest ended with {done.returncode} after {time.monotonic() - begin:.0f} s; it said last:")
            log.seek(-min(log.seek(0, os.SEEK_END), 300), os.SEEK_END)
            print(log.read().decode(errors="replace").rstrip().splitlines()[-1], flush=True)


def measure(browser: Chromium, path: Path) -> list[str]:
    """Print the figures; returns what the browser complains of."""
    before = browser.worked()
    tab = browser.open(path)
    tab.settle()
    begin = "performance.getEntriesByType('navigation')[0]"
    print("| | returned after | drawn after | processor time |\n|---|--:|--:|--:|")
    interactive, complete = (tab.value(f"{begin}.{word}") for word in ("domInteractive", "domComplete"))
    worked = 1000 * (browser.worked() - before)
    print(f"| load the page | {interactive:.0f} ms | {complete:.0f} ms | {worked:.0f} ms |")
    for what, action in ACTIONS:
        before = browser.worked()
        returned, drawn = tab.value(MEASURE.format(action=action))
        tab.settle()
        worked = 1000 * (browser.worked() - before)
        print(f"| {what} | {returned:.0f} ms | {drawn:.0f} ms | {worked:.0f} ms |")
    print("\n| one frame of | median | 95 of 100 | processor time |\n|---|--:|--:|--:|")
    frames = [("scrolling through all tests in 120 frames", SCROLL, 120)]
    if tab.value("document.querySelector('#detail canvas.lane') !== null"):
        frames.append(("zooming a lane", ZOOM, 60))
    for what, script, count in frames:
        before = browser.worked()
        median, most = tab.value(script)
        worked = 1000 * (browser.worked() - before) / count
        print(f"| {what} | {median:.0f} ms | {most:.0f} ms | {worked:.0f} ms |")
    complaints = tab.complaints()
    tab.value("localStorage.clear()")
    tab.close()
    return complaints


def take_pictures(browser: Chromium, path: Path, page: Page, folder: Path) -> None:
    """The whole run in light, and a test that failed in dark."""
    folder.mkdir(parents=True, exist_ok=True)
    size = {"width": 1240, "height": 860, "deviceScaleFactor": 1, "mobile": False}
    tab = browser.open(path)
    tab.ask("Emulation.setDeviceMetricsOverride", **size)
    tab.picture(folder / "report.png")
    tab.close()
    failed = [row for row in page.run["tests"] if page.run["words"][row[1]] == "FAILED"]
    # The one that tells most: on two hosts, if there is one.
    failed.sort(key=lambda row: (-len(row[4]), row[2]))
    tab = browser.open(path, f"#verdict=FAILED&test={failed[0][0]}" if failed else "", dark=True)
    tab.ask("Emulation.setDeviceMetricsOverride", **size)
    tab.value("document.querySelector('#panes').scrollIntoView()")
    tab.picture(folder / "report_test.png")
    tab.close()


if __name__ == "__main__":
    sys.exit(main())
