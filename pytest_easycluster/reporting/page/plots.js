// A plot for each counter, with a line for each host: colour and dashes tell them apart.

const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 4, 1, 4]];
const PLOT = 86;

function numberText(value) {
  const size = Math.abs(value);
  if (size >= 1e5) {
    const step = Math.min(Math.floor(Math.log10(size) / 3), 4);
    return `${Number((value / 1000 ** step).toPrecision(3))}${["", "k", "M", "G", "T"][step]}`;
  }
  return String(Number(value.toPrecision(3)));
}

// The last point at or before a time.
function valueAt(points, time) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= time) low = middle + 1;
    else high = middle;
  }
  return low ? points[low - 1][1] : null;
}

function makePlot(canvas, metric, unit, lines, legend) {
  const values = lines.flatMap((line) => line.points.map((point) => point[1]));
  let least = Math.min(0, ...values);
  let most = Math.max(...values);
  if (most <= least) most = least + 1;
  // A counter that hardly moves, far from zero: show how it moves.
  const lowest = Math.min(...values);
  if (lowest > 0 && (most - lowest) < most * 0.05 && most > lowest) least = lowest - (most - lowest) * 0.2;
  const y = (value) => PLOT - 6 - (value - least) / (most - least) * (PLOT - 16);

  const drawing = {
    canvas,
    draw() {
      const [pen, width] = prepared(canvas, PLOT + 18);
      drawTimes(pen, width, 0, PLOT);
      pen.save();
      pen.beginPath();
      pen.rect(LEFT, 0, width - LEFT, PLOT);
      pen.clip();
      lines.forEach((line, at) => {
        pen.strokeStyle = colour(`s${at % 6}`);
        pen.setLineDash(DASHES[at % DASHES.length]);
        pen.lineWidth = 1.6;
        pen.beginPath();
        line.points.forEach(([time, value], number) => {
          const x = view.x(time, width);
          if (number) pen.lineTo(x, y(value));
          else pen.moveTo(x, y(value));
        });
        pen.stroke();
        if (line.points.length === 1) {
          pen.fillStyle = colour(`s${at % 6}`);
          pen.fillRect(view.x(line.points[0][0], width) - 2, y(line.points[0][1]) - 2, 4, 4);
        }
      });
      pen.setLineDash([]);
      pen.restore();
      pen.fillStyle = colour("quiet");
      pen.textBaseline = "middle";
      pen.textAlign = "right";
      for (const value of [least, (least + most) / 2, most]) pen.fillText(numberText(value), LEFT - 6, y(value));
      pen.textAlign = "left";
      drawPointer(pen, width, 0, PLOT);
      drawDrag(pen, canvas, PLOT);
      const time = view.pointer === null ? view.to : view.pointer;
      legend.forEach((node, at) => {
        const value = valueAt(lines[at].points, time);
        node.textContent = value === null ? "" : `${numberText(value)}${unit ? ` ${unit}` : ""}`;
      });
    },
  };
  takeGestures(canvas, () => {}, null);
  return drawing;
}

// Counters that stayed what they were on every host are named, and not drawn.
function plotsOf(details) {
  const groups = new Map();
  for (const one of details.series) {
    if (!groups.has(one.metric)) groups.set(one.metric, []);
    groups.get(one.metric).push(one);
  }
  const figures = [];
  const still = [];
  for (const [metric, lines] of groups) {
    if (lines.every((line) => line.points.every((point) => point[1] === line.points[0][1]))) {
      const values = [...new Set(lines.map((line) => numberText(line.points[0][1])))];
      still.push(`${metric} ${values.join(" or ")}${lines[0].unit ? ` ${lines[0].unit}` : ""}`);
      continue;
    }
    const canvas = make("canvas", {class: "plot", tabindex: 0, role: "img"});
    const legend = lines.map(() => make("span", {class: "mono"}));
    const says = lines.map((line) => {
      const values = line.points.map((point) => point[1]);
      const numbers = [Math.min(...values), Math.max(...values), values[values.length - 1]].map(numberText);
      return `${details.hosts[line.host]} from ${numbers[0]} to ${numbers[1]}, at last ${numbers[2]} ${line.unit}`;
    });
    canvas.setAttribute("aria-label", `${metric}: ${says.join("; ")}`);
    const keys = lines.map((line, at) => make("span", {class: "key"}, swatch(at), details.hosts[line.host], legend[at]));
    figures.push([
      make("figure", null, make("figcaption", null, make("b", null, lines[0].unit ? `${metric} (${lines[0].unit})` : metric), keys), canvas),
      makePlot(canvas, metric, lines[0].unit, lines, legend),
    ]);
  }
  return [figures, still];
}

function swatch(at) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({width: 26, height: 8, "aria-hidden": "true"})) node.setAttribute(name, value);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const about = {x1: 0, y1: 4, x2: 26, y2: 4, "stroke-width": 2, "stroke-dasharray": DASHES[at % DASHES.length].join(" ") || "none"};
  for (const [name, value] of Object.entries(about)) line.setAttribute(name, value);
  line.style.stroke = `var(--s${at % 6})`;
  node.append(line);
  return node;
}
