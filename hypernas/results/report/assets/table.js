// The table on the page: heads that sort, pages of rows, a row that opens.

const PAGE = 25;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

class Table {
  constructor(onSelect) {
    this.body = document.querySelector("#table tbody");
    this.rows = [];
    this.key = "rank";
    this.descending = false;
    this.page = 0;
    this.open = null;
    this.onSelect = onSelect;
    this.heads = new Map();
    const line = element("tr");
    for (const column of data.columns) {
      const button = element("button", { type: "button", title: column.meaning }, column.label);
      const head = element("th", { scope: "col", className: column.kind === "text" ? "" : "n" }, button);
      button.addEventListener("click", () => this.sortBy(column));
      this.heads.set(column.key, head);
      line.append(head);
    }
    document.querySelector("#table thead").append(line);
    const go = { "page-first": () => 0, "page-back": () => this.page - 1, "page-on": () => this.page + 1, "page-last": () => this.nPages - 1 };
    for (const [id, page] of Object.entries(go)) document.getElementById(id).addEventListener("click", () => this.turn(page()));
  }

  get nPages() { return Math.max(1, Math.ceil(this.rows.length / PAGE)); }

  // Good values first at the first click: high scores and accuracies, low costs and ranks.
  sortBy(column) {
    const highFirst = column.kind === "percent" || column.key === "score";
    this.descending = this.key === column.key ? !this.descending : highFirst;
    this.key = column.key;
    this.fill(this.rows);
  }

  fill(rows) {
    this.rows = sorted(rows, this.key, this.descending);
    this.page = 0;
    this.draw();
  }

  turn(page) {
    this.page = Math.min(Math.max(page, 0), this.nPages - 1);
    this.draw();
  }

  draw() {
    for (const [key, head] of this.heads) {
      if (key === this.key) head.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const lines = [];
    for (const row of this.rows.slice(this.page * PAGE, (this.page + 1) * PAGE)) {
      lines.push(this.line(row));
      if (row === this.open) lines.push(this.more(row));
    }
    if (!lines.length) lines.push(element("tr", {}, element("td", { colSpan: data.columns.length }, "No candidate passes the filters.")));
    this.body.replaceChildren(...lines);
    const of = data.total > nRows ? `${nRows.toLocaleString("en-US")} in this file, ${data.total.toLocaleString("en-US")} in all` : data.total.toLocaleString("en-US");
    document.getElementById("shown").textContent = `${this.rows.length.toLocaleString("en-US")} of ${of}`;
    document.getElementById("page-now").textContent = `page ${(this.page + 1).toLocaleString("en-US")} of ${this.nPages.toLocaleString("en-US")}`;
    for (const id of ["page-first", "page-back"]) document.getElementById(id).disabled = this.page === 0;
    for (const id of ["page-on", "page-last"]) document.getElementById(id).disabled = this.page === this.nPages - 1;
    document.getElementById("pager").hidden = this.nPages === 1;
  }

  line(row) {
    const line = element("tr", { className: `row${trained.has(row) ? " trained" : ""}${row === this.open ? " open" : ""}` });
    line.dataset.row = row;
    for (const { key, kind } of data.columns) {
      const value = values[key][row];
      const cell = element("td", { className: kind === "text" ? (key === "error" ? "long" : "") : "n" });
      if (key === "rank") {
        const button = element("button", { type: "button", "aria-expanded": String(row === this.open), "aria-label": `rank ${value}: decisions and links` }, shown(kind, value));
        cell.className = "n rank";
        cell.append(button);
      } else if (key === "digest") cell.append(element("code", { title: value }, value.slice(0, 8)));
      else if (key === "error") cell.append(value === null ? "" : value.length > 300 ? `${value.slice(0, 300)} ...` : value);
      else {
        cell.append(shown(kind, value));
        if (kind === "amount" && value !== null) cell.title = value.toLocaleString("en-US");
      }
      line.append(cell);
    }
    line.addEventListener("click", () => {
      if (String(document.getSelection())) return; // a click that ends a selection of text
      const opens = this.open !== row;
      this.select(opens ? row : null, false);
      this.body.querySelector(`tr[data-row="${row}"] button`)?.focus({ preventScroll: true });
    });
    return line;
  }

  more(row) {
    const inside = element("div", { className: "inside" });
    const name = `${data.search}:${values.rank[row]}`;
    const about = element("p", {}, "Digest ", element("code", {}, values.digest[row]), ". On the command line ", element("code", {}, name), ".");
    const run = data.runs[row];
    if (run) about.append(" MLflow run ", data.server ? element("a", { href: `${data.server}/#/runs/${encodeURIComponent(run)}`, target: "_blank", rel: "noopener" }, run) : element("code", {}, run), ".");
    inside.append(about);
    if (data.halving[row]) inside.append(element("p", {}, `Successive halving stopped it after val accuracies of ${data.halving[row].map((v) => v.toFixed(2)).join(", ")} %.`));
    const decided = decisionsOf(row);
    if (decided.length) {
      inside.append(element("dl", { className: "decisions" }, ...decided.map(([key, choice]) => element("div", {}, element("dt", {}, key), element("dd", {}, choice)))));
    } else inside.append(element("p", { className: "quiet" }, "It has no decisions."));
    return element("tr", { className: "more" }, element("td", { colSpan: data.columns.length }, inside));
  }

  // Opens a row (null: none) and turns to its page; the plot is told.
  select(row, scroll) {
    this.open = row;
    const place = row === null ? -1 : this.rows.indexOf(row);
    if (place >= 0) this.page = Math.floor(place / PAGE);
    this.draw();
    if (scroll && place >= 0) this.body.querySelector(`tr[data-row="${row}"]`)?.scrollIntoView({ block: "center" });
    this.onSelect(row);
  }
}
