"use strict";
// Draws a rewrite: the nodes that went and those that came, laid out by dagre, as two SVG pictures.
const Drawing = (() => {
  const { html } = Page;
  const SVG = "http://www.w3.org/2000/svg";
  const LONGEST = 30;
  const MOST_CONSTANTS = 6;
  const SMALLEST = 0.62;

  const svg = (tag, attributes, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // The end of a name tells more than its beginning, which is the path.
  const short = (text) => (text.length > LONGEST ? "…" + text.slice(1 - LONGEST) : text);

  // Wide enough for any font that the viewer may have.
  const width = (lines) => Math.max(...lines.map(([text, , size]) => text.length * size)) + 22;

  // Constants stand inside the node that reads them: as boxes of their own they would crowd out the graph.
  function weights(node, picture) {
    const found = [];
    node.inputs.forEach((name, place) => {
      if (isInside(name, picture)) found.push([`in ${place}: ${short(picture.constants.get(name))}`, "constant", 6.6]);
    });
    if (found.length <= MOST_CONSTANTS) return found;
    return [...found.slice(0, MOST_CONSTANTS), [`and ${found.length - MOST_CONSTANTS} more constants`, "constant", 6.6]];
  }

  // For a drawing that stands alone; in the report they are listed below it.
  const settings = (node) =>
    node.attributes.map(([name, value]) => [`${name} ${value.slice(0, LONGEST)}`, "constant", 6.6]);

  const isInside = (name, picture) => picture.constants.has(name) && !picture.given.has(name);

  function graphOf(nodes, rest, picture, after, alone) {
    const graph = new dagre.graphlib.Graph({ multigraph: true });
    graph.setGraph({ rankdir: "TB", nodesep: 18, ranksep: 26, edgesep: 10, marginx: 6, marginy: 6 });
    graph.setDefaultEdgeLabel(() => ({}));
    const box = (id, kind, lines, full) =>
      graph.setNode(id, { kind, lines, full, width: width(lines), height: 12 + 15 * lines.length });
    const from = new Map();
    const types = new Map([...(picture.inputs || [])].map(([name, both]) => [name, both[Number(after)]]));
    nodes.forEach((node, at) => {
      const lines = [[node.op.split("::").pop(), "title", 8.4]];
      if (node.name && !alone) lines.push([short(node.name), "sub", 6.6]);
      lines.push(...(alone ? settings(node) : []), ...weights(node, picture));
      box("n" + at, node.kept ? "node kept" : "node", lines, `${node.op} ${node.name}`);
      for (const [name, type] of node.outputs) {
        from.set(name, "n" + at);
        types.set(name, type);
      }
    });
    const giver = (name) => {
      if (from.has(name)) return from.get(name);
      const constant = picture.constants.get(name);
      const id = "v" + name;
      const known = constant !== undefined ? short(constant) : types.get(name);
      const lines = [[short(name), "sub", 6.6]];
      if (known) lines.unshift([known, "", 7]);
      box(id, constant === undefined ? "value" : "constant", lines, `${name} ${constant || ""}`);
      from.set(name, id);
      return id;
    };
    nodes.forEach((node, at) => {
      node.inputs.forEach((name, place) => {
        if (!name || isInside(name, picture)) return;
        graph.setEdge(giver(name), "n" + at, {}, `${name}:${place}`);
      });
    });
    for (const [source, label] of rest) {
      const id = "o" + label;
      const type = types.get(source);
      box(id, "value", [...(type ? [[type, "", 7]] : []), [short(label), "sub", 6.6]], label);
      graph.setEdge(giver(source), id, {}, "out");
    }
    return graph;
  }

  function paint(graph, label) {
    dagre.layout(graph);
    const { width: wide, height: high } = graph.graph();
    const root = svg("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: "img", "aria-label": label });
    root.style.minWidth = `${Math.round(wide * SMALLEST)}px`;
    for (const edge of graph.edges()) {
      const points = graph.edge(edge).points;
      root.append(svg("path", { class: "edge", d: curve(points) }));
      root.append(arrow(points));
    }
    for (const id of graph.nodes()) {
      const { x, y, width: w, height: h, kind, lines, full } = graph.node(id);
      const group = svg("g", { class: kind });
      group.append(svg("title", {}, full));
      const round = kind === "value" ? h / 2 : kind === "constant" ? 2 : 5;
      group.append(svg("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: round }));
      lines.forEach(([text, style], at) =>
        group.append(svg("text", { x, y: y + 15 * (at - (lines.length - 1) / 2), class: style }, text)));
      root.append(group);
    }
    return root;
  }

  function curve(points) {
    const [first, ...others] = points;
    let path = `M${first.x} ${first.y}`;
    others.forEach((point, at) => {
      const next = others[at + 1];
      path += next
        ? `Q${point.x} ${point.y} ${(point.x + next.x) / 2} ${(point.y + next.y) / 2}`
        : `L${point.x} ${point.y}`;
    });
    return path;
  }

  function arrow(points) {
    const tip = points[points.length - 1];
    const before = points[points.length - 2];
    const angle = Math.atan2(tip.y - before.y, tip.x - before.x);
    const corner = (turn) => `${tip.x - 7 * Math.cos(angle + turn)} ${tip.y - 7 * Math.sin(angle + turn)}`;
    return svg("path", { class: "head", d: `M${tip.x} ${tip.y}L${corner(0.4)}L${corner(-0.4)}Z` });
  }

  // What a side gives to the rest of the graph: pairs of a value here and its name outside.
  function outlets(nodes, picture, after) {
    if (after) {
      const renamed = new Map(picture.renamed);
      return picture.replaced.map(([old, now]) => [renamed.get(now) || now, old]);
    }
    const used = new Set(nodes.flatMap((node) => node.inputs));
    const replaced = new Set(picture.replaced.map(([old]) => old));
    return nodes.flatMap((node) => node.outputs.map(([name]) => name))
      .filter((name) => replaced.has(name) || !used.has(name))
      .map((name) => [name, name]);
  }

  // One side as an SVG picture. One that stands alone has the attributes, but no names that would crowd it.
  function sketch(picture, after, alone = false) {
    const everything = [...picture.before, ...picture.after];
    picture.given = new Set(everything.flatMap((node) => node.outputs.map(([name]) => name)));
    const nodes = after ? picture.after : picture.before;
    const count = nodes.length === 1 ? "1 node" : `${nodes.length} nodes`;
    const graph = graphOf(nodes, outlets(nodes, picture, after), picture, after, alone);
    return paint(graph, `${after ? "after" : "before"}: ${count}`);
  }

  function side(nodes, others, picture, after) {
    const figure = html("figure", `side ${after ? "after" : "before"}`);
    const rest = outlets(nodes, picture, after);
    const moved = after && !nodes.length && rest.length === 1 ? `: ${short(rest[0][0])} in place of ${short(rest[0][1])}` : "";
    figure.append(html("figcaption", "", (after ? "after" : "before") + moved));
    const canvas = html("div", "canvas");
    if (!nodes.length && !rest.length) canvas.append(html("p", "muted", after ? "nothing in their place" : "nothing"));
    else canvas.append(sketch(picture, after));
    figure.append(canvas);
    if (nodes.length) figure.append(listed(nodes, others, picture));
    return figure;
  }

  function listed(nodes, others, picture) {
    const list = html("div", "nodes");
    for (const node of nodes) {
      const entry = html("div", "", html("b", "", node.op), " ", html("span", "name muted", node.name));
      const rows = html("dl");
      const twin = others.filter((other) => other.op === node.op);
      for (const [name, value] of node.attributes) {
        const shown = html("dd", "", value);
        if (twin.length === 1 && new Map(twin[0].attributes).get(name) !== value) shown.className = "differs";
        rows.append(html("dt", "", name), shown);
      }
      node.inputs.forEach((name, place) => {
        const constant = picture.constants.get(name);
        rows.append(html("dt", "", `in ${place}`), html("dd", "", name || "left out", constant ? ` = ${constant}` : ""));
      });
      node.outputs.forEach(([name, type], place) =>
        rows.append(html("dt", "", `out ${place}`), html("dd", "", name, type ? `  ${type}` : "")));
      entry.append(rows);
      list.append(entry);
    }
    return list;
  }

  function draw(picture) {
    const sides = html("div", "sides");
    sides.append(side(picture.before, picture.after, picture, false), side(picture.after, picture.before, picture, true));
    if (!picture.cut) return sides;
    const more = picture.cut === 1 ? "1 more node is" : `${picture.cut} more nodes are`;
    return html("div", "", sides, html("p", "muted", `${more} not drawn.`));
  }

  return { draw, sketch, svg };
})();
