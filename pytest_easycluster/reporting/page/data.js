// What the page was given: see rows.py for its form.

const run = JSON.parse(byId("run").textContent);
const words = run.words;

const hosts = run.hosts.map(([name, roles, label, address, clock], number) => ({
  name, roles, label, address, clock, number,
}));

const tests = run.tests.map(([name, word, start, duration, marks, message, worker, attempts], number) => {
  const used = new Map();
  for (let at = 0; at < marks.length; at += 2) used.set(marks[at], words[marks[at + 1]]);
  const cut = name.indexOf("::");
  return {
    number, name, word: words[word], start, duration, used, message, worker, attempts,
    file: cut < 0 ? "" : name.slice(0, cut + 2),
    title: cut < 0 ? name : name.slice(cut + 2),
    // What the text filter looks through.
    text: [name, message, ...[...used.keys()].map((one) => hosts[one].name)].join("\n").toLowerCase(),
  };
});

// Signs tell verdicts apart for those who cannot tell their colours; letters are those of the terminal.
const SIGNS = {
  PASSED: "✓", FAILED: "✗", CRASHED: "C", ERROR: "!", LOST: "L", BUSY: "B", "CUT OFF": "/",
  FLAKY: "↻", XPASSED: "X", XFAILED: "x", SKIPPED: "s", "NOT RUN": "○", USED: "·",
};
const MEANINGS = {
  PASSED: "passed", FAILED: "the product is wrong, or the test", CRASHED: "the far-side process died, its host answers",
  ERROR: "setup, teardown or collection failed", LOST: "the host does not answer", BUSY: "somebody else had the host",
  "CUT OFF": "the run ended in the middle of it", FLAKY: "passed, but only when it was repeated",
  XPASSED: "passed, although it was expected to fail", XFAILED: "failed, as expected", SKIPPED: "skipped",
  "NOT RUN": "the run ended before it", USED: "used by the test, and not at fault",
};
const classOf = (word) => word.replace(" ", "-");
const COLOURS = {
  PASSED: "good", FAILED: "bad", ERROR: "bad", CRASHED: "crash", LOST: "lost", "CUT OFF": "lost", BUSY: "busy",
  FLAKY: "flaky", XPASSED: "flaky", XFAILED: "skip", SKIPPED: "skip", "NOT RUN": "skip", USED: "skip",
};

const badge = (word, more) => make("span", {class: `word ${classOf(word)}`, title: MEANINGS[word]},
  make("span", {class: "sign", "aria-hidden": "true"}, SIGNS[word] || "?"), word + (more || ""));

// The details of a test are read when it is opened.
const known = new Map();
function detailsOf(test) {
  if (!known.has(test.number)) {
    const block = byId(`d${test.number}`);
    known.set(test.number, block ? JSON.parse(block.textContent) : null);
  }
  return known.get(test.number);
}
