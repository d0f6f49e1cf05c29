// The bench as a widget: anywidget calls render for every view of it.
let benchViews = 0;
const BENCH_LATE = 6000; // milliseconds: work has a thread of its own, so a kernel that is there answers at once, unless a cell runs
const benchGone = "The kernel of this bench is gone (restarted or shut down). Run the cell again: what is read here stays, nothing more can be done with it.";
const benchSilent = "The kernel does not answer. If a cell is running, the bench goes on after it; if the kernel was restarted, run the bench's cell again.";
function render({ model, el }) {
  const heard = [];
  const listen = (event, call) => { model.on(event, call); heard.push([event, call]); };
  let late = null, told = () => {};
  const answered = () => { clearTimeout(late); late = null; told(null); };
  const send = (message, words = benchSilent, after = BENCH_LATE) => {
    late ??= setTimeout(() => told(words), after);
    try {
      model.send(message);
      if (message.do !== "ping") model.send({ do: "ping" });
    } catch { // a comm that is closed
      told(words);
    }
  };
  const state = () => ({ ...model.get("state"), ...model.get("selection"), answers: benchUnpack(model.get("answers")) });
  const show = () => {
    for (const [event, call] of heard.splice(0)) model.off(event, call);
    const root = lensMake("div", { className: "lens bench", role: "region", "aria-label": "Live bench" });
    root.dataset.lens = `view-${++benchViews}`;
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab then leaves the keys to it
    el.replaceChildren(root);
    const opened = model.get("data"); // parsed anew: what is shown adds words to it
    const changes = { state: ["state", "selection", "answers"], effect: ["effect"] };
    lensBench(root, {
      data: JSON.parse(JSON.stringify(opened)), state: state(), effect: model.get("effect"), cases: model.get("cases"), send,
      on(name, call) {
        if (name === "gone") told = call;
        else if (name === "message") listen("msg:custom", call);
        else {
          let due = false; // several of them change at once
          const soon = () => {
            if (due) return;
            due = true;
            queueMicrotask(() => { due = false; call(name === "state" ? state() : model.get(name)); });
          };
          for (const trait of changes[name]) listen(`change:${trait}`, soon);
        }
      },
    });
    listen("msg:custom", answered);
    listen("comm_live_update", () => { clearTimeout(late); late = null; send({ do: "ping" }, benchGone, 1500); });
    listen("change:data", show);
  };
  show();
  return () => { clearTimeout(late); for (const [event, call] of heard) model.off(event, call); };
}
export default { render };
