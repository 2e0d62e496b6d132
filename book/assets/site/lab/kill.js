// Kill a unit: a small network trains on the embedded digits, and one unit takes steps that are too large; its twin does not.
(() => {
  "use strict";
  const lab = globalThis.deadunitsLab;

  /** What the worker does: `lab` is the arithmetic, `answer` posts a message. */
  function service({ nn }, answer) {
    const BATCH = 32;
    const BELOW = 0.05; // of the layer's mean: dead by MRP, frozen by the output gradient (thesis: 3.2)
    const WIDTHS = { conv1: 8, fc1: 32, fc2: 10 };
    let sets, config, net, twin, step, batches, attacks, token;
    let pace = "medium";

    /** Weights and biases uniform in ±1/sqrt(fan-in), as PyTorch's. */
    function fresh({ seed, activation, norm }) {
      const random = nn.generator(seed);
      const parameters = {};
      for (const [name, fan] of [["conv1", 9], ["fc1", WIDTHS.conv1 * 9], ["fc2", WIDTHS.fc1]]) {
        for (const [kind, length] of [["weight", WIDTHS[name] * fan], ["bias", WIDTHS[name]]]) {
          parameters[`${name}.${kind}`] = Float32Array.from({ length }, () => (2 * random() - 1) / Math.sqrt(fan));
        }
      }
      for (const [name, length] of [["bn1", WIDTHS.conv1], ["bn3", WIDTHS.fc1]]) {
        parameters[`${name}.running_mean`] = new Float32Array(length);
        parameters[`${name}.running_var`] = new Float32Array(length).fill(1);
      }
      return nn.smallCNN(parameters, [1, 8, 8], activation, norm);
    }

    /** Minibatches, epoch by epoch in a new order. */
    function* minibatches({ seed }) {
      const random = nn.generator(seed + 1000003);
      for (;;) {
        const order = nn.shuffled(sets.train.y.length, random);
        for (let i = 0; i < order.length; i += BATCH) yield nn.chosen(sets.train, order.subarray(i, i + BATCH));
      }
    }

    function start(message) {
      token = null;
      config = message.config;
      net = fresh(config);
      twin = null; // the same network until the first attack
      step = 0;
      batches = minibatches(config);
      attacks = [];
      answer({ kind: "measured", ...measured(), started: true });
    }

    const now = (attack) => step >= attack.from && step < attack.from + attack.interval * attack.repeats && (step - attack.from) % attack.interval === 0;
    const pending = () => attacks.some((attack) => step + 1 < attack.from + attack.interval * attack.repeats && step + 1 >= attack.from - 1);

    function advance() {
      step++;
      const attack = attacks.find(now);
      if (attack && !twin) twin = nn.copy(net);
      const images = batches.next().value;
      nn.step(net, images, config.lr, attack);
      if (twin) nn.step(twin, images, config.lr);
    }

    function measured() {
      const own = of(net);
      return { step, own, twin: twin ? of(twin) : null, attacking: attacks.some(now) };
    }
    function of(net) {
      const images = sets.probe;
      const seen = nn.observe(net, images);
      const found = { accuracy: nn.judge(net, sets.test).right / sets.test.y.length, loss: nn.mean(nn.losses(seen.pass.logits, images.y, net.classes)), layers: {} };
      const order = nn.hidden(net);
      order.forEach((name, i) => {
        const layer = net.layers[nn.place(net, name)];
        const next = net.layers[nn.place(net, order[i + 1] ?? "fc2")];
        const mrp = Array.from(nn.penalties(net, images, name, seen));
        const gradient = Array.from(seen.layers[name].gradient);
        const fan = next.weight.length / next.units / layer.units;
        const out = new Float64Array(layer.units);
        next.weight.forEach((weight, at) => (out[Math.floor((at % (fan * layer.units)) / fan)] += Math.abs(weight)));
        const k = nn.place(net, name);
        const [, height, width] = net.shapes[k + 1];
        found.layers[name] = {
          mrp, gradient,
          mrs: Array.from(seen.layers[name].mrs),
          incoming: Array.from(nn.norms(layer, 1)),
          outgoing: Array.from(out),
          dead: nn.small(mrp, BELOW),
          frozen: nn.small(gradient, BELOW),
          outputs: Array.from({ length: layer.units }, (_, unit) => sampled(seen.pass.values[k + 1], layer.units, height * width, unit)),
        };
      });
      return found;
    }
    /** Some of the outputs of a unit. */
    function sampled(h, units, area, unit) {
      const values = [];
      for (let image = 0; image < sets.probe.y.length; image++) {
        for (let p = image % 3; p < area; p += area > 1 ? 3 : 1) values.push(h[(image * units + unit) * area + p]);
      }
      return Float32Array.from(values); // the page keeps many
    }

    /** So many steps; measured now and then, and at each step while an attack lasts. */
    async function run({ steps }) {
      const own = (token = {});
      let done = 0;
      while (done < steps && token === own) {
        const stride = pace === "slow" ? 1 : pace === "medium" ? 5 : 25;
        for (let i = 0; i < stride && done < steps; i++, done++) {
          advance();
          if (pending() || attacks.some(now)) { done++; break; }
        }
        if (own === token) answer({ kind: "measured", ...measured() });
        await new Promise((resume) => setTimeout(resume, pace === "slow" ? 60 : pace === "medium" ? 20 : 0));
      }
      if (token === own) answer({ kind: "paused" });
    }

    const acts = {
      load: ({ data }) => (sets = nn.unpacked(data).sets),
      start,
      run,
      pause: () => { token = null; answer({ kind: "paused" }); },
      pace: (message) => (pace = message.pace),
      attack: ({ attack }) => {
        attacks.push({ ...attack, from: attack.from ?? step + 1 });
        answer({ kind: "planned", attack: attacks[attacks.length - 1] });
      },
    };
    return (message) => acts[message.kind](message);
  }

  function render({ model, el }) {
    const { ui } = lab;
    const { h, s } = ui;
    const data = model.get("data");
    const UNITS = { conv1: 8, fc1: 32 };
    const COLOURS = { own: "#D55E00", twin: "#0072B2" };
    const MOST = 600; // measurements that are kept; those of an attack longer
    const base = { activation: "relu", norm: false, lr: 0.1, seed: 0, layer: "conv1", unit: 0, multiplier: 100, repeats: 10, interval: 2, at: null };
    const state = { ...base, ...data.state, ...model.get("state"), ...linked() };
    if (!["relu", "tanh"].includes(state.activation)) state.activation = "relu"; // a network of the reader's own
    let history = [];
    let attacks = [];
    let playing = false;
    let latest = null; // what is looked at
    let back = false; // not the newest
    const worker = ui.worker(service, heard);

    /** What a shared link says. */
    function linked() {
      const found = /^#kill=(.+)$/.exec(globalThis.location?.hash ?? "");
      if (!found) return {};
      const words = Object.fromEntries(new URLSearchParams(found[1]));
      const known = {};
      for (const [name, value] of Object.entries(base)) {
        if (!(name in words)) continue;
        known[name] = typeof value === "string" ? words[name] : typeof value === "boolean" ? words[name] === "true" : Number(words[name]);
      }
      if (known.at == null || !(known.at > 0)) delete known.at;
      return known;
    }

    function heard(message) {
      if (message.kind === "measured") {
        if (message.started) [history, back] = [[], false];
        history.push(message);
        if (history.length > MOST) history = history.filter((one, i) => i % 2 === 0 || one.attacking || one === latest || one === message);
        if (!back) latest = message;
        requestAnimationFrame(draw);
      } else if (message.kind === "paused") setPlaying(false);
      else if (message.kind === "planned") {
        attacks.push(message.attack);
        state.at = message.attack.from;
        draw();
      }
    }

    function anew() {
      attacks = [];
      setPlaying(false);
      worker.post({ kind: "start", config: { seed: state.seed, activation: state.activation, norm: state.norm, lr: state.lr } });
    }
    function changed(values, again = true) {
      Object.assign(state, values);
      model.set("state", { ...state });
      model.save_changes();
      if (again) { state.at = null; anew(); } else draw();
    }
    function setPlaying(on) {
      playing = on;
      play.textContent = on ? "Pause" : "Play";
      play.setAttribute("aria-pressed", String(on));
    }
    const attackOf = () => ({ layer: state.layer, unit: state.unit, multiplier: state.multiplier, repeats: state.repeats, interval: state.interval });

    // --- controls --------------------------------------------------------------------------------------------------------------
    const kind = state.norm ? "norm" : state.activation;
    const network = ui.choice("network", [["relu", "ReLU"], ["tanh", "tanh"], ["norm", "ReLU, batch norm"]], kind, (key) =>
      changed({ activation: key === "tanh" ? "tanh" : "relu", norm: key === "norm" })
    );
    const rate = ui.slider("learning rate", {
      min: -2, max: 0, step: 0.1, value: Math.log10(state.lr), words: (value) => (10 ** value).toPrecision(2), changed: (value) => changed({ lr: Number((10 ** value).toPrecision(2)) }),
    });
    const seed = h("input", { type: "number", min: 0, max: 9999, value: state.seed, id: "lab-kill-seed", change: () => changed({ seed: Math.max(0, Math.floor(seed.valueAsNumber) || 0) }) });
    const play = h("button", { type: "button", "aria-pressed": "false", click: () => {
      if (playing) worker.post({ kind: "pause" });
      else { setPlaying(true); worker.post({ kind: "run", steps: Infinity }); }
    } }, "Play");
    const some = (steps) => h("button", { type: "button", click: () => { setPlaying(true); worker.post({ kind: "run", steps }); } }, steps === 1 ? "1 step" : `${steps} steps`);
    const again = h("button", { type: "button", click: () => changed({}) }, "Start anew");
    const pace = ui.choice("pace", [["slow", "slow"], ["medium", "medium"], ["full", "as fast as it can"]], "medium", (key) => worker.post({ kind: "pace", pace: key }));
    const layer = ui.select("layer", Object.keys(UNITS).map((name) => [name, name]), state.layer, (key) => {
      unit.fill(unitsOf(key), "0");
      changed({ layer: key, unit: 0 }, false);
    });
    const unitsOf = (name) => Array.from({ length: UNITS[name] }, (_, i) => [String(i), String(i)]);
    const unit = ui.select("unit", unitsOf(state.layer), String(state.unit), (key) => changed({ unit: Number(key) }, false));
    const times = ui.slider("multiplier", {
      min: 0, max: 4, step: 0.5, value: Math.log10(state.multiplier), words: (value) => ui.thousands(Math.round(10 ** value)), changed: (value) => changed({ multiplier: Math.round(10 ** value) }, false),
    });
    const repeats = ui.slider("repeats", { min: 1, max: 20, step: 1, value: state.repeats, words: String, changed: (value) => changed({ repeats: value }, false) });
    const look = (one) => {
      latest = one;
      back = one !== history.at(-1);
      draw();
    };
    const scrub = ui.slider("look at step", {
      min: 0, max: 0, step: 1, value: 0, words: (i) => (history[i] ? ui.thousands(history[i].step) + (history[i].attacking ? " (attack)" : "") : "0"), changed: (i) => look(history[i]),
    });
    const toAttack = h("button", { type: "button", disabled: true, click: () => { look(history.find(({ attacking }) => attacking)); scrub.input.focus(); } }, "First step of the attack");
    const attack = h("button", { type: "button", class: "lab-attack", click: () => worker.post({ kind: "attack", attack: attackOf() }) }, "Attack now");
    const link = h("button", { type: "button", click: () => {
      const words = new URLSearchParams(Object.entries(state).filter(([name, value]) => name in base && value != null));
      const url = `${location.href.split("#")[0]}#kill=${words}`;
      history_(url);
      navigator.clipboard?.writeText(url).then(() => (said.textContent = "The link is copied: it repeats the seed and the attack."), () => {});
    } }, "Copy link");
    const history_ = (url) => { try { globalThis.history.replaceState(null, "", url); } catch { /* from a file */ } };

    // --- what is seen ----------------------------------------------------------------------------------------------------------
    const numbers = { step: ui.number("step"), accuracy: ui.number("test accuracy"), mrp: ui.number("MRP of the unit, nats") };
    const lamps = Object.fromEntries(["dead", "frozen"].map((name) => [name, h("span", { class: "lab-lamp" }, name)]));
    const said = h("p", { class: "lab-said", role: "status" });
    const charts = h("div", { class: "lab-charts" });
    const map = h("div", { class: "lab-map", role: "img" });

    const unitOf = (measured, who, what) => measured[who]?.layers[state.layer][what][state.unit] ?? measured.own.layers[state.layer][what][state.unit];
    function draw() {
      if (!latest) return;
      scrub.input.max = history.length - 1;
      scrub.set(history.indexOf(latest));
      toAttack.disabled = !history.some(({ attacking }) => attacking);
      const fallen = latest.own.layers[state.layer];
      const [dead, frozen] = [fallen.dead[state.unit], fallen.frozen[state.unit]];
      numbers.step.value.textContent = ui.thousands(latest.step);
      numbers.step.note.textContent = latest.attacking ? "attack" : attacks.length ? `${attacks.length} ${attacks.length > 1 ? "attacks" : "attack"}` : "no attack yet";
      numbers.accuracy.value.textContent = ui.percent(latest.own.accuracy);
      numbers.accuracy.note.textContent = `twin: ${ui.percent((latest.twin ?? latest.own).accuracy)}`;
      numbers.mrp.value.textContent = fallen.mrp[state.unit].toPrecision(3);
      numbers.mrp.note.textContent = `twin: ${unitOf(latest, "twin", "mrp").toPrecision(3)}`;
      lamps.dead.classList.toggle("lab-on", dead);
      lamps.frozen.classList.toggle("lab-on", frozen);
      said.textContent =
        `Step ${latest.step}: ${state.layer} unit ${state.unit} is ${dead ? "dead" : "not dead"} and ${frozen ? "frozen" : "not frozen"}; ` +
        `MRP ${fallen.mrp[state.unit].toPrecision(3)}, its twin's ${unitOf(latest, "twin", "mrp").toPrecision(3)}.`;
      Object.assign(el.dataset, { step: latest.step, mrp: fallen.mrp[state.unit], twin: unitOf(latest, "twin", "mrp"), accuracy: latest.own.accuracy, dead, frozen, playing });
      const last = Math.max(history.at(-1).step, 50);
      const mark = back ? latest.step : null;
      const lines = (what, log) => ["twin", "own"].map((who) => ({
        colour: COLOURS[who], dash: who === "twin" ? "6 4" : null,
        points: history.map((one) => [one.step, log ? Math.log10(Math.max(1e-7, unitOf(one, who, what))) : unitOf(one, who, what)]),
      }));
      const logarithmic = (title, what, low, high) => ui.chart({
        title, lines: lines(what, true), x: [0, last], y: [low, high], mark, xWords: (value) => ui.thousands(Math.round(value)), yWords: (value) => `1e${Math.round(value)}`,
      });
      const top = (values) => Math.max(1e-3, ...values.filter(Number.isFinite));
      const plain = (title, what) => {
        const all = lines(what);
        return ui.chart({ title, lines: all, mark, x: [0, last], y: [0, 1.05 * top(all.flatMap((line) => line.points.map(([, value]) => value)))], xWords: (value) => ui.thousands(Math.round(value)), yWords: (value) => value.toPrecision(2) });
      };
      const accuracy = ["twin", "own"].map((who) => ({ colour: COLOURS[who], dash: who === "twin" ? "6 4" : null, points: history.map((one) => [one.step, (one[who] ?? one.own).accuracy]) }));
      charts.replaceChildren(
        h("p", { class: "lab-key" }, h("span", {}, h("i", { style: `border-color: ${COLOURS.own}` }), "attacked"), h("span", {}, h("i", { style: `border-color: ${COLOURS.twin}; border-top-style: dashed` }), "twin")),
        logarithmic("MRP, nats", "mrp", -5, 1), logarithmic("MRS, nats", "mrs", -5, 1),
        logarithmic("output gradient", "gradient", -6, 0), plain("incoming weights, L1 norm", "incoming"),
        plain("outgoing weights, L1 norm", "outgoing"),
        ui.chart({ title: "test accuracy", lines: accuracy, mark, x: [0, last], y: [0, 1], xWords: (value) => ui.thousands(Math.round(value)), yWords: (value) => ui.percent(value, 0) }),
        histogram()
      );
      map.replaceChildren(...fallen.mrp.map((value, i) => h("span", { class: `${i === state.unit ? "lab-this" : ""} ${fallen.dead[i] ? "lab-dead" : ""}`, style: `--share: ${Math.min(1, value / Math.max(...fallen.mrp, 1e-9)).toFixed(3)}` }, String(i))));
      map.setAttribute("aria-label", `MRP of the units of ${state.layer}; dead: ${fallen.dead.filter(Boolean).length} of ${fallen.dead.length}`);
    }

    /** Outputs of the unit at this step, before the nonlinearity: attacked above the line, twin below. */
    function histogram() {
      const [width, height] = [340, 170];
      const [own, twin] = ["own", "twin"].map((who) => unitOf(latest, who, "outputs"));
      const squash = Math.asinh; // so that outputs of any size fit
      const all = [...own, ...twin].map(squash);
      const [low, high] = [Math.min(...all, -1), Math.max(...all, 1)];
      const BINS = 40;
      const counts = [own, twin].map((values) => {
        const bins = new Array(BINS).fill(0);
        values.forEach((value) => bins[Math.min(BINS - 1, Math.floor(((squash(value) - low) / (high - low)) * BINS))]++);
        const most = Math.max(...bins, 1);
        return bins.map((count) => count / most);
      });
      const [left, wide, middle, tall] = [10, width - 20, 92, 62];
      const parts = [s("text", { x: left, y: 14, class: "lab-title" }, "outputs of the unit at this step")];
      counts.forEach((bins, i) => bins.forEach((share, bin) => share && parts.push(s("rect", {
        x: left + (bin * wide) / BINS, width: wide / BINS - 0.6, height: Math.max(0.8, share * tall), y: i ? middle : middle - Math.max(0.8, share * tall), fill: i ? COLOURS.twin : COLOURS.own,
      }))));
      parts.push(s("line", { x1: left, x2: width - left, y1: middle, y2: middle, class: "lab-axis" }));
      for (const value of [Math.sinh(low), 0, Math.sinh(high)]) {
        const x = left + ((squash(value) - low) / (high - low)) * wide;
        parts.push(s("text", { x, y: height - 2, "text-anchor": value === 0 ? "middle" : value < 0 ? "start" : "end" }, Math.abs(value) >= 100 ? value.toExponential(0) : value.toFixed(1)));
      }
      const range = (values) => `${Math.min(...values).toPrecision(2)} to ${Math.max(...values).toPrecision(2)}`;
      return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "lab-chart", "aria-label": `outputs of the attacked unit: ${range(own)}; of its twin: ${range(twin)}` }, parts);
    }

    el.append(
      h("div", { class: "lab-controls" }, network.element, rate.element, h("div", { class: "lab-field" }, h("label", { for: "lab-kill-seed" }, "seed"), seed), again),
      h("div", { class: "lab-controls" }, play, some(1), some(10), some(100), pace.element),
      h("div", { class: "lab-controls" }, layer.element, unit.element, times.element, repeats.element, attack, link),
      h("div", { class: "lab-numbers" }, Object.values(numbers).map(({ element }) => element), h("div", { class: "lab-lamps", "aria-hidden": "true" }, Object.values(lamps))),
      said, h("div", { class: "lab-controls" }, scrub.element, toAttack), h("h4", {}, "MRP of the units of the layer"), map, charts,
      h("p", { class: "lab-about" }, `Computed in your browser: a convolution of 8 filters (3 x 3), 2 x 2 max-pooling, ${UNITS.fc1} hidden units, 10 outputs; minibatches of 32. ` +
        `Measured on ${data.labels.probe.length} images trained on. Dead, frozen: MRP, output gradient at most 5% of the layer's mean. Twin: the same network, never attacked. ${ui.source(data)}`)
    );
    worker.post({ kind: "load", data });
    const at = state.at;
    anew();
    if (at) worker.post({ kind: "attack", attack: { ...attackOf(), from: at } });
    return () => worker.end();
  }

  lab.kill = { render, service };
})();
