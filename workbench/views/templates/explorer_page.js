// JupyterLab has a theme of its own, whatever the system's is: the frame follows the page around it.
function lensTheme() {
  let outside = null;
  try {
    outside = window.frameElement && window.parent.document.body;
  } catch { /* a frame of another origin */ }
  if (!outside) return;
  const follow = () => {
    const light = outside.dataset.jpThemeLight;
    if (light) document.documentElement.dataset.scheme = light === "true" ? "light" : "dark";
  };
  follow();
  new MutationObserver(follow).observe(outside, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
}
lensTheme();
document.querySelectorAll(".lens").forEach((root, index) => {
  root.dataset.lens = index;
  const content = JSON.parse(root.querySelector("script").textContent);
  if (root.classList.contains("bench")) lensBench(root, { ...content, state: { ...content.state, answers: benchUnpack(content.state.answers) }, send: null, on() {} });
  else lensExplorer(root, content);
});
