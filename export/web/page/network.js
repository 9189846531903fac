// A language model in a TFLite file, fed token by token or chunk by chunk by LiteRT.js.
// It mirrors export/litert/network.py; sampling is the file's own, by `sample`.

// In place of -Infinity, as the LiteRT-LM engine has it.
const MASKED = Math.fround(-0.7 * 3.4028234663852886e38);

export const MEMORY_ADVICE =
  "where memory is short, export the model by --quantization=int8, or with a shorter " +
  "--context_length";

export class Network {
  // litert: the module @litertjs/core, loaded. model: its CompiledModel.
  constructor(litert, model) {
    this.litert = litert;
    this.signatures = model.signatures;
    for (const name of ["about", "decode", "sample"]) {
      if (!(name in this.signatures)) {
        throw new Error(
          `model.tflite must be the file of a language model, with the signature ` +
            `${name}, got ${Object.keys(this.signatures).join(", ")}.`,
        );
      }
    }
    this.cache = {};
  }

  // Reads what the file says of itself; before all else.
  async open() {
    const { json } = await this.call("about", {});
    this.about = JSON.parse(new TextDecoder().decode(json.toTypedArray()));
    json.delete();
    this.context = this.about.context_length;
    this.lengths = this.about.prefill_lengths;
    this.sampleInputs = new Map(
      this.signatures.sample.getInputDetails().map((one) => [one.name, one]),
    );
  }

  // Forgets all tokens.
  clear() {
    this.keepCache({});
    for (const { name, shape } of this.signatures.decode.getInputDetails()) {
      if (!name.startsWith("kv_cache_")) continue;
      const size = shape.reduce((a, b) => a * b, 1);
      this.cache[name] = new this.litert.Tensor(new Float32Array(size), shape);
    }
    this.numCached = 0;
  }

  // Feeds what the cache does not hold yet of `tokens` (numbers); returns the logits
  // after the last one, a Tensor that is the caller's to delete. `turn` is awaited
  // between two calls; where it resolves to false, the work ends with null.
  async feed(tokens, turn) {
    const last = tokens.length - 1;
    while (this.numCached < last) {
      const length = this.chunkLength(last - this.numCached);
      const end = Math.min(this.numCached + length, last);
      const part = tokens.slice(this.numCached, end);
      if (length === 1) (await this.run("decode", part, 1)).delete();
      else await this.run(`prefill_${length}`, part, length);
      this.numCached = end;
      if (!(await turn())) return null;
    }
    const logits = await this.run("decode", tokens.slice(last), 1);
    this.numCached = tokens.length;
    return logits;
  }

  // The longest chunk that `count` tokens fill, or the shortest one.
  chunkLength(count) {
    const fitting = this.lengths.filter((length) => length <= count);
    const length = fitting.length ? Math.max(...fitting) : Math.min(...this.lengths);
    // Slots beyond the last would push the chunk back.
    return this.numCached + length <= this.context ? length : 1;
  }

  // Runs a signature on tokens that follow the cached ones, padded to a length.
  async run(name, part, length) {
    const { Tensor } = this.litert;
    const [first, context] = [this.numCached, this.context];
    const tokens = new Int32Array(length);
    tokens.set(part);
    const places = new Int32Array(length);
    places.set(part.map((_, index) => first + index));
    const mask = new Float32Array(length * context).fill(MASKED);
    for (let row = 0; row < length; row++) {
      mask.fill(0, row * context, row * context + first + row + 1);
    }
    const inputs = {};
    try {
      inputs.tokens = new Tensor(tokens, [1, length]);
      inputs.input_pos = new Tensor(places, [length]);
      inputs.mask = new Tensor(mask, [1, 1, length, context]);
      const { logits, ...cache } = await this.call(name, { ...inputs, ...this.cache });
      this.keepCache(cache);
      return logits;
    } finally {
      remove(inputs);
    }
  }

  async call(name, inputs) {
    try {
      return await this.signatures[name].run(inputs);
    } catch (error) {
      throw new Error(
        `LiteRT.js cannot run ${name}, most often for want of memory: ` +
          `${MEMORY_ADVICE} (${error.message ?? error}).`,
      );
    }
  }

  keepCache(cache) {
    remove(this.cache);
    this.cache = cache;
  }

  // Takes the next token of a text by the logits after it. `request`: numPromptTokens,
  // stopTokens, settings by name, seed (its low half and its high half).
  async sample(logits, tokens, request) {
    const values = {
      tokens,
      num_tokens: [tokens.length],
      num_prompt_tokens: [request.numPromptTokens],
      stop_tokens: request.stopTokens,
      seed: request.seed,
    };
    const inputs = {};
    let outputs = {};
    try {
      for (const [name, { dtype, shape }] of this.sampleInputs) {
        if (name === "logits") continue;
        const size = shape.reduce((a, b) => a * b, 1);
        const data = dtype === "int32" ? new Int32Array(size) : new Float32Array(size);
        if (name === "stop_tokens") data.fill(-1);
        data.set(values[name] ?? [request.settings[name]]);
        inputs[name] = new this.litert.Tensor(data, shape);
      }
      outputs = await this.call("sample", { ...inputs, logits });
      const found = (name) => Array.from(outputs[name].toTypedArray());
      const topLogProbs = found("top_log_probs");
      return {
        token: found("token")[0],
        logProb: found("log_prob")[0],
        finishReason: found("finish_reason")[0],
        alternatives: found("top_tokens").map((token, rank) => ({
          token,
          logProb: topLogProbs[rank],
        })),
      };
    } finally {
      remove(inputs);
      remove(outputs);
    }
  }
}

function remove(tensors) {
  for (const tensor of Object.values(tensors)) tensor.delete();
}
