// What joins the parts: filters, copying, saving, and the order in which things start.

document.documentElement.classList.add("js");

// In a frame that may run scripts and nothing else (as MLflow shows artifacts) nothing can be saved.
function isBoxed() { return window.origin === "null" && (location.protocol !== "file:" || window.parent !== window); }

let plot = null;
const table = new Table((row) => { if (plot) plot.select(row); });
const filterText = document.getElementById("filter-text");
const filterWhere = document.getElementById("filter-where");
const filterTrained = document.getElementById("filter-trained");

function filter() {
  const conditions = parseConditions(filterWhere.value, data.columns);
  const problem = conditions.error || "";
  document.getElementById("filter-error").textContent = problem;
  filterWhere.setAttribute("aria-invalid", String(problem !== ""));
  if (problem) return; // what was shown stays
  const rows = passing(filterText.value, conditions, filterTrained.checked);
  table.fill(rows);
  if (plot) plot.show(rows);
}

let waiting = 0;
function filterSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 120);
}

filterText.addEventListener("input", filterSoon);
filterWhere.addEventListener("input", filterSoon);
filterTrained.addEventListener("change", filter);
document.getElementById("filter-clear").addEventListener("click", () => {
  filterText.value = filterWhere.value = "";
  filterTrained.checked = false;
  filter();
});

const save = document.getElementById("save-csv");
if (isBoxed()) save.textContent = "Show as CSV";
save.addEventListener("click", () => {
  const text = asCsv(table.rows);
  if (isBoxed()) {
    const box = document.getElementById("csv-text");
    box.hidden = false;
    box.querySelector("textarea").value = text;
    box.querySelector("textarea").select();
    return;
  }
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: address, download: `candidates-${data.search}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
});

async function copy(pre, button) {
  let done = false;
  if (!isBoxed() && navigator.clipboard) {
    done = await navigator.clipboard.writeText(pre.textContent).then(() => true, () => false);
  }
  if (!done) { // the old way is allowed in more places; where not even that, Ctrl-C copies what is selected
    getSelection().selectAllChildren(pre);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

for (const pre of document.querySelectorAll(".command pre")) {
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", () => copy(pre, button));
  pre.parentElement.querySelector("figcaption").append(button);
}

for (const figure of document.querySelectorAll(".gallery .picture:not(.wide)")) {
  const button = element("button", { type: "button", "aria-pressed": "false" }, "Enlarge");
  const enlarge = () => {
    const large = figure.classList.toggle("wide");
    button.textContent = large ? "Reduce" : "Enlarge";
    button.setAttribute("aria-pressed", String(large));
  };
  button.addEventListener("click", enlarge);
  figure.querySelector("img").addEventListener("click", enlarge);
  figure.querySelector("figcaption").append(" ", button);
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

filter();
if (data.named !== null) table.select(data.named, false); // the one that the reference named
requestAnimationFrame(() => setTimeout(async () => {
  const area = document.getElementById("plot-area");
  try {
    plot = new Plot(await unpackPlotly(), (row) => table.select(row, true));
    await plot.show(table.rows);
    if (table.open !== null) plot.select(table.open);
  } catch (error) {
    area.replaceChildren(element("p", { className: "problem" }, `The plot cannot be drawn in this browser (${error.message}). The table has the same numbers.`));
  }
  document.documentElement.dataset.ready = "yes"; // for tests, and for printing by programs
}, 0));
