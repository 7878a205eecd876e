// Tables of comma-separated values, as RFC 4180 has them.

/** The rows of a file, each an array of strings. A mark of the byte order before the first is left out. */
export function parse(text) {
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  const endRow = () => {
    row.push(cell);
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
    cell = "";
  };
  for (let at = text.startsWith("\uFEFF") ? 1 : 0; at < text.length; at += 1) {
    const sign = text[at];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[at + 1] === '"') cell += text[(at += 1)];
      else quoted = false;
    } else if (sign === '"' && cell === "") {
      quoted = true;
    } else if (sign === ",") {
      row.push(cell);
      cell = "";
    } else if (sign === "\n") {
      endRow();
    } else if (sign !== "\r") {
      cell += sign;
    }
  }
  if (cell !== "" || row.length) endRow();
  return rows;
}

/** A file of rows. A cell that a spreadsheet would compute is text: a space comes before it. */
export function format(rows) {
  const cell = (value) => {
    const text = /^[=+\-@\t\r]/.test(value) && Number.isNaN(Number(value)) ? ` ${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map((value) => cell(String(value))).join(",")}\r\n`).join("");
}
