"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [TASK, SETTING, MODEL, OPTIONS, RESOLUTION, MACHINE, RUN, STATUS, SEEDS, RANK, VALUES] = Array(11).keys();
  const get = (id) => document.getElementById(id);
  const [task, setting, resolution, model, machine] =
    ["by-task", "by-setting", "by-resolution", "by-model", "by-machine"].map(get);
  const body = get("board").tBodies[0], more = get("more");
  const values = get("board").tHead.querySelectorAll("th").length - 7;
  // Rows that are in the document at first, and how many each press of the button adds.
  const STEP = 200;
  let found = [], limit = STEP, order = null;

  const keys = {
    model: (row) => data.models[row[MODEL]], machine: (row) => data.machines[row[MACHINE]],
    run: (row) => data.runs[row[RUN]], status: (row) => data.statuses[row[STATUS]],
    rank: (row) => row[RANK], resolution: (row) => row[RESOLUTION], seeds: (row) => row[SEEDS],
  };
  const names = new Intl.Collator("en", { numeric: true });
  const key = (name) => keys[name] ?? ((row) => row[VALUES + 2 * Number(name)]);
  // What has no value comes last in either direction.
  const sorted = (rows) => {
    if (order === null) return rows;
    const of = key(order.key), sign = order.down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const x = of(a), y = of(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? names.compare(x, y) : x - y);
    });
  };

  const cell = (text, number = true) => {
    const made = document.createElement("td");
    if (number) made.className = "number";
    made.textContent = text ?? "-";
    return made;
  };
  const isolated = (parent, text) => parent.appendChild(document.createElement("bdi")).append(text);
  const line = (row) => {
    const made = document.createElement("tr");
    const head = made.appendChild(document.createElement("th"));
    head.scope = "row";
    isolated(head, data.models[row[MODEL]]);
    const options = data.options[row[OPTIONS]];
    if (options !== "defaults") isolated(head.appendChild(document.createElement("small")), options);
    made.append(cell(row[RANK]), cell(row[RESOLUTION]));
    for (let i = 0; i < values; i++) made.append(cell(row[VALUES + 2 * i + 1]));
    made.append(cell(row[SEEDS]));
    isolated(made.appendChild(document.createElement("td")), data.machines[row[MACHINE]]);
    const status = made.appendChild(document.createElement("td")).appendChild(document.createElement("span"));
    status.className = data.statuses[row[STATUS]] === "ok" ? "status" : "status failed";
    status.textContent = data.statuses[row[STATUS]];
    const link = made.appendChild(document.createElement("td")).appendChild(document.createElement("a"));
    link.href = `runs/${encodeURIComponent(data.runs[row[RUN]])}/index.html`;
    link.textContent = data.runs[row[RUN]];
    return made;
  };
  const show = () => {
    body.replaceChildren(...sorted(found).slice(0, limit).map(line));
    const left = found.length - Math.min(limit, found.length);
    more.hidden = left === 0;
    more.textContent = `Show ${Math.min(STEP, left)} more of ${left}`;
    get("shown").value = `${found.length} of ${data.rows.length} rows`;
  };

  const fill = (select, texts, all) => {
    const before = select.value;
    const options = texts.map(([value, text]) => new Option(text, value));
    select.replaceChildren(...(all ? [new Option("all", "")] : []), ...options);
    if ([...select.options].some((option) => option.value === before)) select.value = before;
  };
  // The settings and resolutions of the task, those with the most ranked rows first.
  const choices = () => {
    const rows = data.rows.filter((row) => row[TASK] === Number(task.value));
    const counted = new Map();
    // Rows that are ranked count first.
    for (const row of rows) counted.set(row[SETTING], (counted.get(row[SETTING]) ?? 0) + (row[RANK] === null ? 1e-9 : 1));
    const settings = [...counted].sort((a, b) => b[1] - a[1]);
    fill(setting, settings.map(([at]) => [String(at), data.settings[at] || "the same for all"]), false);
    get("settings").hidden = settings.length < 2;
    const resolutions = [...new Set(rows.map((row) => row[RESOLUTION]))].sort((a, b) => a - b);
    fill(resolution, resolutions.map((at) => [String(at), String(at)]), true);
    const [label, better] = data.metrics[data.tasks[Number(task.value)]] ?? ["Metric", ""];
    get("metric").replaceChildren(label, Object.assign(document.createElement("small"), { textContent: `${better} is better` }));
  };
  const filter = () => {
    const wanted = model.value.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean);
    const hit = data.models.map((name) => wanted.length === 0 || wanted.some((part) => name.toLowerCase().includes(part)));
    const runs = new Set();
    found = data.rows.filter((row) => {
      const here = row[TASK] === Number(task.value) && hit[row[MODEL]] &&
        (machine.value === "" || data.machines[row[MACHINE]] === machine.value);
      if (here) runs.add(data.runs[row[RUN]]);
      return here && row[SETTING] === Number(setting.value) &&
        (resolution.value === "" || row[RESOLUTION] === Number(resolution.value));
    });
    for (const row of get("of-runs").tBodies[0].rows) row.hidden = !runs.has(row.querySelector("a").textContent);
    limit = STEP;
    show();
  };

  // The filters are in the address, so that a view can be sent as a link.
  const named = { task, setting, resolution, model, machine };
  const remember = () => {
    const chosen = new URLSearchParams();
    for (const [name, control] of Object.entries(named)) {
      const text = control === task ? data.tasks[Number(task.value)] : control === setting ? data.settings[Number(setting.value)] : control.value;
      if (text) chosen.set(name, text);
    }
    try { history.replaceState(null, "", `#${chosen}`); } catch { /* Some browsers refuse it for files. */ }
  };
  const restore = () => {
    const chosen = new URLSearchParams(location.hash.slice(1));
    const place = (texts, name) => texts.indexOf(chosen.get(name) ?? "");
    if (place(data.tasks, "task") >= 0) task.value = String(place(data.tasks, "task"));
    choices();
    if (place(data.settings, "setting") >= 0) setting.value = String(place(data.settings, "setting"));
    if (setting.selectedIndex < 0) setting.selectedIndex = 0;
    for (const control of [resolution, model, machine]) {
      const name = Object.keys(named).find((one) => named[one] === control);
      if (chosen.has(name)) control.value = chosen.get(name);
      if (control.selectedIndex < 0) control.selectedIndex = 0;
    }
    filter();
  };

  for (const head of get("board").tHead.querySelectorAll("th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.firstChild);
    head.prepend(button);
    button.addEventListener("click", () => {
      order = { key: head.dataset.key, down: head.getAttribute("aria-sort") === "ascending" };
      get("board").querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      show();
    });
  }
  more.addEventListener("click", () => { limit += STEP; show(); });
  const controls = get("controls");
  controls.addEventListener("submit", (event) => event.preventDefault());
  const changed = (event) => {
    if (event.target === task) choices();
    filter();
    remember();
  };
  controls.addEventListener("input", changed);
  addEventListener("hashchange", restore);
  controls.hidden = false;
  restore();
})();
