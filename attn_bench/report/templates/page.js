"use strict";
(() => {
  // A table of results for each task, with its controls.
  for (const table of document.querySelectorAll("table.results")) {
    const named = (name) => document.getElementById(table.id.replace("results-table", name));
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];

    // Rows without a value come last in either direction.
    const sort = (head, column) => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      const key = head.dataset.type === "text"
        ? (row) => row.cells[column].textContent
        : (row) => ("sort" in row.cells[column].dataset ? Number(row.cells[column].dataset.sort) : null);
      const compare = (a, b) => {
        const x = key(a), y = key(b);
        if (x === null || y === null) return (x === null) - (y === null);
        const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
        return descending ? -order : order;
      };
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...[...body.rows].sort(compare));
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(head.firstChild);
      head.prepend(button);
      button.addEventListener("click", () => sort(head, column));
    });

    const model = named("by-model");
    const resolution = named("by-resolution");
    const failed = named("only-failed");
    const shown = named("shown");
    const filter = () => {
      const wanted = model.value.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean);
      let visible = 0;
      for (const row of rows) {
        const name = row.cells[0].textContent.toLowerCase();
        row.hidden = !(
          (wanted.length === 0 || wanted.some((part) => name.includes(part))) &&
          (resolution.value === "" || row.dataset.resolution === resolution.value) &&
          (failed === null || !failed.checked || "failed" in row.dataset)
        );
        visible += row.hidden ? 0 : 1;
      }
      shown.value = `${visible} of ${rows.length} rows`;
    };
    const controls = named("controls");
    controls.hidden = false;
    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.addEventListener("input", filter);
    // Some browsers do not send "input" events for a list.
    controls.addEventListener("change", filter);
    filter();
  }

  // Folded reasons cannot be opened on paper.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("table details:not([open])")];
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
})();
