// The arithmetic of the pieces that compute in the page: a chain of layers, forward and backward, in typed arrays.
//
// Images are (N, channels, height, width), as in PyTorch; so are all the values between layers. A network is a list of layers:
//   {kind: "conv", name, units, channels, size, weight, bias}   no padding, stride 1; weight (units, channels, size, size)
//   {kind: "linear", name, units, channels, weight, bias}       weight (units, channels)
//   {kind: "pool"}                                              2 x 2, the maximum
//   {kind: "relu"}, {kind: "tanh"}
//   {kind: "norm", name, mean, variance}                        batch normalisation without learned scale
// A classic script without dependencies, so that it runs from a file, in a worker made of its own text and in Node.
globalThis.deadunitsLab ??= {};
deadunitsLab.engine = function engine() {
  "use strict";
  const EPS = 1e-5; // of batch normalisation, as in PyTorch
  const MOMENTUM = 0.1; // of its running statistics

  const sizeOf = ([c, h, w]) => c * h * w;
  const isLinear = (layer) => layer.kind === "conv" || layer.kind === "linear";

  /** Shapes [channels, height, width] of what enters each layer, and of the outputs behind the last. */
  function shapesOf(layers, shape) {
    const shapes = [shape];
    for (const layer of layers) {
      let [c, h, w] = shapes[shapes.length - 1];
      if (layer.kind === "conv") [c, h, w] = [layer.units, h - layer.size + 1, w - layer.size + 1];
      else if (layer.kind === "pool") [h, w] = [h >> 1, w >> 1];
      else if (layer.kind === "linear") {
        [c, h, w] = [layer.units, 1, 1];
      }
      shapes.push([c, h, w]);
    }
    return shapes;
  }

  /** The thesis's network (`deadunits.models.small_cnn`) from its parameters by name; `size` is the side of a filter. */
  function smallCNN(parameters, shape, activation, batchNorm = false) {
    const layers = [];
    const add = (kind, name, size) => {
      const weight = parameters[`${name}.weight`];
      const bias = parameters[`${name}.bias`];
      const units = bias.length;
      const channels = weight.length / units / (size ? size * size : 1);
      layers.push({ kind, name, units, channels, size, weight, bias });
    };
    const norm = (name) =>
      batchNorm &&
      layers.push({ kind: "norm", name, mean: parameters[`${name}.running_mean`], variance: parameters[`${name}.running_var`] });
    for (const number of [1, 2]) {
      const name = `conv${number}`;
      if (!parameters[`${name}.weight`]) continue; // a smaller network
      const channels = number === 1 ? shape[0] : parameters["conv1.bias"].length;
      add("conv", name, Math.round(Math.sqrt(parameters[`${name}.weight`].length / parameters[`${name}.bias`].length / channels)));
      layers.push({ kind: "pool" }, { kind: activation });
      norm(`bn${number}`);
    }
    add("linear", "fc1");
    layers.push({ kind: activation });
    norm("bn3");
    add("linear", "fc2");
    return network(layers, shape);
  }

  function network(layers, shape) {
    return { layers, shapes: shapesOf(layers, shape), classes: layers[layers.length - 1].units };
  }

  /** Another network with the same numbers in arrays of its own. */
  function copy(net) {
    const own = (layer) => {
      const other = { ...layer };
      for (const name of ["weight", "bias", "mean", "variance"]) if (layer[name]) other[name] = layer[name].slice();
      return other;
    };
    return { ...net, layers: net.layers.map(own) };
  }

  function convolve(layer, x, n, [channels, height, width]) {
    const { units, size, weight, bias } = layer;
    const rows = height - size + 1;
    const columns = width - size + 1;
    const area = rows * columns;
    const out = new Float32Array(n * units * area);
    for (let image = 0; image < n; image++) {
      for (let u = 0; u < units; u++) {
        const to = (image * units + u) * area;
        out.fill(bias[u], to, to + area);
        for (let c = 0; c < channels; c++) {
          const from = (image * channels + c) * height * width;
          for (let ky = 0; ky < size; ky++) {
            const at = ((u * channels + c) * size + ky) * size;
            if (size === 5) {
              const [a, b, d, e, f] = [weight[at], weight[at + 1], weight[at + 2], weight[at + 3], weight[at + 4]];
              if (a === 0 && b === 0 && d === 0 && e === 0 && f === 0) continue;
              for (let y = 0; y < rows; y++) {
                let i = from + (y + ky) * width;
                let o = to + y * columns;
                let x0 = x[i], x1 = x[i + 1], x2 = x[i + 2], x3 = x[i + 3];
                i += 4;
                for (const end = o + columns; o < end; o++, i++) {
                  const x4 = x[i];
                  out[o] += a * x0 + b * x1 + d * x2 + e * x3 + f * x4;
                  x0 = x1; x1 = x2; x2 = x3; x3 = x4;
                }
              }
            } else {
              for (let kx = 0; kx < size; kx++) {
                const w = weight[at + kx];
                if (w === 0) continue;
                for (let y = 0; y < rows; y++) {
                  let i = from + (y + ky) * width + kx;
                  let o = to + y * columns;
                  for (const end = o + columns; o < end; o++, i++) out[o] += w * x[i];
                }
              }
            }
          }
        }
      }
    }
    return out;
  }

  function convolveBackward(layer, x, n, [channels, height, width], g, wantsInput) {
    const { units, size, weight } = layer;
    const rows = height - size + 1;
    const columns = width - size + 1;
    const area = rows * columns;
    const grad = { weight: new Float64Array(weight.length), bias: new Float64Array(units) };
    const input = wantsInput ? new Float32Array(x.length) : null;
    for (let image = 0; image < n; image++) {
      for (let u = 0; u < units; u++) {
        const to = (image * units + u) * area;
        let some = 0;
        for (let o = to; o < to + area; o++) some += g[o];
        grad.bias[u] += some;
        for (let c = 0; c < channels; c++) {
          const from = (image * channels + c) * height * width;
          for (let ky = 0; ky < size; ky++) {
            for (let kx = 0; kx < size; kx++) {
              const at = ((u * channels + c) * size + ky) * size + kx;
              const w = weight[at];
              let sum = 0;
              for (let y = 0; y < rows; y++) {
                let i = from + (y + ky) * width + kx;
                let o = to + y * columns;
                const end = o + columns;
                if (input) for (; o < end; o++, i++) { sum += g[o] * x[i]; input[i] += w * g[o]; }
                else for (; o < end; o++, i++) sum += g[o] * x[i];
              }
              grad.weight[at] += sum;
            }
          }
        }
      }
    }
    return { grad, input };
  }

  function linear({ units, channels, weight, bias }, x, n) {
    const out = new Float32Array(n * units);
    for (let image = 0; image < n; image++) {
      for (let u = 0; u < units; u++) {
        let sum = bias[u];
        for (let c = 0, i = image * channels, w = u * channels; c < channels; c++, i++, w++) sum += weight[w] * x[i];
        out[image * units + u] = sum;
      }
    }
    return out;
  }

  function linearBackward({ units, channels, weight }, x, n, g, wantsInput) {
    const grad = { weight: new Float64Array(weight.length), bias: new Float64Array(units) };
    const input = wantsInput ? new Float32Array(x.length) : null;
    for (let image = 0; image < n; image++) {
      for (let u = 0; u < units; u++) {
        const gu = g[image * units + u];
        grad.bias[u] += gu;
        if (gu === 0) continue;
        for (let c = 0, i = image * channels, w = u * channels; c < channels; c++, i++, w++) {
          grad.weight[w] += gu * x[i];
          if (input) input[i] += gu * weight[w];
        }
      }
    }
    return { grad, input };
  }

  /** The maximum of each 2 x 2 square, and where it stands: the first of equal ones. */
  function pool(x, n, [channels, height, width]) {
    const rows = height >> 1;
    const columns = width >> 1;
    const out = new Float32Array(n * channels * rows * columns);
    const where = new Int32Array(out.length);
    let o = 0;
    for (let plane = 0; plane < n * channels; plane++) {
      for (let y = 0; y < rows; y++) {
        for (let i = plane * height * width + 2 * y * width, end = i + 2 * columns; i < end; i += 2, o++) {
          let best = i;
          if (x[i + 1] > x[best]) best = i + 1;
          if (x[i + width] > x[best]) best = i + width;
          if (x[i + width + 1] > x[best]) best = i + width + 1;
          out[o] = x[best];
          where[o] = best;
        }
      }
    }
    return [out, where];
  }

  /** Batch normalisation; in training by the batch's own statistics, and the running ones follow them. */
  function normalise(layer, x, n, [channels, height, width], training) {
    const area = height * width;
    const count = n * area;
    const out = new Float32Array(x.length);
    const scale = new Float64Array(channels);
    for (let c = 0; c < channels; c++) {
      let mean = layer.mean[c];
      let variance = layer.variance[c];
      if (training) {
        mean = variance = 0;
        each(x, n, channels, area, c, (value) => (mean += value));
        mean /= count;
        each(x, n, channels, area, c, (value) => (variance += (value - mean) ** 2));
        layer.mean[c] += MOMENTUM * (mean - layer.mean[c]);
        layer.variance[c] += MOMENTUM * (variance / (count - 1) - layer.variance[c]);
        variance /= count;
      }
      scale[c] = 1 / Math.sqrt(variance + EPS);
      each(x, n, channels, area, c, (value, i) => (out[i] = (value - mean) * scale[c]));
    }
    return [out, scale];
  }

  function normaliseBackward(out, scale, n, [channels, height, width], g, training) {
    const area = height * width;
    const count = n * area;
    const input = new Float32Array(g.length);
    for (let c = 0; c < channels; c++) {
      let sum = 0;
      let along = 0;
      if (training) each(g, n, channels, area, c, (value, i) => { sum += value; along += value * out[i]; });
      each(g, n, channels, area, c, (value, i) => (input[i] = scale[c] * (value - sum / count - (out[i] * along) / count)));
    }
    return input;
  }

  /** Values of one channel: the value, its place, and its place among those of the channel. */
  function each(x, n, channels, area, c, act) {
    for (let image = 0, j = 0; image < n; image++) {
      for (let i = (image * channels + c) * area, end = i + area; i < end; i++, j++) act(x[i], i, j);
    }
  }

  /** What a layer makes of its input, and what its backward pass needs beside that. */
  function through(layer, input, n, shape, training) {
    const { kind } = layer;
    if (kind === "conv") return [convolve(layer, input, n, shape)];
    if (kind === "linear") return [linear(layer, input, n)];
    if (kind === "pool") return pool(input, n, shape);
    if (kind === "norm") return normalise(layer, input, n, shape, training);
    const out = new Float32Array(input.length);
    if (kind === "relu") for (let i = 0; i < out.length; i++) out[i] = input[i] > 0 ? input[i] : 0;
    else if (kind === "tanh") for (let i = 0; i < out.length; i++) out[i] = Math.tanh(input[i]);
    else throw new Error(`unknown layer ${kind}`);
    return [out];
  }

  /**
   * What each layer gives: values[0] are the images, values[k + 1] what layer k makes of them.
   *
   * @param options.training whether batch normalisation takes the batch's statistics.
   * @param options.from the layer to start behind: `options.values` has what came before, and its output.
   * @param options.constants by layer name, a Float64Array (units): what a unit gives at each position; NaN: what it gives.
   */
  function forward(net, x, n, { training = false, from = 0, values = [x], constants = {} } = {}) {
    values = values.slice(0, from + 1);
    const kept = [];
    for (let k = from; k < net.layers.length; k++) {
      const layer = net.layers[k];
      const [out, back] = through(layer, values[k], n, net.shapes[k], training);
      kept[k] = back;
      if (constants[layer.name]) stand(out, n, net.shapes[k + 1], constants[layer.name]);
      values[k + 1] = out;
    }
    return { values, kept, n, training, logits: values[net.layers.length] };
  }

  /** Constants in the place of units. */
  function stand(out, n, [channels, height, width], constants) {
    const area = height * width;
    for (let image = 0; image < n; image++) {
      for (let c = 0; c < channels; c++) {
        if (!Number.isNaN(constants[c])) out.fill(constants[c], (image * channels + c) * area, (image * channels + c + 1) * area);
      }
    }
  }

  /** Gradients of what has the gradient `g` by the logits: of parameters, a list a layer, and of each layer's output. */
  function backward(net, pass, g) {
    const { values, kept, n, training } = pass;
    const grads = [];
    const outputs = [];
    for (let k = net.layers.length - 1; k >= 0; k--) {
      const layer = net.layers[k];
      outputs[k] = g;
      const input = values[k];
      const shape = net.shapes[k];
      if (layer.kind === "conv") ({ grad: grads[k], input: g } = convolveBackward(layer, input, n, shape, g, k > 0));
      else if (layer.kind === "linear") ({ grad: grads[k], input: g } = linearBackward(layer, input, n, g, k > 0));
      else if (layer.kind === "norm") g = normaliseBackward(values[k + 1], kept[k], n, shape, g, training);
      else {
        const back = new Float32Array(input.length);
        const out = values[k + 1];
        if (layer.kind === "pool") for (let i = 0; i < g.length; i++) back[kept[k][i]] += g[i];
        else if (layer.kind === "relu") for (let i = 0; i < g.length; i++) back[i] = out[i] > 0 ? g[i] : 0;
        else for (let i = 0; i < g.length; i++) back[i] = g[i] * (1 - out[i] * out[i]);
        g = back;
      }
    }
    return { grads, outputs };
  }

  /** Cross entropy of each image, in nats. */
  function losses(logits, labels, classes) {
    const found = new Float64Array(labels.length);
    for (let n = 0; n < labels.length; n++) found[n] = logSum(logits, n, classes) - logits[n * classes + labels[n]];
    return found;
  }

  function logSum(logits, n, classes) {
    let top = -Infinity;
    for (let c = 0; c < classes; c++) top = Math.max(top, logits[n * classes + c]);
    let sum = 0;
    for (let c = 0; c < classes; c++) sum += Math.exp(logits[n * classes + c] - top);
    return top + Math.log(sum);
  }

  /** The gradient of the cross entropy by the logits: of the sum over the images, times `scale`. */
  function lossGradient(logits, labels, classes, scale = 1) {
    const g = new Float32Array(logits.length);
    for (let n = 0; n < labels.length; n++) {
      const total = logSum(logits, n, classes);
      for (let c = 0; c < classes; c++) {
        const i = n * classes + c;
        g[i] = scale * (Math.exp(logits[i] - total) - (c === labels[n] ? 1 : 0));
      }
    }
    return g;
  }

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  /** How many images get their label the highest logit. */
  function right(logits, labels, classes) {
    let count = 0;
    for (let n = 0; n < labels.length; n++) count += best(logits, n, classes) === labels[n];
    return count;
  }

  function best(logits, n, classes) {
    let top = 0;
    for (let c = 1; c < classes; c++) if (logits[n * classes + c] > logits[n * classes + top]) top = c;
    return top;
  }

  /** Mean loss, images that are right, and all logits. */
  function judge(net, images, constants = {}) {
    const { logits } = forward(net, images.x, images.y.length, { constants });
    return { loss: mean(losses(logits, images.y, net.classes)), right: right(logits, images.y, net.classes), logits };
  }

  /** Mean loss over the images and its gradient, a list a layer. */
  function gradient(net, images, training = false) {
    const n = images.y.length;
    const pass = forward(net, images.x, n, { training });
    const g = lossGradient(pass.logits, images.y, net.classes, 1 / n);
    return { loss: mean(losses(pass.logits, images.y, net.classes)), ...backward(net, pass, g) };
  }

  /**
   * One step of SGD: w becomes w - lr g; of an attacked unit the incoming weights (not the bias) take `multiplier` times that.
   *
   * @param attack {layer, unit, multiplier} or nothing.
   * @returns the loss of the minibatch before the step.
   */
  function step(net, images, lr, attack) {
    const { loss, grads } = gradient(net, images, true);
    net.layers.forEach((layer, k) => {
      if (!isLinear(layer)) return;
      const { weight, bias } = grads[k];
      const fan = weight.length / layer.units;
      for (let u = 0; u < layer.units; u++) {
        const times = attack && attack.layer === layer.name && attack.unit === u ? lr * attack.multiplier : lr;
        for (let i = u * fan; i < (u + 1) * fan; i++) layer.weight[i] -= times * weight[i];
        layer.bias[u] -= lr * bias[u];
      }
    });
    return loss;
  }

  const place = (net, name) => net.layers.findIndex((layer) => layer.name === name);

  /** Names of the layers whose units can be removed: all linear maps but the last. */
  const hidden = (net) => net.layers.filter(isLinear).slice(0, -1).map((layer) => layer.name);

  /**
   * What is seen of units h, before the nonlinearity, on some images (thesis: 3.1): by layer, a number a unit.
   *
   * mean, variance: of h over images and positions. mrs: mean over images of |sum_p (mean - h) dl/dh|, in nats. taylor: the
   * same with 0 for the mean. gradient: mean over images of the norm of dl/dh. activation: mean of |a| over that of the layer.
   */
  function observe(net, images, names = hidden(net)) {
    const n = images.y.length;
    const pass = forward(net, images.x, n);
    const { outputs, grads } = backward(net, pass, lossGradient(pass.logits, images.y, net.classes));
    const seen = { pass, grads, layers: {} };
    for (const name of names) {
      const k = place(net, name);
      const [units, height, width] = net.shapes[k + 1];
      const area = height * width;
      const [h, g] = [pass.values[k + 1], outputs[k]];
      const found = {};
      for (const what of ["mean", "variance", "mrs", "taylor", "gradient", "activation"]) found[what] = new Float64Array(units);
      for (let u = 0; u < units; u++) {
        let sum = 0;
        each(h, n, units, area, u, (value) => (sum += value));
        const centre = (found.mean[u] = sum / n / area);
        for (let image = 0; image < n; image++) {
          let [moved, removed, square] = [0, 0, 0];
          for (let i = (image * units + u) * area, end = i + area; i < end; i++) {
            moved += (centre - h[i]) * g[i];
            removed += h[i] * g[i];
            square += g[i] * g[i];
            found.variance[u] += (h[i] - centre) ** 2 / (n * area);
          }
          found.mrs[u] += Math.abs(moved) / n;
          found.taylor[u] += Math.abs(removed) / n;
          found.gradient[u] += Math.sqrt(square) / n;
        }
      }
      const behind = net.layers.findIndex((layer, at) => at > k && (layer.kind === "relu" || layer.kind === "tanh"));
      const a = pass.values[behind + 1];
      const [, rows, columns] = net.shapes[behind + 1];
      for (let u = 0; u < units; u++) {
        each(a, n, units, rows * columns, u, (value) => (found.activation[u] += Math.abs(value)));
      }
      const whole = mean(found.activation) || 1;
      for (let u = 0; u < units; u++) found.activation[u] /= whole;
      seen.layers[name] = found;
    }
    return seen;
  }

  /**
   * Logits if unit u of layer k gave h (N, positions), exact: its channel alone changes up to the next linear map, which takes
   * what differs; what is behind runs in full (`deadunits.counterfactual`).
   */
  function swapped(net, pass, k, u, h) {
    const { values, n } = pass;
    const alone = (at) => [1, ...net.shapes[at].slice(1)];
    let at = k + 1;
    for (; at < net.layers.length && !isLinear(net.layers[at]); at++) {
      const { mean, variance } = net.layers[at];
      const own = mean ? { mean: mean.subarray(u), variance: variance.subarray(u) } : null;
      [h] = through({ ...net.layers[at], ...own }, h, n, alone(at));
    }
    const channels = net.shapes[at][0];
    const out = values[Math.min(at + 1, net.layers.length)].slice();
    if (at === net.layers.length) {
      for (let image = 0; image < n; image++) out[image * channels + u] = h[image];
      return out;
    }
    const change = h.slice();
    each(values[at], n, channels, h.length / n, u, (value, i, j) => (change[j] -= value));
    const next = net.layers[at];
    const fan = next.weight.length / next.units;
    const share = fan / channels;
    const weight = new Float32Array(next.units * share);
    for (let j = 0; j < next.units; j++) weight.set(next.weight.subarray(j * fan + u * share, j * fan + (u + 1) * share), j * share);
    const part = { ...next, channels: next.size ? 1 : share, weight, bias: new Float32Array(next.units) };
    const [more] = through(part, change, n, alone(at));
    for (let i = 0; i < out.length; i++) out[i] += more[i];
    return forward(net, null, n, { from: at + 1, values: [...values.slice(0, at + 1), out] }).logits;
  }

  /** MRP: mean over images of |loss had the unit given its mean - loss|, in nats, exact; a number a unit of the layer. */
  function penalties(net, images, name, seen = observe(net, images)) {
    const k = place(net, name);
    const area = seen.pass.values[k + 1].length / images.y.length / net.layers[k].units;
    const before = losses(seen.pass.logits, images.y, net.classes);
    return seen.layers[name].mean.map((centre, u) => {
      const h = new Float32Array(images.y.length * area).fill(centre);
      const after = losses(swapped(net, seen.pass, k, u, h), images.y, net.classes);
      return mean(after.map((loss, image) => Math.abs(loss - before[image])));
    });
  }

  /** Which values are at most a share of their mean: dead by MRP, frozen by the output gradient (thesis: 3.2). */
  const small = (values, share) => Array.from(values, (value) => value <= share * mean(values));

  /** Norms of incoming weights, a number a unit: the sum of |w|, or of w squared as in the thesis. */
  function norms({ units, weight }, power) {
    const found = new Float64Array(units);
    const fan = weight.length / units;
    for (let i = 0; i < weight.length; i++) found[Math.floor(i / fan)] += power === 1 ? Math.abs(weight[i]) : weight[i] ** 2;
    return found;
  }

  /** Random numbers from 0 to 1, the same for the same seed (mulberry32). */
  function generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /** 0 to n - 1 in a random order. */
  function shuffled(n, random) {
    const order = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  /** Some of the images. */
  function chosen(images, indices) {
    const size = images.x.length / images.y.length;
    const x = new Float32Array(indices.length * size);
    indices.forEach((index, i) => x.set(images.x.subarray(index * size, (index + 1) * size), i * size));
    return { x, y: Array.from(indices, (index) => images.y[index]) };
  }

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  /** The network and the sets of images of a payload (`deadbook.widgets.lab`). */
  function unpacked(data) {
    const numbers = new Float32Array(bytesOf(data.weights).buffer);
    const parameters = {};
    let at = 0;
    for (const [name, length] of data.parameters) parameters[name] = numbers.slice(at, (at += length));
    const net = at ? smallCNN(parameters, data.shape, data.activation, data.batch_norm) : null;
    const bytes = bytesOf(data.images);
    const all = Object.entries(data.labels);
    const size = sizeOf(data.shape);
    const x = Float32Array.from(bytes, (byte) => data.palette[byte]);
    const sets = {};
    at = 0;
    for (const [name, y] of all) sets[name] = { x: x.slice(at, (at += y.length * size)), y };
    return { net, sets };
  }

  return {
    network, smallCNN, copy, forward, backward, losses, lossGradient, judge, gradient, step, observe, swapped, penalties, stand, small, norms, generator,
    shuffled, chosen, unpacked, hidden, place, isLinear, best, mean, sizeOf,
  };
};
deadunitsLab.nn = deadunitsLab.engine();
