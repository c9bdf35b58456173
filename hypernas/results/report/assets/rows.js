// The rows of the table: which pass the filters, in what order, and as CSV.

const data = JSON.parse(document.getElementById("data").textContent);
const values = data.values;
const nRows = values.rank.length;
const trained = new Set(data.trained);

function decisionsOf(row) {
  const { names, choices, rows } = data.decisions;
  return names.flatMap((name, i) => (rows[row][i] < 0 ? [] : [[name, choices[i][rows[row][i]]]]));
}

const texts = new Array(nRows); // what "find" looks through, made when it is first asked for
function textOf(row) {
  if (texts[row] === undefined) {
    const decided = decisionsOf(row).map(([name, choice]) => `${name}=${choice}`).join(" ");
    texts[row] = `${values.digest[row]} ${decided} ${(values.error || [])[row] || ""}`.toLowerCase();
  }
  return texts[row];
}

function passing(text, conditions, onlyTrained) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  for (let row = 0; row < nRows; row++) {
    if (onlyTrained && !trained.has(row)) continue;
    if (!conditions.every(({ key, test }) => test(values[key][row]))) continue;
    if (words.length && !words.every((word) => textOf(row).includes(word))) continue;
    rows.push(row);
  }
  return rows;
}

// Missing values come last in both directions; equals stay in order of rank.
function sorted(rows, key, descending) {
  const column = values[key];
  const sign = descending ? -1 : 1;
  return rows.slice().sort((a, b) => {
    const x = column[a], y = column[b];
    if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1;
    return x < y ? -sign : x > y ? sign : a - b;
  });
}

function short(value) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= 0.9995 * size) return Number((value / size).toPrecision(3)) + unit;
  }
  return String(value);
}

function shown(kind, value) {
  if (value === null) return "–";
  if (kind === "amount") return short(value);
  if (kind === "percent") return value.toFixed(2);
  if (kind === "number") return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : value.toFixed(3);
  if (kind === "rank" || kind === "whole") return value.toLocaleString("en-US");
  return value;
}

// A field that a spreadsheet would take for a formula gets an apostrophe.
function field(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function asCsv(rows) {
  const keys = data.columns.map((column) => column.key);
  const lines = [[...keys, "decisions"].join(",")];
  for (const row of rows) {
    const decided = JSON.stringify(Object.fromEntries(decisionsOf(row)));
    lines.push([...keys.map((key) => field(values[key][row])), field(decided)].join(","));
  }
  return lines.join("\n") + "\n";
}
