// Join the explorer to a kernel, through the model of an anywidget.

function render({ model, el }) {
  const data = model.get("data");
  const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
  const host = {
    kept: (state) => {
      model.set("state", state);
      model.save_changes();
    },
    measure: (metric, timestep, k) => model.send({ ask: "map", metric, timestep, k }),
    cost: (pairs) => model.send({ ask: "cost", pairs }),
  };
  const handle = explore(el, { ...model.get("header"), start: model.get("state") }, buffer, host);
  const answer = (message, buffers) => {
    if (message.kind === "map") {
      const [{ buffer: received, byteOffset, byteLength }] = buffers;
      handle.receive(message.view, message.arrays, received.slice(byteOffset, byteOffset + byteLength));
    } else if (message.kind === "cost") handle.receiveCost(message.pairs, message.text);
    else if (message.kind === "failed") handle.fail(message.text);
  };
  model.on("msg:custom", answer);
  return () => model.off("msg:custom", answer);
}

export default { render };
