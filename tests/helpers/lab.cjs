// What nn.js computes, for tests against PyTorch: a job as JSON on the standard input, the results as JSON on the output.
require("../../book/assets/site/lab/nn.js");
require("../../book/assets/site/lab/prune.js");
const { nn, prune } = globalThis.deadunitsLab;
const job = JSON.parse(require("fs").readFileSync(0, "utf8"));
const { net, sets } = nn.unpacked(job.data);
const list = (values) => Array.from(values);
const lists = (by) => Object.fromEntries(Object.entries(by).map(([name, values]) => [name, list(values)]));

/** Arrays of the layers by the name that PyTorch gives them. */
function parameters(of) {
  const found = {};
  net.layers.forEach((layer, k) => {
    if (nn.isLinear(layer)) for (const name of ["weight", "bias"]) found[`${layer.name}.${name}`] = list(of(layer, k)[name]);
  });
  return found;
}

const jobs = {
  measure({ set }) {
    const images = sets[set];
    const seen = nn.observe(net, images);
    const { loss, grads } = nn.gradient(net, images);
    return {
      ...nn.judge(net, images),
      loss,
      logits: list(seen.pass.logits),
      losses: list(nn.losses(seen.pass.logits, images.y, net.classes)),
      gradients: parameters((_, k) => grads[k]),
      units: Object.fromEntries(Object.entries(seen.layers).map(([name, found]) => [name, lists(found)])),
      mrp: Object.fromEntries(nn.hidden(net).map((name) => [name, list(nn.penalties(net, images, name, seen))])),
    };
  },
  train({ set, batches, lr, attack, from, until }) {
    const losses = batches.map((batch, number) => {
      const now = attack && number >= from && number < until ? attack : null;
      return nn.step(net, nn.chosen(sets[set], batch), lr, now);
    });
    const norms = net.layers.filter((layer) => layer.kind === "norm");
    return { losses, parameters: parameters((layer) => layer), norms: norms.map((layer) => [list(layer.mean), list(layer.variance)]) };
  },
  replace({ set, constants }) {
    for (const name in constants) constants[name] = constants[name].map((value) => value ?? NaN);
    const { loss, right } = nn.judge(net, sets[set], constants);
    return { loss, right };
  },
  lowest: ({ scores, fraction, by, whole }) => lists(prune.lowest(scores, fraction, by, whole)),
  counts: ({ pairs }) => pairs.map(([fraction, n]) => prune.count(fraction, n)),
  /** The worker of the prune piece gets moves, each when the last is answered: the first answer with the wanted properties, and its processor time. */
  serve: ({ moves, until }) => new Promise((resolve) => {
    let before;
    const act = prune.service({ nn }, (answer) => {
      if (Object.entries(until).every(([name, value]) => answer[name] === value)) {
        const { user, system } = process.cpuUsage(before);
        const plain = (_, value) => (ArrayBuffer.isView(value) ? list(value) : value);
        resolve({ ...JSON.parse(JSON.stringify(answer, plain)), milliseconds: (user + system) / 1000 });
      } else if (moves.length && (answer.kind === "loaded" || answer.images === sets.test.y.length)) {
        before = process.cpuUsage();
        act(moves.shift());
      }
    });
    act({ kind: "load", data: job.data });
  }),
};
Promise.resolve(jobs[job.job](job)).then((found) => process.stdout.write(JSON.stringify(found), () => process.exit()));
