// Mounts the pieces that compute in the page (`deadbook.widgets.lab`), each when it comes into view.
//
// Classic scripts only: a page that is read from a file may load those, but no ES modules.
(() => {
  const base = document.currentScript.src.replace(/[^/]*$/, "");
  const lab = (globalThis.deadunitsLab ??= {});
  const loading = {};
  lab.data = {}; // filled by the scripts that hold data

  function load(file) {
    return (loading[file] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = base + file;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${file} could not be loaded`));
      document.head.append(script);
    }));
  }

  /** What a widget of a notebook has, for a page: values by name, and who listens to them. */
  function model(values) {
    const listeners = {};
    return {
      get: (name) => values[name],
      set(name, value) {
        values[name] = value;
        for (const listener of listeners[`change:${name}`] ?? []) listener();
      },
      on: (event, listener) => (listeners[event] ??= []).push(listener),
      save_changes() {},
    };
  }

  async function mount(place) {
    const kept = place.querySelector("script.lab-data");
    if (!kept) return; // the figure alone
    const file = kept.dataset.file;
    const piece = place.dataset.lab;
    for (const name of ["nn.js", "ui.js", `${piece}.js`, file]) if (name) await load(name);
    const data = file ? lab.data[file] : JSON.parse(kept.textContent);
    const el = document.createElement("div");
    el.className = "lab-live";
    place.append(el);
    lab[piece].render({ model: model({ data, state: { ...data.state } }), el });
    place.classList.add("lab-ready");
  }

  function start() {
    const seen = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          seen.unobserve(target);
          mount(target).catch((error) => console.error(error));
        }
      },
      { rootMargin: "300px" }
    );
    for (const place of document.querySelectorAll(".lab[data-lab]")) {
      seen.observe(place);
      if (location.hash.startsWith(`#${place.dataset.lab}=`)) place.scrollIntoView(); // a shared link
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
