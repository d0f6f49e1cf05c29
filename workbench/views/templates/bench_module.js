// The bench as a widget: anywidget calls render for every view of it.
let benchViews = 0;
function render({ model, el }) {
  const heard = [];
  const listen = (event, call) => { model.on(event, call); heard.push([event, call]); };
  const show = () => {
    for (const [event, call] of heard.splice(0)) model.off(event, call);
    const root = lensMake("div", { className: "lens bench", role: "region", "aria-label": "Live bench" });
    root.dataset.lens = `view-${++benchViews}`;
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab then leaves the keys to it
    el.replaceChildren(root);
    const opened = model.get("data"); // parsed anew: what is shown adds words to it
    lensBench(root, {
      data: JSON.parse(JSON.stringify(opened)), state: model.get("state"), effect: model.get("effect"), cases: model.get("cases"),
      send: (message) => model.send(message),
      on: (name, call) => (name === "file" ? listen("msg:custom", (message) => message.file && call(message.file)) : listen(`change:${name}`, () => call(model.get(name)))),
    });
    listen("change:data", show);
  };
  show();
  return () => { for (const [event, call] of heard) model.off(event, call); };
}
export default { render };
