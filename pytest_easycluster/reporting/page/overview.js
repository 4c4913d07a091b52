// All tests on all hosts at one glance: a line for each host, from left to right as the tests ran.
// The height of a mark says as much as its colour.

const map = byId("map");
const NAMES = 110;
// Height of a mark in shares of its line, and what is drawn last where marks share a pixel.
const MARKS = {
  USED: [0.15, 0], PASSED: [0.35, 1], "NOT RUN": [0.1, 0], SKIPPED: [0.15, 1], XFAILED: [0.25, 1], XPASSED: [0.5, 2],
  FLAKY: [0.6, 3], BUSY: [0.7, 4], "CUT OFF": [0.7, 4], LOST: [0.8, 5], ERROR: [1, 6], CRASHED: [1, 7], FAILED: [1, 8],
};

function mapLines() {
  const lines = hosts.map((one) => ({host: one.number, name: one.name}));
  if (tests.some((test) => !test.used.size)) lines.push({host: -1, name: "(no host)"});
  return lines;
}

const overview = {
  canvas: map,
  stays: true,
  lines: mapLines(),
  height: 0,
  draw() {
    this.height = hosts.length > 12 ? 10 : 16;
    const [pen, width] = prepared(map, this.lines.length * this.height + 4);
    const step = (width - NAMES) / Math.max(tests.length, 1);
    const inView = new Set(shown);
    const open = openTest();
    pen.textBaseline = "middle";
    pen.font = `${Math.min(11, this.height - 1)}px system-ui, sans-serif`;
    this.lines.forEach((line, at) => {
      const top = 2 + at * this.height;
      pen.fillStyle = colour("text");
      pen.globalAlpha = !state.host || state.host === line.name ? 1 : 0.45;
      pen.fillText(line.name.length > 18 ? `${line.name.slice(0, 17)}…` : line.name, 4, top + this.height / 2);
      if (at % 2) {
        pen.globalAlpha = 1;
        pen.fillStyle = colour("raised");
        pen.fillRect(NAMES, top, width - NAMES, this.height);
      }
    });
    const marks = [];
    for (const test of tests) {
      if (!test.used.size) marks.push([test, this.lines.length - 1, test.word]);
      for (const [host, word] of test.used) marks.push([test, host, word]);
    }
    marks.sort((one, two) => MARKS[one[2]][1] - MARKS[two[2]][1]);
    for (const [test, line, word] of marks) {
      const [share, weight] = MARKS[word];
      pen.globalAlpha = inView.has(test) ? 1 : 0.12;
      pen.fillStyle = colour(COLOURS[word]);
      const tall = Math.max(1, (this.height - 1) * share);
      const left = NAMES + test.number * step;
      pen.fillRect(left, 2 + line * this.height + this.height - tall, Math.max(step * 0.9, weight > 3 ? 2 : 0.8), tall);
    }
    pen.globalAlpha = 1;
    if (open) {
      pen.strokeStyle = colour("text");
      pen.lineWidth = 1;
      pen.strokeRect(Math.round(NAMES + (open.number + 0.5) * step) - 0.5, 1, 1, this.lines.length * this.height + 2);
    }
  },
  // The test and the line at a place of the canvas; near it, the worst of a few.
  at(event) {
    const box = map.getBoundingClientRect();
    const step = (box.width - NAMES) / Math.max(tests.length, 1);
    const line = this.lines[Math.floor((event.clientY - box.top - 2) / this.height)];
    const x = event.clientX - box.left - NAMES;
    if (!line) return [null, null];
    if (x < 0) return [null, line];
    const middle = x / step;
    const reach = Math.max(0.5, 2 / step);
    let found = null;
    let best = [-1, Infinity];
    for (let number = Math.ceil(middle - 0.5 - reach); number <= middle - 0.5 + reach; number++) {
      const test = tests[number];
      const word = test && (line.host < 0 ? !test.used.size && test.word : test.used.get(line.host));
      if (!word) continue;
      const rank = [MARKS[word][1], Math.abs(number + 0.5 - middle)];
      if (rank[0] > best[0] || (rank[0] === best[0] && rank[1] < best[1])) [found, best] = [test, rank];
    }
    return [found, line];
  },
};

function startOverview() {
  drawings.add(overview);
  const of = hosts.length ? `${plural(tests.length, "test")} on ${plural(hosts.length, "host")}` : plural(tests.length, "test");
  map.setAttribute("role", "img");
  map.setAttribute("aria-label", `${of}; the list below has the same. Left and right go from one that is wrong to the next.`);
  byId("map-hint").textContent = `${of}, from left to right as they ran: the taller a mark, the worse. ` +
    "Click a mark to open its test, the name of a host to see its tests only.";
  map.addEventListener("mousemove", (event) => {
    const [test, line] = overview.at(event);
    const word = test && line && (line.host < 0 ? test.word : test.used.get(line.host));
    showTip(test ? `${line.name}: ${word}\n${test.name}\n${test.message}` : "", event.clientX, event.clientY);
  });
  map.addEventListener("mouseleave", () => showTip(""));
  map.addEventListener("click", (event) => {
    const [test, line] = overview.at(event);
    if (test) choose({test: test.id}, true);
    else if (line && line.host >= 0 && event.clientX - map.getBoundingClientRect().left < NAMES) {
      choose({host: state.host === line.name ? "" : line.name});
    }
  });
  map.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      nextWrong(event.key === "ArrowRight" ? 1 : -1);
      event.preventDefault();
    }
  });
}
