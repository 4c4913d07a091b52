// Keys, the theme, printing.

const KEYS = [
  ["/", "find"], ["↑ ↓ or k j", "test above, below"], ["Enter", "open the test"], ["n p", "next, previous test that is wrong"],
  ["Esc", "close the test"], ["← →", "in lanes and plots: move; in the overview: next that is wrong"],
  ["+ − 0", "in lanes and plots: zoom in, out, all"], ["t", "theme: system, light, dark"], ["?", "these keys"],
];

const THEMES = ["system", "light", "dark"];
let theme = "system";
const isDark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(name) {
  theme = THEMES.includes(name) ? name : "system";
  const shows = theme === "system" ? (isDark.matches ? "dark" : "light") : theme;
  document.documentElement.dataset.theme = shows;
  byId("theme-button").textContent = `Theme: ${theme}`;
  byId("theme-button").setAttribute("aria-label", `Theme: ${theme === "system" ? "as the system has it" : theme}; change it`);
  drawAll();
}

function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  try {
    localStorage.setItem("ec-theme", theme);
  } catch {
    // A browser may keep nothing for files; then it is for this page only.
  }
}

function storedTheme() {
  try {
    return localStorage.getItem("ec-theme");
  } catch {
    return null;
  }
}

function showKeys() {
  const dialog = byId("keys");
  if (dialog.open) {
    dialog.close();
    return;
  }
  dialog.replaceChildren(make("h2", {id: "keys-title"}, "Keys"),
    make("table", null, make("tbody", null, KEYS.map(([keys, what]) => make("tr", null,
      make("td", null, keys.split(" ").map((key) => (key === "or" ? " or " : [make("kbd", null, key), " "]))), make("td", null, what))))),
    make("p", null, make("button", {type: "button", onclick: () => dialog.close()}, "Close")));
  dialog.showModal();
}

function startKeys() {
  byId("theme-button").addEventListener("click", nextTheme);
  byId("keys-button").addEventListener("click", showKeys);
  isDark.addEventListener("change", () => setTheme(theme));
  addEventListener("keydown", (event) => {
    const isTyping = event.target instanceof Element && event.target.matches("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    if (event.key === "Escape") {
      if (isTyping) event.target.blur();
      else if (openTest()) closeTest();
      return;
    }
    const actions = {
      "/": () => byId("text").focus(), j: () => moveTo(cursor + 1, Boolean(openTest())), k: () => moveTo(cursor - 1, Boolean(openTest())),
      n: () => nextWrong(1), p: () => nextWrong(-1), t: nextTheme, "?": showKeys,
    };
    if (isTyping || !(event.key in actions)) return;
    actions[event.key]();
    event.preventDefault();
  });
}

// On paper: light, all rows that the filters let through, and what is folded stays folded.
function startPrinting() {
  let before = null;
  addEventListener("beforeprint", () => {
    before = theme;
    setTheme("light");
    isPrinting = true;
    showRows();
    space.style.height = "auto";
  });
  addEventListener("afterprint", () => {
    isPrinting = false;
    setTheme(before);
    renewList();
  });
}
