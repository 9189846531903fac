// The settings of generation: their fields in the form, defaults and ranges.

const COUNT = { isInteger: true, initial: 0, rule: "at least 0", holds: (x) => x >= 0 };
const SHARE = { initial: 1, rule: "in (0, 1]", holds: (x) => x > 0 && x <= 1 };
const CUTOFF = { initial: 0, rule: "in [0, 1)", holds: (x) => x >= 0 && x < 1 };
const PENALTY = { isSigned: true, initial: 0, rule: "finite", holds: () => true };

// Those of keras_gpt.generation.SETTINGS, but the seed. `isMore`: out of sight at first.
export const KNOBS = {
  max_new_tokens: {
    ...COUNT,
    initial: 64,
    label: "New tokens",
    hint: "At most; the model may end the text before.",
  },
  temperature: {
    initial: 1,
    rule: "finite and at least 0",
    holds: (x) => x >= 0,
    label: "Temperature",
    hint: "Higher is more varied; 0 always takes the likeliest token.",
  },
  top_k: {
    ...COUNT,
    label: "Top-k",
    hint: "Draws from so many of the likeliest tokens; 0 from all.",
  },
  top_p: {
    ...SHARE,
    label: "Top-p",
    hint: "Draws from the likeliest tokens that make this share; 1 from all.",
  },
  min_p: {
    initial: 0,
    rule: "in [0, 1]",
    holds: (x) => x >= 0 && x <= 1,
    label: "Min-p",
    hint: "Least probability, as a share of the likeliest token's; 0 is off.",
  },
  repetition_penalty: {
    initial: 1,
    rule: "finite and above 0",
    holds: (x) => x > 0,
    label: "Repetition penalty",
    hint: "Above 1, tokens of the text get less likely; 1 is off.",
  },
  presence_penalty: {
    ...PENALTY,
    isMore: true,
    label: "Presence penalty",
    hint: "Taken from the logit of each token that the new text holds.",
  },
  frequency_penalty: {
    ...PENALTY,
    isMore: true,
    label: "Frequency penalty",
    hint: "Taken from a token's logit for each time the new text holds it.",
  },
  no_repeat_ngram_size: {
    ...COUNT,
    isMore: true,
    label: "No repeats of",
    hint: "So many tokens in a row never come twice; 0 is off.",
  },
  min_new_tokens: {
    ...COUNT,
    isMore: true,
    label: "Least new tokens",
    hint: "The model does not end the text before.",
  },
  typical_p: {
    ...SHARE,
    isMore: true,
    label: "Typical-p",
    hint: "Share to keep of tokens of typical surprise; 1 keeps all.",
  },
  epsilon_cutoff: {
    ...CUTOFF,
    isMore: true,
    label: "Epsilon cutoff",
    hint: "Least probability of a token; 0 is off.",
  },
  eta_cutoff: {
    ...CUTOFF,
    isMore: true,
    label: "Eta cutoff",
    hint: "Least probability of a token, lower where many are likely; 0 is off.",
  },
};

const SEED_BITS = 64;
const MOST_COUNT = 2 ** 31 - 1;

// An error that belongs to a field of the form.
export class FieldError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

// Adds the fields to `few` and `more`, before their last elements. `initial`: values
// by name, where they are not the defaults.
export function addFields(few, more, initial) {
  for (const [name, knob] of Object.entries(KNOBS)) {
    const field = document.createElement("div");
    field.className = "field";
    const label = document.createElement("label");
    label.htmlFor = name;
    label.textContent = knob.label;
    const input = document.createElement("input");
    Object.assign(input, { id: name, value: initial[name] ?? knob.initial });
    input.setAttribute("form", "form");
    // Keyboards of phones for numbers may have no minus.
    if (!knob.isSigned) input.inputMode = knob.isInteger ? "numeric" : "decimal";
    input.autocomplete = "off";
    const hint = document.createElement("small");
    hint.id = `${name}_hint`;
    hint.textContent = knob.hint;
    input.setAttribute("aria-describedby", hint.id);
    field.append(label, input, hint);
    if (knob.isMore) more.append(field);
    else few.lastElementChild.before(field);
  }
}

// The values of `texts`, strings by name, or a FieldError.
export function settingsOf(texts) {
  const settings = {};
  for (const [name, knob] of Object.entries(KNOBS)) {
    const given = texts[name].trim();
    const text = knob.isInteger ? given : given.replace(",", ".");
    const number = knob.isInteger ? /^[-+]?\d+$/ : /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;
    // As the model sees it.
    const value = Math.fround(Number(text));
    const isInRange =
      number.test(text) &&
      Number.isFinite(value) &&
      (!knob.isInteger || Math.abs(Number(text)) <= MOST_COUNT) &&
      knob.holds(value);
    if (!isInRange) {
      const kind = knob.isInteger ? "a whole number, " : "a number, ";
      throw new FieldError(
        name,
        `${knob.label} (${name}) must be ${kind}${knob.rule}, got ` +
          `${given || "nothing"}.`,
      );
    }
    settings[name] = Number(text);
  }
  return settings;
}

// The seed of a text, a BigInt; of an empty one a random number.
export function seedOf(text) {
  if (text.trim() === "") {
    return BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
  }
  const most = 2n ** BigInt(SEED_BITS - 1);
  const seed = /^[-+]?\d+$/.test(text.trim()) ? BigInt(text.trim()) : null;
  if (seed === null || seed < -most || seed >= most) {
    throw new FieldError(
      "seed",
      `seed must be a whole number in [-2^63, 2^63), or nothing, got ${text}.`,
    );
  }
  return seed;
}

// The low half and the high half of a seed, as the model takes it.
export function halves(seed) {
  const half = (number) => Number(BigInt.asIntN(32, number));
  return [half(seed), half(seed >> 32n)];
}
