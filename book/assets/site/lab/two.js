// Two units in the plane: a network of two units is trained and attacked, and one sees where each unit switches.
(() => {
  "use strict";
  const lab = globalThis.deadunitsLab;
  const RATE = 0.3;
  const REPEATS = 5; // steps of an attack
  const BELOW = 0.05; // of the layer's mean: dead by MRP, frozen by the output gradient (thesis: 3.2)
  const COLOURS = ["#D55E00", "#0072B2"]; // of the classes
  const DASHES = [null, "7 4"]; // of the units' lines

  function render({ model, el }) {
    const { nn, ui } = lab;
    const { h, s } = ui;
    const data = model.get("data");
    const images = { x: Float32Array.from(data.points.flat()), y: data.labels };
    const n = images.y.length;
    const state = { activation: "relu", seed: 5, unit: 0, multiplier: 100, ...data.state, ...model.get("state") };
    let net, step, history, attack, attacked;
    let left = 0; // steps to go
    let ticking = false; // another frame comes
    let words = [];

    /** Weights and biases uniform in ±1/sqrt(fan-in), as PyTorch's. */
    function anew(values) {
      Object.assign(state, values);
      model.set("state", { ...state });
      model.save_changes();
      const random = nn.generator(state.seed);
      const parameters = {};
      for (const [name, length] of [["fc1.weight", 4], ["fc1.bias", 2], ["fc2.weight", 4], ["fc2.bias", 2]]) {
        parameters[name] = Float32Array.from({ length }, () => (2 * random() - 1) / Math.sqrt(2));
      }
      net = nn.smallCNN(parameters, [2, 1, 1], state.activation);
      [step, history, attack, attacked, left] = [0, [], null, null, 0];
      draw();
    }
    function advance() {
      nn.step(net, images, RATE, attack);
      step++;
      if (attack && --attack.left === 0) attack = null;
    }
    /** So many steps, a few a picture; those of an attack one by one, slowly. */
    function run(steps) {
      left = steps;
      if (!ticking) frame();
    }
    function frame() {
      for (let i = attack ? 1 : 3; i > 0 && left > 0; i--, left--) advance();
      draw();
      ticking = left > 0;
      if (ticking) attack ? setTimeout(frame, 200) : requestAnimationFrame(frame);
    }

    const [WIDTH, HEIGHT, CELL] = [360, 240, 6];
    const range = (axis) => {
      const values = data.points.map((point) => point[axis]);
      const margin = 0.12 * (Math.max(...values) - Math.min(...values));
      return [Math.min(...values) - margin, Math.max(...values) + margin];
    };
    const [[x0, x1], [y0, y1]] = [range(0), range(1)];
    const px = (x) => ((x - x0) / (x1 - x0)) * WIDTH;
    const py = (y) => ((y1 - y) / (y1 - y0)) * HEIGHT;
    const [columns, rows] = [WIDTH / CELL, HEIGHT / CELL];
    const cells = Float32Array.from({ length: 2 * columns * rows }, (_, i) => {
      const cell = i >> 1;
      return i % 2 ? y1 - ((Math.floor(cell / columns) + 0.5) / rows) * (y1 - y0) : x0 + (((cell % columns) + 0.5) / columns) * (x1 - x0);
    });
    const ground = h("canvas", { width: columns, height: rows, "aria-hidden": "true" });
    const marks = data.points.map(([x, y], i) => {
      const [size, colour] = [3, COLOURS[images.y[i]]];
      if (images.y[i]) return s("rect", { x: px(x) - size, y: py(y) - size, width: 2 * size, height: 2 * size, stroke: colour });
      return s("circle", { cx: px(x), cy: py(y), r: size + 0.5, stroke: colour });
    });
    const lines = s("g");
    const plane = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "lab-chart" }, marks, lines);

    /** What the network says in the plane: its boundary is where the colour changes. */
    function paint() {
      const { logits } = nn.forward(net, cells, columns * rows);
      const context = ground.getContext("2d");
      const picture = context.createImageData(columns, rows);
      for (let i = 0; i < columns * rows; i++) {
        const sure = Math.tanh((logits[2 * i + 1] - logits[2 * i]) / 2);
        picture.data.set(sure > 0 ? [0, 114, 178, 40 + 70 * sure] : [213, 94, 0, 40 - 70 * sure], 4 * i);
      }
      context.putImageData(picture, 0, 0);
    }
    /** Where unit u switches, and a stroke to the side on which it is positive. */
    function line(u) {
      const { weight, bias } = net.layers[0];
      const [a, b] = [weight[2 * u], weight[2 * u + 1]];
      const ends = [x0, x1].map((x) => [x, -(bias[u] + a * x) / b]).concat([y0, y1].map((y) => [-(bias[u] + b * y) / a, y]));
      const [from, to] = ends.filter(([x, y]) => x >= x0 && x <= x1 && y >= y0 && y <= y1);
      if (!to) return [];
      const [ax, ay, bx, by] = [px(from[0]), py(from[1]), px(to[0]), py(to[1])];
      const [mx, my] = [(2 * ax + bx) / 3, (2 * ay + by) / 3];
      const up = [a * (x1 - x0) / WIDTH, -b * (y1 - y0) / HEIGHT]; // the gradient, on the screen
      const [dx, dy] = up.map((value) => (14 * value) / Math.hypot(...up));
      const stroke = (x1, y1, x2, y2, dash) => s("line", { x1, y1, x2, y2, "stroke-dasharray": dash, class: "lab-axis lab-switch" });
      return [stroke(ax, ay, bx, by, DASHES[u]), stroke(mx, my, mx + dx, my + dy), s("text", { x: mx + 1.6 * dx, y: my + 1.6 * dy + 4, "text-anchor": "middle", class: "lab-strong" }, String(u))];
    }

    const network = ui.choice("network", [["relu", "ReLU"], ["tanh", "tanh"]], state.activation, (key) => anew({ activation: key }));
    const seed = h("input", { type: "number", min: 0, max: 9999, value: state.seed, id: "lab-two-seed", change: () => anew({ seed: Math.max(0, Math.floor(seed.valueAsNumber) || 0) }) });
    const play = h("button", { type: "button", click: () => run(left ? 0 : Infinity) }, "Play");
    const some = [1, 10, 100].map((steps) => h("button", { type: "button", click: () => run(steps) }, steps === 1 ? "1 step" : `${steps} steps`));
    const unit = ui.choice("unit", [["0", "unit 0"], ["1", "unit 1"]], String(state.unit), (key) => { state.unit = Number(key); draw(); });
    const times = ui.slider("multiplier", {
      min: 0, max: 4, step: 0.5, value: Math.log10(state.multiplier), words: (value) => ui.thousands(Math.round(10 ** value)), changed: (value) => (state.multiplier = Math.round(10 ** value)),
    });
    const strike = h("button", { type: "button", class: "lab-attack", click: () => {
      attack = { layer: "fc1", unit: state.unit, multiplier: state.multiplier, left: REPEATS };
      attacked = step;
      if (!left) run(REPEATS);
    } }, "Attack now");

    const numbers = { step: ui.number("step"), loss: ui.number("loss, nats"), accuracy: ui.number("accuracy") };
    const said = h("p", { class: "lab-said", role: "status" });
    const facts = [0, 1].map(() => h("p", { class: "lab-detail" }));
    const curve = h("div");

    function draw() {
      const seen = nn.observe(net, images);
      const mrp = Array.from(nn.penalties(net, images, "fc1", seen));
      const { gradient } = seen.layers.fc1;
      const [dead, frozen] = [nn.small(mrp, BELOW), nn.small(gradient, BELOW)];
      const outputs = seen.pass.values[1];
      const { loss, right } = nn.judge(net, images);
      history.push([step, loss]);
      if (history.length > 1200) history = history.filter((_, i) => i % 2 === 0);
      paint();
      marks.forEach((mark, i) => mark.setAttribute("fill", outputs[2 * i + state.unit] > 0 ? COLOURS[images.y[i]] : "none"));
      lines.replaceChildren(...line(0), ...line(1));
      const answers = [0, 1].map((u) => data.points.filter((_, i) => outputs[2 * i + u] > 0).length);
      const before = words;
      words = [0, 1].map((u) => {
        const gone = answers[u] === 0 || answers[u] === n ? " Its line has left all points." : "";
        return `Unit ${u} is ${dead[u] ? "dead" : "not dead"} and ${frozen[u] ? "frozen" : "not frozen"}.${gone}`;
      });
      facts.forEach((fact, u) => {
        fact.textContent = `${words[u]} It is positive for ${answers[u]} of ${n} points; MRP ${mrp[u].toFixed(3)} nats, output gradient ${gradient[u].toFixed(4)}.`;
        fact.classList.toggle("lab-fallen", dead[u]);
      });
      numbers.step.value.textContent = ui.thousands(step);
      numbers.step.note.textContent = attack ? "attack" : attacked == null ? "no attack yet" : `attacked at ${ui.thousands(attacked)}`;
      numbers.loss.value.textContent = loss.toFixed(3);
      numbers.accuracy.value.textContent = ui.percent(right / n);
      plane.setAttribute("aria-label", `${n} points of two classes and the lines where the two units switch. ${facts[0].textContent} ${facts[1].textContent}`);
      if (!left || words.join() !== before.join()) said.textContent = `Step ${step}: loss ${loss.toFixed(3)}, accuracy ${ui.percent(right / n)}. ${words.join(" ")}`;
      play.textContent = left ? "Pause" : "Play";
      play.setAttribute("aria-pressed", String(left > 0));
      const top = Math.max(0.8, Math.min(3, Math.max(...history.map(([, value]) => value))));
      curve.replaceChildren(ui.chart({
        title: "loss in nats, by step", lines: [{ colour: "#6E6E6E", points: history }], x: [0, Math.max(step, 50)], y: [0, top], mark: attacked,
        xWords: (value) => ui.thousands(Math.round(value)), yWords: (value) => value.toFixed(1), label: `loss by step: now ${loss.toFixed(3)}`,
      }));
      Object.assign(el.dataset, { step, loss, mrp, dead, answers });
    }

    el.append(
      h("div", { class: "lab-controls" }, network.element, h("div", { class: "lab-field" }, h("label", { for: "lab-two-seed" }, "seed"), seed), h("button", { type: "button", click: () => anew({}) }, "Start anew"), play, some),
      h("div", { class: "lab-controls" }, unit.element, times.element, strike),
      h("div", { class: "lab-numbers" }, Object.values(numbers).map(({ element }) => element)),
      said,
      h("div", { class: "lab-charts" }, h("div", { class: "lab-plane" }, ground, plane), h("div", {}, facts, curve)),
      h("p", { class: "lab-about" }, `Computed in your browser: two inputs, two units, two outputs; all ${n} points in each step, learning rate ${RATE}. An attack multiplies the chosen unit's learning rate for ${REPEATS} steps. ` +
        "Lines: where a unit's pre-activation is 0; the stroke points to where it is positive. Filled: points for which the chosen unit is positive. Dead, frozen: MRP, output gradient at most 5% of the mean of the two.")
    );
    anew({});
    return () => (left = 0);
  }

  lab.two = { render };
})();
