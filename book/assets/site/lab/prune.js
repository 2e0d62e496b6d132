// Prune it yourself: remove units and weights of a trained network, and see at once what it costs.
(() => {
  "use strict";
  const lab = globalThis.deadunitsLab;
  const NAMES = {
    units: [
      ["mrp", "MRP (exact)"], ["mrs", "MRS"], ["norm_l1", "L1 norm"], ["norm_l2", "L2 norm"], ["taylor", "Taylor"],
      ["activation", "mean activation"], ["random", "random"],
    ],
    weights: [["loss_change", "exact loss change"], ["magnitude", "magnitude"], ["taylor1", "Taylor 1"], ["taylor1_abs", "Taylor 1, absolute"], ["random", "random"]],
  };

  /** floor(f n) as it is meant: 0.3 of 10 is 3 (`deadunits.counting.count`). */
  function count(fraction, n) {
    return Math.floor(Math.round(fraction * n * 1e9) / 1e9);
  }

  /**
   * The lowest floor(f n) scores, of each list or of all together: lists of true for what goes (`deadunits.pruning`).
   *
   * Of equal scores the first go first. One of each layer stays, unless `whole` is set and `by` is "layer".
   */
  function lowest(scores, fraction, by, whole = false) {
    const names = Object.keys(scores);
    const gone = {};
    for (const list of by === "network" ? [names] : names.map((name) => [name])) {
      const values = new Float64Array(list.reduce((sum, name) => sum + scores[name].length, 0));
      const kept = whole && by === "layer" ? 0 : list.length;
      let at = 0;
      for (const name of list) {
        values.set(scores[name], at);
        const own = values.subarray(at, (at += scores[name].length));
        if (kept) own[own.lastIndexOf(own.reduce((best, score) => Math.max(best, score)))] = Infinity; // the best one stays
      }
      const left = Math.min(count(fraction, values.length), values.length - kept);
      const limit = values.slice().sort()[left - 1];
      let ties = left - values.reduce((sum, score) => sum + (score < limit), 0);
      at = 0;
      for (const name of list) {
        gone[name] = Uint8Array.from(scores[name], () => {
          const score = values[at++];
          return score < limit || (score === limit && ties-- > 0);
        });
      }
    }
    return gone;
  }

  /** What the worker does: `lab` is the arithmetic, `answer` posts a message. */
  function service({ nn }, answer) {
    const POINTS = 20; // of a curve
    const PARTS = 8; // of the test images: between two of them a move may come
    const SLOW = 60; // milliseconds: if all images take longer, those of the first part are the first answer
    let net, sets, scores, means, seen, parts;
    let [lastMove, latest, spent, exactly] = [0, 0, Infinity, false];
    const curves = {};
    const byLayer = (names, of) => Object.fromEntries(names.map((name) => [name, of(net.layers[nn.place(net, name)], name)]));
    const pause = (time = 0) => new Promise((resume) => setTimeout(resume, time));

    function load({ data }) {
      ({ net, sets } = nn.unpacked(data));
      const images = sets.train_probe;
      const layers = nn.hidden(net);
      seen = nn.observe(net, images);
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
      const { length } = sets.test.y;
      parts = Array.from({ length: PARTS }, (_, i) => {
        const [from, to] = [i, i + 1].map((end) => Math.floor((end * length) / PARTS));
        const part = nn.chosen(sets.test, Array.from({ length: to - from }, (_, image) => from + image));
        return { ...part, values: nn.forward(net, part.x, part.y.length).values };
      });
      answer({ kind: "loaded", means, units, base: { ...nn.judge(net, sets.test), images: length } });
    }

    /** The outputs for some test images without some units and weights: only what is behind a change is computed. */
    function outputs({ x, y, values }, gone, carry) {
      const cut = nn.copy(net);
      const constants = {};
      let from = net.layers.length;
      cut.layers.forEach(({ name, weight, units }, k) => {
        const lost = gone.weights?.[name];
        if (lost?.includes(1)) {
          lost.forEach((flag, i) => flag && (weight[i] = 0));
          from = Math.min(from, k);
        }
        const off = gone.units?.[name];
        if (!off?.includes(1)) return;
        constants[name] = Float64Array.from(off, (flag, unit) => (flag ? (carry ? means[name][unit] : 0) : NaN));
        const fan = weight.length / units;
        off.forEach((flag, unit) => flag && weight.fill(0, unit * fan, (unit + 1) * fan)); // no work for what is replaced
        if (from <= k) return;
        from = k + 1; // what the layer itself gives is known
        values = [...values.slice(0, from), values[from].slice()];
        nn.stand(values[from], y.length, net.shapes[from], constants[name]);
      });
      return nn.forward(cut, x, y.length, { from, values, constants }).logits;
    }

    /**
     * The network without some units and weights, judged on the test images, part by part; nothing if `rest` says so.
     *
     * @param rest waits between the parts, and says whether to go on.
     * @param first gets what is found on the first part.
     */
    async function judged(gone, carry, rest, first) {
      const found = { loss: 0, right: 0, images: 0, logits: new Float32Array(sets.test.y.length * net.classes) };
      let time = 0;
      for (const part of parts) {
        if (!(await rest())) return null;
        const started = performance.now();
        const logits = outputs(part, gone, carry);
        time += performance.now() - started;
        const n = part.y.length;
        found.logits.set(logits, found.images * net.classes);
        found.loss = (found.loss * found.images + nn.mean(nn.losses(logits, part.y, net.classes)) * n) / (found.images + n);
        found.right += part.y.filter((label, i) => nn.best(logits, i, net.classes) === label).length;
        found.images += n;
        if (part === parts[0]) first?.(found);
      }
      spent = time;
      return found;
    }

    const least = ({ what, by }, score, fraction) => lowest(scores[what][score], fraction, by, what === "weights");

    /** What a move asks for, unless another one comes first. */
    async function move(message) {
      const { id, what, carry, other, fraction } = message;
      latest = id;
      lastMove = Date.now();
      if (what === "weights" && !exactly) exact();
      const rest = async () => (await pause(), latest === id);
      if (!(await rest())) return;
      const gone = message.gone ?? { [what]: least(message, message.score, fraction) };
      const tell = (found) => found && answer({ kind: "judged", id, gone, ...found });
      const found = await judged(gone, carry, rest, (some) => spent > SLOW && tell(some));
      if (found && other && !message.gone) found.other = await judged({ [what]: least(message, other, fraction) }, carry, rest);
      tell(found);
    }

    /** Moves come first. */
    async function idle() {
      do await pause(5);
      while (Date.now() - lastMove < 250);
    }

    async function curve(message) {
      const { slot, what, score, carry } = message;
      const token = (curves[slot] = {});
      const rest = async () => (await idle(), curves[slot] === token);
      for (let i = 0; i <= POINTS; i++) {
        if (!(await rest())) return;
        const found = await judged({ [what]: least(message, score, i / POINTS) }, carry, rest);
        if (found) answer({ kind: "point", slot, score, fraction: i / POINTS, loss: found.loss, right: found.right });
      }
    }

    /** The exact change of the loss without each weight alone, on the images scored on (`deadunits.scorers.loss_change`). */
    async function exact() {
      exactly = true;
      const { pass } = seen;
      const labels = sets.train_probe.y;
      const base = nn.mean(nn.losses(pass.logits, labels, net.classes));
      const changes = byLayer(net.layers.filter(nn.isLinear).map(({ name }) => name), ({ weight }) => new Float64Array(weight.length));
      const all = Object.values(changes).reduce((sum, { length }) => sum + length, 0);
      let [done, since] = [0, 0];
      for (const [name, found] of Object.entries(changes)) {
        const k = nn.place(net, name);
        const { weight, units } = net.layers[k];
        const [[, height, width], [, rows, columns]] = [net.shapes[k], net.shapes[k + 1]];
        const area = rows * columns;
        const size = net.layers[k].size ?? 1;
        const fan = weight.length / units;
        for (let i = 0; i < found.length; i++, done++) {
          if (performance.now() - since > 25) {
            answer({ kind: "exact", share: done / all });
            await idle();
            since = performance.now();
          }
          const unit = Math.floor(i / fan);
          const [ky, kx] = [Math.floor((i % (size * size)) / size), i % size];
          // of a linear layer each input is a channel of one value
          const [side, wide] = net.layers[k].size ? [height, width] : [1, 1];
          const inputs = net.shapes[k][0] * height * width;
          const from = Math.floor((i % fan) / (size * size)) * side * wide + ky * wide + kx;
          const h = new Float32Array(labels.length * area);
          for (let image = 0, o = 0; image < labels.length; image++) {
            for (let y = 0; y < rows; y++) {
              let at = image * inputs + from + y * wide;
              let own = (image * units + unit) * area + y * columns;
              for (let x = 0; x < columns; x++, o++, at++, own++) h[o] = pass.values[k + 1][own] - weight[i] * pass.values[k][at];
            }
          }
          found[i] = nn.mean(nn.losses(nn.swapped(net, pass, k, unit, h), labels, net.classes)) - base;
        }
      }
      scores.weights.loss_change = changes;
      answer({ kind: "exact", share: 1, changes });
    }

    const acts = { load, fraction: move, given: move, curve, stop: ({ slot }) => delete curves[slot] };
    return (message) => acts[message.kind](message);
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
    let byHand = false; // units or weights were clicked since the last move
    let changes = null; // of the loss without each weight alone, when all are known
    let image = 0;
    let drawn = null; // the reader's own digit
    let inspected = { layer: linear[0].name, unit: 0, cell: 0 };
    const curves = { score: [], other: [] };

    function nothing() {
      const flags = (names, count) => Object.fromEntries(names.map((name) => [name, new Uint8Array(count(net.layers[nn.place(net, name)]))]));
      return { units: flags(hidden, (layer) => layer.units), weights: flags(linear.map(({ name }) => name), (layer) => layer.weight.length) };
    }

    // --- the worker: of the moves made while it computes, only the last one counts ---------------------------------------------
    let number = 0;
    const service_ = ui.worker(service, heard, count, lowest);
    const ask = (message) => service_.post({ ...message, id: ++number });
    function heard(message) {
      if (message.kind === "loaded") {
        known = message;
        result = message.base;
        restart();
        draw();
      } else if (message.kind === "judged" && message.id === number) {
        const more = result.id === message.id; // the rest of the images
        result = message;
        if (more) return drawNumbers();
        if (!byHand) gone = { ...nothing(), ...message.gone };
        draw();
      } else if (message.kind === "point") {
        const points = curves[message.slot];
        points.push(message);
        drawCurves();
      } else if (message.kind === "exact") {
        exactly.textContent = `The exact loss change of each weight is being computed: ${ui.percent(message.share, 0)}.`;
        if (message.changes) {
          changes = message.changes;
          offer();
          exactly.textContent = "The exact loss change of each weight is known: choose it as a score.";
        }
        el.dataset.exact = message.share;
      }
    }
    const request = () => ({ what: state.what, by: state.by, carry: state.carry, score: state.score, other: state.other, fraction: state.fraction });
    const move = () => {
      byHand = false;
      if (known) ask({ kind: "fraction", ...request() });
    };
    const given = () => {
      byHand = true;
      if (known) ask({ kind: "given", what: state.what, gone, carry: state.carry });
    };
    function restart() {
      for (const slot of ["score", "other"]) {
        curves[slot] = [];
        if (state[slot]) service_.post({ kind: "curve", slot, ...request(), score: state[slot] });
        else service_.post({ kind: "stop", slot });
      }
      drawCurves();
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
      state.what = key;
      Object.assign(state, { score: names()[0][0], other: "" });
      offer();
      changed({});
      shape();
    });
    const names = () => NAMES[state.what].filter(([key]) => key !== "loss_change" || changes);
    const offer = () => {
      score.fill(names(), state.score);
      other.fill([["", "nothing"], ...names()], state.other);
    };
    const score = ui.select("lowest", names(), state.score, (key) => changed({ score: key }));
    const other = ui.select("beside", [["", "nothing"], ...names()], state.other, (key) => changed({ other: key }));
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
    const exactly = h("p", { class: "lab-beside" });

    function parametersLeft() {
      let count = 0;
      let before = null; // which units enter
      for (const layer of linear) {
        const [own, lost] = [gone.units[layer.name], gone.weights[layer.name]];
        const fan = lost.length / layer.units;
        const group = before ? fan / before.length : fan;
        for (let unit = 0; unit < layer.units; unit++) {
          if (own && own[unit]) continue;
          count++;
          for (let i = 0; i < fan; i++) {
            if (!lost[unit * fan + i] && !(before && before[Math.floor(i / group)])) count++;
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
        const [canvas, bar] = [h("canvas", { "aria-hidden": "true" }), h("i", { "aria-hidden": "true" })];
        const button = h("button", {
          type: "button", class: "lab-unit",
          click: () => clicked(layer, unit),
          focus: () => describe(layer, unit),
          pointerenter: () => describe(layer, unit),
        }, canvas, bar);
        return { button, canvas, bar };
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
      clickedOn();
    }
    function clickedOn() {
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
      clickedOn();
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
        (changes ? `Without it alone the loss changes by ${changes[layer.name][from + inspected.cell].toPrecision(3)} nats. ` : "") +
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
        if (at >= result.images || nn.best(result.logits, at, net.classes) === test.y[at]) continue;
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
        buttons.forEach(({ bar }, unit) => {
          const share = `scaleX(${Math.max(0, own[unit] / top).toFixed(2)})`;
          if (bar.style.transform !== share) bar.style.transform = share;
        });
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
          const chosen = state.what === "weights" ? inspected.layer === layer.name && inspected.unit === unit : off;
          const shown = `${off} ${chosen} ${lost.subarray(unit * fan, (unit + 1) * fan).join("")}`;
          if (canvas.shown === shown) return;
          ui.picture(canvas, weightsOf(layer, unit), width, height, columns, { scale: largest, gone: (i) => off || lost[unit * fan + i] });
          canvas.shown = shown;
          button.setAttribute("aria-pressed", String(chosen));
          button.classList.toggle("lab-gone", off);
          button.setAttribute("aria-label", `${layer.name} unit ${unit}${off ? ", removed" : ""}`);
        });
      }
      if (state.what === "weights") drawLarge();
      drawNumbers();
      charts.querySelectorAll("svg").forEach((chart) => chart.moveMark(state.fraction));
      drawImage();
    }
    function drawNumbers() {
      const cut = { units: flagged(gone.units), weights: flagged(gone.weights) };
      if (known && result) {
        const n = result.images; // fewer than all, on a slow machine, until all are judged
        const left = parametersLeft();
        numbers.accuracy.value.textContent = ui.percent(result.right / n);
        numbers.accuracy.note.textContent = `${result.right} of ${n} test images; whole: ${ui.percent(known.base.right / test.y.length)}`;
        numbers.loss.value.textContent = result.loss.toFixed(4);
        numbers.loss.note.textContent = `whole: ${known.base.loss.toFixed(4)}`;
        numbers.parameters.value.textContent = ui.thousands(left);
        numbers.parameters.note.textContent = `of ${ui.thousands(total)}`;
        const removed = state.what === "units" ? `${cut.units} units removed${cut.units && state.carry ? ", their means propagated" : ""}` : `${ui.thousands(cut.weights)} weights removed`;
        said.textContent = `${removed}: accuracy ${ui.percent(result.right / n)}, loss ${result.loss.toFixed(4)}, ${ui.thousands(left)} parameters left.`;
        el.dataset.images = n;
        for (const [name, value] of Object.entries({ loss: result.loss, right: result.right, parameters: left, units: cut.units, weights: cut.weights })) el.dataset[name] = value;
        const name = Object.fromEntries(NAMES[state.what])[state.other];
        if (result.other) beside.textContent = `By ${name} at the same fraction: accuracy ${ui.percent(result.other.right / n)}, loss ${result.other.loss.toFixed(4)}.`;
        else if (!state.other || byHand) beside.textContent = "";
      }
    }
    function shape() {
      groups.forEach(({ layer, element }) => (element.hidden = state.what === "units" && !hidden.includes(layer.name)));
      inspector.hidden = state.what !== "weights";
      exactly.hidden = state.what !== "weights";
      carry.element.hidden = state.what !== "units";
      draw();
    }

    el.append(
      h("div", { class: "lab-controls" }, what.element, score.element, fraction.element, by.element, carry.element, other.element, reset),
      h("div", { class: "lab-numbers" }, Object.values(numbers).map(({ element }) => element)),
      said, beside, exactly,
      h("div", { class: "lab-body" }, groups.map(({ element }) => element), inspector, detail),
      h("div", { class: "lab-one" }, h("div", { class: "lab-pick" }, shown, pick.element, wrong, clear), h("div", {}, outputs, verdict)),
      charts,
      h("p", { class: "lab-about" }, `Computed in your browser. Scored on ${sets.train_probe.y.length} images trained on, judged on ${test.y.length} test images; * is the label. ${ui.source(data)}`)
    );
    shape();
    service_.post({ kind: "load", data });
    return () => service_.end();
  }

  lab.prune = { render, service, count, lowest };
})();
