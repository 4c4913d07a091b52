// The test that is open: verdict, lanes, counters, tracebacks, output, files.

const detail = byId("detail");
let opened = null;

// A traceback, with the lines that say what was wrong standing out.
function traceback(text) {
  const node = make("pre", {tabindex: 0});
  for (const line of text.split("\n")) {
    const kind = /^E\s/.test(line) ? "e" : /^\S+:\d+: /.test(line) || /^\s*File "/.test(line) ? "at" : null;
    node.append(kind ? make("span", {class: kind}, line) : line, "\n");
  }
  return node;
}

// Long text is put into the page when somebody opens it.
function foldable(title, text, isOpen) {
  const fill = (node) => {
    if (node.children.length === 1) node.append(make("pre", {tabindex: 0}, text));
  };
  const node = make("details", {ontoggle: (event) => event.target.open && fill(event.target)},
    make("summary", null, title, " ", make("span", {class: "hint"}, plural(text.split("\n").length - (text.endsWith("\n") ? 1 : 0), "line"))));
  if (isOpen) {
    fill(node);
    node.open = true;
  }
  return node;
}

// Sections that the plugin adds about a failure: they are read before all that was printed.
const NOTES = ["Machine or product", "Since the last green run", "Chaos", "Changed since the recording"];

function attemptNodes(attempt, number, many) {
  const found = [];
  if (many > 1) found.push(make("h3", null, `Attempt ${number + 1} of ${many}: `, badge(attempt.word)));
  for (const [name, text] of attempt.sections) {
    if (NOTES.includes(name)) found.push(make("div", {class: "fault note"}, make("b", null, name), make("pre", null, text)));
  }
  for (const phase of attempt.phases) {
    for (const [host, where, what, more] of phase.faults) {
      found.push(make("div", {class: "fault"}, make("b", null, host), where && where !== host ? ` (${where})` : "", `: ${what}`,
        more ? make("pre", null, more) : null));
    }
    if (phase.text) {
      const on = phase.on.length ? ` on ${phase.on.join(", ")}` : "";
      found.push(make("h3", null, badge(phase.word), ` in ${phase.when}${on}`), traceback(phase.text));
    }
  }
  if (attempt.subtests.length) {
    found.push(make("h3", null, "Subtests"), make("table", null, make("tbody", null, attempt.subtests.map(([name, word, text]) =>
      make("tr", null, make("td", null, badge(word)), make("td", null, name), make("td", {class: "what"}, text ? foldable("what was wrong", text) : ""))))));
  }
  const printed = attempt.sections.filter(([name]) => !NOTES.includes(name));
  if (printed.length) {
    found.push(make("h3", null, "Output"));
    const isOpen = printed.length === 1 || run.wrong.includes(attempt.word);
    found.push(...printed.map(([name, text]) => foldable(name, text, isOpen && text.length < 4000)));
  }
  return found;
}

function fileNodes(details) {
  const rows = details.artifacts.map(([host, name, target, size, why]) => make("tr", null,
    make("td", null, host),
    make("td", null, target ? make("a", {href: target, target: "_blank", rel: "noopener noreferrer"}, name) : name),
    make("td", {class: "num"}, size ? sizeText(size) : ""), make("td", null, why)));
  if (details.trace) {
    rows.push(make("tr", null, make("td"), make("td", null,
      make("a", {href: details.trace, download: true}, "Trace"), " (open it in ui.perfetto.dev)"), make("td"), make("td")));
  }
  return rows.length ? [make("h3", null, "Files"), make("table", null, make("tbody", null, rows))] : [];
}

function clockText2(details) {
  const parts = Object.entries(details.clocks).map(([host, [offset, error]]) =>
    `${host} ${offset < 0 ? "−" : "+"}${spanText(Math.abs(offset))} ± ${spanText(error)}`);
  return parts.length ? `Times are those of the controller; clocks of hosts were put right by: ${parts.join(", ")}.` : "";
}

function copyButton(text, label) {
  return make("button", {
    type: "button", onclick: async (event) => {
      const button = event.currentTarget;
      try {
        await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed here";
      }
      setTimeout(() => (button.textContent = label), 1500);
    },
  }, label);
}

function laneNodes(details, timeline) {
  const phases = details.attempts.flatMap((attempt) => attempt.phases).filter((phase) => phase.start !== null);
  const ends = [
    ...details.events.map((event) => event[TIME] + (event[LENGTH] || 0)), ...phases.map((phase) => phase.start + phase.duration),
    ...details.series.map((one) => one.points[one.points.length - 1][0]),
  ];
  const canvas = make("canvas", {
    class: "lane", tabindex: 0, role: "img",
    "aria-label": `${plural(details.events.length, "event")} on ${plural(details.hosts.length, "host")}; the table of events below ` +
      "has the same. Arrows move, plus and minus zoom, 0 shows all.",
  });
  const lanes = makeLanes(canvas, details, phases, timeline.pick);
  const [plots, still] = plotsOf(details);
  const last = phases.length ? Math.max(...phases.map((phase) => phase.start + phase.duration)) : Math.max(1, ...ends);
  view.reset(0, Math.max(1, ...ends), [details.start, last], [lanes, ...plots.map(([, drawing]) => drawing)]);
  const tool = (text, label, action) => make("button", {type: "button", "aria-label": label, title: label, onclick: action}, text);
  const counters = plots.map(([figure]) => figure);
  if (still.length) counters.push(make("p", {class: "hint"}, `Did not change: ${still.join(", ")}.`));
  return [lanes, [
    make("div", {class: "bar"}, tool("−", "Zoom out", () => view.zoom(1 / 1.5)), tool("+", "Zoom in", () => view.zoom(1.5)),
      tool("All", "Show all of the test", () => view.fit()),
      make("span", {class: "hint"}, "Drag over a stretch to zoom in; Shift and drag to move; Ctrl and wheel; double click for all")),
    canvas,
  ], counters];
}

function showDetail() {
  const test = openTest();
  if (test === opened) return;
  opened = test;
  showTip("");
  document.body.classList.toggle("open", Boolean(test));
  detail.hidden = !test;
  detail.replaceChildren();
  view.followers = [];
  if (!test) return;
  const details = detailsOf(test);
  const close = make("button", {type: "button", "aria-label": "Close the test", onclick: closeTest}, "Close");
  detail.append(
    make("div", {class: "title"}, make("h2", {tabindex: -1}, test.name),
      make("div", {class: "tools"}, copyButton(() => location.href, "Copy link"), close)),
    make("div", {class: "chips"}, badge(test.word), test.start === null ? null : make("span", null, spanText(test.duration)),
      test.worker ? make("span", null, `worker ${test.worker}`) : null,
      [...test.used].map(([host, word]) => make("span", {class: "key"}, hosts[host].name,
        hosts[host].roles ? ` (${hosts[host].roles})` : "", badge(word)))));
  if (!details || !details.attempts.length) {
    detail.append(make("p", null, "This test has not run: the run ended before it."));
    return;
  }
  if (test.message) detail.append(make("p", {class: "message"}, test.message));
  let lanes = null;
  let counters = [];
  const timeline = makeTimeline(details, (at) => lanes && lanes.pick(at));
  if (details.hosts.length && (details.events.length || details.series.length)) {
    const [drawing, nodes, plots] = laneNodes(details, timeline);
    lanes = drawing;
    counters = plots;
    detail.append(make("h3", null, "What happened on which host"), ...nodes);
    const left = details.left_out ? `${details.left_out.toLocaleString("en")} more events are not shown here. ` : "";
    const bad = details.unread ? `${details.unread} parts of the evidence could not be read. ` : "";
    detail.append(make("p", {class: "hint"}, left + bad + clockText2(details)));
  }
  const attempts = details.attempts.map((one, number) => [one, number]).reverse();
  detail.append(...attempts.flatMap(([one, number]) => attemptNodes(one, number, details.attempts.length)));
  if (counters.length) detail.append(make("h3", null, "Counters"), ...counters);
  detail.append(...fileNodes(details));
  if (lanes) detail.append(make("h3", null, "Events"), ...timeline.nodes);
  if (details.again) {
    detail.append(make("h3", null, "Same hosts again"), make("pre", {tabindex: 0}, details.again), copyButton(details.again, "Copy"));
  }
  if (details.properties.length) {
    detail.append(make("h3", null, "Properties"), make("table", null, make("tbody", null,
      details.properties.map(([name, value]) => make("tr", null, make("td", {class: "mono"}, name), make("td", {class: "what"}, value))))));
  }
  detail.scrollTop = 0;
  for (const one of view.followers) {
    drawings.add(one);
    one.draw();
  }
  readStretch();
}

// The stretch of time that a link names.
function readStretch() {
  const [from, to] = state.t.split("~").map(Number);
  if (state.t && Number.isFinite(from) && Number.isFinite(to) && to > from) view.show(from, to);
}

function closeTest() {
  choose({test: "", t: ""}, true);
  list.focus({preventScroll: true});
}
