// The list of tests with a column for each host.  Only rows that can be seen are in the page.

const list = byId("list");
const HEIGHT = 26;
const BEYOND = 12;
const rowsShown = new Map();
let columns = "";
let wide = 0;
let head = null;
let space = null;
// The row that keys move from; it is also the one that is open, if one is.
let cursor = 0;
let isPrinting = false;

function startList() {
  const mark = hosts.length > 40 ? 17 : 21;
  // The name takes what is left, and no less than can be read; with many hosts the list scrolls sideways.
  wide = 108 + 260 + 80 + hosts.length * mark;
  columns = `108px minmax(260px, 1fr) 80px ${hosts.length ? `repeat(${hosts.length}, ${mark}px)` : ""}`;
  head = make("div", {class: "row top", role: "row", "aria-rowindex": 1},
    make("span", {role: "columnheader"}, "Verdict"), make("span", {role: "columnheader"}, "Test"),
    make("span", {role: "columnheader", class: "time"}, "Time"),
    hosts.map((host) => make("span", {role: "columnheader", class: "at"},
      make("button", {
        type: "button", title: [host.name, host.roles, host.label, host.address].filter(Boolean).join("\n"),
        onclick: () => choose({host: state.host === host.name ? "" : host.name}),
      }, host.name))));
  space = make("div", {class: "space"});
  list.append(head, space);
  list.setAttribute("aria-colcount", String(3 + hosts.length));
  list.addEventListener("scroll", inFrame(showRows), {passive: true});
  new ResizeObserver(inFrame(showRows)).observe(list);
  list.addEventListener("click", (event) => {
    const row = event.target.closest(".row:not(.top)");
    if (row) openAt(Number(row.dataset.at));
  });
  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(list.clientHeight / HEIGHT) - 3);
    const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9};
    if (event.target !== list) return;
    if (event.key in steps) moveTo(cursor + steps[event.key], Boolean(openTest()));
    else if (event.key === "Enter" || event.key === " ") openAt(cursor);
    else return;
    event.preventDefault();
  });
}

function fillRow(at) {
  const test = shown[at];
  const row = make("div", {class: "row", role: "row", id: `r${test.number}`, "data-at": at, "aria-rowindex": at + 2},
    make("span", {role: "gridcell"}, badge(test.word, test.word !== "FLAKY" && test.attempts > 1 ? ` ×${test.attempts}` : "")),
    make("span", {role: "gridcell", class: "name", title: `${test.name}\n${test.message}`},
      make("span", {class: "file"}, test.file), test.title),
    make("span", {role: "gridcell", class: "time"}, test.start === null ? "" : spanText(test.duration)));
  for (const [host, word] of test.used) {
    row.append(make("span", {
      role: "gridcell", class: `mark ${classOf(word)}`, "aria-label": `${hosts[host].name}: ${word}`,
      "aria-colindex": 4 + host, title: `${hosts[host].name}: ${word}`, style: {gridColumn: String(4 + host)},
    }, SIGNS[word]));
  }
  row.style.gridTemplateColumns = columns;
  return row;
}

function showRows() {
  const top = head.offsetHeight;
  const first = isPrinting ? 0 : clamp(Math.floor((list.scrollTop - top) / HEIGHT) - BEYOND, 0, shown.length);
  const last = isPrinting ? shown.length
    : clamp(Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + BEYOND, first, shown.length);
  for (const [at, row] of rowsShown) {
    if (at < first || at >= last) {
      row.remove();
      rowsShown.delete(at);
    }
  }
  const width = `${Math.max(wide, list.clientWidth)}px`;
  head.style.width = width;
  const open = openTest();
  const fresh = [];
  for (let at = first; at < last; at++) {
    let row = rowsShown.get(at);
    if (!row) {
      row = fillRow(at);
      rowsShown.set(at, row);
      fresh.push(row);
      row.style.top = `${top + at * HEIGHT}px`;
    }
    if (row.style.width !== width) row.style.width = width;
    const isChosen = open ? shown[at] === open : at === cursor;
    if (row.classList.contains("chosen") !== isChosen) {
      row.classList.toggle("chosen", isChosen);
      row.setAttribute("aria-selected", String(isChosen));
    }
  }
  space.append(...fresh);
  if (shown[cursor]) list.setAttribute("aria-activedescendant", `r${shown[cursor].number}`);
}

// After a change of the filters.
function renewList() {
  for (const row of rowsShown.values()) row.remove();
  rowsShown.clear();
  space.textContent = "";
  head.style.gridTemplateColumns = columns;
  space.style.height = `${shown.length * HEIGHT}px`;
  list.setAttribute("aria-rowcount", String(shown.length + 1));
  if (!shown.length) {
    space.append(make("p", {class: "none"}, tests.length ? "No test fits these filters." : "No test has run."));
  }
  const at = shown.indexOf(openTest());
  cursor = at >= 0 ? at : clamp(cursor, 0, Math.max(0, shown.length - 1));
  showRows();
}

function scrollToRow(at) {
  const top = at * HEIGHT;
  const room = list.clientHeight - head.offsetHeight;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + HEIGHT > list.scrollTop + room) list.scrollTop = top + HEIGHT - room;
}

function moveTo(at, isOpened) {
  if (!shown.length) return;
  cursor = clamp(at, 0, shown.length - 1);
  scrollToRow(cursor);
  if (isOpened) choose({test: shown[cursor].id});
  showRows();
}

function openAt(at) {
  if (!shown[at]) return;
  cursor = at;
  choose({test: shown[at].id, t: ""}, true);
  showRows();
}

// From where the cursor is to the next test that somebody has to look at.
function nextWrong(step) {
  const count = shown.length;
  const from = openTest() ? cursor : cursor - step;
  for (let far = 1; far <= count; far++) {
    const at = (((from + far * step) % count) + count) % count;
    if (run.wrong.includes(shown[at].word)) {
      cursor = at;
      scrollToRow(at);
      choose({test: shown[at].id, t: ""}, true);
      showRows();
      return;
    }
  }
}
