// Draw the layer map as SVG: cells, axes, the colour bar, and the bridges of a plan. Deeper is right and up.

const SVG = "http://www.w3.org/2000/svg";

/** Make an SVG element with attributes, inside a parent. */
function draw(parent, name, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

/** Return the least and the largest score of block pairs: the embeddings, which no plan bridges, may lie outside. */
function colourRange(bundle, scores) {
  const blocks = [];
  scores.forEach((score, cell) => {
    const [row, column] = [Math.floor(cell / bundle.columns.length), cell % bundle.columns.length];
    const bridgeable = bundle.rowBlocks[row] !== null && bundle.columnBlocks[column] !== null;
    if (bridgeable && Number.isFinite(score)) blocks.push(score);
  });
  return blocks.length ? [Math.min(...blocks), Math.max(...blocks)] : [0, 1];
}

/** Return a score with three digits behind the point, or a dash where there is none. */
function shown(score) {
  if (score === null || score === undefined || !Number.isFinite(score)) return "–";
  return score.toFixed(3).replace("-", "−");
}

/** Return the name of a layer as an axis has it. */
const layerLabel = (name) => (name === "embeddings" ? "emb." : name);

/**
 * Draw an empty map, and return functions that fill it: `paint`, `ring`, `point`, and `cellAt`, which finds the cell
 * under a pointer.
 */
function drawMap(holder, bundle) {
  const [rows, columns] = [bundle.rows.length, bundle.columns.length];
  const side = Math.max(7, Math.min(30, Math.round(470 / Math.max(rows, columns))));
  const [left, top] = [58, 8];
  const [width, height] = [columns * side, rows * side];
  const svg = draw(holder, "svg", {
    viewBox: `0 0 ${left + width + 92} ${top + height + 58}`,
    width: left + width + 92,
    class: "bw-map",
    tabindex: 0,
    role: "application",
    "aria-label":
      `Layer map of ${rows} understanding by ${columns} generation layers. Arrow keys move, Enter shows stimuli, ` +
      "B sets or removes a bridge, Shift with an arrow key moves a bridge.",
  });
  const origin = draw(svg, "g", { transform: `translate(${left} ${top})` });
  const yOf = (row) => (rows - 1 - row) * side;
  const cells = [];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const place = { x: column * side, y: yOf(row), width: side + 0.3, height: side + 0.3 };
      cells.push(draw(origin, "rect", place));
    }
  const marks = draw(origin, "g", { class: "bw-marks" });
  const dots = cells.map((_, cell) => {
    const [row, column] = [Math.floor(cell / columns), cell % columns];
    return draw(marks, "circle", { cx: (column + 0.5) * side, cy: yOf(row) + side / 2, r: Math.max(1, side / 14) });
  });
  drawAxes(svg, bundle, { left, top, side, width, height });
  const bar = drawBar(svg, bundle, { x: left + width + 16, y: top, height });
  const rings = draw(origin, "g", { class: "bw-rings" });
  const focus = draw(origin, "rect", { class: "bw-focus", width: side, height: side, visibility: "hidden" });
  const chosen = draw(origin, "rect", { class: "bw-chosen", width: side, height: side, visibility: "hidden" });

  function paint(view) {
    const [low, high] = colourRange(bundle, view.scores);
    cells.forEach((rect, cell) => rect.setAttribute("fill", colourOf(bundle, view.scores[cell], low, high)));
    dots.forEach((dot, cell) => {
      const strange = view.p && view.p[cell] > 0.05;
      dot.setAttribute("visibility", strange ? "visible" : "hidden");
      if (strange) dot.setAttribute("fill", isDark(view.scores[cell], low, high) ? "#ffffff" : "#333333");
    });
    bar(view, low, high);
  }

  function ring(pairs, byHand) {
    rings.replaceChildren();
    const centres = pairs.map(([u, g]) => {
      const [row, column] = [bundle.rowBlocks.indexOf(u), bundle.columnBlocks.indexOf(g)];
      return [(column + 0.5) * side, yOf(row) + side / 2];
    });
    const points = centres.map((centre) => centre.join(",")).join(" ");
    const dashes = { points, "stroke-dasharray": byHand ? "5 4" : "none" };
    draw(rings, "polyline", { ...dashes, class: "bw-under" });
    draw(rings, "polyline", { ...dashes, class: "bw-line" });
    for (const [cx, cy] of centres) {
      draw(rings, "circle", { cx, cy, r: 0.4 * side, class: "bw-under" });
      draw(rings, "circle", { cx, cy, r: 0.4 * side, class: "bw-ring" });
    }
  }

  function point(which, cell) {
    const rect = which === "focus" ? focus : chosen;
    rect.setAttribute("visibility", cell ? "visible" : "hidden");
    if (!cell) return;
    rect.setAttribute("x", cell[1] * side);
    rect.setAttribute("y", yOf(cell[0]));
  }

  /** Return [row, column] of the cell under a pointer, or of the nearest one; null outside, unless nearest is asked. */
  function cellAt(event, nearest = false) {
    const box = svg.getBoundingClientRect();
    const scale = (left + width + 92) / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - left) / side);
    const row = rows - 1 - Math.floor(((event.clientY - box.top) * scale - top) / side);
    if (nearest) return [Math.max(0, Math.min(rows - 1, row)), Math.max(0, Math.min(columns - 1, column))];
    return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null;
  }

  return { svg, paint, ring, point, cellAt };
}

function drawAxes(svg, bundle, { left, top, side, width, height }) {
  const rows = bundle.rows.length;
  const step = Math.max(1, Math.ceil(15 / side));
  // where a tick is wider than a cell, block 0 gives way to the embeddings
  const ticked = (names) =>
    names.map((_, place) => place).filter((place) => {
      const offset = names[0] === "embeddings" ? 1 : 0;
      if (place < offset) return true;
      if (offset && place === 1 && (step > 1 || side < 26)) return false;
      return (place - offset) % step === 0;
    });
  for (const column of ticked(bundle.columns)) {
    const place = { x: left + (column + 0.5) * side, y: top + height + 13, "text-anchor": "middle" };
    draw(svg, "text", place, layerLabel(bundle.columns[column]));
  }
  for (const row of ticked(bundle.rows)) {
    const place = { x: left - 5, y: top + (rows - 0.5 - row) * side + 4, "text-anchor": "end" };
    draw(svg, "text", place, layerLabel(bundle.rows[row]));
  }
  const across = { x: left + width / 2, y: top + height + 31, "text-anchor": "middle", class: "bw-axis" };
  draw(svg, "text", across, "generation layer (block; deeper →)");
  draw(svg, "text", { ...across, y: top + height + 46, class: "bw-quiet" }, bundle.origin.generation);
  const up = { "text-anchor": "middle", transform: `translate(11 ${top + height / 2}) rotate(-90)` };
  const hint = height < 190 ? "" : " (block; deeper →)"; // a short map would cut it off
  draw(svg, "text", { ...up, class: "bw-axis" }, `understanding layer${hint}`);
  const beside = { ...up, transform: `translate(25 ${top + height / 2}) rotate(-90)`, class: "bw-quiet" };
  draw(svg, "text", beside, bundle.origin.understanding);
}

/** Draw the colour bar, and return a function that labels it for a view. */
function drawBar(svg, bundle, { x, y, height }) {
  const stops = bundle.colours.length;
  for (let stop = 0; stop < stops; stop++) {
    const place = { x, y: y + height - ((stop + 1) * height) / stops, width: 12, height: height / stops + 0.5 };
    draw(svg, "rect", { ...place, fill: bundle.colours[stop] });
  }
  const labels = draw(svg, "g");
  return (view, low, high) => {
    labels.replaceChildren();
    const at = (score) => y + height - ((score - low) / (high - low || 1)) * height;
    const ticks = [high, (low + high) / 2, low];
    ticks.forEach((score) => {
      draw(labels, "text", { x: x + 17, y: Math.max(y + 9, Math.min(y + height, at(score) + 4)) }, shown(score));
    });
    if (view.chance !== null && view.chance > low && view.chance < high)
      draw(labels, "path", { d: `M ${x - 3} ${at(view.chance)} h 18`, class: "bw-chance" });
  };
}

/** Return the place of a score in the range of colours, 0 to 1. */
const shareOf = (score, low, high) => Math.max(0, Math.min(1, (score - low) / (high - low || 1)));
const isDark = (score, low, high) => shareOf(score, low, high) < 0.6;

function colourOf(bundle, score, low, high) {
  if (!Number.isFinite(score)) return "#ececec";
  return bundle.colours[Math.round(shareOf(score, low, high) * (bundle.colours.length - 1))];
}
