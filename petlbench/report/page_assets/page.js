// The page itself: state, filters, theme and refresh. The state is kept in the address after #, and so survives a reload.

const data = JSON.parse(document.getElementById("data").textContent);
const DEFAULTS = {
  suite: data.parts[0]?.suite ?? "",
  backbone: "",
  protocol: "",
  q: "",
  without: "",
  show: data.parts.some((part) => part.published.length) ? "both" : "ours",
  sort: "mean",
  up: "",
  cost: "",
  open: "",
};
const THEMES = ["auto", "light", "dark"];
const state = { ...DEFAULTS, ...fromAddress() };
let drawnWidth = 0;

function byId(id) {
  return document.getElementById(id);
}

function fromAddress() {
  return Object.fromEntries([...new URLSearchParams(location.hash.slice(1))].filter(([key]) => key in DEFAULTS));
}

function update(changes) {
  const before = { ...state };
  Object.assign(state, changes);
  const isSorting = Object.keys(state).every((key) => ["sort", "up"].includes(key) || state[key] === before[key]);
  if (isSorting && views.length) keepingPlace(sortTables);
  else render();
}

function remember() {
  const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
}

/** The parts that pass the filters; published numbers depend on the suite only and stand once. */
function shownParts() {
  if (state.show !== "published") return data.parts.filter((part) => ["suite", "backbone", "protocol"].every((key) => matches(part, key)));
  return data.parts.filter((part, i) => matches(part, "suite") && data.parts.findIndex((other) => other.suite === part.suite) === i);
}

function render(width = byId("parts").clientWidth) {
  drawnWidth = width;
  fillFilters();
  keepingPlace(() => {
    views.length = 0;
    byId("parts").replaceChildren(...shownParts().map((part, i) => partSection(part, i, width)));
  });
  showDetails();
}

/** Draw again without losing what is focused and scrolled, then say what is shown. */
function keepingPlace(draw) {
  remember();
  const focused = document.activeElement?.id;
  const scrolled = [...document.querySelectorAll(".scroll")].map((region) => region.scrollLeft);
  draw();
  for (const [i, region] of document.querySelectorAll(".scroll").entries()) region.scrollLeft = scrolled[i] ?? 0;
  if (focused) byId(focused)?.focus();
  const shown = views.reduce((sum, view) => sum + view.rows.length, 0);
  const heading = document.querySelector("th[aria-sort]");
  const order = heading ? `, sorted by ${heading.textContent}, ${heading.getAttribute("aria-sort")}` : "";
  byId("status").textContent = data.parts.length ? `${shown} ${shown === 1 ? "row" : "rows"}${order}` : "No finished run yet.";
}

// Filters

function fillFilters() {
  const isOffered = {
    suite: () => true,
    backbone: (part) => matches(part, "suite"),
    protocol: (part) => matches(part, "suite") && matches(part, "backbone"),
  };
  for (const [key, isPart] of Object.entries(isOffered)) {
    const values = [...new Set(data.parts.filter(isPart).map((part) => part[key]))];
    if (!values.includes(state[key])) state[key] = "";
    byId(key).replaceChildren(
      ...["", ...values].map((value) => element("option", { value, selected: value === state[key] }, value || "all")),
    );
  }
  for (const key of ["backbone", "protocol"]) byId(key).disabled = state.show === "published";
  if (byId("search").value !== state.q) byId("search").value = state.q;
  for (const box of byId("access").querySelectorAll("input")) box.checked = !state.without.split(",").includes(box.value);
  for (const choice of byId("show").querySelectorAll("input")) choice.checked = choice.value === state.show;
}

function matches(part, key) {
  return state[key] === "" || part[key] === state[key];
}

function startFilters() {
  byId("access").append(
    ...presentRungs().map(({ name }) => element("label", {}, element("input", { type: "checkbox", value: name }), name)),
  );
  byId("show").hidden = DEFAULTS.show === "ours";
  for (const key of ["suite", "backbone", "protocol"])
    byId(key).addEventListener("change", (event) => update({ [key]: event.target.value }));
  byId("search").addEventListener("input", (event) => update({ q: event.target.value }));
  byId("show").addEventListener("change", (event) => update({ show: event.target.value }));
  byId("access").addEventListener("change", () => {
    const without = [...byId("access").querySelectorAll("input:not(:checked)")].map((box) => box.value);
    update({ without: without.join(",") });
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => update(DEFAULTS));
}

// Runs that are not in the tables

function listLeftOut() {
  const lines = data.unfinished.map((run) => [
    run.method,
    run.task,
    run.backbone,
    String(run.seed),
    run.status,
    run.error,
    element("a", { href: run.file }, "record"),
  ]);
  const contents = [
    lines.length ? simpleTable("Runs without a result", ["method", "task", "backbone", "seed", "status", "error", ""], lines) : null,
  ].filter(Boolean);
  if (contents.length) byId("left_out").append(element("h2", {}, "Not in the tables"), ...contents);
}

// Theme and refresh

function startTheme() {
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = `Theme: ${theme}`;
  };
  apply(THEMES.find((theme) => theme === stored()) ?? "auto");
  byId("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    apply(next);
    stored(next);
  });
}

/** The chosen theme; null where a browser has no storage for files. */
function stored(chosen) {
  try {
    if (chosen) localStorage.setItem("petlbench-theme", chosen);
    return localStorage.getItem("petlbench-theme");
  } catch {
    return null;
  }
}

function startRefresh() {
  byId("written").textContent = `written ${data.written.replace("T", " ").replace("+00:00", " UTC")}`;
  if (!data.refresh) return;
  const [told, button] = byId("refresh").children;
  let timer = null;
  const toggle = () => {
    timer = timer ? clearInterval(timer) : setInterval(() => location.reload(), 1000 * data.refresh);
    told.textContent = timer ? `loads again every ${data.refresh} s` : "paused";
    button.textContent = timer ? "Pause" : "Continue";
  };
  button.addEventListener("click", () => {
    stop(); // a load that has begun would bring back a page that is not paused
    toggle();
  });
  byId("refresh").hidden = false;
  toggle();
}

startTheme();
startFilters();
startRefresh();
listLeftOut();
render();
byId("details").addEventListener("close", () => {
  state.open = "";
  remember();
});
addEventListener("hashchange", () => update({ ...DEFAULTS, ...fromAddress() }));
addEventListener("resize", () => byId("parts").clientWidth === drawnWidth || render());
addEventListener("beforeprint", () => render(1010));
addEventListener("afterprint", () => render());
