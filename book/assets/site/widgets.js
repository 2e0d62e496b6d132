// Loaded on pages with widgets. Their state and their player (html-manager) come when a widget comes into view.
const STATE = document.querySelector("script[type='application/vnd.jupyter.widget-state+json']");
const BASE = document.currentScript.src.replace(/[^/]*$/, "");

function load(file, onload) {
  document.head.append(Object.assign(document.createElement("script"), { src: BASE + file, onload }));
}

// Called by the file of the state. The player would start with the window's load event, which may be over.
function deadunitsWidgets(state) {
  STATE.textContent = JSON.stringify(state);
  const listen = window.addEventListener;
  window.addEventListener = (kind, start, ...more) =>
    kind === "load" ? start() : listen.call(window, kind, start, ...more);
  load("vendor/widgets/embed.js", () => { window.addEventListener = listen; });
}

const views = document.querySelectorAll("script[type='application/vnd.jupyter.widget-view+json']");
const seen = new IntersectionObserver((places) => {
  if (!places.some((place) => place.isIntersecting)) return;
  seen.disconnect();
  load(`lab/${STATE.dataset.file}`);
}, { rootMargin: "400px" });
for (const view of STATE?.dataset.file ? views : []) seen.observe(view.parentElement);

// The player would typeset labels with MathJax 2, for which the page has a configuration and no script: no label has a formula.
if (window.MathJax) window.MathJax.Hub = { Queue() {} };

// The player gives buttons with icons no name, does not say which of several is chosen, gives a slider no name, its position
// instead of its label as value, and images no text: screen readers get the words that the eye sees. (An Image with a `tooltip`
// is not shown at all by this player.)
const BUTTONS = { "fa-play": "Play", "fa-pause": "Pause", "fa-stop": "Stop" };

function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function nameWidgets() {
  for (const icon of document.querySelectorAll(".widget-play button > i")) {
    const name = Object.keys(BUTTONS).find((one) => icon.classList.contains(one));
    if (name) set(icon.parentElement, "aria-label", BUTTONS[name]);
  }
  for (const choice of document.querySelectorAll(".widget-toggle-buttons")) {
    const label = choice.querySelector(".widget-label");
    label?.removeAttribute("title"); // "null" without a tooltip
    set(choice, "role", "group");
    set(choice, "aria-label", label?.textContent || "Choice");
    for (const button of choice.querySelectorAll("button")) {
      set(button, "aria-pressed", String(button.classList.contains("mod-active")));
    }
  }
  for (const slider of document.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label")?.textContent || "Slider";
    const readout = slider.querySelector(".widget-readout");
    const handle = slider.querySelector(".noUi-handle");
    if (!handle || !readout) continue;
    slider.querySelector(".widget-label")?.removeAttribute("title"); // "null" without a tooltip
    handle.setAttribute("aria-label", label);
    handle.setAttribute("aria-valuetext", readout.textContent);
    for (const image of slider.closest(".frames").querySelectorAll("img.widget-image")) {
      image.alt = `${label}: ${readout.textContent}`;
    }
  }
}
new MutationObserver(nameWidgets).observe(document.documentElement, {
  attributeFilter: ["class"], // of the button that is chosen
  childList: true,
  characterData: true,
  subtree: true,
});
