// One weight to zero: the exact loss along the way, its tangent and its parabola; and a second weight.
(() => {
  "use strict";
  const lab = globalThis.deadunitsLab;

  /** What the worker does: `lab` is the arithmetic, `answer` posts a message. */
  function service({ nn }, answer) {
    // From the weight (0) to zero (1) and beyond; coarse first.
    const PLACES = [0, 1, 0.5, 0.25, 0.75, 1.25, -0.25, 0.125, 0.375, 0.625, 0.875, 1.125, -0.125];
    let net, sets, values, base;
    let token;
    const kinds = () => Object.keys(sets);

    function load({ data }) {
      ({ net, sets } = nn.unpacked(data));
      values = {};
      base = {};
      for (const kind of kinds()) {
        const pass = nn.forward(net, sets[kind].x, sets[kind].y.length);
        values[kind] = pass.values;
        base[kind] = nn.mean(nn.losses(pass.logits, sets[kind].y, net.classes));
      }
      answer({ kind: "loaded", base });
    }

    /** Change of the mean loss with some weights at other values: [{layer, index, value}]. */
    function change(kind, weights) {
      const places = weights.map(({ layer }) => nn.place(net, layer));
      const before = weights.map(({ index, value }, i) => {
        const own = net.layers[places[i]].weight;
        const old = own[index];
        own[index] = value;
        return old;
      });
      const { logits } = nn.forward(net, null, sets[kind].y.length, { from: Math.min(...places), values: values[kind] });
      for (let i = weights.length - 1; i >= 0; i--) net.layers[places[i]].weight[weights[i].index] = before[i]; // one may be there twice
      return nn.mean(nn.losses(logits, sets[kind].y, net.classes)) - base[kind];
    }

    /** Gradient and curvature of the loss by one weight, on the images scored on. */
    function derivatives({ layer, index }) {
      const k = nn.place(net, layer);
      const own = net.layers[k].weight;
      const weight = own[index];
      const slope = (value) => {
        own[index] = value;
        const { grads } = nn.gradient(net, sets.train_probe);
        own[index] = weight;
        return grads[k].weight[index];
      };
      const size = 0.02;
      return { weight, gradient: slope(weight), curvature: (slope(weight + size) - slope(weight - size)) / (2 * size) };
    }

    async function curve({ layer, index }) {
      const own = (token = {});
      const weight = net.layers[nn.place(net, layer)].weight[index];
      answer({ kind: "derivatives", layer, index, ...derivatives({ layer, index }) });
      for (const place of PLACES) {
        await new Promise((resume) => setTimeout(resume));
        if (own !== token) return;
        const moved = [{ layer, index, value: weight * (1 - place) }];
        answer({ kind: "point", layer, index, place, last: place === PLACES.at(-1), ...Object.fromEntries(kinds().map((kind) => [kind, change(kind, moved)])) });
      }
    }

    const removed = ({ layer, index }) => ({ layer, index, value: 0 });
    const acts = {
      load,
      curve,
      at: ({ layer, index, place }) => {
        const weight = net.layers[nn.place(net, layer)].weight[index];
        const moved = [{ layer, index, value: weight * (1 - place) }];
        answer({ kind: "exact", layer, index, place, ...Object.fromEntries(kinds().map((kind) => [kind, change(kind, moved)])) });
      },
      pair: ({ first, second }) => {
        const of = (...weights) => change("train_probe", weights.map(removed));
        answer({ kind: "pair", first: of(first), second: of(second), both: of(first, second) });
      },
    };
    return (message) => acts[message.kind](message);
  }

  function render({ model, el }) {
    const { nn, ui } = lab;
    const { h } = ui;
    const data = model.get("data");
    const { net } = nn.unpacked(data);
    const linear = net.layers.filter(nn.isLinear);
    const state = { layer: "conv1", unit: 0, cell: 12, place: 1, slot: "first", ...data.state, ...model.get("state") };
    const COLOURS = { exact: "#0072B2", other: "#6E6E6E", tangent: "#D55E00", parabola: "#CC79A7" };
    const NAMES = { exact: "exact, images scored on", other: "exact, test images", tangent: "first order: tangent", parabola: "second order: parabola" };
    const weights = { first: null, second: null };
    let derivatives = null;
    let points = [];
    let exact = null;
    let pair = null;
    let known = false;
    let busy = false;
    let waiting = null;
    const worker = ui.worker(service, heard);

    const layerOf = (name) => net.layers[nn.place(net, name)];
    const fanOf = (layer) => layer.weight.length / layer.units;
    const here = () => ({ layer: state.layer, index: state.unit * fanOf(layerOf(state.layer)) + state.cell });

    const current = ({ layer, index }) => layer === state.layer && index === here().index;

    function heard(message) {
      if (message.kind === "loaded") {
        known = true;
        chosen();
      } else if (message.kind === "derivatives") {
        if (current(message)) derivatives = message;
      } else if (message.kind === "point") {
        if (current(message)) points.push(message);
        points.sort((a, b) => a.place - b.place);
        if (ui.calm() && !message.last) return;
      } else if (message.kind === "exact") {
        busy = false;
        if (current(message)) exact = message;
        if (waiting) { const next = waiting; waiting = null; ask(next); }
      } else if (message.kind === "pair") pair = message;
      draw();
    }
    function ask(message) {
      if (busy) waiting = message;
      else { busy = true; worker.post(message); }
    }
    const move = () => known && ask({ kind: "at", ...here(), place: state.place });
    /** Another weight is looked at. */
    function chosen() {
      [points, derivatives, exact] = [[], null, null];
      for (const name of ["exact", "tangent", "parabola", "other"]) delete el.dataset[name];
      weights[state.slot] = here();
      if (!known) return;
      worker.post({ kind: "curve", ...here() });
      if (weights.first && weights.second) worker.post({ kind: "pair", ...weights });
      move();
      draw();
    }
    function changed(values) {
      Object.assign(state, values);
      model.set("state", { ...state });
      model.save_changes();
      chosen();
    }

    // --- controls --------------------------------------------------------------------------------------------------------------
    const numbers_ = (count) => Array.from({ length: count }, (_, i) => [String(i), String(i)]);
    const layer = ui.select("layer", linear.map(({ name }) => [name, name]), state.layer, (key) => {
      unit.fill(numbers_(layerOf(key).units), "0");
      changed({ layer: key, unit: 0, cell: 0 });
    });
    const unit = ui.select("unit", numbers_(layerOf(state.layer).units), String(state.unit), (key) => changed({ unit: Number(key), cell: 0 }));
    const slot = ui.choice("which weight", [["first", "first weight"], ["second", "second weight"]], state.slot, (key) => {
      state.slot = key;
      const kept = weights[key];
      if (kept) {
        const fan = fanOf(layerOf(kept.layer));
        Object.assign(state, { layer: kept.layer, unit: Math.floor(kept.index / fan), cell: kept.index % fan });
        layer.list.value = state.layer;
        unit.fill(numbers_(layerOf(state.layer).units), String(state.unit));
      }
      chosen();
    });
    const way = ui.slider("on the way to zero", {
      min: -0.25, max: 1.25, step: 0.01, value: state.place, words: (value) => `${Math.round(100 * value)}%`,
      changed: (value) => { state.place = value; move(); draw(); },
    });

    const large = h("canvas", {
      tabindex: 0, class: "lab-large", role: "application", "aria-label": "weights of the unit: arrow keys choose one",
      pointerdown: (event) => {
        const box = large.getBoundingClientRect();
        const [x, y] = [Math.floor(((event.clientX - box.left) / box.width) * large.width), Math.floor(((event.clientY - box.top) / box.height) * large.height)];
        const { width, height, columns } = geometry();
        for (let cell = 0; cell < fanOf(layerOf(state.layer)); cell++) {
          const [cx, cy] = ui.cellOf(cell, width, height, columns);
          if (cx === x && cy === y) changed({ cell });
        }
      },
      keydown: (event) => {
        const { width, height } = geometry();
        const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width, PageDown: width * height, PageUp: -width * height }[event.key];
        if (!by) return;
        event.preventDefault();
        changed({ cell: Math.max(0, Math.min(fanOf(layerOf(state.layer)) - 1, state.cell + by)) });
      },
    });
    const geometry = () => ui.geometry(net, layerOf(state.layer), net.shapes[nn.place(net, state.layer)]);
    const which = h("p");
    const said = h("p", { class: "lab-said", role: "status" }, "The loss is being computed.");
    const together = h("p", { role: "status" });
    const charts = h("div");
    const numbers = { exact: ui.number("exact change, nats"), tangent: ui.number("first order"), parabola: ui.number("second order"), other: ui.number("on test images") };

    const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(5);
    function expansion(place) {
      const step = -place * derivatives.weight;
      return { tangent: derivatives.gradient * step, parabola: derivatives.gradient * step + (derivatives.curvature * step * step) / 2 };
    }

    function draw() {
      const own = layerOf(state.layer);
      const { width, height, columns } = geometry();
      const from = state.unit * fanOf(own);
      ui.picture(large, own.weight.subarray(from, from + fanOf(own)), width, height, columns);
      const [x, y] = ui.cellOf(state.cell, width, height, columns);
      const context = large.getContext("2d");
      context.fillStyle = "rgba(230, 159, 0, 0.95)";
      context.fillRect(x + 0.3, y + 0.3, 0.4, 0.4);
      large.style.aspectRatio = `${large.width} / ${large.height}`;
      const weight = own.weight[from + state.cell];
      which.textContent = `${state.layer}, unit ${state.unit}, weight ${state.cell}: ${weight.toFixed(4)}, now ${(weight * (1 - state.place)).toFixed(4)}. Click another cell, or use the arrow keys.`;
      const telling = (one) => `${one.layer} unit ${Math.floor(one.index / fanOf(layerOf(one.layer)))} weight ${one.index % fanOf(layerOf(one.layer))}`;
      if (pair && weights.second) {
        together.textContent =
          `To zero: the first alone (${telling(weights.first)}) ${signed(pair.first)}, the second alone (${telling(weights.second)}) ${signed(pair.second)}, ` +
          `their sum ${signed(pair.first + pair.second)}; both together ${signed(pair.both)} nats.`;
        Object.assign(el.dataset, { first: pair.first, second: pair.second, both: pair.both });
      } else together.textContent = "Choose a second weight to see whether two changes add up.";
      if (derivatives) {
        const { tangent, parabola } = expansion(state.place);
        numbers.tangent.value.textContent = signed(tangent);
        numbers.parabola.value.textContent = signed(parabola);
        Object.assign(el.dataset, { tangent, parabola, gradient: derivatives.gradient, curvature: derivatives.curvature });
        if (exact) {
          numbers.exact.value.textContent = signed(exact.train_probe);
          numbers.other.value.textContent = signed(exact.test);
          Object.assign(el.dataset, { exact: exact.train_probe, other: exact.test, place: exact.place });
          said.textContent = `${Math.round(100 * exact.place)}% of the way to zero the loss changes by ${signed(exact.train_probe)} nats, by first order ${signed(tangent)}, by second order ${signed(parabola)}.`;
        }
        const steps = Array.from({ length: 31 }, (_, i) => -0.25 + i * 0.05);
        const lines = [
          { name: "other", points: points.map((point) => [point.place, point.test]), dash: "2 3" },
          { name: "tangent", points: steps.map((place) => [place, expansion(place).tangent]), dash: "7 4" },
          { name: "parabola", points: steps.map((place) => [place, expansion(place).parabola]), dash: "7 3 2 3" },
          { name: "exact", points: points.map((point) => [point.place, point.train_probe]) },
        ].map((line) => ({ ...line, colour: COLOURS[line.name] }));
        const all = lines.flatMap((line) => line.points.map(([, value]) => value));
        const margin = 0.08 * (Math.max(...all) - Math.min(...all)) || 1e-6;
        charts.replaceChildren(
          h("p", { class: "lab-key" }, lines.map(({ name, colour, dash }) => h("span", {}, h("i", { style: `border-color: ${colour}; border-top-style: ${dash ? "dashed" : "solid"}` }), NAMES[name]))),
          ui.chart({
            title: "change of the mean loss, in nats", lines, x: [-0.25, 1.25], y: [Math.min(...all) - margin, Math.max(...all) + margin], mark: state.place, width: Math.max(340, Math.min(680, el.clientWidth || 680)), height: 250,
            xWords: (value) => `${Math.round(100 * value)}%`, yWords: (value) => value.toPrecision(1), label: `Change of the loss by the way to zero. ${said.textContent}`,
          })
        );
      }
    }

    el.append(
      h("div", { class: "lab-controls" }, slot.element, layer.element, unit.element, way.element),
      h("div", { class: "lab-inspector" }, large, h("div", {}, which, h("div", { class: "lab-numbers" }, Object.values(numbers).map(({ element }) => element)))),
      said, charts, together,
      h("p", { class: "lab-about" }, `Computed in your browser, on ${data.labels.train_probe.length} images trained on and ${data.labels.test.length} test images. ${ui.source(data)}`)
    );
    worker.post({ kind: "load", data });
    draw();
    return () => worker.end();
  }

  lab.weight = { render, service };
})();
