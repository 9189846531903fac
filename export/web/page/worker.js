// The model's own thread: it loads model.tflite and answers the page's messages.
//
// A classic worker, for LiteRT.js loads its WebAssembly by importScripts, which module
// workers lack.

// What `sample` says of why a text ends, if it does. A token that stops it is none of
// the text.
const STOP = 1;
const INVALID_LOGITS = 5;
const REASONS = { 0: "none", [STOP]: "stop", 2: "length" };
const MOST_THREADS = 8;

let network = null;
let isStopped = false;

onmessage = async ({ data: message }) => {
  try {
    if (message.type === "load") await load(message);
    else if (message.type === "generate") await generate(message);
    else if (message.type === "stop") isStopped = true;
  } catch (error) {
    postMessage({ type: "error", message: error?.message ?? String(error) });
  }
};

async function load({ file, numBytes }) {
  const { MEMORY_ADVICE, Network } = await import("./network.js");
  const data = await download(file, numBytes, MEMORY_ADVICE);
  const { litert, threads } = await loadLiteRT();
  let model;
  try {
    model = await litert.loadAndCompile(data, {
      accelerator: "wasm",
      cpuOptions: { numThreads: threads },
    });
  } catch (error) {
    throw new Error(
      `${file} must be a TFLite file that LiteRT.js runs, and find room in the ` +
        `browser's memory; ${MEMORY_ADVICE} (${error?.message ?? error}).`,
    );
  }
  network = new Network(litert, model);
  await network.open();
  postMessage({ type: "ready", about: network.about, threads });
}

async function loadLiteRT() {
  const folder = new URL("litert/core/", self.location.href).href;
  // In a worker, LiteRT.js does not find by itself where its files lie.
  self.Module = {
    locateFile: (name) => `${folder}wasm/${name}`,
    mainScriptUrlOrBlob: `${folder}wasm/litert_wasm_threaded_internal.js`,
  };
  try {
    const litert = await import(`${folder}dist/index.js`);
    const threads = await numThreads(litert);
    await litert.loadLiteRt(`${folder}wasm/`, { threads: threads > 1 });
    return { litert, threads };
  } catch (error) {
    throw new Error(`LiteRT.js must be whole in the folder litert: ${error}`);
  }
}

// Threads need memory that they share, which browsers give to isolated pages alone.
async function numThreads(litert) {
  if (!self.crossOriginIsolated) return 1;
  const features = ["threads", "relaxedSimd"].map(litert.supportsFeature);
  if (!(await Promise.all(features)).every(Boolean)) return 1;
  return Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
}

// An array of so many bytes, or an error that advises.
function room(file, numBytes, advice) {
  try {
    return new Uint8Array(numBytes);
  } catch (error) {
    throw new Error(
      `${file} must find room in the browser's memory, got ${numBytes} bytes: ` +
        `${advice} (${error.message}).`,
    );
  }
}

async function download(file, numBytes, advice) {
  const refuse = (error) => {
    throw new Error(
      `${file} could not be fetched: is the server still running? (${error.message})`,
    );
  };
  const response = await fetch(file).catch(refuse);
  if (!response.ok) {
    throw new Error(`${file} must be beside the page, got ${response.status}.`);
  }
  const data = room(file, numBytes, advice);
  const reader = response.body.getReader();
  let count = 0;
  for (;;) {
    const { done, value } = await reader.read().catch(refuse);
    if (done) break;
    if (count + value.length <= numBytes) data.set(value, count);
    count += value.length;
    postMessage({ type: "progress", share: Math.min(count / numBytes, 1) });
  }
  if (count !== numBytes) {
    throw new Error(
      `${file} must have ${numBytes} bytes, as it was exported, got ${count}: ` +
        "copy it again.",
    );
  }
  return data;
}

// Lets messages in, which wait while the model runs; resolves to whether to go on.
function turn() {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve(!isStopped);
    };
    channel.port2.postMessage(null);
  });
}

async function generate({ tokens: prompt, ...request }) {
  isStopped = false;
  const begin = performance.now();
  const tokens = [...prompt];
  request.numPromptTokens = prompt.length;
  let reason = "stopped";
  network.clear();
  while (await turn()) {
    const logits = await network.feed(tokens, turn);
    if (logits === null) break;
    let chosen;
    try {
      chosen = await network.sample(logits, tokens, request);
    } finally {
      logits.delete();
    }
    if (!(chosen.finishReason in REASONS)) {
      throw new Error(`The model cannot go on: ${refusal(chosen.finishReason)}.`);
    }
    if (chosen.finishReason !== STOP) {
      tokens.push(chosen.token);
      const milliseconds = performance.now() - begin;
      postMessage({ type: "token", milliseconds, ...chosen });
    }
    if (chosen.finishReason) {
      reason = REASONS[chosen.finishReason];
      break;
    }
  }
  postMessage({ type: "done", reason });
}

function refusal(finishReason) {
  if (finishReason === INVALID_LOGITS) return "its logits are no numbers";
  return "the prompt or a knob is out of its range";
}
