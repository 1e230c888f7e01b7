"use strict";

// Tables: a click on a head sorts by its column, again the other way round.
const value = (row, column) => {
  const cell = row.cells[column];
  const number = parseFloat(cell.dataset.order ?? cell.textContent.replaceAll(",", ""));
  return Number.isNaN(number) ? null : number;
};
for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  table.classList.add("sorts");
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const sort = () => {
      const body = table.tBodies[0];
      const rows = [...body.rows];
      const numbers = rows.some((row) => value(row, column) !== null) && !head.matches(".left");
      const first = numbers ? "descending" : "ascending";
      const other = numbers ? "ascending" : "descending";
      const order = head.ariaSort === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((a, b) => {
        if (!numbers) return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
        const [x, y] = [value(a, column), value(b, column)];
        if (x === null || y === null) return (x === null) - (y === null); // nothing comes last
        return sign * (x - y);
      });
      for (const cell of table.tHead.rows[0].cells) cell.ariaSort = null;
      head.ariaSort = order;
      rows.forEach((row) => row.classList.remove("rule"));
      body.append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}

// The filter hides what is about other methods: rows, lines, pictures, folds.
const filter = document.getElementById("filter");
filter.hidden = false;
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
  for (const element of document.querySelectorAll("[data-method]")) {
    const name = element.dataset.method.toLowerCase();
    element.toggleAttribute("hidden", words.length > 0 && !words.some((word) => name.includes(word)));
  }
});

// A click enlarges a figure's picture or drawing, arrow keys show its neighbours, and another click
// or Escape puts it away.
const dialog = document.querySelector("dialog");
let enlarged;
const enlarge = (figure) => {
  enlarged = figure;
  const parts = [figure.querySelector("figcaption"), figure.querySelector("img, svg")];
  dialog.replaceChildren(...parts.map((part) => part.cloneNode(true)));
  if (!dialog.open) dialog.showModal();
};
document.querySelector("main").addEventListener("click", (event) => {
  if (event.target.closest("figure img, figure svg")) enlarge(event.target.closest("figure"));
});
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  const sibling = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
  let figure = sibling && enlarged[sibling];
  while (figure?.hidden) figure = figure[sibling];
  if (figure) enlarge(figure);
});

// A link to something that is folded away unfolds it.
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches("details")) target.open = true;
  target?.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
