// GPT-2's tokenizer: byte-level BPE, with the ids that keras_gpt's GPTTokenizer gives.
//
// Code points have their classes from unicode_classes.txt rather than from \p{L} and
// \p{N}, whose meaning depends on the browser's age.

import { sha256 } from "./sha256.js";

const NUM_CODE_POINTS = 0x110000;
const CLASSES = ["letter", "number", "space", "other"];
const SPACE = CLASSES.indexOf("space");
const BLANK = 0x20;
const CONTRACTIONS = ["s", "t", "re", "ve", "m", "ll", "d"].map(codePoints);
const MOST_CACHED_WORDS = 10_000;

const encoder = new TextEncoder();

export class Tokenizer {
  // content: tokenizer.json, parsed. classes: the text of unicode_classes.txt.
  constructor(content, classes) {
    const { vocab, merges } = content.model;
    this.tokens = [];
    for (const [token, id] of Object.entries(vocab)) this.tokens[id] = token;
    this.merges = merges;
    this.specialTokens = content.added_tokens.map((token) => token.content);
    const characters = byteCharacters();
    this.byteIds = characters.map((character) => vocab[character]);
    this.bytes = this.tokenBytes(characters);
    this.setMerges(vocab, merges);
    this.classes = classTable(classes);
    this.words = new Map(); // of words: their ids
  }

  // The bytes of each token. Special tokens stand for themselves.
  tokenBytes(characters) {
    const byteOf = new Map(characters.map((character, byte) => [character, byte]));
    const special = new Set(this.specialTokens);
    return this.tokens.map((token) => {
      const bytes = Array.from(token, (character) => byteOf.get(character));
      const isText = special.has(token) || bytes.includes(undefined);
      return isText ? encoder.encode(token) : Uint8Array.from(bytes);
    });
  }

  setMerges(vocab, merges) {
    this.ranks = new Map(); // of pairs: the last one, where a pair is given twice
    this.mergedIds = merges.map(([left, right], rank) => {
      this.ranks.set(this.pair(vocab[left], vocab[right]), rank);
      return vocab[left + right];
    });
    // Whether no merge makes a pair that ranks before itself, as learnt merges do.
    const firstUse = new Map();
    merges.forEach((pair, rank) => {
      for (const part of pair) {
        if (!firstUse.has(part)) firstUse.set(part, rank);
      }
    });
    this.isInOrder = merges.every(
      ([left, right], rank) => (firstUse.get(left + right) ?? Infinity) > rank,
    );
  }

  pair(left, right) {
    return left * this.tokens.length + right;
  }

  // Turns a text into ids. Names of special tokens in it are text.
  tokenize(text) {
    const ids = [];
    for (const word of this.split(text)) {
      let found = this.words.get(word);
      if (found === undefined) {
        found = this.mergeWord(word);
        if (this.words.size >= MOST_CACHED_WORDS) this.words.clear();
        this.words.set(word, found);
      }
      for (const id of found) ids.push(id);
    }
    return ids;
  }

  // Splits a text as GPT-2's pattern does:
  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  split(text) {
    const points = codePoints(text);
    const words = [];
    for (let start = 0; start < points.length; ) {
      const end = this.wordEnd(points, start);
      words.push(fromCodePoints(points.slice(start, end)));
      start = end;
    }
    return words;
  }

  wordEnd(points, start) {
    if (points[start] === 0x27) {
      for (const rest of CONTRACTIONS) {
        if (rest.every((point, index) => points[start + 1 + index] === point)) {
          return start + 1 + rest.length;
        }
      }
    }
    const classAt = (place) => this.classes[points[place]];
    const leadsOn = points[start] === BLANK && start + 1 < points.length;
    const first = leadsOn && classAt(start + 1) !== SPACE ? start + 1 : start;
    let end = first + 1;
    while (end < points.length && classAt(end) === classAt(first)) end += 1;
    // The last of some spaces goes with what follows them.
    const isCut = classAt(first) === SPACE && end < points.length && end > start + 1;
    return isCut ? end - 1 : end;
  }

  // Merges the pair of the lowest rank, until no pair has one.
  mergeWord(word) {
    // Bytes that the vocabulary lacks are dropped.
    let ids = Array.from(encoder.encode(word), (byte) => this.byteIds[byte]);
    ids = ids.filter((id) => id !== undefined);
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < ids.length; i++) {
        const rank = this.ranks.get(this.pair(ids[i], ids[i + 1]));
        if (rank < best) best = rank;
      }
      if (best === Infinity) return ids;
      const merged = [];
      for (let i = 0; i < ids.length; i++) {
        const isPair =
          i + 1 < ids.length && this.ranks.get(this.pair(ids[i], ids[i + 1])) === best;
        merged.push(isPair ? this.mergedIds[best] : ids[i]);
        if (!isPair) continue;
        i += 1;
        // Elsewhere a new pair may rank first, so that the leftmost alone may merge.
        if (!this.isInOrder) {
          for (i += 1; i < ids.length; i++) merged.push(ids[i]);
        }
      }
      ids = merged;
    }
  }

  // SHA-256 of vocabulary, merges and special tokens, as the model's file tells it.
  fingerprint() {
    const merges = this.merges.map((pair) => pair.join(" "));
    const parts = [this.tokens, merges, this.specialTokens].map(asPythonWrites);
    return sha256(encoder.encode(`[${parts.join(", ")}]`));
  }
}

// Joins the bytes of tokens to text as they come: characters may span tokens, and bytes
// that are no UTF-8 become U+FFFD.
export class TextStream {
  constructor() {
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  // The characters that these bytes complete.
  push(bytes) {
    return this.decoder.decode(bytes, { stream: true });
  }

  // What is left of an incomplete one.
  end() {
    return this.decoder.decode();
  }
}

// Characters of the vocabulary by byte: those that print in Latin-1 are themselves,
// the others are moved to U+0100 and above (Radford et al. 2019, encoder.py).
function byteCharacters() {
  const prints = (byte) =>
    (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let moved = 0x100;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(prints(byte) ? byte : moved++),
  );
}

function classTable(text) {
  const table = new Uint8Array(NUM_CODE_POINTS);
  for (const line of text.trim().split("\n")) {
    if (line.startsWith("#")) continue;
    const [start, name] = line.split(" ");
    table.fill(CLASSES.indexOf(name), parseInt(start, 16));
  }
  return table;
}

// Halves of surrogate pairs become U+FFFD, as in UTF-8.
function codePoints(text) {
  return Array.from(text, (character) => {
    const point = character.codePointAt(0);
    return point >= 0xd800 && point < 0xe000 ? 0xfffd : point;
  });
}

function fromCodePoints(points) {
  let text = "";
  for (const point of points) text += String.fromCodePoint(point);
  return text;
}

// A list of strings as Python's json.dumps writes it, in ASCII.
function asPythonWrites(strings) {
  const escape = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  const quoted = strings.map((string) =>
    JSON.stringify(string).replace(/[^ -~]/g, escape),
  );
  return `[${quoted.join(", ")}]`;
}
