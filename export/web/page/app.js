// The page: reads the form, lets the model's thread generate, shows what comes.

import { FieldError, KNOBS, addFields, halves, seedOf, settingsOf } from "./knobs.js";
import { TextView } from "./text_view.js";
import { TextStream, Tokenizer } from "./tokenizer.js";

const element = (id) => document.getElementById(id);
const form = element("form");
const promptBox = element("prompt");
const announcement = element("announcement");
const problem = element("problem");

const ENDINGS = {
  stop: "The model ended the text.",
  length: "The text has all the tokens that were asked for.",
  full: "The text fills the model's context.",
  stopped: "Stopped.",
};

const COUNT_MILLISECONDS = 150; // of rest, before the prompt's tokens are counted

const COMPACT = new Intl.NumberFormat("en", {
  notation: "compact",
  maximumSignificantDigits: 3,
});

let page = null; // page.json
let tokenizer = null;
let view = null;
let worker = null;
let run = null; // the text that is being generated

// === Loading ===

async function start() {
  element("unserved").hidden = true;
  page = await fetched("page.json", (response) => response.json());
  addFields(element("few"), element("more"), page.settings);
  element("seed").value = page.settings.seed ?? "";
  const [{ about, threads }] = await Promise.all([loadModel(), loadTokenizer()]);
  checkTokenizer(about.tokenizer?.sha256 ?? "none");
  page.context = about.context_length;
  view = new TextView({
    list: element("new_text"),
    tip: element("alternatives"),
    bytesOf: (id) => tokenizer.bytes[id],
  });
  describe(about, threads);
  countTokens();
  setRunning(false);
  say("Ready.");
}

async function fetched(name, read) {
  const response = await fetch(name).catch((error) => {
    throw new Error(
      `${name} could not be fetched: is the server still running? (${error.message})`,
    );
  });
  if (!response.ok) {
    throw new Error(`${name} must be beside the page, got ${response.status}.`);
  }
  try {
    return await read(response);
  } catch (error) {
    throw new Error(`${name} must be whole, as it was exported: ${error.message}`);
  }
}

async function loadTokenizer() {
  const [content, classes] = await Promise.all([
    fetched("tokenizer.json", (response) => response.json()),
    fetched("unicode_classes.txt", (response) => response.text()),
  ]);
  try {
    tokenizer = new Tokenizer(content, classes);
  } catch (error) {
    throw new Error(`tokenizer.json must hold a byte-level BPE: ${error.message}`);
  }
}

// Starts the model's thread; resolves to what it tells of the model.
function loadModel() {
  worker = new Worker("worker.js");
  return new Promise((resolve, reject) => {
    worker.onerror = (event) =>
      reject(new Error(`The model's thread failed: ${event.message ?? "not loaded"}`));
    worker.onmessage = ({ data }) => {
      if (data.type === "progress") {
        // By steps, for screen readers read each.
        say(`Loading the model: ${10 * Math.floor(10 * data.share)} %`);
      } else if (data.type === "error") {
        reject(new Error(data.message));
      } else {
        worker.onmessage = ({ data: message }) => receive(message);
        worker.onerror = ({ message }) => fail(message ?? "no message");
        resolve(data);
      }
    };
    const { file, num_bytes: numBytes } = page.model;
    worker.postMessage({ type: "load", file, numBytes });
  });
}

// The model's file tells what its tokenizer is made of.
function checkTokenizer(expected) {
  const found = tokenizer.fingerprint();
  if (found !== expected) {
    throw new Error(
      "tokenizer.json must be the model's own, with the fingerprint " +
        `${expected.slice(0, 12)}..., got ${found.slice(0, 12)}...: ` +
        "copy both files from one export.",
    );
  }
}

function describe(about, threads) {
  const oneThread = isSecureContext ? "one thread" : "one thread (several need HTTPS)";
  const facts = [
    `${COMPACT.format(page.num_parameters)} parameters`,
    `context of ${about.context_length} tokens`,
    about.quantization === "none" ? "float32" : about.quantization,
    threads === 1 ? oneThread : `${threads} threads`,
  ];
  element("facts").textContent = facts.join(" · ");
}

// === Generating ===

function promptTokens() {
  const ids = tokenizer.tokenize(promptBox.value);
  return page.add_start_token || !ids.length ? [page.start_token, ...ids] : ids;
}

function countTokens() {
  if (!page?.context) return;
  const count = promptTokens().length;
  const note = promptBox.value ? "" : ": an empty prompt begins a new text";
  element("count").textContent = `${count} of at most ${page.context - 1} tokens${note}`;
  element("count").classList.toggle("over", count >= page.context);
}

function generate() {
  clearProblem();
  let request;
  try {
    request = readForm();
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    showProblem(error.message, error.field);
    return;
  }
  view.clear();
  element("old_text").textContent = promptBox.value;
  element("speed").textContent = "";
  announcement.textContent = "";
  element("result").hidden = false;
  run = { ...request, stream: new TextStream(), times: [] };
  if (request.settings.max_new_tokens === 0) {
    receive({ type: "done", reason: "length" });
    return;
  }
  setRunning(true);
  say("Generating...");
  worker.postMessage({
    type: "generate",
    tokens: request.tokens,
    settings: request.settings,
    seed: halves(request.seed),
    stopTokens: page.stop_tokens,
  });
}

function readForm() {
  const tokens = promptTokens();
  if (tokens.length >= page.context) {
    throw new FieldError(
      "prompt",
      `prompt must have at most ${page.context - 1} tokens, so that the model's ` +
        `context of ${page.context} has room for one more, got ${tokens.length}.`,
    );
  }
  const texts = Object.keys(KNOBS).map((name) => [name, element(name).value]);
  return {
    tokens,
    settings: settingsOf(Object.fromEntries(texts)),
    seed: seedOf(element("seed").value),
  };
}

function receive(message) {
  if (message.type === "error") {
    finish("Failed.");
    showProblem(message.message);
    return;
  }
  if (message.type === "token") {
    run.times.push(message.milliseconds);
    view.add(message, run.stream.push(tokenizer.bytes[message.token]));
    element("speed").textContent = speed();
    return;
  }
  const isFull = run.tokens.length + run.times.length === page.context;
  finish(ENDINGS[message.reason === "length" && isFull ? "full" : message.reason]);
}

// Shows that the text has come to its end, or what there is of it.
function finish(status) {
  view.finish(run.stream.end());
  element("speed").textContent = speed();
  setRunning(false);
  say(status);
  announcement.textContent = view.text;
}

// The model's thread is lost, and the model with it.
function fail(message) {
  worker.terminate();
  worker.onmessage = null;
  if (element("stop").disabled) say("Failed.");
  else finish("Failed.");
  element("generate").disabled = true;
  showProblem(`The model's thread failed: ${message}. Reload the page.`);
}

function speed() {
  const { times } = run;
  const facts = [`${times.length} ${times.length === 1 ? "token" : "tokens"}`];
  if (times.length) facts.push(`first after ${Math.round(times[0])} ms`);
  if (times.length > 1) {
    const seconds = (times.at(-1) - times[0]) / 1000;
    facts.push(`${((times.length - 1) / seconds).toFixed(1)} tokens/s`);
  }
  return [...facts, `seed ${run.seed}`].join(" · ");
}

function setRunning(isRunning) {
  const [on, off] = [element("generate"), element("stop")];
  const focused = document.activeElement;
  on.disabled = isRunning;
  off.disabled = !isRunning;
  element("new_text").setAttribute("aria-busy", isRunning);
  // The focus is not lost with the button that had it. It does not go back, or an Enter
  // that comes too late to stop would start anew.
  if (isRunning && focused === on) off.focus();
  else if (!isRunning && focused === off) element("result_title").focus();
}

// === Messages ===

function say(text) {
  if (element("status").textContent !== text) element("status").textContent = text;
}

function showProblem(message, field) {
  if (field) element(field).after(problem);
  else document.querySelector(".actions").before(problem);
  problem.textContent = message;
  problem.hidden = false;
  if (!field) return;
  say("");
  const input = element(field);
  input.closest("details")?.setAttribute("open", "");
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", problem.id);
  input.focus();
}

function clearProblem() {
  problem.hidden = true;
  problem.textContent = "";
  for (const input of document.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!element("generate").disabled) generate();
});
element("stop").addEventListener("click", () => {
  say("Stopping...");
  worker.postMessage({ type: "stop" });
});
// An Enter that is held presses once.
document.addEventListener("keydown", (event) => {
  const isHeld = event.key === "Enter" && event.repeat;
  if (isHeld && event.target !== promptBox) event.preventDefault();
});
document.addEventListener("input", ({ target }) => {
  if (target.hasAttribute("aria-invalid")) clearProblem();
});
let counting = null;
promptBox.addEventListener("input", () => {
  clearTimeout(counting);
  counting = setTimeout(countTokens, COUNT_MILLISECONDS);
});
promptBox.addEventListener("keydown", (event) => {
  const isMeant = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if (isMeant && !event.repeat) form.requestSubmit();
});

start().catch((error) => {
  worker?.terminate();
  if (worker) worker.onmessage = null;
  say("Not loaded.");
  showProblem(error.message);
});
