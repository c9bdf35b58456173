// Conditions such as "params<100k val>=90": parsed into tests of a row's numbers.

const UNITS = { "": 1, k: 1e3, m: 1e6, g: 1e9, "%": 1 };
const TESTS = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "==": (a, b) => a === b, "!=": (a, b) => a !== b,
};

// [{key, test(value)}], or {error: a sentence}
function parseConditions(text, columns) {
  const known = new Map();
  for (const column of columns) {
    if (column.kind === "text") continue;
    for (const name of [column.key, ...column.aliases]) known.set(name.toLowerCase(), column.key);
  }
  const conditions = [];
  // spaces around an operator are allowed
  for (const part of text.trim().replace(/\s*(<=|>=|!=|==|<|>|=)\s*/g, "$1").split(/\s+/)) {
    if (part === "") continue;
    const found = /^([^<>=!]+)(<=|>=|!=|==|<|>|=)([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)([kmg%]?)$/i.exec(part);
    if (!found) return { error: `A condition is a column, one of < <= > >= = != and a number, such as params<100k; got “${part}”.` };
    const key = known.get(found[1].toLowerCase());
    if (key === undefined) return { error: `There is no column of numbers “${found[1]}”. There are: ${[...new Set(known.values())].join(", ")}.` };
    const limit = Number(found[3]) * UNITS[found[4].toLowerCase()];
    const test = TESTS[found[2]];
    conditions.push({ key, test: (value) => value !== null && test(value, limit) });
  }
  return conditions;
}
