// The page: takes documents from the server's stream and keeps what is shown in step with them. No figure is made here.
"use strict";

const page = document.body.dataset.page;
const find = (id) => document.getElementById(id);
const SIGNS = { good: ["✓", "good"], warn: ["!", "attention"], bad: ["✕", "bad"], none: ["·", "not known yet"] };
let latest = null;

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
  find("verdicts").replaceChildren(...verdicts.map((v) => make("a", { class: `verdict ${v.state}`, href: "#" + v.panel },
    make("p", { class: "q" }, v.question), make("p", { class: "a" }, ...sign(v.state), v.answer), make("p", { class: "w" }, v.why))));
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
    cards.replaceChildren(make("p", { class: "empty" }, "No launch yet: ", make("code", {}, "headstart launch add NAME --line LINE"), " begins one."));
    return;
  }
  launches.forEach((launch, i) => {
    let card = cards.children[i];
    if (!card || card.dataset.launch !== launch.id) {
      card = make("article", { class: "card", "data-launch": launch.id }, make("div", { class: "head" }), make("div", { class: "spark", "aria-hidden": "true" }), make("dl"), make("p", { class: "note" }), make("ul"));
      if (cards.children[i]) cards.children[i].replaceWith(card); else cards.append(card);
    }
    const f = launch.figures, percent = (v) => (v === null ? "–" : (100 * v).toFixed(1) + " %");
    card.querySelector(".head").replaceChildren(
      make("h2", {}, make("a", { href: "/launches/" + encodeURIComponent(launch.id) }, launch.id)),
      make("p", { class: "what" }, (launch.products.length ? launch.products.length + " products of line " : "line ") + launch.line + (launch.open ? "" : " · closed") + (launch.holdout ? ` · ${percent(launch.holdout)} held out` : "")));
    const facts = [["exposures", shown(f.exposures)], ["with an order", shown(f.orders)], ["order rate", percent(f.conversion)], ["came / foretold", f.came_foretold === null ? "–" : f.came_foretold.toFixed(2)]];
    card.querySelector("dl").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    card.querySelector(".note").textContent = f.final ? `The order rate is of the ${shown(f.final)} exposures whose ${hours(launch.window_s)} are over: ${shown(f.final_orders)} with an order.` : "";
    card.querySelector("ul").replaceChildren(...launch.verdicts.map((v) => make("li", { class: v.state }, make("span", {}, ...sign(v.state), v.answer), make("span", { class: "q" }, v.question))));
    Chart.draw(card.querySelector(".spark"), { data: [launch.spark], layout: {} }, { spark: true });
  });
  while (cards.children.length > launches.length) cards.lastChild.remove();
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
  section.querySelector(".says").textContent = panel.says;
  section.querySelector(".explains").textContent = panel.explains + (panel.note ? " " + panel.note : "");
  section.querySelector(".numbers").replaceChildren(...panel.numbers.map(([name, value, note]) => make("div", {}, make("dt", {}, name), make("dd", { class: "v" }, value), make("dd", { class: "n" }, note))));
  const chart = section.querySelector(".chart"), empty = section.querySelector(".empty"), has = panel.data.length > 0;
  chart.hidden = section.querySelector(".png").hidden = !has;
  const bare = !has && !panel.rows.length;
  empty.hidden = has || (panel.wide && !bare);
  empty.textContent = panel.empty;
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

function draw(told) {
  latest = told;
  find("waiting").hidden = true;
  find("trouble").hidden = true;
  const utc = (ms) => new Date(ms).toISOString().slice(0, 16).replace("T", " ");
  find("clock-text").textContent = (told.clock === "live" ? "live · " : "replay · ") + (told.now_ms ? utc(told.now_ms) + " UTC" : "no tick yet") + " · " + told.pulse.text;
  find("live").className = "live " + told.pulse.state;
  find("pages").replaceChildren(...[["Overview", "/", "overview"], ...told.launches_there.map((name) => [name, "/launches/" + encodeURIComponent(name), name])]
    .map(([name, href, id]) => make("a", { href, "aria-current": id === page ? "page" : null }, name)));
  if (told.about) {
    const a = told.about;
    find("subtitle").textContent = `${a.products.length ? a.products.length + " products of line " : "Line "}${a.line} · since ${utc(a.since_ms)} UTC · an order counts within ${hours(a.window_s)}${a.open ? "" : " · closed"}`;
  } else {
    find("subtitle").textContent = `Namespace ${told.namespace}`;
  }
  drawVerdicts(told.verdicts);
  drawCards(told.launches);
  told.panels.forEach(drawPanel);
  find("foot").textContent = `Namespace ${told.namespace} · trunk ${told.trunk} · all times are UTC · what is shown is read from Redis and Kafka every two seconds`;
  if (!draw.jumped && location.hash) { draw.jumped = true; document.querySelector(CSS.escape ? "#" + CSS.escape(location.hash.slice(1)) : location.hash)?.scrollIntoView(); }
  document.body.dataset.drawn = "yes";
}

function trouble(text) {
  find("trouble").hidden = false;
  find("trouble").textContent = text;
  find("waiting").hidden = latest !== null;
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
  if (latest) { document.querySelectorAll(".panel").forEach((section) => { section.drawn = null; }); draw(latest); }
}
find("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("headstart-theme", theme); } catch (error) { /* a private window keeps nothing */ }
  dress();
});
dark.addEventListener("change", dress);
dress();

// The stream: the browser connects again by itself.

const stream = new EventSource("/api/events?page=" + encodeURIComponent(page));
stream.addEventListener("error", () => { find("live").className = "live bad"; find("clock-text").textContent = "the dashboard's server does not answer"; });
stream.addEventListener("page", (event) => draw(JSON.parse(event.data)));
stream.addEventListener("trouble", (event) => { trouble(JSON.parse(event.data).error); });
