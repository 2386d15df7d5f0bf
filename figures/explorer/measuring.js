// Measure layer maps and plans from what the bundle holds. Nothing here touches the page.
//
// A map is an array of rows x columns scores, row by row. A view is what is known of one map: its scores, p, adjusted p,
// null95, and its halves: the same map on both halves of each random split of the stimuli (split, 2, row, column).
// The formulas are those of Python: probes/metrics/neighbours.py, probes/similarity/nulls.py, probes/similarity/intervals.py,
// probes/plans/matching.py and probes/plans/stability.py.

const Z95 = 1.959964;
const STEP = 10; // permutations between two looks at what the user does
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array, float64: Float64Array };

/** Return the typed arrays, by name, that a header lists and one buffer holds. */
function readArrays(listed, buffer) {
  const found = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(listed)) {
    const size = shape.reduce((product, count) => product * count, 1);
    found[name] = new ARRAYS[dtype](buffer, offset, size);
  }
  return found;
}

/** Return the bundle: the header, its arrays, and where each permutation puts a stimulus. */
function openBundle(header, buffer) {
  const arrays = readArrays(header.arrays, buffer);
  const { samples, permutations } = header;
  const places = new Uint32Array(permutations * samples);
  for (let p = 0; p < permutations; p++)
    for (let i = 0; i < samples; i++) places[p * samples + arrays.orders[p * samples + i]] = i;
  return { ...header, data: arrays, places, views: new Map() };
}

/** Return the neighbour lists of both sides, {lists, layers, samples, length}, at a timestep. */
function neighbourSides(bundle, timestep) {
  const { samples, ranks, rows, columns, data } = bundle;
  const size = columns.length * samples * ranks;
  const right = data.columns.subarray(timestep * size, (timestep + 1) * size);
  return [
    { lists: data.rows, layers: rows.length, samples, length: ranks },
    { lists: right, layers: columns.length, samples, length: ranks },
  ];
}

/** Call `visit(mark, sample, first)` for each stimulus; bit b of mark[j] says whether j is near it in layer first + b. */
function withMarks(side, k, visit) {
  const { lists, layers, samples, length } = side;
  const mark = new Int32Array(samples + 1);
  for (let first = 0; first < layers; first += 31) {
    const last = Math.min(first + 31, layers);
    for (let i = 0; i < samples; i++) {
      for (let layer = first; layer < last; layer++) {
        const start = (layer * samples + i) * length;
        for (let n = 0; n < k; n++) mark[lists[start + n]] |= 1 << (layer - first);
      }
      mark[samples] = 0; // what stands in a list that is too short
      visit(mark, i, first);
      for (let layer = first; layer < last; layer++) {
        const start = (layer * samples + i) * length;
        for (let n = 0; n < k; n++) mark[lists[start + n]] = 0;
      }
    }
  }
}

/** Return the map of mutual kNN: the mean share of the k nearest that two layers have in common. */
function overlapMap(left, right, k) {
  const counts = new Float64Array(left.layers * right.layers);
  const { lists, layers, samples, length } = right;
  withMarks(left, k, (mark, i, first) => {
    for (let y = 0; y < layers; y++) {
      const start = (y * samples + i) * length;
      for (let n = 0; n < k; n++)
        for (let bits = mark[lists[start + n]]; bits; bits &= bits - 1)
          counts[(first + 31 - Math.clz32(bits & -bits)) * layers + y]++;
    }
  });
  return counts.map((count) => count / (samples * k));
}

/** Return maps of mutual kNN under some permutations of the right side's stimuli, (permutation, row, column). */
function permutedOverlaps(bundle, left, right, k, from, to) {
  const cells = left.layers * right.layers;
  const { lists, layers, samples, length } = right;
  const { places } = bundle;
  const { orders } = bundle.data;
  const counts = new Float64Array((to - from) * cells);
  withMarks(left, k, (mark, i, first) => {
    for (let p = from; p < to; p++) {
      const other = orders[p * samples + i];
      for (let y = 0; y < layers; y++) {
        const start = (y * samples + other) * length;
        for (let n = 0; n < k; n++)
          for (let bits = mark[places[p * samples + lists[start + n]]]; bits; bits &= bits - 1)
            counts[(p - from) * cells + (first + 31 - Math.clz32(bits & -bits)) * layers + y]++;
      }
    }
  });
  return counts.map((count) => count / (samples * k));
}

/** Return the k nearest among chosen stimuli, from each chosen stimulus' ranking of all. */
function cutToHalf(side, chosen, place, k) {
  const { lists, layers, samples, length } = side;
  const cut = new Uint32Array(layers * chosen.length * k).fill(chosen.length);
  for (let layer = 0; layer < layers; layer++)
    for (let row = 0; row < chosen.length; row++) {
      let start = (layer * samples + chosen[row]) * length;
      const end = start + length;
      let to = (layer * chosen.length + row) * k;
      for (const full = to + k; start < end && to < full; start++) {
        const there = place[lists[start]];
        if (there >= 0) cut[to++] = there;
      }
    }
  return { lists: cut, layers, samples: chosen.length, length: k };
}

/** Set the rows and columns of layers in which all stimuli point the same way to NaN: they have no neighbours. */
function blankUndefined(bundle, timestep, maps) {
  const { rows, columns, undefinedRows, undefinedColumns } = bundle;
  const cells = rows.length * columns.length;
  for (let i = 0; i < maps.length; i++) {
    const row = Math.floor((i % cells) / columns.length);
    if (undefinedRows.includes(row) || undefinedColumns[timestep].includes(i % columns.length)) maps[i] = NaN;
  }
  return maps;
}

/** Return the view of mutual kNN with its scores alone; `measureNoise` adds the rest. */
function overlapView(bundle, timestep, k) {
  const scores = blankUndefined(bundle, timestep, overlapMap(...neighbourSides(bundle, timestep), k));
  const chance = k / (bundle.samples - 1);
  return { metric: bundle.live, timestep, k, scores, chance, scaled: false, noise: false };
}

/** Measure null and halves of a view of mutual kNN in small steps: a generator, so that the page answers meanwhile. */
function* measureNoise(bundle, view) {
  const { samples, rows, columns, permutations, splits, half } = bundle;
  const cells = rows.length * columns.length;
  const sides = neighbourSides(bundle, view.timestep);
  const strangers = new Float64Array(permutations * cells);
  for (let from = 0; from < permutations; from += STEP) {
    const to = Math.min(from + STEP, permutations);
    strangers.set(permutedOverlaps(bundle, ...sides, view.k, from, to), from * cells);
    yield;
  }
  blankUndefined(bundle, view.timestep, strangers);
  Object.assign(view, calibrate(view.scores, strangers, permutations));
  yield;
  const near = bundle.halfK[view.k];
  const halves = new Float64Array(splits * 2 * cells);
  for (let s = 0; s < splits * 2; s++) {
    const chosen = bundle.data.halves.subarray(s * half, (s + 1) * half);
    const place = new Int32Array(samples).fill(-1);
    chosen.forEach((sample, index) => (place[sample] = index));
    halves.set(overlapMap(...sides.map((side) => cutToHalf(side, chosen, place, near)), near), s * cells);
    yield;
  }
  Object.assign(view, { halves: blankUndefined(bundle, view.timestep, halves), noise: true });
}

/** Return p, p among the permutations' maxima, and the 95 % quantile of the null, for each cell. */
function calibrate(scores, null_, permutations) {
  const cells = scores.length;
  const peaks = new Float64Array(permutations);
  for (let i = 0; i < permutations; i++) {
    let peak = NaN;
    for (let cell = 0; cell < cells; cell++) {
      const score = null_[i * cells + cell];
      if (!(score <= peak) && !Number.isNaN(score)) peak = score;
    }
    peaks[i] = peak;
  }
  const p = new Float64Array(cells);
  const adjusted = new Float64Array(cells);
  const null95 = new Float64Array(cells);
  const one = new Float64Array(permutations);
  for (let cell = 0; cell < cells; cell++) {
    for (let i = 0; i < permutations; i++) one[i] = null_[i * cells + cell];
    const defined = !Number.isNaN(scores[cell]);
    p[cell] = defined ? reached(one, scores[cell]) : NaN;
    adjusted[cell] = defined ? reached(peaks, scores[cell]) : NaN;
    null95[cell] = defined ? quantile(one.sort(), 0.95) : NaN;
  }
  return { p, adjusted, null95 };
}

function reached(null_, score) {
  let count = 0;
  for (const value of null_) if (value >= score - 1e-6) count++;
  return (1 + count) / (1 + null_.length);
}

function quantile(ascending, share) {
  const at = share * (ascending.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, ascending.length - 1);
  return ascending[below] + (at - below) * (ascending[above] - ascending[below]);
}

/** Return draws of the error of a statistic of all stimuli, from its values in both halves of each split. */
function halfErrors(split, half, samples) {
  const gaps = split.map(([one, other]) => (one - other) / 2);
  const middles = split.map(([one, other]) => (one + other) / 2);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const spread = mean(gaps.map((gap) => gap * gap));
  const centre = mean(middles);
  const variance = mean(middles.map((middle) => (middle - centre) ** 2));
  const share = spread > 0 ? Math.max(1 - variance / (2 * spread), 0.5) : 1;
  return gaps.map((gap) => gap * Math.sqrt((share * 2 * half) / samples));
}

/** Return the map of a half of the stimuli, as a function (split, side). */
function halfMaps(bundle, view) {
  const cells = bundle.rows.length * bundle.columns.length;
  return (s, side) => view.halves.subarray((2 * s + side) * cells, (2 * s + side + 1) * cells);
}

/** Return the block values of both halves of every split, [split][side]; they are made once for a view. */
function halfValues(bundle, view) {
  const map = halfMaps(bundle, view);
  view.halfValues ??= Array.from({ length: bundle.splits }, (_, s) =>
    [0, 1].map((side) => blockValues(bundle, map(s, side))),
  );
  return view.halfValues;
}

/** Return the 95 % interval of a cell's score, as alignment curves have it; null where there are no halves. */
function cellInterval(bundle, view, cell) {
  if (!view.halves) return null;
  const map = halfMaps(bundle, view);
  const split = Array.from({ length: bundle.splits }, (_, s) => [map(s, 0)[cell], map(s, 1)[cell]]);
  const errors = halfErrors(split, bundle.half, bundle.samples);
  const reach = Z95 * Math.sqrt(errors.reduce((sum, error) => sum + error * error, 0) / errors.length);
  return [view.scores[cell] - reach, view.scores[cell] + reach];
}

/** Return the score of each pair of blocks, [understanding block][generation block]; NaN where nothing was measured. */
function blockValues(bundle, map) {
  const { rowBlocks, columnBlocks, understandingLayers, generationLayers } = bundle;
  const values = Array.from({ length: understandingLayers }, () => new Float64Array(generationLayers).fill(NaN));
  rowBlocks.forEach((u, row) =>
    columnBlocks.forEach((g, column) => {
      if (u !== null && g !== null) values[u][g] = map[row * columnBlocks.length + column];
    }),
  );
  return values;
}

/** Return the plan of so many bridges with the largest sum of gains, exactly; null where too few are measured. */
function bestPairs(values, bridges) {
  const gains = values.map((row) => Array.from(row, (gain) => (Number.isNaN(gain) ? -Infinity : gain)));
  const [us, gs] = [gains.length, gains[0].length];
  const tables = [Array.from({ length: us + 1 }, () => new Float64Array(gs + 1))];
  for (let b = 0; b < bridges; b++) {
    const last = tables[b];
    const table = Array.from({ length: us + 1 }, () => new Float64Array(gs + 1).fill(-Infinity));
    for (let u = 1; u <= us; u++) {
      let best = -Infinity;
      for (let g = 1; g <= gs; g++) {
        best = Math.max(best, last[u - 1][g - 1] + gains[u - 1][g - 1]);
        table[u][g] = Math.max(table[u - 1][g], best);
      }
    }
    tables.push(table);
  }
  let [u, g] = [us, gs];
  if (!Number.isFinite(tables[bridges][u][g])) return null;
  const pairs = [];
  for (let b = bridges; b > 0; b--) {
    while (tables[b][u - 1][g] === tables[b][u][g]) u--;
    while (tables[b][u][g - 1] === tables[b][u][g]) g--;
    pairs.unshift([--u, --g]);
  }
  return pairs;
}

const planScore = (values, pairs) => pairs.reduce((sum, [u, g]) => sum + values[u][g], 0);
const samePairs = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** Return how far one plan leads another in score, with its 95 % interval. */
function leadOf(bundle, view, ours, theirs) {
  const lead = (values) => planScore(values, ours) - planScore(values, theirs);
  const split = halfValues(bundle, view).map((both) => both.map(lead));
  const errors = halfErrors(split, bundle.half, bundle.samples);
  const mean = errors.reduce((sum, error) => sum + error, 0) / errors.length;
  const reach = Z95 * Math.sqrt(errors.reduce((sum, error) => sum + (error - mean) ** 2, 0) / errors.length);
  const margin = lead(blockValues(bundle, view.scores));
  return { pairs: theirs, margin, low: margin - reach, high: margin + reach };
}

/** Return what halves of the stimuli say of plans with so many bridges: the plans that they give, and the rivals. */
function stabilityOf(bundle, view, bridges) {
  const values = blockValues(bundle, view.scores);
  const chosen = halfValues(bundle, view).flat().map((half) => bestPairs(half, bridges));
  const best = bestPairs(values, bridges);
  if (!best || chosen.includes(null)) return null;
  const rivals = new Map(chosen.map((pairs) => [JSON.stringify(pairs), pairs]));
  for (const [u, g] of best) {
    const without = values.map((row) => row.slice());
    without[u][g] = NaN;
    const other = bestPairs(without, bridges);
    if (other) rivals.set(JSON.stringify(other), other);
  }
  rivals.delete(JSON.stringify(best));
  const leads = [...rivals.values()].map((pairs) => leadOf(bundle, view, best, pairs));
  leads.sort((one, other) => (one.low > 0) - (other.low > 0) || one.margin - other.margin);
  const kept = ([u, g]) => chosen.filter((pairs) => pairs.some((pair) => pair[0] === u && pair[1] === g)).length / chosen.length;
  return { best, kept, rival: leads[0] ?? null, settled: leads.every((lead) => lead.low > 0), draws: chosen.length };
}

/** Return, for each stimulus, the share of its k nearest that two layers have in common, and of all listed ones. */
function agreement(bundle, timestep, row, column, k) {
  const [left, right] = neighbourSides(bundle, timestep);
  const nearest = (side, layer, i, count) => {
    const start = (layer * side.samples + i) * side.length;
    return side.lists.subarray(start, start + count);
  };
  const share = (one, other) => other.filter((sample) => one.includes(sample)).length / one.length;
  return Array.from({ length: bundle.samples }, (_, i) => {
    const [one, other] = [nearest(left, row, i, k), nearest(right, column, i, k)];
    const deep = share(nearest(left, row, i, bundle.ranks), nearest(right, column, i, bundle.ranks));
    return { sample: i, understanding: one, generation: other, share: share(one, other), deep };
  });
}
