"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  // Text only ever enters through textContent, so no name can become markup.
  const el = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
    node.append(...children.map((child) => (child instanceof Node ? child : String(child))));
    return node;
  };
  const isNumber = (value) => typeof value === "number";
  const fixed = (value, digits, factor = 1) => isNumber(value) ? (factor * value).toFixed(digits) : value ?? "–";
  const { pool, runs } = JSON.parse($("#data").textContent);

  // Theme: the system's until the button is pressed.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  $("#theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // Menus of tables, and the legend, which hides a method in all figures and tables.
  for (const select of all("[data-pick]")) {
    select.addEventListener("change", () => {
      [...select.options].forEach((option, i) => { $(`#${select.dataset.pick}-${i}`).hidden = !option.selected; });
    });
  }
  for (const chip of all("[data-key]")) {
    chip.addEventListener("click", () => {
      const on = chip.getAttribute("aria-pressed") !== "true";
      for (const same of all(`[data-key="${chip.dataset.key}"]`)) same.setAttribute("aria-pressed", on);
      for (const part of all(`[data-m="${chip.dataset.key}"]`)) part.classList.toggle("off", !on);
    });
  }

  // Sorting: numbers start with the largest, texts with A; what is no number stays last.
  const compare = (a, b, direction) => {
    if (a === b) return 0;
    if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
    return direction * (isNumber(a) ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  };
  const turn = (header, numeric) => {
    const old = header.getAttribute("aria-sort");
    const next = old === "none" ? (numeric ? "descending" : "ascending") : old === "ascending" ? "descending" : "ascending";
    for (const other of all("th", header.parentNode)) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", next);
    return next === "ascending" ? 1 : -1;
  };
  const cellValue = (cell) => {
    const text = (cell.dataset.v ?? cell.textContent).trim();
    const number = parseFloat(text);
    return cell.tagName === "TH" || Number.isNaN(number) ? text : number;
  };
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((header, column) => header.firstChild.addEventListener("click", () => {
      const direction = turn(header, column > 0);
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => compare(cellValue(a.cells[column]), cellValue(b.cells[column]), direction)));
    }));
  }
  for (const box of all(".scroll")) box.addEventListener("scroll", () => box.classList.toggle("far", box.scrollLeft > 0), { passive: true });

  // Tooltips: the mark under the pointer, or the nearest one.
  const tip = $("#tip");
  const nearest = (event) => {
    const direct = event.target.closest?.("[data-t]");
    const figure = event.target.closest?.("svg.fig");
    if (direct || !figure) return direct;
    let best = null, least = 18;
    for (const mark of all("[data-t]", figure)) {
      const box = mark.getBoundingClientRect();
      if (!box.width || !mark.classList.contains("mk")) continue;
      const far = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (far < least) [best, least] = [mark, far];
    }
    return best;
  };
  const point = (event) => {
    const mark = nearest(event);
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.t;
    const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(innerWidth - own.width - 6, box.x + box.width / 2 - own.width / 2))}px`;
    tip.style.top = `${box.y > own.height + 12 ? box.y - own.height - 7 : box.bottom + 7}px`;
  };
  for (const name of ["pointermove", "pointerdown"]) addEventListener(name, point, { passive: true });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // The table of runs.
  const short = (value) => {
    if (!isNumber(value)) return value ?? "–";
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (value >= size) return `${+(value / size).toPrecision(3)}${unit}`;
    return String(+value.toPrecision(3));
  };
  const several = (name) => new Set(runs.map((run) => run.key[name])).size > 1;
  const columns = [
    ["Method", (run) => run.key.method],
    ["Protocol", (run) => run.key.protocol, null, several("protocol")],
    ["CLIP", (run) => run.key.clip, null, several("clip")],
    ["Data", (run) => run.key.data],
    ["Tag", (run) => run.key.tag, null, several("tag")],
    ["Shots", (run) => run.key.shots, String],
    ["Seed", (run) => run.key.seed, String],
    ["Score (%)", (run) => run.value, (v, run) => `${fixed(v, 2, 100)}${run.dirty ? "*" : ""}`],
    ["ECE (%)", (run) => run.ece, (v) => fixed(v, 2, 100)],
    ["NLL", (run) => run.nll, (v) => fixed(v, 3)],
    ["Seconds", (run) => run.seconds, short],
    ["Parameters", (run) => run.params, (v) => isNumber(v) ? v.toLocaleString("en") : v ?? "–"],
    ["Finished (UTC)", (run) => run.finished.replace("T", " ")],
  ].filter(([, , , keep]) => keep !== false);
  const head = $("#runs-table thead"), body = $("#runs-table tbody");
  const PAGE = 100;
  let limit = PAGE, order = [...runs];
  const words = new Map(runs.map((run) => [run, [...Object.values(run.key), run.name, run.command, run.finished].join(" ").toLowerCase()]));

  const filters = ["protocol", "method", "data", "shots"].map((name) => {
    const values = [...new Set(runs.map((run) => run.key[name]))].sort((a, b) => compare(a, b, 1));
    const select = el("select", { "data-filter": name }, el("option", { value: "" }, "all"), ...values.map((v) => el("option", { value: v }, v)));
    select.addEventListener("change", () => { limit = PAGE; fill(); });
    $("#selects").append(el("label", {}, name[0].toUpperCase() + name.slice(1), select));
    return [name, select];
  });
  $("#q").addEventListener("input", () => { limit = PAGE; fill(); });
  $("#more").addEventListener("click", () => { limit += 10 * PAGE; fill(); });

  const sorts = columns.map(([label, read, write]) => {
    const button = el("button", { type: "button" }, label);
    const header = el("th", { scope: "col", "aria-sort": "none", class: write ? "n" : null }, button);
    button.addEventListener("click", () => {
      const direction = turn(header, Boolean(write) && !["Shots", "Seed"].includes(label));
      order.sort((a, b) => compare(read(a), read(b), direction));
      fill();
    });
    return header;
  });
  head.append(el("tr", {}, ...sorts));

  function fill() {
    const asked = $("#q").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = order.filter((run) => filters.every(([name, select]) => !select.value || String(run.key[name]) === select.value)
      && asked.every((word) => words.get(run).includes(word)));
    body.replaceChildren(...chosen.slice(0, limit).map(row));
    if (!chosen.length) body.append(el("tr", {}, el("td", { colspan: columns.length }, "No run matches. Clear a filter.")));
    $("#shown").textContent = chosen.length === runs.length ? `${runs.length} runs` : `${chosen.length} of ${runs.length} runs`;
    $("#more").hidden = chosen.length <= limit;
    $("#more").textContent = `Show more (${chosen.length - limit} left)`;
  }

  function row(run) {
    const open = el("button", { type: "button", class: "open", "aria-expanded": "false" }, run.key.method);
    const line = el("tr", { class: "run" }, el("td", {}, open), ...columns.slice(1).map(([, read, write]) => {
      const value = read(run);
      return el("td", { class: write ? "n" : null }, write ? write(value, run) : value);
    }));
    if (run.name !== "top-1") line.cells[columns.findIndex(([label]) => label === "Score (%)")].prepend(el("small", { title: run.name }, `${run.name.split(" ")[0]} `));
    open.addEventListener("click", () => {
      const show = open.getAttribute("aria-expanded") !== "true";
      open.setAttribute("aria-expanded", show);
      if (show) line.after(el("tr", { class: "more" }, el("td", { colspan: columns.length }, detail(run))));
      else line.nextSibling.remove();
    });
    return line;
  }

  const flat = (value, prefix = "") => Object.entries(value ?? {}).flatMap(([name, part]) => {
    if (part === null || part === "") return [];
    if (typeof part === "object" && !Array.isArray(part)) return flat(part, `${prefix}${name}.`);
    return [[prefix + name, Array.isArray(part) ? part.join(", ") : part]];
  });
  const list = (title, pairs) => pairs.length ? [el("div", {}, el("h4", {}, title), el("dl", {}, ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])))] : [];

  function detail(run) {
    const copy = el("button", { type: "button", class: "plain copy" }, "Copy");
    const command = el("code", { class: "command" }, run.command);
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(run.command);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    const titles = ["set", "top-1 (%)", "class mean (%)", "top-5 (%)", "NLL (nats)", "ECE (%)", "right", "images", "classes", "classifier"];
    const digits = [[2, 100], [2, 100], [2, 100], [3, 1], [2, 100]];
    const scores = el("table", {}, el("thead", {}, el("tr", {}, ...titles.map((t, i) => el("th", { scope: "col", class: i ? "n" : null }, t)))),
      el("tbody", {}, ...Object.entries(run.scores).map(([set, values]) => el("tr", {}, el("th", { scope: "row" }, set),
        ...values.map((v, i) => el("td", { class: "n" }, i < 5 ? fixed(v, ...digits[i]) : v))))));
    const config = Object.fromEntries(Object.entries(run.config).map(([name, at]) => [name, pool[at]]));
    const code = pool[run.code];
    const classes = Object.entries(run.classes).flatMap(([set, found]) => list(`Classes of ${set}, lowest and highest (%)`, found.map(([name, share]) => [name, fixed(share, 1, 100)])));
    return el("div", { class: "detail" },
      el("div", {}, el("h4", {}, "Reproduce"), el("div", { class: "cmd" }, command, copy)),
      el("div", {}, el("h4", {}, "Scores"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores" }, scores)),
      el("div", { class: "groups" }, ...list("Selection", flat(run.selection)), ...list("Data", flat(run.draw)), ...list("Cost", flat(run.cost).map(([n, v]) => [n, isNumber(v) ? +v.toPrecision(6) : v])),
        ...list("Code and machine", [...flat(code.versions), ...flat(code.git, "git."), ...flat({ hardware: code.hardware, world_size: code.world_size })]),
        ...list("Run", flat({ folder: run.path, started: run.times[0], finished: run.times[1], fingerprint: run.fingerprint })), ...classes),
      el("details", {}, el("summary", {}, "Configuration"), el("pre", {}, JSON.stringify(config, null, 2))));
  }
  fill();
})();
