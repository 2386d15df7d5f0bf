// Join map and panels: what is shown, and what the user does with it. One function serves the widget and the page.

/**
 * Show the explorer inside an element.
 *
 * header, buffer: the bundle, as figures/explorer/data_bundle.py makes it.
 * host: what stands behind the page. All its functions may be missing.
 *   kept(state): the state has changed;
 *   measure(metric, timestep, k): measure a map that the bundle lacks, and hand it to `receive`;
 *   cost(pairs): estimate the cost of a plan, and hand it to `receiveCost`.
 */
function explore(element, header, buffer, host = {}) {
  const bundle = openBundle(header, buffer);
  const state = { ...header.start };
  const aboutOf = (metric) => bundle.metrics.find(({ name }) => name === metric);
  const costs = new Map(Object.entries(header.costs ?? {}));
  let view = null;
  let pointed = null; // the cell under the pointer
  let focus = null; // the cell of the keyboard
  let dragged = null; // the number of the bridge that is dragged
  let moved = false; // whether it has left its cell
  let stability = { of: null };
  let waiting = 0;
  let good = null; // the last choice of metric, timestep and k whose map there was

  if (bundle.sprite) {
    const picture = new Blob([bundle.data.sprite], { type: "image/jpeg" });
    bundle.spriteUrl = URL.createObjectURL(picture);
  }
  header.views.forEach((meta) => keepView(meta, bundle.data));

  const title = make("header", {}, make("h2", {}, "Layer map"), make("p", { class: "bw-measured" }));
  const act = { metric: setMetric, timestep: setTimestep, k: setK, bridges: changeCount, byRule: takeRulesPlan, save: savePlan };
  const controls = buildControls(bundle, act);
  const mapHolder = make("div", { class: "bw-holder" });
  const readout = buildReadout(bundle);
  const planPanel = buildPlanPanel(bundle, act);
  const stimuli = buildStimuliPanel(bundle);
  const status = make("p", { class: "bw-status", role: "status" });
  const legend = make("p", { class: "bw-legend" });
  const side = make("div", { class: "bw-side" }, readout.element, planPanel.element, status);
  const left = make("div", { class: "bw-left" }, mapHolder, legend);
  const root = make("div", { class: "bw-explorer" }, title, controls.element, make("div", { class: "bw-main" }, left, side), stimuli.element);
  root.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation(); // arrow keys and B are commands of a notebook too
  });
  element.replaceChildren(root);
  const map = drawMap(mapHolder, bundle);
  if (!bundle.sprite && !bundle.texts) root.classList.add("bw-plain");

  // What is known

  function keyOf(metric, timestep, k) {
    const { neighbours, timed } = aboutOf(metric);
    return JSON.stringify([metric, timed ? timestep : null, neighbours ? k : null]);
  }

  function keepView(meta, arrays) {
    const array = (name) => arrays[`${meta.key}.${name}`] ?? null;
    const known = { p: array("p"), adjusted: array("adjusted"), null95: array("null95"), halves: array("halves") };
    const found = { ...meta, ...known, scores: array("scores") };
    found.asked = bundle.views.has(keyOf(meta.metric, meta.timestep, meta.k)); // its halves are on their way
    bundle.views.set(keyOf(meta.metric, meta.timestep, meta.k), found);
  }

  /** Take a map that the host has measured. */
  function receive(meta, listed, received) {
    keepView(meta, readArrays(listed, received));
    refresh();
  }

  /** Go back to the last map, and say why the host could not measure another. */
  function fail(reason) {
    Object.assign(state, good);
    refresh();
    say(reason);
  }

  function receiveCost(pairs, text) {
    costs.set(JSON.stringify(pairs), text);
    showCost();
  }

  function findView() {
    const key = keyOf(state.metric, state.timestep, state.k);
    if (!bundle.views.has(key) && state.metric === bundle.live) {
      const fresh = overlapView(bundle, state.timestep, state.k);
      bundle.views.set(key, { ...fresh, rule: "alignment", attrs: attrsOf(fresh) });
    }
    return bundle.views.get(key) ?? null;
  }

  function attrsOf({ metric, timestep, k, chance }) {
    const { samples, about } = bundle;
    return { ...about.both, metric, k, samples, chance, x: about.x, y: about.y[timestep] };
  }

  // What the user does

  function setMetric(metric) {
    state.metric = metric;
    const { fixedK } = aboutOf(metric);
    if (fixedK !== null) state.k = fixedK;
    refresh();
  }

  function setTimestep(timestep) {
    state.timestep = timestep;
    refresh();
  }

  function setK(k) {
    state.k = k;
    refresh();
  }

  function changeCount(step) {
    const pairs = bestPairs(blockValues(bundle, view.scores), state.pairs.length + step);
    if (!pairs) return say("The map has too few finite scores for so many bridges.");
    state.byRule = true;
    showPlan(pairs);
  }

  function takeRulesPlan() {
    state.byRule = true;
    showPlan(bestPairs(blockValues(bundle, view.scores), state.pairs.length) ?? state.pairs);
  }

  /** Return the pair of blocks of a cell; null for the embeddings, which cannot be bridged. */
  function pairOf([row, column]) {
    const [u, g] = [bundle.rowBlocks[row], bundle.columnBlocks[column]];
    return u === null || g === null ? null : [u, g];
  }

  const bridgeAt = (cell) => {
    const pair = pairOf(cell);
    return pair ? state.pairs.findIndex((other) => samePairs(other, pair)) : -1;
  };

  /** Set a bridge at a cell, or remove it. */
  function toggleBridge(cell) {
    const pair = pairOf(cell);
    if (!pair) return say("The embeddings cannot be bridged.");
    const there = bridgeAt(cell);
    if (there >= 0 && state.pairs.length === 1) return say("A plan needs at least one bridge.");
    if (there >= 0) return drawn(state.pairs.filter((_, number) => number !== there));
    const fits = state.pairs.every(([u, g]) => (u < pair[0] && g < pair[1]) || (u > pair[0] && g > pair[1]));
    if (!fits) return say("A bridge there would cross another, or meet one of its blocks again.");
    return drawn([...state.pairs, pair].sort((one, other) => one[0] - other[0]));
  }

  /** Move a bridge to the allowed cell that is nearest to a cell: between its two neighbours. */
  function moveBridge(number, cell, done) {
    const limits = (side, blocks) => {
      const low = number > 0 ? state.pairs[number - 1][side] + 1 : 0;
      const high = number < state.pairs.length - 1 ? state.pairs[number + 1][side] - 1 : Infinity;
      return blocks.filter((block) => block !== null && block >= low && block <= high);
    };
    const nearestBlock = (blocks, all, place) =>
      blocks.reduce((best, block) =>
        Math.abs(all.indexOf(block) - place) < Math.abs(all.indexOf(best) - place) ? block : best,
      );
    const sides = [bundle.rowBlocks, bundle.columnBlocks];
    const pair = sides.map((all, side) => nearestBlock(limits(side, all), all, cell[side]));
    if (!done && samePairs(pair, state.pairs[number])) return;
    drawn(state.pairs.map((other, index) => (index === number ? pair : other)), done);
  }

  function drawn(pairs, done = true) {
    const best = bestPairs(blockValues(bundle, view.scores), pairs.length);
    state.byRule = best !== null && samePairs(pairs, best);
    showPlan(pairs, done);
  }

  function savePlan() {
    const url = URL.createObjectURL(new Blob([`${JSON.stringify(planRecord(), null, 2)}\n`], { type: "application/json" }));
    make("a", { href: url, download: "plan.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
    say("Saved as plan.json: BridgePlan.load reads it.");
  }

  /** Return the plan as BridgePlan.save writes it. */
  function planRecord() {
    const score = planScore(blockValues(bundle, view.scores), state.pairs);
    const found = { pairs: state.pairs, evidence: view.attrs, score: Number.isFinite(score) ? score : null };
    return { ...bundle.plan, ...found, rule: state.byRule ? view.rule : "by hand" };
  }

  // What is shown

  function say(text) {
    status.textContent = text;
  }

  function refresh() {
    const found = findView();
    const about = aboutOf(state.metric);
    controls.update(state, found);
    root.classList.toggle("bw-waiting", !found);
    if (!found) {
      say(`Measuring ${state.metric} …`);
      host.measure?.(state.metric, state.timestep, state.k);
      return;
    }
    if (view !== found) say("");
    view = found;
    good = { metric: state.metric, timestep: state.timestep, k: state.k };
    if (!view.noise && state.metric === bundle.live) measureLater(view);
    else if (!view.noise && !view.asked) {
      view.asked = true;
      host.measure?.(state.metric, state.timestep, state.k);
    }
    map.paint(view);
    const fixed = [state.metric + (view.scaled ? ", scaled by its null" : "")];
    if (about.neighbours) fixed.push(`k = ${view.k}`);
    if (about.timed && bundle.timesteps[0] !== null) fixed.push(`t = ${bundle.timesteps[state.timestep]}`);
    fixed.push(`N = ${bundle.samples}`);
    if (view.chance !== null && !view.scaled) fixed.push(`chance ${shown(view.chance)}`);
    title.querySelector(".bw-measured").textContent = fixed.join(" · ");
    const strange = view.p && view.p.some((p) => p > 0.05) ? "A dot marks cells within the null, p > .05. " : "";
    const bar = view.chance !== null && !view.scaled ? "The stroke on the colour bar is chance." : "";
    legend.textContent = strange + bar;
    if (state.byRule) {
      const best = bestPairs(blockValues(bundle, view.scores), state.pairs.length);
      if (best) state.pairs = best;
    }
    showPlan(state.pairs);
    showCell();
    stimuli.update(state, about);
  }

  function showCell() {
    const cell = pointed ?? focus ?? state.cell;
    readout.update(view, cell);
    map.point("focus", pointed ?? (document.activeElement === map.svg || root.contains(document.activeElement) ? focus : null));
    map.point("chosen", state.cell);
  }

  function showPlan(pairs, done = true) {
    state.pairs = pairs;
    const values = blockValues(bundle, view.scores);
    const best = bestPairs(values, pairs.length) ?? pairs;
    const isBest = samePairs(best, pairs);
    const noise = view.noise && view.halves;
    if (noise && (stability.of !== view || stability.bridges !== pairs.length))
      stability = { of: view, bridges: pairs.length, found: stabilityOf(bundle, view, pairs.length) };
    const lead = noise && !isBest ? leadOf(bundle, view, best, pairs) : null;
    const found = { values, score: planScore(values, pairs), bestScore: planScore(values, best), isBest, lead };
    planPanel.update(state, view, { ...found, stability: noise ? stability.found : null });
    map.ring(pairs, !state.byRule);
    controls.update(state, view);
    if (done) {
      host.kept?.({ ...state });
      if (!costs.has(JSON.stringify(pairs))) host.cost?.(pairs);
    }
    showCost();
  }

  function showCost() {
    const known = costs.get(JSON.stringify(state.pairs));
    const alike = costs.get(`${state.pairs.length}`);
    if (known) planPanel.showCost(`Cost: ${known}.`);
    else if (host.cost && header.costed) planPanel.showCost("Cost: being estimated …");
    else planPanel.showCost(alike ? `Cost of ${state.pairs.length} bridges by the rule: ${alike}.` : "");
  }

  /** Measure the noise of a view in slices of 10 ms, and not before the user has stopped moving sliders. */
  function measureLater(of) {
    const mine = ++waiting;
    const steps = measureNoise(bundle, of);
    const slice = () => {
      if (mine !== waiting) return;
      const until = performance.now() + 10;
      let ended = false;
      while (!ended && performance.now() < until) ended = steps.next().done;
      if (ended) refresh();
      else setTimeout(slice);
    };
    setTimeout(slice, 120);
  }

  // Pointer and keyboard

  map.svg.addEventListener("pointermove", (event) => {
    if (dragged !== null) {
      const before = state.pairs;
      moveBridge(dragged, map.cellAt(event, true), false);
      moved ||= !samePairs(before, state.pairs);
      return;
    }
    const cell = map.cellAt(event);
    map.svg.classList.toggle("bw-grab", cell !== null && bridgeAt(cell) >= 0);
    if (samePairs(cell, pointed)) return;
    pointed = cell;
    showCell();
  });
  map.svg.addEventListener("pointerleave", () => {
    pointed = null;
    showCell();
  });
  map.svg.addEventListener("pointerdown", (event) => {
    const cell = map.cellAt(event);
    if (!cell) return;
    focus = cell;
    const number = bridgeAt(cell);
    if (number < 0) return;
    [dragged, moved] = [number, false];
    map.svg.setPointerCapture(event.pointerId);
  });
  map.svg.addEventListener("pointerup", (event) => {
    const number = dragged;
    dragged = null;
    if (number === null) return;
    if (moved) moveBridge(number, map.cellAt(event, true), true);
  });
  map.svg.addEventListener("pointercancel", () => (dragged = null));
  map.svg.addEventListener("click", (event) => {
    const cell = map.cellAt(event);
    if (cell && !moved) choose(cell); // the end of a drag is a click too
    moved = false;
  });
  map.svg.addEventListener("dblclick", (event) => {
    const cell = map.cellAt(event);
    if (cell) toggleBridge(cell);
  });
  map.svg.addEventListener("focus", () => {
    focus ??= state.cell ?? [0, 0];
    showCell();
  });
  map.svg.addEventListener("blur", () => map.point("focus", null));
  map.svg.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
    const step = steps[event.key];
    const known = step || ["Enter", " ", "b", "B"].includes(event.key);
    if (!known || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    focus ??= state.cell ?? [0, 0];
    pointed = null;
    if (step) {
      const ends = [bundle.rows.length - 1, bundle.columns.length - 1];
      const next = focus.map((place, axis) => Math.max(0, Math.min(ends[axis], place + step[axis])));
      const number = event.shiftKey ? bridgeAt(focus) : -1;
      if (number >= 0) {
        moveBridge(number, next, true);
        const [u, g] = state.pairs[number];
        focus = [bundle.rowBlocks.indexOf(u), bundle.columnBlocks.indexOf(g)];
      } else focus = next;
    } else if (event.key === "Enter" || event.key === " ") choose(focus);
    else toggleBridge(focus);
    showCell();
  });

  function choose(cell) {
    state.cell = cell;
    host.kept?.({ ...state });
    showCell();
    stimuli.update(state, aboutOf(state.metric));
  }

  refresh();
  const handle = { receive, receiveCost, fail, planRecord, state: () => ({ ...state }), view: () => view, bundle };
  root.explorer = handle; // for scripts in the page
  return handle;
}
