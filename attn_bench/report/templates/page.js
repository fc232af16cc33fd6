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

  // What a point of a figure is about: under the pointer, or with the focus, which the arrow keys move.
  const tip = document.body.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  // Points as close as this, in pixels, are shown together, as one hides the other.
  const close = 5, most = 4;
  let again = () => {};
  for (const drawing of document.querySelectorAll(".points")) {
    const points = [...drawing.querySelectorAll("circle")];
    for (const point of points) {
      const title = point.firstElementChild;
      point.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    const center = (point) => {
      const box = point.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    };
    const show = (point) => {
      const [x, y] = center(point);
      const near = points.filter((other) => other !== point && Math.hypot(center(other)[0] - x, center(other)[1] - y) <= close);
      const texts = [point, ...near].slice(0, most).map((one) => one.getAttribute("aria-label"));
      if (near.length >= most) texts.push(`and ${near.length + 1 - most} more here`);
      tip.textContent = texts.join("\n\n");
      tip.hidden = false;
      again = () => show(point);
      const left = Math.min(Math.max(x + 12, 4), innerWidth - tip.offsetWidth - 4);
      tip.style.left = `${Math.max(left, 4)}px`;
      tip.style.top = `${y + 12 + tip.offsetHeight < innerHeight ? y + 12 : Math.max(y - 12 - tip.offsetHeight, 4)}px`;
    };
    const hide = () => { tip.hidden = true; };
    drawing.addEventListener("pointerover", (event) => { if (points.includes(event.target)) show(event.target); });
    drawing.addEventListener("pointerout", hide);
    drawing.addEventListener("focusin", (event) => show(event.target));
    drawing.addEventListener("focusout", hide);
    drawing.addEventListener("keydown", (event) => {
      const at = points.indexOf(event.target), last = points.length - 1;
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined) return;
      event.preventDefault();
      const next = points[Math.min(Math.max(to, 0), last)];
      event.target.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  }
  addEventListener("scroll", () => {
    if (document.activeElement?.closest(".points") && !tip.hidden) again();
    else tip.hidden = true;
  }, { passive: true, capture: true });

  // Folded reasons cannot be opened on paper.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("table details:not([open]), details.columns:not([open])")];
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
})();
