// A lane for each host: calls as bars, and below them marks for logs, lines of the kernel and output.

const BAR = 15;
const MARK_LINE = 14;
const PHASES = 18;

// Where in the list of events the parts of one are.
const TIME = 0, HOST = 1, KIND = 2, LENGTH = 3, TEXT = 4, LEVEL = 5;
const isBad = (event) => event[LEVEL] === "ERROR" || event[LEVEL] === "CRITICAL";
const isWarning = (event) => event[LEVEL] === "WARNING" || event[LEVEL] === "WARN";
const isBar = (event) => event[KIND] === "call" || (event[LENGTH] !== null && event[KIND] !== "phase");
// A call that had not ended when the test had has no length: it lasts until everything has.
const lengthOf = (event) => (event[LENGTH] !== null ? event[LENGTH] : event[KIND] === "call" ? Math.max(0, view.end - event[TIME]) : 0);

// Calls at once lie one above the other.
function stacked(calls) {
  const ends = [];
  const rows = calls.map((event) => {
    let row = ends.findIndex((end) => end <= event[TIME]);
    if (row < 0) row = ends.length;
    ends[row] = event[LENGTH] === null ? Infinity : event[TIME] + event[LENGTH];
    return row;
  });
  return [rows, Math.max(ends.length, 1)];
}

function laneColour(event) {
  if (isBad(event)) return colour("bad");
  if (isWarning(event)) return colour("lost");
  return colour({call: "call", kernel: "kernel", output: "output"}[event[KIND]] || "log");
}

function makeLanes(canvas, details, phases, onPick) {
  const lanes = details.hosts.map((name, host) => {
    const mine = details.events.map((event, at) => [event, at]).filter(([event]) => event[HOST] === host);
    const bars = mine.filter(([event]) => isBar(event)).sort((one, two) => one[0][TIME] - two[0][TIME]);
    const marks = mine.filter(([event]) => !isBar(event) && event[KIND] !== "phase");
    const [rows, deep] = stacked(bars.map(([event]) => event));
    return {name, role: details.roles[host], bars, marks, rows, deep: Math.min(deep, 6), height: 0, top: 0};
  });
  let below = PHASES + 2;
  for (const lane of lanes) {
    lane.top = below;
    lane.height = lane.deep * BAR + (lane.marks.length ? MARK_LINE : 0) + 8;
    below += lane.height;
  }
  const bottom = below;
  let picked = -1;
  let spots = [];

  function drawMark(pen, event, x, top) {
    const high = MARK_LINE - 4;
    pen.fillStyle = laneColour(event);
    pen.beginPath();
    if (isBad(event)) {
      pen.moveTo(x, top);
      pen.lineTo(x + 5, top + high);
      pen.lineTo(x - 5, top + high);
    } else if (isWarning(event)) {
      pen.moveTo(x, top);
      pen.lineTo(x + 4, top + high / 2);
      pen.lineTo(x, top + high);
      pen.lineTo(x - 4, top + high / 2);
    } else if (event[KIND] === "kernel") pen.rect(x - 3, top + 2, 7, 7);
    else if (event[KIND] === "output") pen.rect(x - 0.5, top + high / 2, 1.5, high / 2);
    else pen.rect(x - 0.5, top, 1.5, high);
    pen.fill();
  }

  function drawPhases(pen, width) {
    phases.forEach((phase, at) => {
      const left = Math.max(view.x(phase.start, width), LEFT);
      const right = Math.min(view.x(phase.start + phase.duration, width), width);
      if (right <= LEFT || left >= width) return;
      if (at % 2) {
        pen.fillStyle = colour("raised");
        pen.fillRect(left, 0, right - left, bottom);
      }
      pen.fillStyle = colour(phase.word === "PASSED" ? "quiet" : COLOURS[phase.word]);
      pen.fillRect(left, PHASES - 3, Math.max(right - left - 1, 1), 3);
      const text = phase.word === "PASSED" ? phase.when : `${phase.when}: ${phase.word}`;
      if (pen.measureText(text).width < right - left - 4) pen.fillText(text, left + 2, 3);
    });
  }

  function drawLane(pen, lane, width) {
    for (let number = 0; number < lane.bars.length; number++) {
      const [event, at] = lane.bars[number];
      const left = view.x(event[TIME], width);
      const right = view.x(event[TIME] + lengthOf(event), width);
      if (right < LEFT || left > width) continue;
      const from = Math.max(left, LEFT);
      const wide = Math.max(Math.min(right, width) - from, 1.5);
      const top = lane.top + 4 + (lane.rows[number] % lane.deep) * BAR;
      pen.fillStyle = laneColour(event);
      pen.globalAlpha = at === picked ? 1 : 0.75;
      pen.fillRect(from, top, wide, BAR - 2);
      pen.globalAlpha = 1;
      spots.push([from, top, wide, BAR, at]);
      if (isBad(event) && wide > 6) {
        // A call that raised has a dark end.
        pen.fillStyle = colour("text");
        pen.fillRect(from + wide - 3, top, 3, BAR - 2);
      }
      if (wide > 28) {
        pen.save();
        pen.beginPath();
        pen.rect(from, top, wide - 4, BAR);
        pen.clip();
        pen.fillStyle = colour("ground");
        pen.fillText(event[TEXT], from + 3, top + 1);
        pen.restore();
      }
      if (at === picked) {
        pen.strokeStyle = colour("text");
        pen.strokeRect(from - 0.5, top - 0.5, wide + 1, BAR - 1);
      }
    }
    const top = lane.top + 4 + lane.deep * BAR;
    for (const [event, at] of lane.marks) {
      const x = view.x(event[TIME], width);
      if (x < LEFT || x > width) continue;
      drawMark(pen, event, x, top);
      spots.push([x - 4, top, 8, MARK_LINE, at]);
      if (at === picked) {
        pen.strokeStyle = colour("text");
        pen.strokeRect(Math.round(x - 6) + 0.5, top - 1.5, 12, MARK_LINE);
      }
    }
  }

  const drawing = {
    canvas,
    draw() {
      const [pen, width] = prepared(canvas, bottom + 20);
      spots = [];
      pen.textBaseline = "top";
      drawPhases(pen, width);
      drawTimes(pen, width, PHASES, bottom);
      pen.textBaseline = "top";
      for (const lane of lanes) drawLane(pen, lane, width);
      pen.fillStyle = colour("ground");
      pen.fillRect(0, 0, LEFT - 1, bottom);
      for (const lane of lanes) {
        pen.strokeStyle = colour("line");
        pen.beginPath();
        pen.moveTo(0, lane.top + 0.5);
        pen.lineTo(width, lane.top + 0.5);
        pen.stroke();
        pen.fillStyle = colour("text");
        pen.fillText(lane.name.length > 14 ? `${lane.name.slice(0, 13)}…` : lane.name, 6, lane.top + 5);
        if (lane.height > 2 * BAR + 4 && lane.role) {
          pen.fillStyle = colour("quiet");
          pen.fillText(lane.role.slice(0, 15), 6, lane.top + 5 + BAR);
        }
      }
      drawPointer(pen, width, PHASES, bottom);
      drawDrag(pen, canvas, bottom);
    },
    pick(at) {
      picked = at;
      const event = details.events[at];
      if (event && (event[TIME] < view.from || event[TIME] > view.to)) {
        view.show(event[TIME] - view.span / 2, event[TIME] + view.span / 2);
      }
      view.draw();
    },
  };

  function hit(event, x) {
    const y = event.clientY - canvas.getBoundingClientRect().top;
    // What was drawn last lies on top.
    const found = spots.findLast(([left, top, wide, high]) => x >= left - 2 && x <= left + wide + 2 && y >= top && y <= top + high);
    return found ? found[4] : -1;
  }
  takeGestures(canvas, (event, x) => {
    const at = hit(event, x);
    const one = details.events[at];
    showTip(one ? eventText(one, details) : "", event.clientX, event.clientY);
  }, (event, x) => {
    const at = hit(event, x);
    if (at >= 0) {
      drawing.pick(at);
      onPick(at);
    }
  });
  return drawing;
}

function eventText(event, details) {
  const what = event[LEVEL] ? `${event[KIND]} ${event[LEVEL]}` : event[KIND];
  const time = momentText(event[TIME] - details.start, 1);
  const took = event[LENGTH] !== null ? `, took ${spanText(event[LENGTH])}` : event[KIND] === "call" ? ", had not ended" : "";
  const text = event[TEXT].length > 600 ? `${event[TEXT].slice(0, 600)}…` : event[TEXT];
  return `${details.hosts[event[HOST]] || "run"}: ${what} at ${time}${took}\n${text}`;
}
