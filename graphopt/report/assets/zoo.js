"use strict";
// The matrix of a sweep, which is found in the page as deflated data: sorted, filtered, and unfolded cell by cell.
(() => {
  const { code, copy, endless, find, html, inflate, quoted, slash } = Page;
  const SHOWN_AT_ONCE = 100;
  const WORST = "worst";
  const MODEL = "model";
  // What a column is sorted by: its name, the first direction in words and reversed, and what it compares.
  const KEYS = [
    ["outcome", "worst first", "best first", (task) => task.bad],
    ["nodes", "most saved first", "fewest saved first", (task) => minus(task.nodes_before, task.nodes_after)],
    ["size", "most saved first", "least saved first", (task) => minus(task.bytes_before, task.bytes_after)],
    ["latency", "slowest first", "fastest first", (task) => task.ratio],
  ];
  const minus = (before, after) => (before === null || after === null ? null : before - after);
  const count = (number) => number.toLocaleString("en");
  const compared = new Intl.Collator("en", { numeric: true }).compare;
  let data = null;
  let models = [];
  let order = { by: WORST, turned: false };
  let show = null;
  const wanted = new Set();
  const search = find("search");

  class Task {
    constructor([, pipeline, outcome, ...values]) {
      this.pipeline = data.pipelines[pipeline];
      this.again = data.again[pipeline];
      [this.outcome, this.tone] = data.outcomes[outcome];
      this.bad = data.outcomes.length - outcome;
      data.texts.forEach((name, at) => { this[name] = data.strings[values[at]]; });
      data.numbers.forEach((name, at) => { this[name] = values[data.texts.length + at]; });
    }

    get verdictSpan() {
      return html("span", `verdict ${this.tone}`, this.outcome);
    }

    get nodes() {
      if (this.nodes_before === null) return "";
      const after = this.nodes_after === null ? "" : ` → ${count(this.nodes_after)}`;
      return `${count(this.nodes_before)}${after} nodes`;
    }

    get latency() {
      if (this.ratio === null) return null;
      const digits = this.ratio_low !== null && this.ratio_high - this.ratio_low < 0.02 ? 3 : 2;
      const fixed = (value) => value.toFixed(digits);
      const bounded = this.ratio_low !== null && this.ratio_high !== null;
      const kind = !bounded ? "muted" : this.ratio_high < 1 ? "faster" : this.ratio_low > 1 ? "slower" : "muted";
      const word = kind === "muted" ? "" : ` ${kind}`;
      const bounds = bounded ? ` (${fixed(this.ratio_low)}–${fixed(this.ratio_high)})` : " (no interval)";
      return html("small", kind, `× ${fixed(this.ratio)}${bounds}${word}`);
    }
  }

  class Model {
    constructor(name) {
      this.name = name;
      this.short = name.slice(data.folder.length);
      this.tasks = data.pipelines.map(() => null);
    }

    // Known when all tasks are there: the worst outcome, and how many tasks came to it.
    settle() {
      const all = this.tasks.filter(Boolean);
      this.bad = Math.max(...all.map((task) => task.bad));
      this.often = all.filter((task) => task.bad === this.bad).length;
      this.outcomes = new Set(all.map((task) => task.outcome));
      const words = all.flatMap((task) => [task.reason, task.worker, task.host, task.measured_on]);
      this.text = [this.name, ...new Set(words)].join("\n").toLowerCase();
    }
  }

  const bytes = (size) => {
    const at = Math.min(3, Math.floor(Math.log2(Math.max(size, 1)) / 10));
    return at ? `${(size / 1024 ** at).toFixed(1)} ${["", "KiB", "MiB", "GiB"][at]}` : `${size} B`;
  };
  const duration = (seconds) =>
    seconds >= 1 ? `${seconds.toPrecision(3)} s` : seconds >= 1e-3 ? `${(seconds * 1e3).toPrecision(3)} ms` : `${(seconds * 1e6).toPrecision(3)} µs`;
  const share = (before, after) => (before ? `${after < before ? "−" : "+"}${Math.abs(100 * (after / before - 1)).toFixed(1)} %` : "");

  function details(model, task) {
    const facts = html("dl", "facts");
    const fact = (name, ...value) => facts.append(html("div", "", html("dt", "", name), html("dd", "", ...value)));
    const given = (name, text) => { if (text) fact(name, text); };
    const verdict = (word) => html("span", `verdict ${tones.get(word) || "none"}`, word);
    fact("status", task.status === "done" ? "done" : verdict(task.status), task.exit_code ? ` (exit code ${task.exit_code})` : "");
    given("reason", task.reason);
    if (task.verdict) fact("verdict", verdict(task.verdict));
    if (task.as_loaded) fact("as loaded", verdict(task.as_loaded));
    if (task.nodes_before !== null) fact("nodes", `${task.nodes.replace(" nodes", "")} ${share(task.nodes_before, task.nodes_after ?? task.nodes_before)}`);
    if (task.rewrites !== null) fact("rewrites", count(task.rewrites));
    if (task.bytes_before !== null) {
      const after = task.bytes_after === null ? "" : ` → ${bytes(task.bytes_after)} ${share(task.bytes_before, task.bytes_after)}`;
      fact("size", `${bytes(task.bytes_before)}${after}`);
    }
    if (task.source_seconds !== null && task.result_seconds !== null)
      fact("median time", `${duration(task.source_seconds)} → ${duration(task.result_seconds)}`);
    if (task.latency) fact("latency ratio", task.latency);
    given("measured on", task.measured_on);
    fact("took", duration(task.seconds));
    given("worker", [task.worker, task.host && `on ${task.host}`].filter(Boolean).join(" "));
    given("ended", task.finished);
    given("versions", [["graphopt", task.graphopt], ["onnxruntime", task.onnxruntime]].filter(([, v]) => v).map((both) => both.join(" ")).join(", "));
    given("options", task.options);
    if (task.record) {
      const link = html("a", "", task.record);
      link.href = data.base + task.record.split("/").map(encodeURIComponent).join("/");
      fact("record", link);
      fact("to look at it", code(`graphopt view ${quoted(pathOf(data.records === "." ? task.record : `${data.records}/${task.record}`))}`));
    }
    fact("to do it again", code(`graphopt run ${quoted(pathOf(model.name))} --pipeline ${quoted(task.again)}`));
    return [html("h3", "", `${model.name} · ${task.pipeline}`), facts];
  }

  // A path that begins like an option would be taken for one.
  const pathOf = (path) => (path.startsWith("-") ? `./${path}` : path);
  const tones = new Map();

  function toggle(model, task, button, row) {
    const wasOpen = button.getAttribute("aria-expanded") === "true";
    if (row.nextElementSibling?.classList.contains("detail")) row.nextElementSibling.remove();
    for (const other of row.querySelectorAll("button")) other.setAttribute("aria-expanded", "false");
    if (wasOpen) return;
    button.setAttribute("aria-expanded", "true");
    const cell = html("td", "", ...details(model, task));
    cell.colSpan = data.pipelines.length + 1;
    row.after(html("tr", "detail", cell));
  }

  function line(model) {
    const name = html("th", "name", model.short);
    name.scope = "row";
    const row = html("tr", "", name);
    model.tasks.forEach((task) => {
      if (!task) {
        row.append(html("td", "none", "not run"));
        return;
      }
      const button = html("button", "", task.verdictSpan);
      button.type = "button";
      button.dataset.pipeline = task.pipeline;
      button.setAttribute("aria-expanded", "false");
      if (task.nodes) button.append(html("small", "muted", task.nodes));
      const latency = task.latency;
      if (latency) button.append(latency);
      button.addEventListener("click", () => toggle(model, task, button, row));
      row.append(html("td", "", button));
    });
    return row;
  }

  // A model without what is compared comes last, in both directions.
  function sorted(list) {
    const { by, turned } = order;
    const sign = turned ? -1 : 1;
    const tie = (a, b) => compared(a.short, b.short);
    if (by === MODEL) return list.sort((a, b) => sign * tie(a, b));
    if (by === WORST) return list.sort((a, b) => sign * (b.bad - a.bad || b.often - a.often) || tie(a, b));
    const [pipeline, key] = by;
    const value = (model) => (model.tasks[pipeline] ? KEYS[key][3](model.tasks[pipeline]) : null);
    return list.map((model) => [value(model), model])
      .sort(([a, first], [b, second]) => (a === null) - (b === null) || sign * (b - a) || tie(first, second))
      .map(([, model]) => model);
  }

  function update() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = sorted(models.filter((model) =>
      (!wanted.size || [...wanted].some((outcome) => model.outcomes.has(outcome))) &&
      terms.every((term) => model.text.includes(term))));
    find("count").textContent = found.length === models.length
      ? `${count(models.length)} models` : `${count(found.length)} of ${count(models.length)} models`;
    show(found);
  }

  const same = (by) => String(order.by) === String(by);

  function orderBy(by) {
    order = { by, turned: same(by) && !order.turned };
    tell();
    update();
  }

  // The heads of the columns and the two selects say what the order is.
  function tell() {
    for (const each of document.querySelectorAll("#matrix thead button")) {
      const is = same(each.by);
      each.classList.toggle("by", is);
      each.classList.toggle("up", is && (each.by === MODEL) !== order.turned);
      const column = each.closest("th");
      if (each === column.querySelector("button")) column.setAttribute("aria-sort", "none");
      if (is && each.by !== WORST) column.setAttribute("aria-sort", (each.by === MODEL) !== order.turned ? "ascending" : "descending");
    }
    find("order").value = JSON.stringify(order.by);
    find("direction").value = order.turned ? "turned" : "";
  }

  function key(text, by, title) {
    const made = html("button", "", text);
    made.type = "button";
    made.by = by;
    made.title = title;
    made.setAttribute("aria-label", title);
    made.addEventListener("click", () => orderBy(by));
    return made;
  }

  function heads() {
    const column = (name, keys) => {
      const made = html("th", "", html("b", "", name), html("span", "keys", ...keys));
      made.scope = "col";
      return made;
    };
    const row = html("tr", "", column("model", [key("worst", WORST, "sort by the worst outcome"), key("name", MODEL, "sort by name")]));
    const options = [new Option("worst outcome first", JSON.stringify(WORST)), new Option("by name", JSON.stringify(MODEL))];
    data.pipelines.forEach((pipeline, at) => {
      const has = KEYS.map(([, , , value]) => models.some((model) => model.tasks[at] && value(model.tasks[at]) !== null));
      const keys = KEYS.map(([name, first], which) => [name, first, which]).filter(([, , which]) => has[which]);
      row.append(column(pipeline, keys.map(([name, first, which]) => key(name, [at, which], `sort by ${name} of ${pipeline}, ${first}`))));
      for (const [name, first, which] of keys) options.push(new Option(`${pipeline}: ${name}, ${first}`, JSON.stringify([at, which])));
    });
    document.querySelector("#matrix thead").append(row);
    find("order").replaceChildren(...options);
  }

  function foot() {
    const name = html("th", "", "all models");
    name.scope = "row";
    const row = html("tr", "", name);
    data.pipelines.forEach((_, at) => {
      const tasks = models.map((model) => model.tasks[at]).filter(Boolean);
      const counted = tasks.filter((task) => task.nodes_before !== null && task.nodes_after !== null);
      const [before, after] = [counted.reduce((sum, task) => sum + task.nodes_before, 0), counted.reduce((sum, task) => sum + task.nodes_after, 0)];
      const ratios = tasks.map((task) => task.ratio).filter((ratio) => ratio > 0);
      const cell = html("td", "", `${count(tasks.length)} tasks`);
      if (counted.length) cell.append(html("small", "", `${count(before)} → ${count(after)} nodes ${share(before, after)}`));
      if (ratios.length) {
        const mean = Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length);
        cell.append(html("small", "", `× ${mean.toFixed(3)} geometric mean of ${count(ratios.length)}`));
      }
      row.append(cell);
    });
    document.querySelector("#matrix tfoot").append(row);
  }

  function behave() {
    let timer = 0;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(update, 90);
    });
    find("order").addEventListener("change", (event) => {
      order = { by: JSON.parse(event.target.value), turned: order.turned };
      tell();
      update();
    });
    find("direction").addEventListener("change", (event) => {
      order.turned = event.target.value !== "";
      tell();
      update();
    });
    document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("click", (event) => {
      const pressed = event.target.closest("button");
      if (!pressed) return;
      if (pressed.classList.contains("copy")) copy(pressed);
      if (!pressed.classList.contains("outcome")) return;
      const { outcome } = pressed.dataset;
      if (!wanted.delete(outcome)) wanted.add(outcome);
      pressed.setAttribute("aria-pressed", String(wanted.has(outcome)));
      update();
    });
    slash(search);
    addEventListener("resize", fit);
    fit();
  }

  // More columns than the window has room for scroll in a box of their own.
  function fit() {
    const box = document.querySelector(".matrix");
    box.classList.remove("wide");
    box.classList.toggle("wide", find("matrix").scrollWidth > box.clientWidth);
  }

  if (!find("data")) {
    document.documentElement.dataset.ready = "yes";
    return;
  }
  if (typeof DecompressionStream === "undefined") {
    find("count").textContent = "The table of models needs a browser of 2023 or later.";
    return;
  }
  inflate(find("data").textContent).then((content) => {
    data = content;
    for (const [outcome, tone] of data.outcomes) tones.set(outcome, tone);
    models = data.models.map((name) => new Model(name));
    for (const row of data.rows) models[row[0]].tasks[row[1]] = new Task(row);
    for (const model of models) model.settle();
    find("matrix").style.setProperty("--columns", data.pipelines.length);
    show = endless(document.querySelector("#matrix tbody"), find("end"), line, SHOWN_AT_ONCE);
    heads();
    foot();
    behave();
    tell();
    update();
    document.querySelector(".filters").hidden = false;
    document.documentElement.dataset.ready = "yes";
  });
})();
