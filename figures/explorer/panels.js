// Build what stands around the map: the controls, the readout of a cell, the plan, and the stimuli of a cell.

const SHOWN_STIMULI = 6;
const SHOWN_NEIGHBOURS = 8;

/** Make an HTML element with attributes and children; texts are never read as HTML. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Make a slider over a list of values; `moved` gets the index, and `labelled` says what stands beside it. */
function makeSlider(name, count, labelled, moved) {
  const output = make("output");
  const input = make("input", { type: "range", min: 0, max: count - 1, step: 1, "aria-label": name });
  input.addEventListener("input", () => moved(Number(input.value)));
  const set = (index) => {
    input.value = index;
    output.textContent = labelled(index);
    input.setAttribute("aria-valuetext", labelled(index));
  };
  return { element: make("label", { class: "bw-control" }, make("span", {}, name), input, output), set, input };
}

/** Build the controls: metric, timestep, k and the number of bridges. */
function buildControls(bundle, act) {
  const select = make("select", { "aria-label": "metric", onchange: () => act.metric(select.value) });
  for (const { name } of bundle.metrics) select.append(make("option", { value: name }, name));
  const metric = make("label", { class: "bw-control" }, make("span", {}, "metric"), select);
  const times = bundle.timesteps;
  const time = makeSlider("timestep", times.length, (index) => `t = ${times[index] ?? "–"}`, act.timestep);
  const k = makeSlider("k", bundle.mostK, (index) => `${index + 1}`, (index) => act.k(index + 1));
  const most = Math.min(bundle.understandingLayers, bundle.generationLayers);
  const count = make("output", { class: "bw-count" });
  const fewer = make("button", { type: "button", "aria-label": "fewer bridges", onclick: () => act.bridges(-1) }, "−");
  const more = make("button", { type: "button", "aria-label": "more bridges", onclick: () => act.bridges(1) }, "+");
  const bridges = make("span", { class: "bw-control" }, make("span", {}, "bridges"), fewer, count, more);
  if (times.length < 2) time.element.hidden = true;

  function update(state, view) {
    select.value = state.metric;
    time.set(state.timestep);
    k.set(state.k - 1);
    const about = bundle.metrics.find(({ name }) => name === state.metric);
    time.input.disabled = !about.timed;
    k.input.disabled = !about.neighbours || about.fixedK !== null;
    k.element.title = about.neighbours
      ? about.fixedK === null ? "the number of neighbours" : `this page holds ${state.metric} at k = ${about.fixedK}`
      : `${state.metric} has no neighbours; k is of the stimuli below`;
    count.textContent = state.pairs.length;
    fewer.disabled = state.pairs.length <= 1;
    more.disabled = state.pairs.length >= most;
  }
  return { element: make("div", { class: "bw-controls" }, metric, time.element, k.element, bridges), update };
}

/** Build the readout: score, interval and p of the cell under the pointer. */
function buildReadout(bundle) {
  const element = make("div", { class: "bw-readout", "aria-live": "polite" });
  const line = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

  function update(view, cell) {
    if (!cell) {
      const hint = "Point at a cell for its score, click it for its stimuli, drag a ring to move a bridge.";
      element.replaceChildren(make("p", { class: "bw-hint" }, hint));
      return;
    }
    const place = cell[0] * bundle.columns.length + cell[1];
    const heading = `understanding ${layerLabel(bundle.rows[cell[0]])} × generation ${layerLabel(bundle.columns[cell[1]])}`;
    const lines = [line(view.scaled ? "score above null" : "score", shown(view.scores[place]))];
    const interval = view.noise ? cellInterval(bundle, view, place) : null;
    if (!view.noise) lines.push(line("95 % interval", "…"));
    else if (interval) lines.push(line("95 % interval", `${shown(interval[0])} to ${shown(interval[1])}`));
    if (view.p) {
      lines.push(line("p", `${shown(view.p[place])}, of the map ${shown(view.adjusted[place])}`));
      if (!view.scaled) lines.push(line("strangers, 95 %", `below ${shown(view.null95[place])}`));
    } else lines.push(line("p", view.noise ? "not measured for this map" : "…"));
    if (view.chance !== null && !view.scaled) lines.push(line("chance", shown(view.chance)));
    element.replaceChildren(make("h3", {}, heading), make("dl", {}, ...lines));
  }
  return { element, update };
}

/** Build the panel of the plan: its bridges, score, stability and cost, and what can be done with it. */
function buildPlanPanel(bundle, act) {
  const title = make("h3");
  const table = make("table");
  const said = make("p", { class: "bw-said" });
  const cost = make("p", { class: "bw-said" });
  const back = make("button", { type: "button", onclick: act.byRule }, "Rule’s plan");
  const save = make("button", { type: "button", onclick: act.save }, "Save plan (JSON)");
  const element = make(
    "section", { class: "bw-plan", "aria-label": "bridge plan" },
    title, table, said, cost, make("div", { class: "bw-buttons" }, back, save),
  );

  function update(state, view, found) {
    const count = `${state.pairs.length} ${state.pairs.length === 1 ? "bridge" : "bridges"}`;
    title.textContent = state.byRule ? `${count} by rule “${view.rule}”` : `${count}, drawn by hand`;
    const head = make("tr", {}, ...["bridge", "score", "kept"].map((name) => make("th", {}, name)));
    head.lastChild.title = "how many of the plans that random halves of the stimuli give hold this bridge";
    const rows = state.pairs.map(([u, g]) => {
      const kept = found.stability ? `${Math.round(100 * found.stability.kept([u, g]))} %` : "…";
      const cells = [`${u} – ${g}`, shown(found.values[u][g]), view.noise && !view.halves ? "–" : kept];
      const strange = view.p && view.p[cellOf(bundle, u, g)] > 0.05;
      const title = strange ? "within the null: strangers score as much" : null;
      return make("tr", { class: strange ? "bw-strange" : null, title }, ...cells.map((cell) => make("td", {}, cell)));
    });
    const sum = make("tr", { class: "bw-sum" }, ...["plan", shown(found.score), ""].map((cell) => make("td", {}, cell)));
    table.replaceChildren(head, ...rows, sum);
    said.textContent = sayNull(view) + sayStability(bundle, view, found);
    back.disabled = state.byRule;
  }
  return { element, update, showCost: (text) => (cost.textContent = text) };
}

/** Return the number of a cell of a pair of blocks. */
const cellOf = (bundle, u, g) => bundle.rowBlocks.indexOf(u) * bundle.columns.length + bundle.columnBlocks.indexOf(g);

/** Say whether no cell of the map is more than noise. */
function sayNull(view) {
  const best = view.adjusted ? Math.min(...view.adjusted.filter(Number.isFinite)) : 0;
  return best > 0.05 && best <= 1 ? `No cell of the map is more than noise (p of the map ${shown(best)}). ` : "";
}

/** Say how the plan compares with the rule's, and whether the noise of the stimuli settles it. */
function sayStability(bundle, view, { score, bestScore, lead, stability, isBest }) {
  const interval = ({ margin, low, high }) => `${shown(margin)}, 95 % interval ${shown(low)} to ${shown(high)}`;
  if (!view.noise) return `The rule’s plan scores ${shown(bestScore)}. Measuring the noise …`;
  if (!isBest) {
    const gap = `The rule’s plan scores ${shown(bestScore)}, more by `;
    if (!lead) return `${gap}${shown(bestScore - score)}.`;
    return `${gap}${interval(lead)}: ${lead.low > 0 ? "more than noise" : "within noise"}.`;
  }
  if (!stability) return "Of this map there are no halves, which stability is measured with.";
  const { rival, settled } = stability;
  if (!rival) return "The plan is settled: no other plan has so many bridges.";
  const named = rival.pairs.map(([u, g]) => `${u}-${g}`).join(" ");
  const verdict = settled ? "is settled" : "is not settled";
  const rest = settled ? "" : ", which is noise. More stimuli would tell";
  return `The plan ${verdict} by ${bundle.samples} stimuli: its lead over ${named} is ${interval(rival)}${rest}.`;
}

/** Build the panel of the stimuli on whose neighbours two layers agree, and disagree, most. */
function buildStimuliPanel(bundle) {
  const element = make("section", { class: "bw-stimuli", "aria-label": "stimuli of the chosen cell" });

  function thumbnail(sample, common) {
    const about = { class: common ? "bw-thumb bw-common" : "bw-thumb", title: bundle.texts?.[sample] ?? bundle.ids[sample] };
    const { sprite } = bundle;
    if (!sprite) return make("span", { ...about, class: `${about.class} bw-word` }, about.title);
    const [column, row] = [sample % sprite.columns, Math.floor(sample / sprite.columns)];
    const share = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0);
    const style =
      `background-image:url(${bundle.spriteUrl});background-size:${100 * sprite.columns}% ${100 * sprite.rows}%;` +
      `background-position:${share(column, sprite.columns)}% ${share(row, sprite.rows)}%`;
    return make("span", { ...about, style, role: "img", "aria-label": about.title });
  }

  function card({ sample, understanding, generation, share }, k) {
    const strip = (name, one, other) =>
      make(
        "div", { class: "bw-strip" }, make("small", {}, name),
        ...Array.from(one.slice(0, SHOWN_NEIGHBOURS), (near) => thumbnail(near, other.includes(near))),
      );
    const common = `${Math.round(share * k)} of ${k} in common`;
    return make(
      "article", {},
      make("div", { class: "bw-who" }, thumbnail(sample, false)),
      make(
        "div", { class: "bw-what" },
        make("p", {}, make("strong", {}, bundle.texts?.[sample] ?? bundle.ids[sample]), make("span", {}, common)),
        strip("understanding", understanding, generation),
        strip("generation", generation, understanding),
      ),
    );
  }

  function update(state, about) {
    element.hidden = !state.cell;
    if (!state.cell) return;
    const [row, column] = state.cell;
    const undefined_ = bundle.undefinedRows.includes(row) || bundle.undefinedColumns[state.timestep].includes(column);
    const names = `understanding ${layerLabel(bundle.rows[row])} × generation ${layerLabel(bundle.columns[column])}`;
    const heading = make("h3", {}, `Neighbours of the stimuli: ${names}`);
    if (undefined_) {
      element.replaceChildren(heading, make("p", { class: "bw-said" }, "All stimuli point the same way in one of the layers: there are no neighbours."));
      return;
    }
    const found = agreement(bundle, state.timestep, row, column, state.k);
    found.sort((one, other) => other.share - one.share || other.deep - one.deep || one.sample - other.sample);
    const measured = `The ${state.k} nearest of each stimulus by cosine, in both layers; those in common are outlined.`;
    const note = about.name === bundle.live ? "" : ` ${about.name} is not computed from neighbours: these are those of ${bundle.live}.`;
    const few = Math.min(SHOWN_STIMULI, Math.floor(found.length / 2));
    const half = (name, some) =>
      make("div", {}, make("h4", {}, name), ...some.map((one) => card(one, state.k)));
    const sides = [half("agree most", found.slice(0, few)), half("agree least", found.slice(-few).reverse())];
    element.replaceChildren(
      heading, make("p", { class: "bw-said" }, measured + note), make("div", { class: "bw-halves" }, ...sides),
    );
  }
  return { element, update };
}
