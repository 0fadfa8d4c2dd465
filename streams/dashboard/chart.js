// Charts: what the server sends, drawn by plotly.js in the colours of the page's theme, and readable by keyboard.
"use strict";

const Chart = (() => {
  const ONE_LINE = 30, MOST = 240; // pixels

  const style = () => getComputedStyle(document.documentElement);
  const colour = (name) => style().getPropertyValue("--" + name).trim();

  // In a colour's place "@name" is one of the theme. Plotly takes texts for HTML, and names come from events: all but its own templates are escaped.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  function painted(value, key = "") {
    if (typeof value === "string") return /colou?r$/.test(key) ? (value.startsWith("@") ? colour(value.slice(1)) : value) : key === "hovertemplate" ? value : plain(value);
    if (Array.isArray(value)) return value.map((part) => painted(part, key));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, k)]));
    return value;
  }

  const axis = () => ({
    gridcolor: colour("rule"), linecolor: colour("rule"), zerolinecolor: colour("rule"), tickcolor: colour("rule"), color: colour("muted"),
    tickfont: { size: 11 }, title: { font: { size: 11, color: colour("muted") }, standoff: 8 }, automargin: true, fixedrange: true, zeroline: false,
  });

  function merged(below, above) {
    const out = { ...below };
    for (const [key, value] of Object.entries(above || {})) {
      const both = value && out[key] && typeof value === "object" && typeof out[key] === "object" && !Array.isArray(value);
      out[key] = both ? merged(out[key], value) : value;
    }
    return out;
  }

  function layout(panel, spark) {
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily || "sans-serif", size: 12, color: colour("ink") },
      margin: spark ? { l: 0, r: 0, t: 2, b: 2 } : { l: 46, r: 14, t: 8, b: 34 }, xaxis: axis(), yaxis: axis(), showlegend: !spark, hovermode: "closest",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11, color: colour("muted") }, itemwidth: 30, traceorder: "normal" },
      hoverlabel: { bgcolor: colour("ink"), font: { color: colour("surface"), size: 12 }, bordercolor: colour("ink") }, dragmode: false, bargap: 0.15,
    };
    if (panel.layout && panel.layout.yaxis2) base.yaxis2 = axis();
    if (spark) for (const name of ["xaxis", "yaxis"]) Object.assign(base[name], { visible: false });
    return merged(base, painted(panel.layout || {}));
  }

  async function draw(element, panel, { spark = false } = {}) {
    const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false, staticPlot: spark };
    const data = painted(panel.data).map((trace) => (spark ? { ...trace, showlegend: false } : trace));
    element.names = panel.data.map((trace) => trace.name);
    await Plotly.react(element, data, layout(panel, spark), config);
    if (!spark) makeRoom(element);
    if (!element.observed) { element.observed = new ResizeObserver(() => { if (element.clientWidth) Plotly.Plots.resize(element); }); element.observed.observe(element); }
    // Everything inside is decoration to a screen reader: the element itself has the label, and the table beside it the figures.
    for (const svg of element.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true");
  }

  // A legend of many lines, as on a phone, must not take the plot's room.
  function makeRoom(element) {
    const legend = element.querySelector(".legend .bg"), lines = legend ? legend.getBBox().height : 0;
    const more = Math.min(MOST, Math.max(0, Math.ceil(lines) - ONE_LINE));
    if (more === (element.more || 0)) return;
    element.more = more;
    element.style.height = more ? `calc(var(--chart) + ${more}px)` : "";
  }

  // Left and right walk along the points of the first series, up and down change the series; what is there is said aloud.
  function keyboard(element, say) {
    let curve = 0, point = -1;
    element.addEventListener("keydown", (event) => {
      const traces = (element.data || []).map((trace, k) => [trace, k]).filter(([trace]) => trace.hoverinfo !== "skip" && (trace.x || []).length);
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] }[event.key];
      if (!traces.length || !step) return;
      event.preventDefault();
      curve = Math.max(0, Math.min(traces.length - 1, curve + step[0]));
      const [trace, k] = traces[curve];
      point = Math.max(0, Math.min(trace.x.length - 1, point + step[1]));
      const shown = (value) => (typeof value === "number" ? value.toPrecision(3) : value);
      say(`${element.names[k]}: ${shown(trace.x[point])}, ${shown(trace.y[point])}`);
      try { Plotly.Fx.hover(element, [{ curveNumber: k, pointNumber: point }]); } catch (error) { /* a point that is not on the plot has no mark */ }
    });
    element.addEventListener("blur", () => { try { Plotly.Fx.unhover(element); } catch (error) { /* nothing was marked */ } });
  }

  async function png(element, name) {
    const url = await Plotly.toImage(element, { format: "png", width: 1000, height: 500, scale: 2 });
    // The plot's ground is the page's: without it the picture would be transparent.
    const image = new Image();
    await new Promise((done) => { image.onload = done; image.src = url; });
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const context = canvas.getContext("2d");
    context.fillStyle = colour("surface");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    const link = Object.assign(document.createElement("a"), { href: canvas.toDataURL("image/png"), download: name + ".png" });
    document.body.append(link);
    link.click();
    link.remove();
  }

  return { draw, keyboard, png };
})();
