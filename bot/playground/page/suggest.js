// The list above the composer: commands, people, choices. Arrow keys move, Enter or Tab picks, Escape closes.

import { h } from "/page/dom.js";

export class Suggestions {
  constructor() {
    this.element = h("div", { class: "suggestions", role: "listbox", hidden: true });
    this.items = [];
    this.active = 0;
  }

  get open() {
    return !this.element.hidden && this.items.length > 0;
  }

  // items: [{ title, detail, side, icon, value }]
  show(heading, items, onpick) {
    this.items = items;
    this.onpick = onpick;
    this.active = 0;
    this.element.hidden = !items.length;
    this.element.replaceChildren(h("h4", {}, heading), ...items.map((item, index) => this.row(item, index)));
    this.mark();
  }

  row(item, index) {
    const pick = (event) => {
      event.preventDefault();
      this.active = index;
      this.pick();
    };
    return h("button", { type: "button", role: "option", tabindex: "-1", onpointerdown: pick, onpointermove: () => this.move(index - this.active) },
      item.icon ?? null, h("span", { class: "title" }, item.title), h("span", { class: "detail" }, item.detail ?? ""), h("span", { class: "side" }, item.side ?? ""));
  }

  hide() {
    this.element.hidden = true;
    this.items = [];
  }

  move(step) {
    if (!this.items.length || !step) return;
    this.active = (this.active + step + this.items.length) % this.items.length;
    this.mark();
  }

  mark() {
    [...this.element.querySelectorAll("[role=option]")].forEach((row, index) => {
      row.setAttribute("aria-selected", String(index === this.active));
      if (index === this.active) row.scrollIntoView({ block: "nearest" });
    });
  }

  pick() {
    const item = this.items[this.active];
    const onpick = this.onpick;
    this.hide();
    onpick(item);
  }

  // Returns whether the key was for the list.
  key(event) {
    if (!this.open) return false;
    if (event.key === "ArrowDown") this.move(1);
    else if (event.key === "ArrowUp") this.move(-1);
    else if (event.key === "Enter" || event.key === "Tab") this.pick();
    else if (event.key === "Escape") this.hide();
    else return false;
    event.preventDefault();
    return true;
  }
}
