"use strict";
// Shows one trial, step by step. What it shows is in the page itself; nothing is loaded, and nothing is stored.
(async () => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const nSteps = data.n_steps, L = data.segment_length || 0;

  // ---- Data: deflated little-endian arrays as base64 (packing.py). --------------------------------------------------

  async function unpack(text, ArrayType) {
    const characters = atob(text), bytes = new Uint8Array(characters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new ArrayType(await new Response(inflated).arrayBuffer());
  }

  byId("subtitle").textContent = data.subtitle;
  if (typeof DecompressionStream === "undefined") {
    byId("subtitle").textContent = "This browser is too old to unpack the trial. Any browser since 2023 can.";
    return;
  }
  const rewards = await unpack(data.rewards, Float32Array);
  const values = data.values && (await unpack(data.values, Float32Array));
  const memoryStarts = new Set(data.memory_starts);
  const observations = [];
  for (const one of data.observations) observations.push({ ...one, values: await unpack(one.values, Float32Array) });
  const actions = data.actions, isDiscrete = actions.kind === "discrete";
  const chosen = await unpack(actions.chosen, isDiscrete ? Uint16Array : Float32Array);
  const chances = isDiscrete ? await unpack(actions.probabilities, Uint16Array) : await unpack(actions.most_likely, Float32Array);
  const attention = data.attention && (await readAttention(data.attention));
  const returns = new Float64Array(nSteps + 1);
  rewards.forEach((reward, t) => { returns[t + 1] = returns[t] + reward; });
  const episodeOf = new Uint32Array(nSteps);
  data.episodes.forEach(([first, last], e) => episodeOf.fill(e, first, last + 1));

  const SUMMARY = 0x8000; // a token from here on is a summary
  const shareOf = Float64Array.from({ length: 256 }, (_, root) => (root / 255) ** 2);

  async function readAttention(packed) {
    const nRows = packed.rows.length, counts = await unpack(packed.counts, Uint16Array);
    const starts = new Uint32Array(counts.length + 1);
    counts.forEach((count, i) => { starts[i + 1] = starts[i] + count; });
    return {
      rows: packed.rows, nRows, starts, threshold: packed.threshold,
      tokens: await unpack(packed.tokens, Uint16Array), roots: await unpack(packed.roots, Uint8Array),
      summaries: await unpack(packed.summaries, Uint8Array), sinks: packed.sinks && (await unpack(packed.sinks, Uint8Array)),
    };
  }

  const nSummaries = attention && L ? Math.ceil(nSteps / L) - 1 : 0;
  let hasSummaries = false; // whether anything is read through summaries at all
  if (attention) for (const root of attention.summaries) if (root) { hasSummaries = true; break; }

  /** What a step reads, over the rows given: shares by token and the largest of them, and what goes to summaries, steps and the sink. */
  function reading(t, rows) {
    const shares = new Map();
    let summaries = 0, sink = 0, largest = 0;
    for (const row of rows) {
      const i = t * attention.nRows + row;
      summaries += shareOf[attention.summaries[i]] / rows.length;
      if (attention.sinks) sink += shareOf[attention.sinks[i]] / rows.length;
      for (let k = attention.starts[i]; k < attention.starts[i + 1]; k++) {
        const token = attention.tokens[k], share = shareOf[attention.roots[k]] / rows.length;
        shares.set(token, (shares.get(token) || 0) + share);
      }
    }
    for (const share of shares.values()) largest = Math.max(largest, share);
    return { shares, largest, summaries, sink, steps: Math.max(0, 1 - summaries - sink) };
  }

  // ---- Words. --------------------------------------------------------------------------------------------------------

  const number = (x, digits = 3) => (Number.isFinite(x) ? String(Number(x.toPrecision(digits))).replace("-", "\u2212") : "\u2013");
  /** A share in percent; with a decimal where it is nearly nothing or nearly all. */
  function percent(x) {
    const nearly = (x >= 0.0005 && x < 0.0095) || (x > 0.9905 && x < 0.9995);
    return `${(100 * x).toFixed(nearly ? 1 : 0)} %`;
  }

  const rowName = ([layer, head]) => (layer === "store" ? "store lookup" : `layer ${layer}, head ${head}`);
  const isSummary = (token) => token >= SUMMARY;

  function tokenName(token, t) {
    if (isSummary(token)) {
      const n = token - SUMMARY;
      return `summary ${n + 1} (steps ${n * L + 1}\u2013${(n + 1) * L})`;
    }
    return token === t ? `step ${token + 1}, this one` : `step ${token + 1}, ${t - token} before`;
  }

  function element(kind, properties = {}, ...children) {
    const made = Object.assign(document.createElement(kind), properties);
    made.append(...children);
    return made;
  }

  function bar(name, text, share, kind) {
    const fill = element("i");
    fill.style.width = `${Math.min(100, 100 * share)}%`;
    return element("li", { className: kind }, name, element("span", { textContent: text }), element("span", { className: "track" }, fill));
  }

  // ---- Drawing. ------------------------------------------------------------------------------------------------------

  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["paper", "card", "ink", "quiet", "line", "fill", "summary", "step", "sink", "success", "failure", "open", "reward", "value"])
      colours[name] = style.getPropertyValue(`--${name}`).trim();
  }

  /** Size a canvas to its place on the page, and return its context in CSS pixels. */
  function contextOf(canvas, width, height) {
    const scale = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    return context;
  }

  // The lanes of the strip over the trial, from the top: name, top and height in pixels.
  const lanes = {};
  let stripHeight = 2;
  for (const [name, height, isThere] of [
    ["reads", 34, attention], ["segments", 9, L], ["episodes", 9, true], ["rewards", 22, true],
  ]) if (isThere) { lanes[name] = { top: stripHeight, height }; stripHeight += height + 5; }
  const laneNames = { reads: "it reads", segments: "segments", episodes: "episodes", rewards: values ? "reward, value" : "reward" };
  for (const [name, { top, height }] of Object.entries(lanes)) {
    const label = element("span", { textContent: laneNames[name] });
    label.style.top = `${top + height / 2 - 6}px`;
    byId("lanes").append(label);
  }

  const INSET = 8; // half of the slider's thumb: its middle is where the step is
  const strip = byId("timeline"), backdrop = document.createElement("canvas");
  let stripWidth = 0;
  const xOf = (t) => INSET + (nSteps > 1 ? (t / (nSteps - 1)) * (stripWidth - 2 * INSET) : 0);
  const stepWidth = () => (nSteps > 1 ? (stripWidth - 2 * INSET) / (nSteps - 1) : stripWidth);

  /** Fill what lies between two steps, both included. */
  function fillSteps(context, first, last, top, height, gap = 0) {
    const half = stepWidth() / 2, left = xOf(first) - half;
    context.fillRect(left, top, Math.max(1, xOf(last) + half - left - gap), height);
  }

  function drawBackdrop() {
    const context = contextOf(backdrop, stripWidth, stripHeight);
    context.clearRect(0, 0, stripWidth, stripHeight);
    if (lanes.reads) {
      context.fillStyle = colours.line;
      context.fillRect(0, lanes.reads.top + lanes.reads.height, stripWidth, 1);
    }
    if (L) {
      const { top, height } = lanes.segments;
      for (let first = 0, n = 0; first < nSteps; first += L, n++) {
        context.fillStyle = n % 2 ? colours.line : colours.fill;
        fillSteps(context, first, Math.min(first + L, nSteps) - 1, top, height);
        if (first + L > nSteps) continue;
        context.fillStyle = colours.summary; // its summary is written behind its last step
        fillSteps(context, first + L - 1, first + L - 1, top, height);
      }
    }
    data.episodes.forEach(([first, last, , success, isOver], e) => {
      context.fillStyle = !isOver || success === null ? (e % 2 ? colours.open : colours.sink) : success ? colours.success : colours.failure;
      fillSteps(context, first, last, lanes.episodes.top, lanes.episodes.height, Math.min(1, (last - first) * stepWidth() / 4));
    });
    drawRewards(context);
  }

  /** Means over as many steps as take a few pixels: bars of reward, up and down, and the line of the values. */
  function drawRewards(context) {
    const { top, height } = lanes.rewards, size = Math.max(1, Math.ceil(4 / stepWidth()));
    const means = (numbers) => Array.from({ length: Math.ceil(nSteps / size) }, (_, k) => {
      const part = numbers.subarray(k * size, (k + 1) * size);
      return part.reduce((sum, x) => sum + x, 0) / part.length;
    });
    const middle = (k) => (xOf(k * size) + xOf(Math.min(nSteps, (k + 1) * size) - 1)) / 2;
    const bars = means(rewards), extreme = bars.reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1;
    const isSigned = bars.some((x) => x < 0), zero = isSigned ? top + height / 2 : top + height;
    const unit = (isSigned ? height / 2 : height) / extreme, width = size > 1 ? size * stepWidth() - 0.5 : 2;
    context.fillStyle = colours.line;
    context.fillRect(0, zero, stripWidth, 1);
    context.fillStyle = colours.reward;
    bars.forEach((x, k) => { if (x) context.fillRect(middle(k) - width / 2, Math.min(zero, zero - x * unit), width, Math.abs(x) * unit); });
    if (!values) return;
    const line = means(values), low = Math.min(...line), high = Math.max(...line);
    context.strokeStyle = colours.value;
    context.lineWidth = 1.2;
    context.beginPath();
    line.forEach((x, k) => context.lineTo(middle(k), top + height - 1 - ((x - low) / (high - low || 1)) * (height - 2)));
    context.stroke();
  }

  function drawStrip(t, read) {
    const context = contextOf(strip, stripWidth, stripHeight);
    context.clearRect(0, 0, stripWidth, stripHeight);
    context.drawImage(backdrop, 0, 0, stripWidth, stripHeight);
    if (read) {
      const { top, height } = lanes.reads, bottom = top + height;
      // Roots of shares, so that small ones can be seen; of the largest, where all are small.
      for (const [token, share] of read.shares) {
        const tall = Math.max(1, Math.sqrt(share / Math.max(read.largest, 0.02)) * height * 0.9), n = token - SUMMARY;
        context.fillStyle = isSummary(token) ? colours.summary : colours.step;
        context.globalAlpha = isSummary(token) ? 0.55 : 1;
        if (isSummary(token)) fillSteps(context, n * L, (n + 1) * L - 1, bottom - tall, tall, 1);
        else context.fillRect(xOf(token) - Math.max(1, stepWidth() * 0.4), bottom - tall, Math.max(2, stepWidth() * 0.8), tall);
      }
      context.globalAlpha = 1;
    }
    context.fillStyle = colours.ink;
    context.fillRect(xOf(t) - 0.75, 0, 1.5, stripHeight);
  }

  // The map of heads: a row for every head, a block of columns for summaries and one for steps.
  const heads = byId("heads");
  let map = null;
  function layOutMap() {
    if (!attention) return;
    const width = heads.clientWidth, left = 58, gap = hasSummaries ? 14 : 0, top = 18;
    const nColumns = L || nSteps, room = width - left - gap - 2;
    const ofSummaries = hasSummaries ? Math.round(room * Math.min(0.6, Math.max(0.3, nSummaries / (nSummaries + nColumns)))) : 0;
    const rowHeight = Math.max(3, Math.min(20, Math.floor(260 / attention.nRows)));
    let y = top;
    const rowTops = attention.rows.map(([layer], r) => {
      if (r && attention.rows[r - 1][0] !== layer) y += 5;
      y += rowHeight;
      return y - rowHeight;
    });
    map = {
      width, rowHeight, rowTops, height: y + 2,
      summaries: { left, width: ofSummaries, n: nSummaries }, steps: { left: left + ofSummaries + gap, width: room - ofSummaries, n: nColumns },
    };
  }

  /** Return block and column of the map in which a token is shown. */
  function placeOf(token) {
    return isSummary(token) ? [map.summaries, token - SUMMARY] : [map.steps, L ? token % L : token];
  }

  /** Draw what one head reads of a block; where cells are narrower than a pixel, the largest of each pixel. */
  function drawCells(context, t, row, block) {
    const i = t * attention.nRows + row, cell = Math.max(1, block.width / block.n), roots = new Uint8Array(Math.ceil(block.width / cell) + 1);
    for (let k = attention.starts[i]; k < attention.starts[i + 1]; k++) {
      const [of, column] = placeOf(attention.tokens[k]), at = Math.floor((column * block.width) / block.n / cell + 1e-6);
      if (of === block) roots[at] = Math.max(roots[at], attention.roots[k]);
    }
    context.fillStyle = block === map.summaries ? colours.summary : colours.step;
    const width = cell > 4 ? cell - 1 : cell;
    roots.forEach((root, at) => {
      if (!root) return;
      context.globalAlpha = Math.min(1, root / 190); // by the root of the share, so that small ones show
      context.fillRect(block.left + at * cell, map.rowTops[row], width, map.rowHeight - 1);
    });
    context.globalAlpha = 1;
  }

  function drawMap(t) {
    const context = contextOf(heads, map.width, map.height), { rowHeight, rowTops } = map;
    context.clearRect(0, 0, map.width, map.height);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = "middle";
    context.fillStyle = colours.quiet;
    if (hasSummaries) context.fillText(map.summaries.width < 90 ? `1\u2013${nSummaries}` : `summaries 1\u2013${nSummaries}`, map.summaries.left, 8);
    const first = L ? t - (t % L) : 0, last = Math.min(nSteps, L ? first + L : nSteps);
    context.fillText(`steps ${first + 1}\u2013${last}`, map.steps.left, 8);
    attention.rows.forEach(([layer], r) => {
      const isFirst = !r || attention.rows[r - 1][0] !== layer;
      if (isFirst) { context.fillStyle = colours.quiet; context.fillText(layer === "store" ? "store" : `layer ${layer}`, 0, rowTops[r] + Math.max(6, rowHeight / 2)); }
      context.fillStyle = colours.fill;
      for (const block of [map.summaries, map.steps]) if (block.width) context.fillRect(block.left, rowTops[r], block.width, rowHeight - 1);
      for (const block of [map.summaries, map.steps]) if (block.width) drawCells(context, t, r, block);
      context.globalAlpha = 1;
      if (selected === r) {
        context.strokeStyle = colours.ink;
        context.lineWidth = 1.5;
        context.strokeRect(map.summaries.left - 2, rowTops[r] - 1, map.width - map.summaries.left + 1, rowHeight + 1);
      }
    });
  }

  function pointAt(event) {
    const box = heads.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const row = map.rowTops.findIndex((top) => y >= top && y < top + map.rowHeight);
    for (const block of [map.summaries, map.steps])
      if (row >= 0 && x >= block.left && x < block.left + block.width) return { row, block, column: Math.floor(((x - block.left) / block.width) * block.n) };
    return { row };
  }

  // ---- The page. -----------------------------------------------------------------------------------------------------

  let current = 0, selected = -1, shownImage = -1, shownEpisode = -1, isWaiting = false;
  const allRows = attention ? attention.rows.map((_, r) => r) : [];
  const slider = byId("slider");

  function setUp() {
    slider.max = nSteps - 1;
    for (const [meaning, colour, isRound] of data.legend) {
      const swatch = element("i", { className: isRound ? "round" : "" });
      swatch.style.background = colour;
      byId("legend").append(element("li", {}, swatch, meaning));
    }
    byId("frame-note").textContent = !data.frames ? "The environment draws no images." : data.is_drawn
      ? "As it is before the step, and as the video shows it: the agent may see less." : "The image that the agent observes.";
    byId("observed").open = !data.frames;
    byId("observed").hidden = !observations.length;
    for (const one of observations) byId("numbers").append(element("p"));
    byId("actions-title").textContent = isDiscrete ? "Action: probabilities" : "Action: chosen, and most likely";
    for (let a = 0; a < (isDiscrete ? actions.n_shown : actions.names.length); a++)
      byId("actions").append(bar(element("span", { className: "name", textContent: actions.names[a], title: actions.names[a] }), "", 0, ""));
    data.episodes.forEach(([first, last, total, success, isOver], e) => {
      const outcome = !isOver ? "not over" : success === null ? "\u2013" : success ? "success" : "failure";
      const go = element("button", { textContent: e + 1, title: `Go to step ${first + 1}`, onclick: () => { pause(); goTo(first); } });
      byId("episode-rows").append(element("tr", {}, element("td", {}, go),
        element("td", { textContent: last > first ? `${first + 1}\u2013${last + 1}` : first + 1 }), element("td", { textContent: total === null ? "\u2013" : number(total) }),
        element("td", { textContent: outcome, className: isOver && success !== null ? (success ? "success" : "failure") : "" })));
    });
    if (!attention) {
      byId("attention").hidden = byId("row-label").hidden = true;
      byId("no-attention").hidden = false;
      byId("no-attention").textContent = `${data.memory} reads its memory without attention weights that could be recorded. Everything else is shown.`;
      return;
    }
    byId("row").append(element("option", { value: -1, textContent: "mean of all heads" }));
    attention.rows.forEach((row, r) => byId("row").append(element("option", { value: r, textContent: rowName(row) })));
    byId("row").onchange = () => { selected = Number(byId("row").value); show(); };
    const say = (event) => { byId("readout").textContent = readout(pointAt(event)); };
    heads.onpointermove = say;
    heads.onpointerleave = () => { byId("readout").textContent = hint; };
    heads.onclick = (event) => {
      const { row } = pointAt(event);
      if (row < 0) return;
      selected = selected === row ? -1 : row;
      byId("row").value = selected;
      show();
      say(event);
    };
    byId("readout").textContent = hint;
  }

  const hint = !attention ? "" : "A row for every head; stronger is more." +
    (attention.threshold ? ` Shares below ${percent(attention.threshold)} of the largest of the head are left out.` : "");

  function readout({ row, block, column }) {
    if (row < 0 || row === undefined) return hint;
    if (!block) return rowName(attention.rows[row]);
    const start = L ? current - (current % L) : 0, token = block === map.summaries ? SUMMARY + column : start + column;
    const share = reading(current, [row]).shares.get(token);
    return `${rowName(attention.rows[row])}: ${tokenName(token, current).replace(/, -.*/, ", still to come")}, ${share ? percent(share) : "nothing"}`;
  }

  function tile(id, value, small = "") {
    byId(id).replaceChildren(value, " ", element("small", { textContent: small }));
  }

  function eventOf(t) {
    const [first, last, , success, isOver] = data.episodes[episodeOf[t]];
    const said = [], ends = t === last && isOver;
    if (t === first && t) said.push(memoryStarts.has(t) ? "An episode begins, with an empty memory." : "An episode begins.");
    if (ends) said.push(`The episode ends${success === null ? "" : success ? ": success" : ": no success"}.`);
    if (L && (t + 1) % L === 0) said.push(`Summary ${(t + 1) / L} is written.`);
    return [said.join(" "), ends && success !== null ? (success ? "success" : "failure") : L && (t + 1) % L === 0 ? "summary" : ""];
  }

  function showActions(t) {
    const rows = byId("actions").children;
    if (isDiscrete) {
      const total = actions.sizes.reduce((sum, size) => sum + size, 0), nParts = actions.sizes.length, picked = new Set();
      let offset = 0;
      actions.sizes.forEach((size, part) => { picked.add(offset + chosen[t * nParts + part]); offset += size; });
      for (let a = 0; a < Math.min(total, actions.n_shown); a++) {
        const chance = chances[t * actions.n_shown + a] / 65535;
        rows[a].className = picked.has(a) ? "chosen" : "";
        rows[a].children[1].textContent = picked.has(a) ? `chosen, ${percent(chance)}` : percent(chance);
        rows[a].children[2].firstChild.style.width = `${100 * chance}%`;
      }
      return;
    }
    for (let a = 0; a < rows.length; a++)
      rows[a].children[1].textContent = `${number(chosen[t * rows.length + a])}, ${number(chances[t * rows.length + a])}`;
  }

  function showReads(t) {
    if (!attention) return null;
    const rows = selected < 0 ? allRows : [selected], read = reading(t, rows);
    const parts = [["summary", "summaries", read.summaries], ["step", "steps", read.steps], ["sink", "sink", read.sink]].filter(([, , share]) => share > 0.0005);
    byId("share").replaceChildren(...parts.map(([kind, , share]) => {
      const part = element("span", { className: `of-${kind}` });
      part.style.width = `${100 * share}%`;
      return part;
    }));
    byId("share-legend").replaceChildren(...parts.map(([kind, name, share]) => element("li", {}, element("i", { className: `of-${kind}` }), `${name} ${percent(share)}`)));
    const most = [...read.shares].sort((a, b) => b[1] - a[1]).slice(0, 6);
    byId("most").replaceChildren(...most.map(([token, share]) => {
      const target = isSummary(token) ? (token - SUMMARY) * L : token;
      const name = element("button", { className: "name", textContent: tokenName(token, t), title: `Go to step ${target + 1}`, onclick: () => { pause(); goTo(target); } });
      return bar(name, percent(share), share, isSummary(token) ? "of-summary" : "of-step");
    }));
    const others = 1 - read.sink - most.reduce((sum, [, share]) => sum + share, 0);
    if (others >= 0.0005) byId("most").append(bar(element("span", { className: "name", textContent: "all others together" }), percent(others), others, ""));
    heads.setAttribute("aria-label", `Attention of ${attention.nRows} heads. Most read: ` + most.slice(0, 3).map(([token, share]) => `${tokenName(token, t)}, ${percent(share)}`).join("; "));
    drawMap(t);
    return read;
  }

  /** Mark the episode in the table, and scroll the table, not the page, to it. */
  function showEpisode(e) {
    if (e === shownEpisode) return;
    const rows = byId("episode-rows").children, box = byId("episode-box");
    box.scrollTop = rows[e].offsetTop - box.clientHeight / 2;
    if (shownEpisode >= 0) rows[shownEpisode].className = "";
    rows[e].className = "current";
    shownEpisode = e;
  }

  function show() {
    const t = current, e = episodeOf[t], [first] = data.episodes[e];
    showEpisode(e); // first: it asks where things are, which is known before anything is changed
    const read = showReads(t);
    drawStrip(t, read);
    if (data.frames) {
      const image = data.frames.of_step[t], frame = byId("frame");
      if (image !== shownImage) {
        frame.src = `data:image/webp;base64,${data.frames.images[image]}`;
        frame.hidden = false;
        shownImage = image;
      }
      frame.alt = `The environment before step ${t + 1}`;
    }
    tile("tile-step", t + 1, `of ${nSteps.toLocaleString("en")}`);
    tile("tile-episode", e + 1, `of ${data.episodes.length}, step ${t - first + 1}`);
    tile("tile-reward", number(rewards[t]), `${number(returns[t + 1], 4)} so far`);
    tile("tile-value", values ? number(values[t]) : "\u2013", values ? "" : "no value head");
    const [said, kind] = eventOf(t);
    byId("event").textContent = said;
    byId("event").className = `event ${kind}`;
    showActions(t);
    if (byId("observed").open) observations.forEach((one, i) => {
      const shown = Array.from(one.values.subarray(t * one.shown, (t + 1) * one.shown), (value) => number(value)).join("  ");
      byId("numbers").children[i].replaceChildren(element("b", { textContent: one.name }), shown + (one.size > one.shown ? `  and ${one.size - one.shown} more` : ""));
    });
    slider.value = t;
    slider.setAttribute("aria-valuetext", `Step ${t + 1} of ${nSteps}, episode ${e + 1}, reward ${number(rewards[t])}. ${said}`);
  }

  function goTo(t) {
    current = Math.max(0, Math.min(nSteps - 1, t));
    if (isWaiting) return;
    isWaiting = true; // however fast the slider moves, a step is drawn once a frame
    requestAnimationFrame(() => { isWaiting = false; show(); });
  }

  // ---- Controls. -----------------------------------------------------------------------------------------------------

  let timer = 0;
  function pause() {
    clearInterval(timer);
    timer = 0;
    byId("play").textContent = "Play";
    byId("play").setAttribute("aria-label", "Play");
  }

  function play() {
    if (current === nSteps - 1) goTo(0);
    timer = setInterval(() => (current >= nSteps - 1 ? pause() : goTo(current + 1)), 1000 / Number(byId("speed").value));
    byId("play").textContent = "Pause";
    byId("play").setAttribute("aria-label", "Pause");
  }

  const toggle = () => (timer ? pause() : play());
  const jump = (t) => { pause(); goTo(t); };
  slider.oninput = () => jump(Number(slider.value));
  byId("play").onclick = toggle;
  byId("speed").onchange = () => { if (timer) { pause(); play(); } };
  byId("first").onclick = () => jump(0);
  byId("last").onclick = () => jump(nSteps - 1);
  byId("back").onclick = () => jump(current - 1);
  byId("on").onclick = () => jump(current + 1);
  byId("observed").ontoggle = show;

  document.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const far = event.shiftKey ? 10 : 1, e = episodeOf[current], first = data.episodes[e][0];
    const target = {
      ArrowLeft: current - far, ArrowRight: current + far, Home: 0, End: nSteps - 1,
      PageUp: data.episodes[current > first ? e : Math.max(0, e - 1)][0], PageDown: e + 1 < data.episodes.length ? data.episodes[e + 1][0] : nSteps - 1,
    }[event.key];
    if (target !== undefined) { event.preventDefault(); jump(target); }
    else if (event.key === " " && !event.target.matches("button, summary")) { event.preventDefault(); toggle(); }
  };

  const stepAt = (event) => Math.round(((event.clientX - strip.getBoundingClientRect().left - INSET) / (stripWidth - 2 * INSET)) * (nSteps - 1));
  strip.onpointerdown = (event) => { strip.setPointerCapture(event.pointerId); jump(stepAt(event)); };
  strip.onpointermove = (event) => { if (event.buttons) jump(stepAt(event)); };

  function redraw() {
    readColours();
    stripWidth = strip.clientWidth;
    layOutMap();
    drawBackdrop();
    show();
  }

  setUp();
  redraw();
  new ResizeObserver(() => { if (strip.clientWidth !== stripWidth) redraw(); }).observe(document.body);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.documentElement.dataset.ready = "";
})();
