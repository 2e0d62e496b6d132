// What the pieces share: elements, controls, charts, pictures of weights, and the worker that computes.
globalThis.deadunitsLab ??= {};
deadunitsLab.ui = (() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  // Okabe and Ito's colours, as in all figures of the book (`deadbook.figures.style`).
  const COLOURS = {
    mrp: "#0072B2", mrs: "#D55E00", norm_l1: "#009E73", norm_l2: "#CC79A7", taylor: "#E69F00", activation: "#56B4E9",
    random: "#6E6E6E", loss_change: "#0072B2", taylor1: "#D55E00", taylor1_abs: "#E69F00", magnitude: "#009E73",
  };
  let ids = 0;

  /** An element; attributes that are functions listen to events. */
  function h(tag, attributes = {}, ...children) {
    return filled(document.createElement(tag), attributes, children);
  }
  function s(tag, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
  }
  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child != null));
    return element;
  }

  /** A choice among a few, as buttons. */
  function choice(label, options, value, changed) {
    const buttons = options.map(([key, text]) =>
      h("button", { type: "button", "aria-pressed": String(key === value), "data-value": key, click: () => pick(key, true) }, text)
    );
    function pick(key, tell) {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.value === key)));
      if (tell) changed(key);
    }
    const element = h("div", { class: "lab-choice", role: "group", "aria-label": label }, buttons);
    return { element, set: (key) => pick(key, false) };
  }

  function select(label, options, value, changed) {
    const id = `lab-${++ids}`;
    const list = h("select", { id, change: () => changed(list.value) });
    const fill = (options, value) => {
      list.replaceChildren(...options.map(([key, text]) => h("option", { value: key }, text)));
      list.value = value;
    };
    fill(options, value);
    return { element: h("div", { class: "lab-field" }, h("label", { for: id }, label), list), list, fill };
  }

  /** A large number under its name, and a note. */
  function number(name) {
    const [value, note] = [h("strong", {}, "…"), h("small")];
    return { element: h("div", {}, h("span", {}, name), value, note), value, note };
  }

  /** A slider with its value in words beside it, which screen readers get too. */
  function slider(label, { min, max, step, value, words, changed }) {
    const id = `lab-${++ids}`;
    const readout = h("output", { for: id });
    const input = h("input", { id, type: "range", min, max, step, value });
    const show = () => {
      readout.textContent = words(input.valueAsNumber);
      input.setAttribute("aria-valuetext", readout.textContent);
    };
    input.addEventListener("input", () => {
      show();
      changed(input.valueAsNumber);
    });
    show();
    const set = (value, text) => {
      input.value = value;
      show();
      if (text != null) readout.textContent = text;
    };
    return { element: h("div", { class: "lab-field lab-slider" }, h("label", { for: id }, label), input, readout), input, set };
  }

  /** A grid of cells as a picture: blue is positive, orange negative, strong is large; a cross where `gone` is set. */
  function picture(canvas, values, width, height, columns, { gone, scale, gap = 1 } = {}) {
    const count = values.length / width / height;
    const rows = Math.ceil(count / columns);
    const [w, hh] = [columns * (width + gap) - gap, rows * (height + gap) - gap];
    if (canvas.width !== w || canvas.height !== hh) [canvas.width, canvas.height] = [w, hh];
    const context = canvas.getContext("2d");
    const image = context.createImageData(w, hh);
    const largest = scale ?? Math.max(...values.map(Math.abs), 1e-12);
    const { data } = image;
    const layout = [values.length, width, height, columns, gap].join();
    if (canvas.layout !== layout) {
      canvas.layout = layout;
      canvas.cells = Int32Array.from(values, (_, i) => cellOf(i, width, height, columns, gap).reduce((x, y) => 4 * (y * w + x)));
    }
    for (let i = 0; i < values.length; i++) {
      const at = canvas.cells[i];
      const cut = gone && gone(i);
      data[at] = cut ? 128 : values[i] > 0 ? 0 : 213;
      data[at + 1] = cut ? 128 : values[i] > 0 ? 114 : 94;
      data[at + 2] = cut ? 128 : values[i] > 0 ? 178 : 0;
      data[at + 3] = cut ? 40 : 20 + 235 * Math.min(1, Math.abs(values[i]) / largest);
    }
    context.putImageData(image, 0, 0);
  }
  /** How the incoming weights of a unit are laid out: squares of width x height, so many beside each other. */
  function geometry(net, layer, entering) {
    const [c, height, width] = layer.kind === "conv" ? [layer.channels, layer.size, layer.size] : entering;
    let side = Math.ceil(Math.sqrt(c));
    if (height * width === 1) return { width: side, height: Math.ceil(c / side), columns: 1 };
    while (c % side) side++; // full rows of squares
    return { width, height, columns: side };
  }
  function cellOf(i, width, height, columns, gap = 1) {
    const square = Math.floor(i / (width * height));
    const rest = i % (width * height);
    const [row, column] = [Math.floor(square / columns), square % columns];
    return [column * (width + gap) + (rest % width), row * (height + gap) + Math.floor(rest / width)];
  }

  /** An image in grey, white on black as MNIST is. */
  function grey(canvas, values, width, low, high) {
    const height = values.length / width;
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let i = 0; i < values.length; i++) {
      const level = Math.max(0, Math.min(255, (255 * (values[i] - low)) / (high - low || 1)));
      image.data.set([level, level, level, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  /**
   * Lines over x, with a mark that `moveMark` moves. `lines` is [{name, colour, dash, points: [[x, y], ...]}].
   */
  function chart({ title, lines, x, y, mark, width = 340, height = 170, xWords = String, yWords = String, label }) {
    const [left, right, top, bottom] = [44, 10, 24, 26];
    const px = (value) => left + ((value - x[0]) / (x[1] - x[0])) * (width - left - right);
    const py = (value) => height - bottom - ((value - y[0]) / (y[1] - y[0] || 1)) * (height - top - bottom);
    const parts = [s("text", { x: left, y: 14, class: "lab-title" }, title)];
    for (let i = 0; i <= 4; i++) {
      const value = y[0] + ((y[1] - y[0]) * i) / 4;
      parts.push(s("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), class: "lab-grid" }));
      if (i % 2 === 0) parts.push(s("text", { x: left - 5, y: py(value) + 4, "text-anchor": "end" }, yWords(value)));
      const across = x[0] + ((x[1] - x[0]) * i) / 4;
      if (i % 2 === 0) parts.push(s("text", { x: px(across), y: height - 8, "text-anchor": i === 0 ? "start" : i === 4 ? "end" : "middle" }, xWords(across)));
    }
    const line = mark == null ? null : s("line", { y1: top, y2: height - bottom, class: "lab-mark" });
    const moveMark = (value) => ["x1", "x2"].forEach((name) => line.setAttribute(name, px(value)));
    if (line) moveMark(mark);
    parts.push(line);
    for (const { points, colour, dash } of lines) {
      const inside = points.filter(([, value]) => Number.isFinite(value));
      const path = inside.map(([a, b], i) => `${i ? "L" : "M"}${px(a).toFixed(1)} ${py(Math.max(y[0], Math.min(y[1], b))).toFixed(1)}`).join("");
      if (path) parts.push(s("path", { d: path, stroke: colour, fill: "none", "stroke-width": 2, "stroke-dasharray": dash }));
    }
    const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label ?? title, class: "lab-chart" }, parts);
    return Object.assign(chart, { moveMark });
  }

  /** Pairs of bars, one pair a class: the outputs for one image, of two networks. */
  function bars(before, after, truth, colour) {
    const [width, height, left] = [340, 170, 8];
    const all = [...before, ...after, 0];
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const py = (value) => 22 + ((high - value) / (high - low || 1)) * (height - 44);
    const wide = (width - 2 * left) / before.length;
    const top = (values) => values.indexOf(Math.max(...values));
    const parts = [s("text", { x: left, y: 14, class: "lab-title" }, "outputs (logits): before, now")];
    before.forEach((value, digit) => {
      const x = left + digit * wide;
      [[value, "lab-before", 0.1], [after[digit], "", 0.5]].forEach(([size, kind, at]) => {
        const box = { x: x + at * wide, width: 0.36 * wide, y: Math.min(py(size), py(0)), height: Math.max(1, Math.abs(py(size) - py(0))) };
        parts.push(s("rect", { ...box, class: kind, fill: kind ? null : colour }));
      });
      const chosen = digit === top(after);
      parts.push(s("text", { x: x + wide / 2, y: height - 4, "text-anchor": "middle", class: chosen ? "lab-strong" : "" }, `${digit}${digit === truth ? "*" : ""}`));
    });
    parts.push(s("line", { x1: left, x2: width - left, y1: py(0), y2: py(0), class: "lab-axis" }));
    const said = `Highest output before: ${top(before)}; now: ${top(after)}.`;
    return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said, class: "lab-chart" }, parts);
  }

  /**
   * A worker that runs `main(lab, answer)` and gets what is posted to it; where none can be made it runs here.
   *
   * The worker is made of the text of the arithmetic, of `main` and of functions that it calls, so that it needs no file.
   */
  function worker(main, heard, ...called) {
    const source = `const deadunitsLab = {}; deadunitsLab.nn = (${deadunitsLab.engine})(); ${called.join("\n")}
      const act = (${main})(deadunitsLab, (message) => postMessage(message)); onmessage = (event) => act(event.data);`;
    try {
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      const made = new Worker(url);
      made.onmessage = (event) => heard(event.data);
      return { post: (message) => made.postMessage(message), end: () => made.terminate() };
    } catch {
      const act = main(deadunitsLab, (message) => setTimeout(() => heard(message)));
      return { post: (message) => setTimeout(() => act(message)), end() {} };
    }
  }

  /** Arrow keys move among elements of which one is in the order of the tab key. */
  function roving(elements, columns) {
    elements.forEach((element, i) => {
      element.tabIndex = i === 0 ? 0 : -1;
      element.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() }[event.key];
        const next = event.key === "Home" ? 0 : event.key === "End" ? elements.length - 1 : i + by;
        if (!elements[next] || Number.isNaN(next)) return;
        event.preventDefault();
        element.tabIndex = -1;
        elements[next].tabIndex = 0;
        elements[next].focus();
      });
    });
  }

  const LICENCES = {
    mnist: "MNIST: Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0.",
    "fashion-mnist": "Fashion-MNIST: Zalando SE; MIT licence.",
    digits: "Digits: E. Alpaydin, C. Kaynak (UCI); CC BY 4.0.",
  };
  /** Where a piece's data come from. */
  function source(data) {
    const network = data.run ? `small_cnn on ${data.dataset} after ${data.epochs} epochs, seed ${data.seed}, run ${data.run}. ` : "";
    return network + (LICENCES[data.dataset] ?? "");
  }

  /** Whether the reader asks for less motion: then a curve is drawn when all of it is known. */
  const calm = () => globalThis.matchMedia("(prefers-reduced-motion: reduce)").matches;

  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
  const thousands = (value) => value.toLocaleString("en-US");

  return { source, calm, COLOURS, h, s, choice, select, number, slider, picture, geometry, cellOf, grey, chart, bars, worker, roving, percent, thousands };
})();
