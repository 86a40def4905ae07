"use strict";
// The list of changes, which is found in the page as deflated data; and what folds, unfolds and copies.
(() => {
  const { code, copy, endless, find, html, inflate, quoted, slash } = Page;
  const { draw } = Drawing;
  const KINDS = ["rewrite", "removed", "added", "modified", "declined", "region"];
  const REGION = 5;
  const FILTERS = [
    ["", "everything"], ["k0", "rewrites"], ["k5", "changed by a tool"], ["k1", "removed by a tool"], ["k2", "added by a tool"],
    ["k3", "modified by a tool"], ["k4", "declined"], ["vwrong", "wrong in float64"],
    ["vclean", "right in float64"], ["vnot checked", "not checked by itself"],
  ];
  const SHOWN_AT_ONCE = 80;
  const tone = { clean: "good", wrong: "bad" };
  const words = { clean: "right", wrong: "wrong", "not checked": "" };
  let strings = [];
  let passes = [];
  let verdicts = [];
  let changes = [];

  const node = ([name, op, inputs, outputs, attributes]) => ({
    name: strings[name], op: strings[op], inputs: inputs.map((at) => strings[at]),
    outputs: pairs(outputs), attributes: pairs(attributes),
  });
  const pairs = (list) => list.map(([first, second]) => [strings[first], strings[second]]);

  const unpacked = ([before, after, replaced, renamed, constants, cut]) => ({
    before: before.map(node), after: after.map(node), replaced: pairs(replaced), renamed: pairs(renamed),
    constants: new Map(pairs(constants)), cut,
  });

  class Change {
    constructor(row, place) {
      const [pass, kind, name, op, graph, reason, key, index, verdict, error] = row;
      Object.assign(this, { place, pass, kind, error, index, row });
      this.node = strings[name];
      this.op = strings[op];
      this.graph = strings[graph];
      this.reason = strings[reason];
      // Of a region, the values that it gives stand where a rewrite has its key.
      this.key = this.sided ? strings[key] : "";
      this.verdict = this.sided ? strings[verdict] : "";
      this.ops = kind === REGION ? new Set(row[12].flat().map((at) => strings[at])) : new Set([this.op]);
    }

    get sided() {
      return this.kind === 0 || this.kind === REGION;
    }

    get picture() {
      const packed = this.sided ? this.row[10] : 0;
      return packed && !(this.kind === 0 && this.row.length > 11) ? unpacked(packed) : null;
    }

    // Names of the nodes that went and came, or their operators where a drawing has them.
    sides(which) {
      if (this.kind === REGION) return this.row[11 + which].map((side) => side.map((at) => strings[at]));
      const field = this.row[10];
      if (!field) return [[], []];
      if (this.row.length > 11) return field.map((side) => side.map((at) => strings[at]));
      return [field[0], field[1]].map((side) => side.map((packed) => strings[packed[which]]));
    }

    get title() {
      if (!this.sided) return `${KINDS[this.kind]} ${this.op}`;
      if (this.kind === 0 && this.row.length > 11) return this.op;
      const [before, after] = this.sides(1).map((side) => side.map((op) => op.split("::").pop())).map(telling);
      const text = (side) => side.slice(0, 3).join(" + ") + (side.length > 3 ? ` + ${side.length - 3} more` : "");
      if (!after.length) return `${text(before)} removed`;
      return before.length ? `${text(before)} → ${text(after)}` : `${text(after)} added`;
    }

    get text() {
      if (this.cached === undefined) {
        const parts = [passes[this.pass], this.op, this.node, this.key, this.graph, this.reason];
        if (this.sided) parts.push(...this.sides(0).flat(), this.title);
        if (this.kind === REGION) parts.push(...this.ops);
        this.cached = parts.join("\n").toLowerCase();
      }
      return this.cached;
    }
  }

  // Operators as a title has them: constants only where there is nothing else.
  function telling(side) {
    const others = side.filter((op) => op !== "Constant");
    return others.length || side.length < 2 ? others.length ? others : side : [`${side.length} × Constant`];
  }

  function body(change) {
    const content = html("div", "body");
    const facts = html("dl", "facts");
    const fact = (name, ...value) => facts.append(html("div", "", html("dt", "", name), html("dd", "", ...value)));
    if (change.sided) {
      const picture = change.picture;
      if (picture) content.append(draw(picture));
      else {
        const [before, after] = change.sides(0);
        fact("removed", html("span", "name", before.join(", ") || "nothing"));
        fact("added", html("span", "name", after.join(", ") || "nothing"));
        if (change.kind === 0) fact("drawing", "left out, as there are so many rewrites; a diagnosis or a smaller run has it");
      }
      const said = words[change.verdict] || "not checked by itself";
      const same = !words[change.verdict] && !change.reason && verdicts[change.pass] === "identical";
      const times = change.error === null ? "" : `: ${change.error} of what rounding explains there (over 1 is wrong)`;
      fact("in float64", html("span", `verdict ${tone[change.verdict] || "none"}`, said), times,
        change.reason ? `; ${change.reason}` : same ? ": after the whole pass, the outputs are bit for bit the same" : "");
      if (change.kind === 0) {
        fact("key", code(change.key));
        fact("to leave it out", code(`--skip ${quoted(change.key)}`));
      } else {
        fact("what", `changed by ${passes[change.pass]}, which changes the whole model at once`);
        if (change.key) fact("gives", html("span", "name", change.key));
      }
    } else if (change.kind === 4) {
      fact("why it was declined", change.reason);
    } else {
      fact("what", `${KINDS[change.kind]} by ${passes[change.pass]}, which changes the whole model at once`);
    }
    if (change.node) fact("node", html("span", "name", change.node));
    if (change.graph) fact("graph", html("span", "name", change.graph));
    content.append(facts);
    return content;
  }

  function line(change) {
    const row = html("details", "row");
    const name = html("span", "name", html("bdi", "", change.node || change.key));
    name.title = change.node || change.key;
    const summary = html("summary", "", html("span", "no", change.kind === 0 ? String(change.index) : ""),
      html("span", "by", passes[change.pass]), html("span", "to", change.title), name);
    const said = words[change.verdict];
    summary.append(html("span", said ? `verdict ${tone[change.verdict]}` : "", said || ""));
    row.append(summary);
    row.addEventListener("toggle", () => {
      if (row.open && row.children.length === 1) row.append(body(change));
    });
    return row;
  }

  function listing() {
    const list = find("list");
    const count = find("count");
    const controls = { search: find("search"), pass: find("by-pass"), op: find("by-op"), kind: find("by-kind") };
    const end = html("p");
    list.after(end);
    const show = endless(list, end, line, SHOWN_AT_ONCE);

    const update = () => {
      const terms = controls.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const { value: pass } = controls.pass;
      const { value: op } = controls.op;
      const { value: kind } = controls.kind;
      const found = changes.filter((change) =>
        (pass === "" || change.pass === Number(pass)) && (op === "" || change.ops.has(op)) &&
        (kind === "" || (kind[0] === "k" ? change.kind === Number(kind[1]) : change.verdict === kind.slice(1))) &&
        terms.every((term) => change.text.includes(term)));
      const all = changes.length.toLocaleString("en");
      count.textContent = found.length === changes.length ? `${all} changes` : `${found.length.toLocaleString("en")} of ${all} changes`;
      show(found);
    };
    let timer = 0;
    controls.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(update, 90);
    });
    for (const select of [controls.pass, controls.op, controls.kind]) select.addEventListener("change", update);
    slash(controls.search);
    choices(controls.pass, "all passes", tally(changes.map((c) => c.pass)).map(([at, n]) => [at, `${passes[at]} (${n})`]));
    choices(controls.op, "all operators", tally(changes.flatMap((c) => [...c.ops])).sort((a, b) => b[1] - a[1]).map(([op, n]) => [op, `${op} (${n})`]));
    const has = new Set(changes.flatMap((c) => [`k${c.kind}`, `v${c.verdict}`]));
    choices(controls.kind, FILTERS[0][1], FILTERS.slice(1).filter(([value]) => has.has(value)));
    document.querySelector(".filters").hidden = false;
    update();
    return { controls, update };
  }

  const tally = (values) => {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts];
  };

  function choices(select, all, options) {
    select.replaceChildren(new Option(all, ""), ...options.map(([value, text]) => new Option(text, value)));
  }

  // A culprit of a diagnosis is among the changes; what a run left out has pictures of its own.
  function culprits(leftOut) {
    for (const place of document.querySelectorAll(".sites")) {
      const keys = new Set(JSON.parse(place.dataset.keys));
      for (const change of changes) {
        if (keys.has(change.key) && change.picture) place.append(draw(change.picture));
      }
      if (!place.children.length) {
        for (const packed of leftOut[place.dataset.culprit] || []) place.append(draw(unpacked(packed)));
      }
    }
  }

  function behave() {
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const { unfold, unfoldOps, showPass } = button.dataset;
      if (unfold || unfoldOps) {
        document.querySelector(unfold ? "table.passes" : "table.ops").classList.remove("fold");
        button.parentElement.remove();
      } else if (showPass && list) {
        list.controls.pass.value = showPass;
        list.controls.search.value = list.controls.op.value = list.controls.kind.value = "";
        list.update();
        find("changes").scrollIntoView();
      } else if (button.classList.contains("copy")) copy(button);
    });
    const follow = () => {
      const target = location.hash && find(decodeURIComponent(location.hash.slice(1)));
      if (target && target.tagName === "DETAILS") target.open = true;
    };
    addEventListener("hashchange", follow);
    follow();
    addEventListener("beforeprint", () => {
      for (const card of document.querySelectorAll("details.card")) card.open = true;
    });
  }

  let list = null;
  behave();
  const data = find("data");
  if (!data) return;
  if (typeof DecompressionStream === "undefined") {
    find("count").textContent = "The list of changes needs a browser of 2023 or later.";
    return;
  }
  inflate(data.textContent).then((content) => {
    [passes, verdicts] = [0, 1].map((at) => JSON.parse(find("instances").textContent).map((both) => both[at]));
    strings = content.strings;
    changes = content.rows.map((row, place) => new Change(row, place));
    if (find("list")) list = listing();
    culprits(content.places);
    document.documentElement.dataset.ready = "yes";
  });
})();
