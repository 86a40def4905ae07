"use strict";
// Makes of a Picture two SVG files that stand alone, one for each side; the drawing is that of the report.
const Still = (() => {
  const { sketch, svg } = Drawing;
  const AROUND = 10;
  const HEAD = 28;
  const STYLE = `
.panel { fill: var(--panel); stroke: var(--line); }
.caption { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--muted); }
`;

  // From JSON, which leaves out what is empty, to what is drawn.
  const node = ({ name, op, inputs = [], outputs = {}, attributes = {}, kept = false }) =>
    ({ name, op, inputs, outputs: Object.entries(outputs), attributes: Object.entries(attributes), kept });
  const map = (object = {}) => new Map(Object.entries(object));
  const read = ({ before = [], after = [], replaced = [], renamed = [], constants, inputs }) => ({
    before: before.map(node), after: after.map(node), replaced, renamed, constants: map(constants), inputs: map(inputs),
  });

  const number = (drawn, name) => Math.ceil(Number(drawn.getAttribute(name)));

  // Tenths of a pixel are enough, and the same whoever draws it.
  function rounded(root) {
    for (const element of [root, ...root.querySelectorAll("*")]) {
      for (const attribute of element.attributes) {
        if (attribute.name === "xmlns") continue;
        attribute.value = attribute.value.replace(/-?\d+\.\d+/g, (text) => String(Math.round(Number(text) * 10) / 10));
      }
    }
  }

  function framed(drawn, after, content, labels, wide, high, style) {
    const kind = after ? "after" : "before";
    const root = svg("svg", {
      class: `side ${kind}`, width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": labels[after],
    });
    root.append(svg("title", {}, labels[after]), svg("metadata", {}, content), svg("style", {}, style + STYLE));
    root.append(svg("rect", { class: "panel", x: 0.5, y: 0.5, width: wide - 1, height: high - 1, rx: 8 }));
    root.append(svg("text", { class: "caption", x: 14, y: 20 }, kind));
    drawn.removeAttribute("style");
    drawn.setAttribute("x", AROUND);
    drawn.setAttribute("y", HEAD);
    root.append(drawn);
    rounded(root);
    return new XMLSerializer().serializeToString(root) + "\n";
  }

  // Both of one height, so that they stand beside each other; each as wide as it must be, for narrow screens.
  function stills(content, labels, style) {
    const drawn = [0, 1].map((after) => sketch(read(JSON.parse(content)), after === 1, true));
    const high = Math.max(...drawn.map((side) => number(side, "height"))) + HEAD + AROUND;
    return drawn.map((side, after) =>
      framed(side, after, content, labels, number(side, "width") + 2 * AROUND, high, style));
  }

  return { stills };
})();
