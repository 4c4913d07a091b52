// The page begins here.

function showHead() {
  const parts = [clockText(run.started), `took ${spanText(run.duration)}`];
  parts.push(hosts.length ? `${plural(hosts.length, "host")}${run.unused ? ` (${run.unused} more were not used)` : ""}` : "no hosts");
  for (const word of words.filter((one) => run.counts[one])) parts.push(`${run.counts[word].toLocaleString("en")} ${word.toLowerCase()}`);
  byId("line").textContent = parts.join(" · ");
  byId("state").textContent = run.state_text;
  byId("state").classList.toggle("wanting", run.state !== "complete");
  if (run.state === "complete") byId("state").hidden = true;
  for (const [name, value] of run.about) byId("about").append(make("dt", null, name), make("dd", {class: "mono"}, value));
  if (run.trouble) byId("state").after(make("pre", {tabindex: 0}, run.trouble));
  byId("about-button").addEventListener("click", (event) => {
    byId("about").hidden = !byId("about").hidden;
    event.target.setAttribute("aria-expanded", String(!byId("about").hidden));
  });
}

fromAddress();
document.documentElement.dataset.theme = isDark.matches ? "dark" : "light";
showHead();
fillBar();
startList();
startOverview();
startKeys();
startPrinting();
onChange((before) => {
  const isFiltered = !before || ["q", "verdict", "host", "role", "order"].some((key) => before[key] !== state[key]);
  showBar();
  showDetail();
  if (isFiltered) {
    list.scrollTop = 0;
    renewList();
  } else showRows();
  overview.draw();
  if (isFiltered || !before || before.test !== state.test) {
    const at = shown.indexOf(openTest());
    if (at >= 0 && at !== cursor) cursor = at;
    if (at >= 0 && isFiltered) {
      scrollToRow(at);
      showRows();
    }
  }
  if (before && before.test === state.test && before.t !== state.t && document.activeElement !== detail) readStretch();
});
setTheme(storedTheme());
tell(null);
addEventListener("resize", inFrame(drawAll));
new ResizeObserver(inFrame(drawAll)).observe(map.parentElement);
new ResizeObserver(inFrame(() => view.draw())).observe(detail);
