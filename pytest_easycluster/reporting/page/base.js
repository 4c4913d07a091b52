// Small things that all parts use.  Text from hosts goes into the page as text, never as markup.

const byId = (id) => document.getElementById(id);

// make("td", {class: "num"}, "12", other) is an element; what is false or null is left out.
function make(tag, about, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(about || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const one of inside.flat()) {
    if (one !== null && one !== undefined && one !== false) node.append(one);
  }
  return node;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// A span of milliseconds as people say it.
function spanText(ms) {
  const size = Math.abs(ms);
  if (size === 0) return "0 s";
  if (size < 1) return `${Math.round(ms * 1000)} µs`;
  if (size < 1000) return `${Number(ms.toPrecision(3))} ms`;
  if (size < 60000) return `${Number((ms / 1000).toPrecision(3))} s`;
  const seconds = Math.round(ms / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return parts[0] ? `${parts[0]} h ${parts[1]} min` : `${parts[1]} min ${parts[2]} s`;
}

// A moment in a test, with as many digits as the span that is shown needs.
function momentText(ms, span) {
  const digits = clamp(Math.ceil(-Math.log10(Math.max(span, 1e-3) / 1000 / 20)), 0, 6);
  return `${(ms / 1000).toFixed(digits)} s`;
}

function sizeText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const step = Math.min(Math.floor(Math.log10(bytes) / 3), 4);
  return `${Number((bytes / 1000 ** step).toPrecision(3))} ${["", "kB", "MB", "GB", "TB"][step]}`;
}

function clockText(seconds) {
  const date = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// The next free frame; asked for often, it is done once.
function inFrame(action) {
  let asked = 0;
  return () => {
    if (!asked) {
      asked = requestAnimationFrame(() => {
        asked = 0;
        action();
      });
    }
  };
}

// Colours of the style sheet, for what is drawn; forgotten when the theme changes.
let colours = new Map();
function colour(name) {
  if (!colours.has(name)) {
    colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  }
  return colours.get(name);
}

// What is drawn on canvases, to be drawn anew in other colours or at another width.
const drawings = new Set();
function drawAll() {
  colours = new Map();
  for (const one of drawings) {
    if (one.canvas.isConnected || one.stays) one.draw();
    else drawings.delete(one);
  }
}

// A canvas as sharp as the screen; `height` is in pixels of the page.
function prepared(canvas, height) {
  const ratio = Math.max(window.devicePixelRatio || 1, 1);
  const width = Math.max(canvas.clientWidth, 50);
  const sizes = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== sizes[0] || canvas.height !== sizes[1]) {
    [canvas.width, canvas.height] = sizes;
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  return [pen, width];
}

const tip = byId("tip");
function showTip(text, x, y) {
  if (!text) {
    tip.hidden = true;
    return;
  }
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - box.width - 10 : x + 14;
  const top = y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}
