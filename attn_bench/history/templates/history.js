"use strict";
(() => {
  const controls = document.getElementById("controls");
  const wanted = document.getElementById("wanted");
  const stepped = document.getElementById("stepped");
  const shown = document.getElementById("shown");
  const charts = [...document.querySelectorAll("figure[data-name]")];
  const filter = () => {
    const parts = wanted.value.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean);
    let visible = 0;
    for (const chart of charts) {
      const name = chart.dataset.name.toLowerCase();
      chart.hidden = !(
        (parts.length === 0 || parts.some((part) => name.includes(part))) && (!stepped.checked || "stepped" in chart.dataset)
      );
      visible += chart.hidden ? 0 : 1;
    }
    for (const group of document.querySelectorAll("section.group")) {
      group.hidden = ![...group.querySelectorAll("figure")].some((chart) => !chart.hidden);
    }
    shown.value = `${visible} of ${charts.length} charts`;
  };
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", filter);
  controls.addEventListener("change", filter);
  filter();
})();
