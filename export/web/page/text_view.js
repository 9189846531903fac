// The new text, token by token: coloured by probability, each with its alternatives.

const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };
const LEAST_LIKELY = 1000; // one in so many and fewer have the full colour
const UNSEEN = /^[\p{C}\p{Z}]*$/u;
// Browsers show controls. No joiners, for a mark would part the characters beside them.
const WITHOUT_WIDTH = /^(?:(?![\u200c\u200d])\p{Cf})*$/u;

export class TextView {
  // list: element of the tokens. tip: element of the alternatives. bytesOf: function
  // from a token's id to its bytes.
  constructor({ list, tip, bytesOf }) {
    Object.assign(this, { list, tip, bytesOf, chosen: [], shown: null });
    const tokenAt = (event) => event.target.closest("[role=option]");
    list.addEventListener("pointerover", (event) => this.show(tokenAt(event)));
    list.addEventListener("focusin", (event) => this.show(tokenAt(event)));
    list.addEventListener("focusout", () => this.hide());
    list.addEventListener("keydown", (event) => this.move(event));
    for (const element of [list, tip]) {
      element.addEventListener("pointerleave", ({ relatedTarget }) => {
        const stays = [list, tip].some((one) => one.contains(relatedTarget));
        if (!stays) this.show(list.contains(document.activeElement) ? this.at : null);
      });
    }
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.hide());
    // Giving a token the focus may scroll, too.
    const follow = () => this.shown && this.place(this.shown);
    document.addEventListener("scroll", follow, { passive: true });
  }

  clear() {
    this.hide();
    this.list.replaceChildren();
    this.chosen = [];
    this.at = null;
  }

  // Adds a token, as the model's thread tells of it, and the text that it completes.
  add(token, text) {
    const element = document.createElement("span");
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", "false");
    element.className = "token";
    element.textContent = text;
    element.tabIndex = this.chosen.length ? -1 : 0;
    Object.assign(element.dataset, { index: this.chosen.length, token: token.token });
    // By logarithm, so that a share of 1 % differs from one of 10 %.
    const likely = Math.max(0, 1 + token.logProb / Math.log(LEAST_LIKELY));
    element.style.setProperty("--likely", `${100 * likely}%`);
    if (text.includes("\n")) element.classList.add("break");
    else if (WITHOUT_WIDTH.test(text)) element.classList.add("part");
    if (UNSEEN.test(text)) element.setAttribute("aria-label", spoken(text));
    this.at ??= element;
    this.chosen.push(token);
    this.list.append(element);
  }

  // Adds what is left of a character at the end.
  finish(text) {
    if (text) this.list.append(text);
  }

  get text() {
    return this.list.textContent;
  }

  // Arrows, Home and End go from token to token.
  move(event) {
    const tokens = this.list.querySelectorAll("[role=option]");
    const here = Number(this.at?.dataset.index);
    const places = {
      ArrowLeft: here - 1,
      ArrowRight: here + 1,
      Home: 0,
      End: tokens.length - 1,
    };
    const next = tokens[places[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  show(element) {
    this.hide();
    if (!element) return;
    const token = this.chosen[element.dataset.index];
    this.shown = element;
    element.classList.add("shown");
    element.setAttribute("aria-describedby", this.tip.id);
    if (document.activeElement === element) {
      if (this.at) this.at.tabIndex = -1;
      element.tabIndex = 0;
      this.at = element;
    }
    const title = document.createElement("p");
    title.append(quoted(this.visible(token.token)), ` ${percent(token.logProb)}`);
    const rows = token.alternatives.map((one) => this.row(one, token.token));
    if (!token.alternatives.some((one) => one.token === token.token)) {
      rows.push(this.row(token, token.token));
    }
    const table = document.createElement("table");
    table.append(...rows);
    this.tip.replaceChildren(title, table);
    this.tip.hidden = false;
    this.place(element);
  }

  row({ token, logProb }, chosen) {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.append(quoted(this.visible(token)));
    const number = document.createElement("td");
    number.textContent = percent(logProb);
    row.style.setProperty("--share", `${100 * Math.exp(logProb)}%`);
    if (token === chosen) {
      row.className = "chosen";
      name.append(" (chosen)");
    }
    row.append(name, number);
    return row;
  }

  hide() {
    this.shown?.classList.remove("shown");
    this.shown?.removeAttribute("aria-describedby");
    this.shown = null;
    this.tip.hidden = true;
  }

  // Puts the alternatives below a token, or above it where there is more room.
  place(element) {
    const rects = element.getClientRects();
    const box = rects[0] ?? element.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const { clientWidth, clientHeight } = document.documentElement;
    const left = Math.max(8, Math.min(box.left, clientWidth - width - 8));
    const room = clientHeight - box.bottom;
    const isBelow = height + 8 < room || box.top < room;
    const wanted = isBelow ? box.bottom + 4 : box.top - height - 4;
    const top = Math.max(8, Math.min(wanted, clientHeight - height - 8));
    const isInSight = box.bottom > 0 && box.top < clientHeight;
    const visibility = isInSight ? "visible" : "hidden";
    Object.assign(this.tip.style, { left: `${left}px`, top: `${top}px`, visibility });
  }

  // A token's text with signs for what does not print, or its bytes where it is no
  // text by itself.
  visible(id) {
    const bytes = this.bytesOf(id);
    try {
      const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      return text.replace(/[ \p{C}\p{Z}]/gu, (sign) => SIGNS[sign] ?? codeOf(sign));
    } catch {
      return Array.from(bytes, (byte) => `<${hexadecimal(byte, 2)}>`).join("");
    }
  }
}

function codeOf(character) {
  return `U+${hexadecimal(character.codePointAt(0), 4)}`;
}

function hexadecimal(number, length) {
  return number.toString(16).toUpperCase().padStart(length, "0");
}

function quoted(text) {
  const element = document.createElement("code");
  element.textContent = text;
  return element;
}

// What a token is called that shows nothing.
function spoken(text) {
  if (text === "") return "part of a character";
  if (text.includes("\n")) return "line break";
  return /^[\t\p{Z}]*$/u.test(text) ? "space" : Array.from(text, codeOf).join(" ");
}

function percent(logProb) {
  const share = 100 * Math.exp(logProb);
  return share < 0.1 ? "below 0.1 %" : `${share.toFixed(1)} %`;
}
