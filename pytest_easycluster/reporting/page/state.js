// What is chosen: it is in the address, so that a link shows another person the same.

const DEFAULTS = {q: "", verdict: "", host: "", role: "", order: "", test: "", t: ""};
const state = {...DEFAULTS};
// The tests that the filters let through, in their order.
let shown = [];
const listeners = [];

const onChange = (action) => listeners.push(action);

function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) || DEFAULTS[key];
}

function address() {
  const parts = Object.keys(DEFAULTS).filter((key) => state[key])
    .map((key) => `${key}=${encodeURIComponent(state[key]).replace(/%2C/g, ",").replace(/%2F/g, "/").replace(/%3A/g, ":")}`);
  return `#${parts.join("&")}`;
}

// Change what is chosen.  Opening a test is a step that "back" takes back; what is typed is not.
function choose(change, isStep = false) {
  const before = {...state};
  Object.assign(state, change);
  if (Object.keys(DEFAULTS).every((key) => before[key] === state[key])) return;
  if (isStep) history.pushState(null, "", address());
  else history.replaceState(null, "", address());
  tell(before);
}

function tell(before) {
  if (!before || ["q", "verdict", "host", "role", "order"].some((key) => before[key] !== state[key])) filter();
  for (const one of listeners) one(before);
}

const chosenWords = () => new Set(state.verdict ? state.verdict.split(",") : []);

function filter() {
  const parts = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = chosenWords();
  const host = hosts.findIndex((one) => one.name === state.host);
  const ofRole = new Set(hosts.filter((one) => one.roles.split(" ").includes(state.role)).map((one) => one.number));
  shown = tests.filter((test) =>
    parts.every((part) => test.text.includes(part)) &&
    (!state.host || test.used.has(host)) &&
    (!state.role || [...test.used.keys()].some((one) => ofRole.has(one))));
  // Buttons say how many there would be of each verdict.
  counts = new Map();
  for (const test of shown) counts.set(test.word, (counts.get(test.word) || 0) + 1);
  if (wanted.size) shown = shown.filter((test) => wanted.has(test.word));
  const orders = {
    worst: (one, two) => words.indexOf(one.word) - words.indexOf(two.word) || one.number - two.number,
    slow: (one, two) => two.duration - one.duration || one.number - two.number,
    name: (one, two) => (one.name < two.name ? -1 : one.name > two.name ? 1 : one.number - two.number),
  };
  if (orders[state.order]) shown.sort(orders[state.order]);
}
let counts = new Map();

// Under xdist's --dist each a name stands for several tests: those after the first have a number.
const ids = new Map();
for (const test of tests) {
  const same = ids.has(test.name) ? `${test.name}#${test.number}` : test.name;
  test.id = same;
  ids.set(same, test);
}
const openTest = () => ids.get(state.test) || null;

addEventListener("hashchange", () => {
  const before = {...state};
  fromAddress();
  tell(before);
});
addEventListener("popstate", () => {
  const before = {...state};
  fromAddress();
  tell(before);
});

// The bar ------------------------------------------------------------------------------------

function fillBar() {
  const roles = [...new Set(hosts.flatMap((one) => one.roles.split(" ")).filter(Boolean))];
  byId("host").append(make("option", {value: ""}, "all"), ...hosts.map((one) => make("option", {value: one.name}, one.name)));
  byId("role").append(make("option", {value: ""}, "all"), ...roles.map((one) => make("option", {value: one}, one)));
  for (const key of ["host", "role", "order"]) {
    byId(key).addEventListener("change", (event) => choose({[key]: event.target.value}));
  }
  byId("text").addEventListener("input", (event) => choose({q: event.target.value}));
  byId("clear").addEventListener("click", () => choose({...DEFAULTS, test: state.test}));
  for (const word of words.filter((one) => run.counts[one])) {
    byId("words").append(make("button", {
      type: "button", "data-word": word, "aria-pressed": "false", title: MEANINGS[word],
      onclick: () => {
        const now = chosenWords();
        if (!now.delete(word)) now.add(word);
        choose({verdict: words.filter((one) => now.has(one)).join(",")});
      },
    }, badge(word), make("span", {class: "many"})));
  }
}

function showBar() {
  const now = chosenWords();
  for (const button of byId("words").children) {
    const word = button.dataset.word;
    button.setAttribute("aria-pressed", String(now.has(word)));
    button.querySelector(".many").textContent = (counts.get(word) || 0).toLocaleString("en");
  }
  if (byId("text").value !== state.q) byId("text").value = state.q;
  for (const key of ["host", "role", "order"]) byId(key).value = state[key];
  byId("clear").disabled = !["q", "verdict", "host", "role", "order"].some((key) => state[key]);
  byId("count").textContent = shown.length === tests.length
    ? plural(tests.length, "test") : `${shown.length.toLocaleString("en")} of ${plural(tests.length, "test")}`;
}
