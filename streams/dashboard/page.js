// The page: takes documents from the server's stream and keeps what is shown in step with them. No figure is made here.
"use strict";

const page = document.body.dataset.page;
const find = (id) => document.getElementById(id);
const SIGNS = { good: ["✓", "good"], warn: ["!", "attention"], bad: ["✕", "bad"], none: ["·", "not known yet"] };
const SILENT_MS = 12000; // the server tells every two seconds that all is as it was
let latest = null, readMs = 0, heardMs = 0, wrong = "connecting";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Text in which what stands between `backticks` is code.
function rich(text) { return text.split("`").map((part, k) => (k % 2 ? make("code", {}, part) : part)); }

// Put children into an element only if they differ from what is there; the keyboard's focus stays with what has the same key.
function fill(element, children) {
  const now = children.map((child) => (child.outerHTML === undefined ? String(child) : child.outerHTML)).join("");
  if (element.filled === now) return;
  element.filled = now;
  const held = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(...children);
  if (held !== undefined) element.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
}

function say(text) { find("said").textContent = text; }

function sign(state) {
  const [mark, word] = SIGNS[state] || SIGNS.none;
  return [make("span", { class: "sign", "aria-hidden": "true" }, mark), make("span", { class: "unseen" }, word + ": ")];
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value).replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)?Z$/, "$1 $2");
  if (Number.isInteger(value)) return value.toLocaleString("en").replaceAll(",", "\u202f");
  return Math.abs(value) >= 100 ? value.toFixed(1) : Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(4).replace(/0{1,2}$/, "") : value.toExponential(1);
}

// At a glance.

function drawVerdicts(verdicts) {
  fill(find("verdicts"), verdicts.map((v) => make("a", { class: `verdict ${v.state}`, href: v.href, "data-key": v.question },
    make("p", { class: "q" }, v.question), make("p", { class: "a" }, ...sign(v.state), v.answer), make("p", { class: "w" }, ...rich(v.why)))));
}

function hours(window_s) {
  const h = window_s / 3600;
  return h >= 48 ? +(h / 24).toFixed(1) + " days" : h >= 1 ? +h.toFixed(1) + " h" : window_s + " s";
}

function drawCards(launches) {
  const cards = find("cards");
  cards.hidden = !launches;
  if (!launches) return;
  if (!launches.length) {
    fill(cards, [make("p", { class: "empty" }, ...rich("No launch yet: `headstart launch add NAME --line LINE` begins one."))]);
    return;
  }
  const there = new Map([...cards.children].map((card) => [card.dataset.launch, card])), wanted = new Set(launches.map((launch) => launch.id));
  for (const [id, card] of there) if (!wanted.has(id)) card.remove();
  cards.filled = "";
  launches.forEach((launch, i) => {
    let card = there.get(launch.id);
    if (!card) {
      card = make("article", { class: "card", "data-launch": launch.id }, make("div", { class: "head" }), make("div", { class: "spark", "aria-hidden": "true" }), make("dl"), make("p", { class: "note" }), make("ul"));
    }
    if (cards.children[i] !== card) cards.insertBefore(card, cards.children[i] || null);
    const f = launch.figures, percent = (v) => (v === null ? "–" : (100 * v).toFixed(1) + " %");
    fill(card.querySelector(".head"), [
      make("h2", {}, make("a", { href: "/launches/" + encodeURIComponent(launch.id), "data-key": launch.id }, launch.id)),
      make("p", { class: "what" }, (launch.products.length ? launch.products.length + " products of line " : "line ") + launch.line + (launch.phase && " · " + launch.phase) + (launch.holdout ? ` · ${percent(launch.holdout)} held out` : ""))]);
    const facts = [["exposures", shown(f.exposures)], ["with an order", shown(f.orders)], ["order rate", percent(f.conversion)], ["came / foretold", f.came_foretold === null ? "–" : f.came_foretold.toFixed(2)]];
    fill(card.querySelector("dl"), facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    card.querySelector(".note").textContent = f.final ? `The order rate is of the ${shown(f.final)} exposures whose ${hours(launch.window_s)} are over: ${shown(f.final_orders)} with an order.` : "";
    fill(card.querySelector("ul"), launch.verdicts.map((v) => make("li", { class: v.state }, make("span", {}, ...sign(v.state), v.answer), make("span", { class: "q" }, v.question))));
    Chart.draw(card.querySelector(".spark"), { data: [launch.spark], layout: {} }, { spark: true });
  });
}

// Panels.

function newPanel(panel) {
  const id = panel.id;
  const chart = make("div", { class: "chart", tabindex: "0", role: "img", "data-chart": id });
  const explains = make("div", { class: "explains", id: id + "-explains", hidden: true });
  const table = make("div", { class: "scroll", id: id + "-table", hidden: true, tabindex: "0", role: "region", "aria-label": panel.title + ": the figures" });
  const toggle = (button, what) => { what.hidden = !what.hidden; button.setAttribute("aria-expanded", String(!what.hidden)); };
  const button = (text, what) => make("button", { type: "button", "aria-expanded": "false", "aria-controls": what.id, onclick: (e) => toggle(e.currentTarget, what) }, text, make("span", { class: "unseen" }, ": " + panel.title));
  const named = (text) => [text, make("span", { class: "unseen" }, ": " + panel.title)];
  const section = make("section", { class: "panel", id, "aria-labelledby": id + "-title" },
    make("h2", { id: id + "-title" }, make("span", { class: "dot", "aria-hidden": "true" }), panel.title), make("p", { class: "says" }), make("dl", { class: "numbers" }), chart,
    make("p", { class: "empty", hidden: true }), make("div", { class: "actions" }, button("What is this?", explains), button("Figures", table),
      make("a", { class: "csv", href: `/api/panels/${encodeURIComponent(page)}/${id}.csv`, download: id + ".csv" }, ...named("CSV")),
      make("button", { type: "button", class: "png", onclick: () => Chart.png(chart, `${page}-${id}`) }, ...named("PNG")),
      make("a", { href: "#" + id, onclick: () => navigator.clipboard && navigator.clipboard.writeText(location.href.split("#")[0] + "#" + id).then(() => say("The link is copied"), () => {}) }, ...named("Link"))),
    explains, table);
  if (panel.wide) { table.hidden = false; section.querySelector('[aria-controls$="-table"]').setAttribute("aria-expanded", "true"); }
  Chart.keyboard(chart, say);
  return section;
}

function drawPanel(panel) {
  let section = find(panel.id);
  if (!section) { section = newPanel(panel); find("panels").append(section); }
  if (section.drawn === JSON.stringify(panel)) return;
  section.drawn = JSON.stringify(panel);
  section.className = `panel ${panel.state} ${panel.wide ? "wide" : ""}`;
  section.querySelector(".says").replaceChildren(...rich(panel.says));
  section.querySelector(".explains").replaceChildren(...rich(panel.explains + (panel.note ? " " + panel.note : "")));
  section.querySelector(".numbers").replaceChildren(...panel.numbers.map(([name, value, note]) => make("div", {}, make("dt", {}, name), make("dd", { class: "v" }, value), make("dd", { class: "n" }, note))));
  const chart = section.querySelector(".chart"), empty = section.querySelector(".empty"), has = panel.data.length > 0;
  chart.hidden = section.querySelector(".png").hidden = !has;
  const bare = !has && !panel.rows.length;
  empty.hidden = has || (panel.wide && !bare);
  empty.replaceChildren(...rich(panel.empty));
  chart.setAttribute("aria-label", `${panel.title}. ${panel.says} The figures are in the table below; arrow keys read the points.`);
  const numeric = panel.columns.map((_, k) => panel.rows.some((row) => typeof row[k] === "number"));
  const scroll = section.querySelector(".scroll"), at = scroll.scrollTop;
  scroll.replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, ...panel.columns.map((name, k) => make("th", { scope: "col", class: numeric[k] ? "num" : "" }, name)))),
    make("tbody", {}, ...panel.rows.map((row) => make("tr", {}, ...row.map((value, k) => make("td", { class: numeric[k] ? "num" : "" }, shown(value))))))));
  scroll.scrollTop = at;
  if (panel.wide) scroll.hidden = bare;
  if (has) Chart.draw(chart, panel);
}

// The header, and whether what is shown is of now: while nothing can be read, all that is on the page is old, and says so.

const utc = (ms) => new Date(ms).toISOString().slice(0, 16).replace("T", " ");
const clock = (ms) => (utc(ms).slice(0, 10) === utc(Date.now()).slice(0, 10) ? utc(ms).slice(11) : utc(ms)) + " UTC";

function drawHeader() {
  const old = wrong !== "" && latest !== null;
  if (old) document.body.dataset.old = "yes"; else delete document.body.dataset.old;
  for (const name of ["verdicts", "cards", "panels"]) if (old) find(name).dataset.of = `As of ${clock(readMs)}, not of now`; else delete find(name).dataset.of;
  find("live").className = "live " + (old ? "bad" : latest ? latest.pulse.state : "");
  const time = latest && (latest.clock === "live" ? "live · " : "replay · ") + (latest.now_ms ? utc(latest.now_ms) + " UTC" : "not begun") + " · " + latest.pulse.text;
  find("clock-text").textContent = old ? "last read " + clock(readMs) : latest ? time : wrong;
}

function drawPages(names) {
  const nav = find("pages"), before = nav.filled;
  fill(nav, [["Overview", "/", "overview"], ...names.map((name) => [name, "/launches/" + encodeURIComponent(name), name])]
    .map(([name, href, id]) => make("a", { href, title: name.length > 24 ? name : null, "aria-current": id === page ? "page" : null, "data-key": id }, name)));
  const current = nav.querySelector("[aria-current]");
  if (nav.filled !== before && current) nav.scrollLeft = current.offsetLeft - nav.offsetLeft - (nav.clientWidth - current.offsetWidth) / 2;
}

function draw(told) {
  latest = told;
  read(told.wall_ms);
  render(told);
}

// All that is shown is of a time, and nothing is wrong.
function read(ms) {
  readMs = Math.max(readMs, ms);
  heardMs = Date.now();
  wrong = "";
  find("waiting").hidden = true;
  find("trouble").hidden = true;
  if (latest) drawHeader();
}

function render(told) {
  drawPages(told.launches_there);
  if (told.about) {
    const a = told.about;
    find("subtitle").textContent = `${a.products.length ? a.products.length + " products of line " : "Line "}${a.line} · ${a.phase.startsWith("begins") ? "from" : "since"} ${utc(a.since_ms)} UTC · an order counts within ${hours(a.window_s)}${a.phase && " · " + a.phase}`;
  } else {
    find("subtitle").textContent = `Namespace ${told.namespace}`;
  }
  drawVerdicts(told.verdicts);
  drawCards(told.launches);
  told.panels.forEach(drawPanel);
  find("foot").textContent = `Namespace ${told.namespace} · trained network (trunk) ${told.trunk} · all times are UTC · what is shown is read from Redis and Kafka every two seconds`;
  if (!draw.jumped && location.hash) { draw.jumped = true; document.querySelector(CSS.escape ? "#" + CSS.escape(location.hash.slice(1)) : location.hash)?.scrollIntoView(); }
  document.body.dataset.drawn = "yes";
}

function trouble(text, ms) {
  readMs = Math.max(readMs, ms || 0);
  wrong = "nothing can be read";
  drawHeader();
  find("trouble").hidden = false;
  fill(find("trouble"), rich(text.replace(/\.$/, "") + (latest ? `. What is shown is of ${clock(readMs)}.` : ". This page goes on by itself when that is over.")));
  find("waiting").hidden = true;
  if (!latest) find("live").className = "live bad";
}

// Nobody has joined the namespace: at the very beginning that is no trouble.
function waits(text, ms) {
  if (latest) { trouble(text, ms); return; }
  wrong = "no worker yet";
  find("trouble").hidden = true;
  find("waiting").hidden = false;
  fill(find("waiting"), [make("p", {}, "Nothing to show yet: " + text + "."),
    make("p", {}, ...rich("Next: `headstart worker` starts one. It needs a trained network: `headstart pretrain HISTORY` makes it; `headstart up` prints all the commands of a first launch, in their order.")),
    make("p", {}, "This page fills by itself.")]);
  drawHeader();
}

// Theme: as the system, light, dark.

const THEMES = ["system", "light", "dark"];
const stored = () => { try { return localStorage.getItem("headstart-theme"); } catch (error) { return null; } };
let theme = THEMES.includes(stored()) ? stored() : "system";
const dark = matchMedia("(prefers-color-scheme: dark)");
function dress() {
  document.documentElement.dataset.theme = theme === "system" ? (dark.matches ? "dark" : "light") : theme;
  find("theme").setAttribute("aria-label", "Theme: " + (theme === "system" ? "as the system" : theme));
  find("theme").textContent = { system: "◐", light: "☀", dark: "☾" }[theme];
  if (latest) { document.querySelectorAll(".panel").forEach((section) => { section.drawn = null; }); render(latest); }
}
find("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("headstart-theme", theme); } catch (error) { /* a private window keeps nothing */ }
  dress();
});
dark.addEventListener("change", dress);
dress();

find("to-words").addEventListener("click", () => { find("words").open = true; });

// The stream: the browser connects again by itself.

const stream = new EventSource("/api/events?page=" + encodeURIComponent(page));
stream.addEventListener("error", () => trouble("The dashboard's server does not answer"));
stream.addEventListener("page", (event) => draw(JSON.parse(event.data)));
stream.addEventListener("read", (event) => read(Number(event.data)));
stream.addEventListener("trouble", (event) => { const told = JSON.parse(event.data); trouble(told.error, told.read_ms); });
stream.addEventListener("empty", (event) => { const told = JSON.parse(event.data); waits(told.error, told.read_ms); });
setInterval(() => { if (latest && !wrong && Date.now() - heardMs > SILENT_MS) trouble("The dashboard's server is silent"); }, 2000);
