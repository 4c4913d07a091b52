// Everything that happened on all hosts, in the order of time: what the lanes show, in words.

const MOST_LINES = 400;

function makeTimeline(details, onPick) {
  const kinds = [...new Set(details.events.map((event) => event[KIND]))];
  const wanted = new Set(kinds);
  const body = make("tbody");
  const more = make("button", {type: "button"});
  const rows = new Map();
  let limit = MOST_LINES;

  function line(event, at) {
    const cells = [
      make("td", {class: "num mono"}, momentText(event[TIME] - details.start, 1000)),
      make("td", null, details.hosts[event[HOST]] || "run"),
      make("td", {class: isBad(event) ? "FAILED" : isWarning(event) ? "LOST" : null}, event[LEVEL] ? `${event[KIND]} ${event[LEVEL]}` : event[KIND]),
      make("td", {class: "num"}, event[LENGTH] !== null ? spanText(event[LENGTH]) : event[KIND] === "call" ? "not ended" : ""),
      make("td", {class: "what mono"}, event[TEXT]),
    ];
    const row = make("tr", {"data-at": at, tabindex: -1}, cells);
    rows.set(at, row);
    return row;
  }

  function renew() {
    rows.clear();
    const found = details.events.map((event, at) => [event, at]).filter(([event]) => wanted.has(event[KIND]));
    body.replaceChildren(...found.slice(0, limit).map(([event, at]) => line(event, at)));
    more.hidden = found.length <= limit;
    more.textContent = `Show all ${found.length.toLocaleString("en")}`;
  }
  more.addEventListener("click", () => {
    limit = Infinity;
    renew();
  });

  const pick = (at) => {
    if (!rows.has(at)) {
      limit = Infinity;
      wanted.add(details.events[at][KIND]);
      for (const box of boxes) box.querySelector("input").checked = wanted.has(box.dataset.kind);
      renew();
    }
    for (const row of rows.values()) row.classList.remove("chosen");
    const row = rows.get(at);
    row.classList.add("chosen");
    const frame = row.closest(".events");
    if (frame) frame.scrollTop = row.offsetTop - frame.clientHeight / 3;
  };
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) {
      pick(Number(row.dataset.at));
      onPick(Number(row.dataset.at));
    }
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const next = {ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling}[event.key];
    if (next) next.focus();
    else if (event.key === "Enter") row.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const boxes = kinds.map((kind) => make("label", {class: "key", "data-kind": kind}, make("input", {
    type: "checkbox", checked: true,
    onchange: (event) => {
      if (event.target.checked) wanted.add(kind);
      else wanted.delete(kind);
      renew();
    },
  }), `${kind} (${details.events.filter((event) => event[KIND] === kind).length})`));
  renew();
  if (body.firstChild) body.firstChild.tabIndex = 0;
  const heads = [["Time", "num"], ["Host"], ["Kind"], ["Took", "num"], ["What"]];
  return {
    pick,
    nodes: [
      make("div", {class: "bar"}, boxes),
      make("div", {class: "events", role: "region", "aria-label": "Events", tabindex: 0},
        make("table", null, make("thead", null, make("tr", null, heads.map(([text, kind]) => make("th", {class: kind, scope: "col"}, text)))), body)),
      more,
    ],
  };
}
