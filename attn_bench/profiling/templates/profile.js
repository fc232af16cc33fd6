"use strict";
for (const flame of document.querySelectorAll(".flame")) {
  const frames = [...flame.querySelectorAll(".frame")];
  const places = new Map(frames.map((f) => [f, { x: Number(f.dataset.x), width: Number(f.dataset.width) }]));
  const enlarge = (chosen) => {
    const { x, width } = places.get(chosen);
    const end = x + width;
    for (const [frame, at] of places) {
      const below = Number(frame.getAttribute("y")) >= Number(chosen.getAttribute("y"));
      // Rounded coordinates of neighbors may overlap a little.
      const inside = at.x >= x - 1e-3 && at.x + at.width <= end + 1e-3;
      const around = !below && at.x <= x + 1e-3 && at.x + at.width >= end - 1e-3;
      frame.classList.toggle("away", !(below && inside) && !around);
      frame.classList.toggle("above", around);
      frame.setAttribute("x", around ? "0%" : `${(100 * (at.x - x)) / width}%`);
      frame.setAttribute("width", around ? "100%" : `${(100 * at.width) / width}%`);
    }
  };
  flame.addEventListener("click", (event) => {
    const frame = event.target.closest(".frame");
    if (frame) enlarge(frame);
  });
  flame.addEventListener("keydown", (event) => {
    if (event.key === "Escape") enlarge(frames[0]);
    else if (event.key === "Enter" && places.has(event.target)) enlarge(event.target);
  });
}
