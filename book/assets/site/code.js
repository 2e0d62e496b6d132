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
