"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const { templates, figures } = read("figures-data");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const drawn = new Set();
  const theme = (isDark) => templates[isDark ? "dark" : "light"];

  function draw(element, isDark = dark.matches) {
    if (drawn.has(element)) return;
    const { data, layout } = figures[element.dataset.figure];
    Plotly.newPlot(element, data, { ...layout, template: theme(isDark) }, config);
    drawn.add(element);
  }
  function repaint(isDark) {
    for (const element of drawn) Plotly.relayout(element, { template: theme(isDark) });
  }
  // A figure is drawn when it comes near the window: the page opens at once, however many there are.
  const plots = [...document.querySelectorAll(".plot")];
  const watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) draw(target);
  }, { rootMargin: "500px" });
  plots.forEach((element) => watch.observe(element));
  for (const tabs of document.querySelectorAll("[data-tabs]")) {
    tabs.addEventListener("change", (event) => {
      for (const tab of tabs.parentElement.querySelectorAll("[data-tab]")) tab.hidden = tab.dataset.tab !== event.target.value;
    });
  }
  dark.addEventListener("change", () => repaint(dark.matches));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => (details.open = true));
    plots.filter((element) => !element.closest("[hidden]")).forEach((element) => draw(element, false));
    repaint(false);
  });
  addEventListener("afterprint", () => repaint(dark.matches));
})();
