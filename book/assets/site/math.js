// Typesets what Sphinx writes for MathJax, \\(...\\) and \\[...\\] in elements of class "math", with KaTeX.
for (const element of window.katex ? document.querySelectorAll(".math") : []) {
  for (const part of [...element.childNodes]) {
    const tex = part.nodeType === Node.TEXT_NODE ? part.textContent.trim() : "";
    if (!/^\\[([]/.test(tex)) continue; // the number of an equation, for example
    const place = Object.assign(document.createElement("span"), { className: "formula" });
    window.katex.render(tex.slice(2, -2), place, { displayMode: tex[1] === "[", throwOnError: false });
    part.replaceWith(place);
  }
}
