// SHA-256 (FIPS 180-4), for browsers have it on secure pages alone.

// The first 32 bits of the fractions of roots of the first primes.
const primes = firstPrimes(64);
const ROUND_CONSTANTS = primes.map((prime) => fraction(Math.cbrt(prime)));
const FIRST_STATE = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));

// Returns the digest of bytes (Uint8Array), as hexadecimal digits.
export function sha256(data) {
  const blocks = padded(data);
  const state = Uint32Array.from(FIRST_STATE);
  const words = new Uint32Array(64);
  for (let offset = 0; offset < blocks.byteLength; offset += 64) {
    for (let i = 0; i < 16; i++) words[i] = blocks.getUint32(offset + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [a, b] = [words[i - 15], words[i - 2]];
      const small = rotated(a, 7) ^ rotated(a, 18) ^ (a >>> 3);
      const large = rotated(b, 17) ^ rotated(b, 19) ^ (b >>> 10);
      words[i] = words[i - 16] + small + words[i - 7] + large;
    }
    mix(state, words);
  }
  return Array.from(state, (word) => word.toString(16).padStart(8, "0")).join("");
}

// The data, a one bit, zeros, and the length in bits, as big-endian words.
function padded(data) {
  const bytes = new Uint8Array(Math.ceil((data.length + 9) / 64) * 64);
  bytes.set(data);
  bytes[data.length] = 0x80;
  const view = new DataView(bytes.buffer);
  view.setBigUint64(bytes.length - 8, BigInt(data.length) * 8n);
  return view;
}

function mix(state, words) {
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const sum = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
    const choice = (e & f) ^ (~e & g);
    const first = (h + sum + choice + ROUND_CONSTANTS[i] + words[i]) | 0;
    const other = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
    const majority = (a & b) ^ (a & c) ^ (b & c);
    [h, g, f, e] = [g, f, e, (d + first) | 0];
    [d, c, b, a] = [c, b, a, (first + other + majority) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
}

function rotated(word, count) {
  return (word >>> count) | (word << (32 - count));
}

function firstPrimes(count) {
  const found = [];
  for (let n = 2; found.length < count; n++) {
    if (found.every((prime) => n % prime)) found.push(n);
  }
  return found;
}

function fraction(x) {
  return Math.floor((x - Math.floor(x)) * 2 ** 32);
}
