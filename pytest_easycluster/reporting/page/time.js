// The stretch of time that lanes and plots of the open test show; all of them show the same.

const LEFT = 96;

const view = {
  begin: 0, end: 1, from: 0, to: 1, zero: 0, home: [0, 1], pointer: null, followers: [],

  // All that there is, and what is shown first: the test, without what counters say of the time before.
  reset(begin, end, [from, to], followers) {
    const edge = (to - from) * 0.02;
    Object.assign(this, {begin, end: Math.max(end, begin + 0.001), zero: from, pointer: null, followers});
    this.from = clamp(from - edge, begin, this.end);
    this.to = Math.max(clamp(to + edge, begin, this.end), this.from + 0.001);
    this.home = [this.from, this.to];
  },
  get span() {
    return this.to - this.from;
  },
  show(from, to) {
    const least = Math.max((this.end - this.begin) / 1e6, 0.0005);
    const span = clamp(to - from, least, this.end - this.begin);
    const start = clamp(from, this.begin, this.end - span);
    if (start === this.from && start + span === this.to) return;
    this.from = start;
    this.to = start + span;
    this.keep();
    this.draw();
  },
  // Around a place that stays where it is.
  zoom(factor, around = (this.from + this.to) / 2) {
    this.show(around - (around - this.from) / factor, around + (this.to - around) / factor);
  },
  pan(share) {
    const far = this.span * share;
    const step = far > 0 ? Math.min(far, this.end - this.to) : Math.max(far, this.begin - this.from);
    this.show(this.from + step, this.to + step);
  },
  fit() {
    this.show(this.begin, this.end);
  },
  isHome() {
    return this.from === this.home[0] && this.to === this.home[1];
  },
  x(time, width) {
    return LEFT + (time - this.from) / this.span * (width - LEFT);
  },
  time(x, width) {
    return this.from + (x - LEFT) / (width - LEFT) * this.span;
  },
  point(time) {
    if (time !== this.pointer) {
      this.pointer = time;
      this.draw();
    }
  },
};
view.draw = inFrame(() => view.followers.forEach((one) => one.draw()));
// A stretch that is looked at can be linked to; while it changes, the address waits.
view.keep = (() => {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const digits = clamp(Math.ceil(3 - Math.log10(view.span)), 0, 4);
      choose({t: view.isHome() ? "" : `${view.from.toFixed(digits)}~${view.to.toFixed(digits)}`});
    }, 200);
  };
})();

// Places for the numbers of an axis: round, and about so many.
function ticks(from, to, count) {
  const rough = (to - from) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + step * 1e-6; at += step) found.push(at);
  return found;
}

function drawTimes(pen, width, top, bottom) {
  pen.strokeStyle = colour("line");
  pen.fillStyle = colour("quiet");
  pen.lineWidth = 1;
  pen.textBaseline = "top";
  // Counted from the beginning of the test, as everywhere.
  for (const time of ticks(view.from - view.zero, view.to - view.zero, (width - LEFT) / 110)) {
    const x = Math.round(view.x(time + view.zero, width)) + 0.5;
    pen.beginPath();
    pen.moveTo(x, top);
    pen.lineTo(x, bottom);
    pen.stroke();
    const text = momentText(time, view.span);
    if (x + 3 + pen.measureText(text).width < width) pen.fillText(text, x + 3, bottom + 2);
  }
}

function drawPointer(pen, width, top, bottom) {
  if (view.pointer === null || view.pointer < view.from || view.pointer > view.to) return;
  const x = Math.round(view.x(view.pointer, width)) + 0.5;
  pen.strokeStyle = colour("text");
  pen.setLineDash([3, 3]);
  pen.beginPath();
  pen.moveTo(x, top);
  pen.lineTo(x, bottom);
  pen.stroke();
  pen.setLineDash([]);
}

// Drag: look at a stretch.  Shift and drag, or a wheel sideways: move.  Ctrl and wheel: zoom.  Double click: all.
function takeGestures(canvas, onHover, onClick) {
  let begun = null;
  const place = (event) => event.clientX - canvas.getBoundingClientRect().left;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && place(event) >= LEFT) {
      begun = {x: place(event), from: view.from, to: view.to, isMove: event.shiftKey, far: false};
      canvas.setPointerCapture(event.pointerId);
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    const x = place(event);
    const width = canvas.clientWidth;
    if (begun) begun.far = begun.far || Math.abs(x - begun.x) > 4;
    if (begun && begun.far && begun.isMove) {
      const step = (begun.x - x) / (width - LEFT) * (begun.to - begun.from);
      view.show(begun.from + step, begun.to + step);
    }
    canvas.drag = begun && begun.far && !begun.isMove ? [begun.x, clamp(x, LEFT, width)] : null;
    view.point(x >= LEFT ? view.time(x, width) : null);
    onHover(event, x);
    if (canvas.drag) view.draw();
  });
  const end = (event) => {
    const drag = canvas.drag;
    const was = begun;
    begun = null;
    canvas.drag = null;
    if (drag && event.type === "pointerup") {
      const [from, to] = drag.map((x) => view.time(x, canvas.clientWidth)).sort((one, two) => one - two);
      view.show(from, to);
      view.draw();
    } else if (event.type === "pointerup" && was && !was.far && onClick) {
      onClick(event, place(event));
    }
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => {
    view.point(null);
    showTip("");
  });
  canvas.addEventListener("dblclick", () => view.fit());
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      view.zoom(event.deltaY < 0 ? 1.25 : 0.8, view.time(place(event), canvas.clientWidth));
      event.preventDefault();
    } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
      view.pan(((event.deltaX || event.deltaY) > 0 ? 1 : -1) * 0.1);
      event.preventDefault();
    }
  }, {passive: false});
  canvas.addEventListener("keydown", (event) => {
    const actions = {
      ArrowLeft: () => view.pan(-0.15), ArrowRight: () => view.pan(0.15), "+": () => view.zoom(1.5),
      "=": () => view.zoom(1.5), "-": () => view.zoom(1 / 1.5), 0: () => view.fit(),
    };
    if (!(event.key in actions) || event.ctrlKey || event.metaKey || event.altKey) return;
    actions[event.key]();
    event.preventDefault();
  });
}

function drawDrag(pen, canvas, bottom) {
  if (!canvas.drag) return;
  const [from, to] = canvas.drag;
  pen.globalAlpha = 0.25;
  pen.fillStyle = colour("focus");
  pen.fillRect(Math.min(from, to), 0, Math.abs(to - from), bottom);
  pen.globalAlpha = 1;
}
