// A small palette of emoji, and menus in general: one is open at a time, Escape or a click elsewhere closes it.

import { h } from "/page/dom.js";

const EMOJI = ["😂", "🤣", "😄", "🙂", "😅", "😐", "🙄", "😭", "🤔", "😍", "🥁", "🎤", "👏", "👍", "👎", "❤️", "🔥", "💀", "⭐", "🎉", "🐱", "🐶", "🦆", "🍌"];

let opened = null;

export function closePopup() {
  opened?.remove();
  opened = null;
}

export function popup(anchor, content) {
  closePopup();
  opened = h("div", { class: "popup" }, content);
  document.body.append(opened);
  const at = anchor.getBoundingClientRect();
  const { width, height } = opened.getBoundingClientRect();
  opened.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  opened.style.top = `${at.top > height + 16 ? at.top - height - 6 : Math.min(at.bottom + 6, innerHeight - height - 8)}px`;
  opened.querySelector("button")?.focus();
}

export function pickEmoji(anchor, onpick) {
  const pick = (emoji) => {
    closePopup();
    onpick(emoji);
  };
  popup(anchor, h("div", { class: "palette", role: "menu", "aria-label": "Emoji" }, EMOJI.map((emoji) => h("button", { class: "emoji", role: "menuitem", onclick: () => pick(emoji) }, emoji))));
}

document.addEventListener("keydown", (event) => event.key === "Escape" && closePopup());
document.addEventListener("pointerdown", (event) => opened && !opened.contains(event.target) && closePopup());
