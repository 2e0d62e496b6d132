// Prune it yourself: remove units and weights of a trained network, and see at once what it costs.
(() => {
  "use strict";
  const lab = globalThis.deadunitsLab;
  const NAMES = {
    units: [
      ["mrp", "MRP (exact)"], ["mrs", "MRS"], ["norm_l1", "L1 norm"], ["norm_l2", "L2 norm"], ["taylor", "Taylor"],
      ["activation", "mean activation"], ["random", "random"],
    ],
    weights: [["magnitude", "magnitude"], ["taylor1", "Taylor 1"], ["taylor1_abs", "Taylor 1, absolute"], ["random", "random"]],
  };

  /** What the worker does: `lab` is the arithmetic, `answer` posts a message. */
  function service({ nn }, answer) {
    const POINTS = 20; // of a curve
    let net, sets, scores, means;
    let lastMove = 0;
    const curves = {};
    const byLayer = (names, of) => Object.fromEntries(names.map((name) => [name, of(net.layers[nn.place(net, name)], name)]));

    function load({ data }) {
      ({ net, sets } = nn.unpacked(data));
      const images = sets.train_probe;
      const layers = nn.hidden(net);
      const seen = nn.observe(net, images);
      means = byLayer(layers, (_, name) => Array.from(seen.layers[name].mean));
      const random = nn.generator(1);
      const units = { mrs: {}, taylor: {}, activation: {}, norm_l1: {}, norm_l2: {}, random: {}, mrp: {} };
      for (const name of layers) {
        const layer = net.layers[nn.place(net, name)];
        for (const what of ["mrs", "taylor", "activation"]) units[what][name] = Array.from(seen.layers[name][what]);
        units.norm_l1[name] = Array.from(nn.norms(layer, 1));
        units.norm_l2[name] = Array.from(nn.norms(layer, 2));
        units.random[name] = Array.from({ length: layer.units }, random);
        units.mrp[name] = Array.from(nn.penalties(net, images, name, seen));
      }
      const weights = { magnitude: {}, taylor1: {}, taylor1_abs: {}, random: {} };
      net.layers.forEach((layer, k) => {
        if (!nn.isLinear(layer)) return;
        const change = layer.weight.map((weight, i) => -weight * seen.grads[k].weight[i]);
        weights.magnitude[layer.name] = layer.weight.map(Math.abs);
        weights.taylor1[layer.name] = change;
        weights.taylor1_abs[layer.name] = change.map(Math.abs);
        weights.random[layer.name] = layer.weight.map(random);
      });
      scores = { units, weights };
      answer({ kind: "loaded", means, units, base: nn.judge(net, sets.test) });
    }

    /** The network without some units and weights, judged on the test images. */
    function judged(gone, carry) {
      const cut = nn.copy(net);
      for (const [name, flags] of Object.entries(gone.weights ?? {})) {
        const { weight } = cut.layers[nn.place(cut, name)];
        flags.forEach((flag, i) => flag && (weight[i] = 0));
      }
      const constants = {};
      for (const [name, flags] of Object.entries(gone.units ?? {})) {
        constants[name] = Float64Array.from(flags, (flag, unit) => (flag ? (carry ? means[name][unit] : 0) : NaN));
      }
      return nn.judge(cut, sets.test, constants);
    }

    const lowest = ({ what, by }, score, fraction) => nn.lowest(scores[what][score], fraction, by, what === "weights");

    function fraction(message) {
      const gone = { [message.what]: lowest(message, message.score, message.fraction) };
      const found = { kind: "judged", id: message.id, gone, ...judged(gone, message.carry) };
      if (message.other) {
        found.other = judged({ [message.what]: lowest(message, message.other, message.fraction) }, message.carry);
      }
      answer(found);
    }

    async function curve(message) {
      const { slot, what, score, carry } = message;
      const token = (curves[slot] = {});
      for (let i = 0; i <= POINTS; i++) {
        do await new Promise((resume) => setTimeout(resume, 5));
        while (Date.now() - lastMove < 250); // moves come first
        if (curves[slot] !== token) return;
        const { loss, right } = judged({ [what]: lowest(message, score, i / POINTS) }, carry);
        answer({ kind: "point", slot, score, fraction: i / POINTS, loss, right });
      }
    }

    const acts = {
      load,
      fraction,
      curve,
      given: ({ id, gone, carry }) => answer({ kind: "judged", id, ...judged(gone, carry) }),
      stop: ({ slot }) => delete curves[slot],
    };
    return (message) => {
      if (message.kind !== "curve") lastMove = Date.now();
      acts[message.kind](message);
    };
  }

  function render({ model, el }) {
    const { nn, ui } = lab;
    const { h } = ui;
    const data = model.get("data");
    const { net, sets } = nn.unpacked(data);
    const state = { what: "units", score: "mrs", other: "", fraction: 0, by: "layer", carry: true, ...model.get("state") };
    const test = sets.test;
    const size = nn.sizeOf(data.shape);
    const hidden = nn.hidden(net);
    const linear = net.layers.filter(nn.isLinear);
    const total = linear.reduce((sum, layer) => sum + layer.weight.length + layer.units, 0);
    const low = data.palette[0];
    const high = data.palette[data.palette.length - 1];
    let known = null; // what the worker said when it had loaded
    let gone = nothing();
    let result = null;
    let image = 0;
    let drawn = null; // the reader's own digit
    let inspected = { layer: linear[0].name, unit: 0, cell: 0 };
    const curves = { score: [], other: [] };

    function nothing() {
      const flags = (names, count) => Object.fromEntries(names.map((name) => [name, new Uint8Array(count(net.layers[nn.place(net, name)]))]));
      return { units: flags(hidden, (layer) => layer.units), weights: flags(linear.map(({ name }) => name), (layer) => layer.weight.length) };
    }

    // --- the worker: of the moves made while it computes, only the last one counts ---------------------------------------------
    let busy = false;
    let waiting = null;
    let number = 0;
    const service_ = ui.worker(service, heard);
    const ask = (message) => {
      if (busy) waiting = message;
      else {
        busy = true;
        service_.post({ ...message, id: ++number });
      }
    };
    function heard(message) {
      if (message.kind === "loaded") {
        known = message;
        result = message.base;
        busy = false;
        restart();
        draw();
      } else if (message.kind === "judged") {
        busy = false;
        result = message;
        if (message.gone && waiting?.kind !== "given") gone = { ...nothing(), ...message.gone }; // else the reader went on by hand
        draw();
      } else if (message.kind === "point") {
        const points = curves[message.slot];
        points.push(message);
        drawCurves();
      }
      if (!busy && waiting) {
        const next = waiting;
        waiting = null;
        ask(next);
      }
    }
    const request = () => ({ what: state.what, by: state.by, carry: state.carry, score: state.score, other: state.other, fraction: state.fraction });
    const move = () => known && ask({ kind: "fraction", ...request() });
    const given = () => known && ask({ kind: "given", gone, carry: state.carry });
    function restart() {
      for (const slot of ["score", "other"]) {
        curves[slot] = [];
        if (state[slot]) service_.post({ kind: "curve", slot, ...request(), score: state[slot] });
        else service_.post({ kind: "stop", slot });
      }
      move();
    }
    function changed(values, again = true) {
      Object.assign(state, values);
      model.set("state", { ...state });
      model.save_changes();
      if (again) restart();
      else move();
    }

    // --- controls --------------------------------------------------------------------------------------------------------------
    const what = ui.choice("What is removed", [["units", "units"], ["weights", "weights"]], state.what, (key) => {
      score.fill(NAMES[key], NAMES[key][0][0]);
      other.fill([["", "nothing"], ...NAMES[key]], "");
      changed({ what: key, score: NAMES[key][0][0], other: "" });
      shape();
    });
    const score = ui.select("lowest", NAMES[state.what], state.score, (key) => changed({ score: key }));
    const other = ui.select("beside", [["", "nothing"], ...NAMES[state.what]], state.other, (key) => changed({ other: key }));
    const by = ui.choice("Of what", [["layer", "of each layer"], ["network", "of the network"]], state.by, (key) => changed({ by: key }));
    const carry = ui.choice("What stands for a unit", [["means", "mean propagated"], ["bare", "bare"]], state.carry ? "means" : "bare", (key) =>
      changed({ carry: key === "means" })
    );
    const fraction = ui.slider("fraction", {
      min: 0, max: 1, step: 0.005, value: state.fraction, words: (value) => ui.percent(value), changed: (value) => changed({ fraction: value }, false),
    });
    const reset = h("button", { type: "button", click: () => { fraction.set(0); changed({ fraction: 0 }, false); } }, "Restore all");

    // --- numbers ---------------------------------------------------------------------------------------------------------------
    const numbers = { accuracy: ui.number("accuracy"), loss: ui.number("loss, nats"), parameters: ui.number("parameters left") };
    const said = h("p", { class: "lab-said", role: "status" }, "The scores are being computed.");
    const beside = h("p", { class: "lab-beside" });

    function parametersLeft() {
      let count = 0;
      let before = null; // which units enter
      for (const layer of linear) {
        const own = gone.units[layer.name];
        const fan = layer.weight.length / layer.units;
        const group = before ? fan / before.length : fan;
        for (let unit = 0; unit < layer.units; unit++) {
          if (own && own[unit]) continue;
          count++;
          for (let i = 0; i < fan; i++) {
            if (!(before && before[Math.floor(i / group)]) && !gone.weights[layer.name][unit * fan + i]) count++;
          }
        }
        before = own;
      }
      return count;
    }
    const flagged = (flags) => Object.values(flags).reduce((sum, list) => sum + list.reduce((a, b) => a + b, 0), 0);

    // --- the units -------------------------------------------------------------------------------------------------------------
    const geometry = Object.fromEntries(linear.map((layer) => [layer.name, ui.geometry(net, layer, net.shapes[nn.place(net, layer.name)])]));
    const weightsOf = (layer, unit) => layer.weight.subarray((unit * layer.weight.length) / layer.units, ((unit + 1) * layer.weight.length) / layer.units);
    const detail = h("p", { class: "lab-detail" }, "Point at a unit, or move to it with the tab and arrow keys: here are its scores.");
    const groups = linear.map((layer) => {
      const largest = Math.max(...layer.weight.map(Math.abs));
      const title = h("h4");
      const buttons = Array.from({ length: layer.units }, (_, unit) => {
        const canvas = h("canvas", { "aria-hidden": "true" });
        const button = h("button", {
          type: "button", class: "lab-unit",
          click: () => clicked(layer, unit),
          focus: () => describe(layer, unit),
          pointerenter: () => describe(layer, unit),
        }, canvas, h("i", { "aria-hidden": "true" }));
        return { button, canvas };
      });
      const grid = h("div", { class: `lab-units lab-${layer.kind}`, role: "group", "aria-label": `units of ${layer.name}` }, buttons.map(({ button }) => button));
      ui.roving(buttons.map(({ button }) => button), () => getComputedStyle(grid).gridTemplateColumns.split(" ").length);
      return { layer, largest, title, buttons, element: h("section", {}, title, grid) };
    });

    function clicked(layer, unit) {
      if (state.what === "weights") {
        inspected = { layer: layer.name, unit, cell: 0 };
        draw();
        return;
      }
      const flags = gone.units[layer.name];
      if (!flags) return;
      flags[unit] = 1 - flags[unit];
      byHand();
    }
    function byHand() {
      fraction.set(fraction.input.value, "by hand");
      given();
      draw();
    }
    function describe(layer, unit) {
      const scores = known?.units;
      const flags = gone.units[layer.name];
      const parts = scores && flags ? NAMES.units.slice(0, 4).map(([key, name]) => `${name} ${scores[key][layer.name][unit].toPrecision(3)}`) : [];
      const answerOf = answers[layer.name]?.[unit];
      if (answerOf != null) parts.push(`answers this image with ${answerOf.toFixed(2)}`);
      detail.textContent = `${layer.name}, unit ${unit}${flags && flags[unit] ? " (removed)" : ""}: ${parts.join(", ")}`;
    }

    // --- one weight at a time --------------------------------------------------------------------------------------------------
    const large = h("canvas", {
      tabindex: 0, role: "application", class: "lab-large", "aria-label": "weights of the chosen unit: arrow keys move, Enter removes or restores",
      pointerdown: (event) => {
        const box = large.getBoundingClientRect();
        const [x, y] = [Math.floor(((event.clientX - box.left) / box.width) * large.width), Math.floor(((event.clientY - box.top) / box.height) * large.height)];
        const { width, height, columns } = geometry[inspected.layer];
        const fan = weightsOf(layerOf(inspected.layer), 0).length;
        for (let i = 0; i < fan; i++) {
          const [cx, cy] = ui.cellOf(i, width, height, columns);
          if (cx === x && cy === y) toggle(i);
        }
      },
      keydown: (event) => {
        const { width, height } = geometry[inspected.layer];
        const fan = weightsOf(layerOf(inspected.layer), 0).length;
        const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width, PageDown: width * height, PageUp: -width * height }[event.key];
        if (by) inspected.cell = Math.max(0, Math.min(fan - 1, inspected.cell + by));
        else if (event.key === "Enter" || event.key === " ") toggle(inspected.cell);
        else return;
        event.preventDefault();
        drawLarge();
      },
    });
    const largeSaid = h("p", { role: "status" });
    const inspector = h("div", { class: "lab-inspector" }, large, largeSaid);
    const layerOf = (name) => net.layers[nn.place(net, name)];
    function toggle(cell) {
      const layer = layerOf(inspected.layer);
      inspected.cell = cell;
      const index = inspected.unit * (layer.weight.length / layer.units) + cell;
      gone.weights[layer.name][index] = 1 - gone.weights[layer.name][index];
      byHand();
    }
    function drawLarge() {
      const layer = layerOf(inspected.layer);
      const values = weightsOf(layer, inspected.unit);
      const { width, height, columns } = geometry[layer.name];
      const from = inspected.unit * values.length;
      ui.picture(large, values, width, height, columns, { gone: (i) => gone.weights[layer.name][from + i] });
      const [x, y] = ui.cellOf(inspected.cell, width, height, columns);
      const context = large.getContext("2d");
      context.fillStyle = "rgba(230, 159, 0, 0.9)";
      context.fillRect(x + 0.3, y + 0.3, 0.4, 0.4);
      const cut = gone.weights[layer.name][from + inspected.cell];
      large.style.aspectRatio = `${large.width} / ${large.height}`;
      largeSaid.textContent =
        `${layer.name}, unit ${inspected.unit}, weight ${inspected.cell}: ${values[inspected.cell].toFixed(4)}${cut ? ", removed" : ""}. ` +
        "Click a cell to remove or restore that weight.";
    }

    // --- one image -------------------------------------------------------------------------------------------------------------
    let answers = {};
    const shown = h("canvas", { class: "lab-image" });
    const pick = ui.slider("test image", {
      min: 0, max: test.y.length - 1, step: 1, value: 0, words: (value) => `${value + 1}: a ${test.y[value]}`,
      changed: (value) => { image = value; drawn = null; drawImage(); },
    });
    const wrong = h("button", { type: "button", click: nextWrong }, "Next one that it gets wrong");
    const clear = h("button", { type: "button", click: () => { drawn = new Float32Array(size); drawImage(); } }, "Draw a digit");
    function nextWrong() {
      for (let step = 1; step <= test.y.length && result; step++) {
        const at = (image + step) % test.y.length;
        if (nn.best(result.logits, at, net.classes) === test.y[at]) continue;
        [image, drawn] = [at, null];
        pick.set(at);
        drawImage();
        return;
      }
    }
    let pen = null;
    shown.addEventListener("pointerdown", (event) => {
      drawn ??= new Float32Array(size);
      pen = null;
      shown.setPointerCapture(event.pointerId);
      stroke(event);
    });
    shown.addEventListener("pointermove", (event) => event.buttons && drawn && stroke(event));
    function stroke(event) {
      const box = shown.getBoundingClientRect();
      const [, rows, columns] = data.shape;
      const to = [((event.clientX - box.left) / box.width) * columns, ((event.clientY - box.top) / box.height) * rows];
      const from = pen ?? to;
      for (let t = 0; t <= 1; t += 0.1) {
        const [px, py] = [from[0] + t * (to[0] - from[0]), from[1] + t * (to[1] - from[1])];
        for (let y = Math.max(0, Math.floor(py - 2)); y < Math.min(rows, py + 2); y++) {
          for (let x = Math.max(0, Math.floor(px - 2)); x < Math.min(columns, px + 2); x++) {
            const ink = Math.max(0, Math.min(1, 1.7 - Math.hypot(x + 0.5 - px, y + 0.5 - py)));
            drawn[y * columns + x] = Math.max(drawn[y * columns + x], ink);
          }
        }
      }
      pen = to;
      drawImage();
    }
    /** The reader's digit as MNIST's are: its centre of mass in the middle. */
    function centred() {
      const [, rows, columns] = data.shape;
      let [mass, mx, my] = [0, 0, 0];
      drawn.forEach((ink, i) => { mass += ink; mx += ink * ((i % columns) + 0.5); my += ink * (Math.floor(i / columns) + 0.5); });
      const [dx, dy] = mass ? [Math.round(mx / mass - columns / 2), Math.round(my / mass - rows / 2)] : [0, 0];
      return Float32Array.from(drawn, (_, i) => {
        const [x, y] = [(i % columns) + dx, Math.floor(i / columns) + dy];
        const ink = x >= 0 && x < columns && y >= 0 && y < rows ? drawn[y * columns + x] : 0;
        return low + ink * (high - low);
      });
    }
    const outputs = h("div");
    const verdict = h("p", { role: "status" });

    function drawImage() {
      const x = drawn ? centred() : test.x.subarray(image * size, (image + 1) * size);
      const whole = nn.forward(net, x, 1);
      const cut = nn.copy(net);
      for (const layer of cut.layers) gone.weights[layer.name]?.forEach((flag, i) => flag && (layer.weight[i] = 0));
      const constants = {};
      if (known) {
        for (const name of hidden) constants[name] = Float64Array.from(gone.units[name], (flag, unit) => (flag ? (state.carry ? known.means[name][unit] : 0) : NaN));
      }
      const now = nn.forward(cut, x, 1, { constants });
      const truth = drawn ? null : test.y[image];
      const view = drawn ? drawn.map((ink) => low + ink * (high - low)) : x;
      ui.grey(shown, view.subarray(0, data.shape[1] * data.shape[2]), data.shape[2], low, high);
      shown.setAttribute("role", "img");
      shown.setAttribute("aria-label", drawn ? "your own digit" : `test image ${image + 1}, a ${truth}`);
      const [before, after] = [Array.from(whole.logits), Array.from(now.logits)];
      outputs.replaceChildren(ui.bars(before, after, truth, ui.COLOURS[state.score]));
      const [first, second] = [nn.best(whole.logits, 0, net.classes), nn.best(now.logits, 0, net.classes)];
      verdict.textContent =
        `${drawn ? "Your digit" : `A ${truth}`}. The whole network says ${first}, ` + `what is left of it says ${second}${truth != null && second !== truth ? ": wrong" : ""}.`;
      answers = {};
      for (const { layer, buttons } of groups) {
        const k = nn.place(net, layer.name);
        const behind = hidden.includes(layer.name) ? net.layers.findIndex((one, at) => at > k && (one.kind === "relu" || one.kind === "tanh")) : k;
        const values = now.values[behind + 1];
        const area = values.length / layer.units;
        const own = Array.from({ length: layer.units }, (_, unit) => Math.max(...values.subarray(unit * area, (unit + 1) * area)));
        answers[layer.name] = own;
        const top = Math.max(...own, 1e-9);
        buttons.forEach(({ button }, unit) => button.style.setProperty("--answer", Math.max(0, own[unit] / top).toFixed(3)));
      }
    }

    // --- curves ----------------------------------------------------------------------------------------------------------------
    const charts = h("div", { class: "lab-charts" });
    function drawCurves() {
      const drawable = (slot) => (ui.calm() && curves[slot].at(-1)?.fraction !== 1 ? [] : curves[slot]);
      const named = Object.fromEntries(NAMES[state.what]);
      const make = (title, of, y, yWords) => {
        const lines = ["score", "other"].filter((slot) => state[slot]).map((slot, i) => ({
          colour: ui.COLOURS[state[slot]], dash: i ? "6 4" : null, points: drawable(slot).map((point) => [point.fraction, of(point)]),
        }));
        const told = curves.score.filter(({ fraction }) => (20 * fraction) % 4 === 0).map((point) => `${yWords(of(point))} at ${ui.percent(point.fraction, 0)}`);
        return ui.chart({ title, lines, x: [0, 1], y, mark: state.fraction, xWords: (value) => ui.percent(value, 0), yWords, label: `${title}: ${told.join(", ")}` });
      };
      const losses = Object.values(curves).flat().map((point) => point.loss).filter(Number.isFinite);
      const accuracy = (point) => point.right / test.y.length;
      const key = ["score", "other"].filter((slot) => state[slot]).map((slot, i) =>
        h("span", {}, h("i", { style: `border-color: ${ui.COLOURS[state[slot]]}; border-top-style: ${i ? "dashed" : "solid"}` }), named[state[slot]])
      );
      charts.replaceChildren(
        h("p", { class: "lab-key" }, key),
        make("accuracy, by fraction removed", accuracy, [0, 1], (value) => ui.percent(value, 0)),
        make("loss in nats, by fraction removed", (point) => point.loss, [0, Math.max(0.1, Math.min(6, ...[Math.max(...losses, 0.1)]))], (value) => value.toFixed(1))
      );
    }

    // --- all of it -------------------------------------------------------------------------------------------------------------
    function draw() {
      const cut = { units: flagged(gone.units), weights: flagged(gone.weights) };
      for (const { layer, largest, title, buttons } of groups) {
        const flags = gone.units[layer.name];
        const lost = gone.weights[layer.name];
        const { width, height, columns } = geometry[layer.name];
        const fan = lost.length / layer.units;
        const count = flags ? flags.reduce((a, b) => a + b, 0) : 0;
        const left = lost.reduce((a, b) => a - b, lost.length);
        title.textContent = state.what === "units" ? `${layer.name}: ${layer.units - count} of ${layer.units} units` : `${layer.name}: ${ui.thousands(left)} of ${ui.thousands(lost.length)} weights`;
        buttons.forEach(({ button, canvas }, unit) => {
          const off = Boolean(flags && flags[unit]);
          ui.picture(canvas, weightsOf(layer, unit), width, height, columns, { scale: largest, gone: (i) => off || lost[unit * fan + i] });
          const chosen = state.what === "weights" ? inspected.layer === layer.name && inspected.unit === unit : off;
          button.setAttribute("aria-pressed", String(chosen));
          button.classList.toggle("lab-gone", off);
          button.setAttribute("aria-label", `${layer.name} unit ${unit}${off ? ", removed" : ""}`);
        });
      }
      if (state.what === "weights") drawLarge();
      if (known && result) {
        const n = test.y.length;
        const left = parametersLeft();
        numbers.accuracy.value.textContent = ui.percent(result.right / n);
        numbers.accuracy.note.textContent = `${result.right} of ${n} test images; whole: ${ui.percent(known.base.right / n)}`;
        numbers.loss.value.textContent = result.loss.toFixed(4);
        numbers.loss.note.textContent = `whole: ${known.base.loss.toFixed(4)}`;
        numbers.parameters.value.textContent = ui.thousands(left);
        numbers.parameters.note.textContent = `of ${ui.thousands(total)}`;
        const removed = state.what === "units" ? `${cut.units} units removed${cut.units && state.carry ? ", their means propagated" : ""}` : `${ui.thousands(cut.weights)} weights removed`;
        said.textContent = `${removed}: accuracy ${ui.percent(result.right / n)}, loss ${result.loss.toFixed(4)}, ${ui.thousands(left)} parameters left.`;
        for (const [name, value] of Object.entries({ loss: result.loss, right: result.right, parameters: left, units: cut.units, weights: cut.weights })) el.dataset[name] = value;
        const name = Object.fromEntries(NAMES[state.what])[state.other];
        beside.textContent = result.other && state.other ? `By ${name} at the same fraction: accuracy ${ui.percent(result.other.right / n)}, loss ${result.other.loss.toFixed(4)}.` : "";
      }
      drawCurves();
      drawImage();
    }
    function shape() {
      groups.forEach(({ layer, element }) => (element.hidden = state.what === "units" && !hidden.includes(layer.name)));
      inspector.hidden = state.what !== "weights";
      carry.element.hidden = state.what !== "units";
      draw();
    }

    el.append(
      h("div", { class: "lab-controls" }, what.element, score.element, fraction.element, by.element, carry.element, other.element, reset),
      h("div", { class: "lab-numbers" }, Object.values(numbers).map(({ element }) => element)),
      said, beside,
      h("div", { class: "lab-body" }, groups.map(({ element }) => element), inspector, detail),
      h("div", { class: "lab-one" }, h("div", { class: "lab-pick" }, shown, pick.element, wrong, clear), h("div", {}, outputs, verdict)),
      charts,
      h("p", { class: "lab-about" }, `Computed in your browser. Scored on ${sets.train_probe.y.length} images trained on, judged on ${test.y.length} test images; * is the label. ${ui.source(data)}`)
    );
    shape();
    service_.post({ kind: "load", data });
    busy = true;
    return () => service_.end();
  }

  lab.prune = { render, service };
})();
