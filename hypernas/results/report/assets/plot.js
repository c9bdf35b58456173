// The scatter plot. plotly is unpacked once the page can be read, so that opening a report never waits for it.

async function unpackPlotly() {
  const packed = atob(document.getElementById("plotly").textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  if (!window.Plotly) throw new Error("plotly did not start");
  return window.Plotly;
}

function hasWebgl() {
  const context = document.createElement("canvas").getContext("webgl");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}

function escaped(text) { // plotly reads some HTML in hover texts
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

class Plot {
  constructor(plotly, onClick) {
    this.plotly = plotly;
    this.area = document.getElementById("plot-area");
    this.area.replaceChildren();
    this.kind = hasWebgl() ? "scattergl" : "scatter";
    this.selected = null;
    this.rows = [];
    this.isDrawn = false;
    this.images = values.n_images || [];
    this.mostImages = this.images.reduce((most, n) => Math.max(most, n ?? 0), 0);
    this.isRace = this.images.some((n) => n !== null && n < this.mostImages);
    this.axes = data.columns.filter((column) => column.axis && values[column.key].some((value) => value !== null));
    for (const [id, wanted] of [["x", ["params"]], ["y", ["score"]]]) {
      const select = document.getElementById(`plot-${id}`);
      select.append(...this.axes.map((column) => element("option", { value: column.key }, column.axis)));
      const first = wanted.find((key) => this.axes.some((column) => column.key === key));
      if (first) select.value = first;
      select.addEventListener("change", () => { this.setLog(id); this.draw(); });
      document.getElementById(`plot-log-${id}`).addEventListener("change", () => this.draw());
      this.setLog(id);
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("beforeprint", () => this.draw());
    addEventListener("afterprint", () => this.draw());
    this.onClick = onClick;
  }

  isDropped(row) { return this.isRace && this.images[row] !== null && this.images[row] < this.mostImages; }

  column(id) { return this.axes.find((column) => column.key === document.getElementById(`plot-${id}`).value); }

  // Costs are read on log axes, everything else is not.
  setLog(id) {
    const costs = ["params", "flops", "latency_ms", "memory_mb"];
    document.getElementById(`plot-log-${id}`).checked = costs.includes(this.column(id)?.key);
  }

  show(rows) { this.rows = rows; return this.draw(); }

  select(row) { this.selected = row; return this.draw(); }

  draw() {
    const x = this.column("x"), y = this.column("y");
    if (!x || !y) return undefined;
    const log = { x: document.getElementById("plot-log-x").checked, y: document.getElementById("plot-log-y").checked };
    const known = this.rows.filter((row) => values[x.key][row] !== null && values[y.key][row] !== null);
    const drawn = known.filter((row) => (!log.x || values[x.key][row] > 0) && (!log.y || values[y.key][row] > 0));
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const fronts = values.front || [];
    const plain = (row) => !trained.has(row) && fronts[row] !== 1;
    const groups = [
      ["dropped by the race", (row) => plain(row) && this.isDropped(row), { color: colour("quiet"), size: 5, opacity: 0.35 }],
      [this.isRace ? "scored on all images" : "ranked only", (row) => plain(row) && !this.isDropped(row), { color: colour("point"), size: 6, opacity: drawn.length > 1500 ? 0.45 : 0.7 }],
      ["first Pareto front", (row) => !trained.has(row) && fronts[row] === 1, { color: colour("front"), size: 8, symbol: "square" }],
      ["trained", (row) => trained.has(row), { color: colour("trained"), size: 11, symbol: "diamond", line: { color: colour("card"), width: 1 } }],
      ["selected", (row) => row === this.selected, { color: colour("ink"), size: 18, symbol: "circle-open", line: { width: 2.5 } }],
    ];
    const traces = groups.map(([name, has, marker]) => {
      const rows = drawn.filter(has);
      return {
        name, marker, type: this.kind, mode: "markers", visible: rows.length > 0, showlegend: rows.length > 0, customdata: rows,
        x: rows.map((row) => values[x.key][row]), y: rows.map((row) => values[y.key][row]), text: rows.map((row) => this.label(row, x, y)),
        hoverinfo: name === "selected" ? "skip" : "text",
      };
    });
    this.note(known.length, drawn.length);
    const axis = (column, isLog) => ({ title: { text: escaped(column.axis), standoff: 8 }, type: isLog ? "log" : "linear", gridcolor: colour("line"), zeroline: false, automargin: true, nticks: this.area.clientWidth < 600 ? 4 : 8, tickformat: column.kind === "amount" ? "~s" : "~g", linecolor: colour("line") });
    const layout = {
      xaxis: axis(x, log.x), yaxis: axis(y, log.y), hovermode: "closest", dragmode: "zoom", margin: { l: 60, r: 20, t: 40, b: 50 },
      paper_bgcolor: colour("card"), plot_bgcolor: colour("card"), font: { color: colour("ink"), size: 13 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, hoverlabel: { align: "left" },
      uirevision: `${x.key} ${y.key} ${log.x} ${log.y}`, // a zoom is kept while only rows change
    };
    const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", ...(isBoxed() ? ["toImage"] : [])] };
    const done = this.plotly.react(this.area, traces, layout, config);
    if (!this.isDrawn) {
      this.isDrawn = true;
      this.area.on("plotly_click", (event) => this.onClick(event.points[0].customdata));
    }
    return done;
  }

  label(row, x, y) {
    const lines = [`<b>rank ${values.rank[row].toLocaleString("en-US")}</b>: ${escaped(values.digest[row].slice(0, 8))}`];
    for (const column of [y, x]) lines.push(`${escaped(column.label)} ${shown(column.kind, values[column.key][row])}`);
    if (trained.has(row) && x.key !== "val_accuracy" && y.key !== "val_accuracy") lines.push(`val % ${shown("percent", values.val_accuracy[row])}`);
    return lines.join("<br>");
  }

  note(nKnown, nDrawn) {
    const told = [`${nDrawn.toLocaleString("en-US")} points`];
    if (nKnown < this.rows.length) told.push(`${(this.rows.length - nKnown).toLocaleString("en-US")} without these values`);
    if (nDrawn < nKnown) told.push(`${(nKnown - nDrawn).toLocaleString("en-US")} not above zero, which a log axis cannot show`);
    document.getElementById("plot-note").textContent = told.join("; ");
  }
}
