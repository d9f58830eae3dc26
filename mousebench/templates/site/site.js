// Sorting and filtering of the tables; without it the pages are complete, and in the order of the scores.
"use strict";

function key(row, column, type) {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent.trim();
  if (type !== "number") return text.toLowerCase();
  const value = parseFloat(text);
  return Number.isNaN(value) ? null : value;
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
}

function sort(table, header) {
  const type = header.dataset.type;
  const now = header.getAttribute("aria-sort");
  const firstUp = type === "text" || header.textContent.trim() === "rank" || header.textContent.trim() === "p";
  const up = now ? now === "descending" : firstUp;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  table.classList.toggle("grouped", header.textContent.trim() === "rank" && up);
  for (const body of table.tBodies) {
    const fixed = [...body.rows].filter((row) => row.classList.contains("part"));
    const rows = [...body.rows].filter((row) => !row.classList.contains("part"));
    const keys = new Map(rows.map((row) => [row, key(row, header.cellIndex, type)]));
    rows.sort((one, other) => {
      const a = keys.get(one), b = keys.get(other);
      if (a === null || b === null) return (a === null) - (b === null); // what has no number stays last
      return up ? compare(a, b) : compare(b, a);
    });
    body.append(...fixed, ...rows);
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    if (!header.dataset.type) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, header));
  }
  table.classList.add("grouped");
}

for (const form of document.querySelectorAll("form.filter")) {
  const table = document.querySelector("table.board");
  const rows = [...table.querySelectorAll("tr[data-kind]")];
  const names = rows.map((row) => row.querySelector("th").textContent.toLowerCase());
  const filter = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = form.elements.kind.value;
    let shown = 0;
    rows.forEach((row, number) => {
      row.hidden = (kind && row.dataset.kind !== kind) || !words.every((word) => names[number].includes(word));
      shown += !row.hidden;
    });
    for (const body of table.tBodies) {
      const part = body.querySelector("tr.part");
      if (part) part.hidden = ![...body.querySelectorAll("tr[data-kind]")].some((row) => !row.hidden);
    }
    form.querySelector("output").textContent = shown < rows.length ? `${shown} of ${rows.length}` : "";
  };
  form.addEventListener("input", filter);
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
}
