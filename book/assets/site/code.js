// One switch for the code of a page. Off: no code and no "Show code cell" lines. On: all code, and each cell can be closed by its
// own line. The browser remembers it for all pages; without JavaScript the lines are there.
const cells = document.querySelectorAll(".bd-article details.hide");
const title = document.querySelector(".bd-article h1");

if (cells.length && title) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "code-switch" });

  function show(open) {
    for (const cell of cells) cell.open = open;
    document.documentElement.toggleAttribute("data-code-hidden", !open);
    button.textContent = open ? "Hide all code" : "Show all code";
  }

  let open = false;
  try {
    open = localStorage.getItem("deadunits-code") === "shown";
  } catch {} // a browser may refuse storage to a file
  button.addEventListener("click", () => {
    open = !open;
    show(open);
    try {
      localStorage.setItem("deadunits-code", open ? "shown" : "hidden");
    } catch {}
  });
  title.after(button);
  show(open);
}

// The text comes before the list of pages for who moves by Tab; where they are seen does not change (deadunits.css).
document.querySelector(".bd-main")?.after(document.querySelector("#pst-primary-sidebar") ?? "");

// A link to a claim of the ledger unfolds its verdict, which stands behind its words.
function unfold() {
  const verdict = document.getElementById(location.hash.slice(1))?.nextElementSibling;
  if (verdict?.matches(".verdict")) verdict.querySelector("details").open = true;
}
addEventListener("hashchange", unfold);
unfold();

// The paragraph in italics behind a table is its caption, also where a cell wrote it.
for (const cell of document.querySelectorAll(".bd-article div.cell:has(.cell_output table.run-table)")) {
  const next = cell.nextElementSibling;
  const words = next?.matches("p") ? next : next?.querySelector(":scope.cell > .cell_output > p:first-child");
  const italic = words?.firstElementChild;
  if (!italic?.matches("em") || words.firstChild !== italic || !/[.:]$/.test(italic.textContent)) continue;
  italic.replaceWith(...italic.childNodes);
  const figure = Object.assign(document.createElement("figure"), { className: "table-figure" });
  const caption = document.createElement("figcaption");
  cell.before(figure);
  caption.append(words);
  figure.append(cell, caption);
}
