// The conversation: one element per message, replaced when the message changes, and a scroller that stays at the end.

import { button, h, icon, toast } from "/page/dom.js";
import { attachment, embed, layout } from "/page/embeds.js";
import { row } from "/page/components.js";
import { isJumbo, markdown, plain } from "/page/markdown.js";
import { avatar, badge, channelIcon } from "/page/sidebar.js";
import { pickEmoji } from "/page/emoji.js";

const EPHEMERAL = 64;
const LOADING = 128;
const GROUP_MS = 7 * 60 * 1000;

export class Conversation {
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.list = document.getElementById("messages");
    this.scroller = document.getElementById("scroller");
    this.jump = document.getElementById("jump");
    this.sticky = true;
    this.scroller.addEventListener("scroll", () => this.scrolled());
    this.jump.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.sticky && this.toEnd()).observe(this.list);
    new ResizeObserver(() => this.sticky && this.toEnd()).observe(this.scroller);
    store.addEventListener("select", () => this.open());
    store.addEventListener("history", ({ detail }) => detail === store.current && this.renderAll());
    store.addEventListener("message", ({ detail }) => this.append(detail));
    store.addEventListener("update", ({ detail }) => this.refresh(detail.id));
    store.addEventListener("remove", ({ detail }) => detail.channelId === store.current && this.renderAll());
  }

  open() {
    this.sticky = true;
    this.list.replaceChildren();
    if (this.store.messages.has(this.store.current)) this.renderAll();
    this.actions.loadHistory(this.store.current);
  }

  renderAll() {
    const height = this.scroller.scrollHeight - this.scroller.scrollTop;
    const all = this.store.list(this.store.current);
    const rows = all.flatMap((message, index) => this.withDay(message, all[index - 1]));
    this.list.replaceChildren(...(this.store.complete.has(this.store.current) ? [this.beginning()] : []), ...rows);
    this.scroller.scrollTop = this.sticky ? this.scroller.scrollHeight : this.scroller.scrollHeight - height;
  }

  append(message) {
    if (message.channel_id !== this.store.current) return;
    if (message.author.id === this.store.me.id || message.flags & EPHEMERAL || message.interaction?.user.id === this.store.me.id) this.sticky = true;
    const all = this.store.list(this.store.current);
    this.list.append(...this.withDay(message, all.at(-2)));
    if (this.sticky) this.toEnd();
    else this.jump.hidden = false;
  }

  refresh(id) {
    const old = this.list.querySelector(`[data-id="${id}"]`);
    const all = this.store.list(this.store.current);
    const index = all.findIndex((message) => message.id === id);
    if (old && index >= 0) patch(old, this.item(all[index], all[index - 1]));
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.sticky = scrollHeight - scrollTop - clientHeight < 60;
    if (this.sticky) this.jump.hidden = true;
    if (scrollTop < 200) this.actions.loadOlder(this.store.current);
  }

  toEnd() {
    this.jump.hidden = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  beginning() {
    const channel = this.store.channel(this.store.current);
    const user = this.store.recipient(channel);
    const title = user ? this.store.name(user.id) : `Welcome to #${channel.name}`;
    const text = user ? `This is the beginning of your direct messages with ${this.store.name(user.id)}.` : `This is the start of #${channel.name}. ${channel.topic ?? ""}`;
    return h("li", { class: "beginning" }, user ? avatar(user, 68) : h("span", { class: "big-icon" }, icon(channelIcon(this.store, channel), 40)), h("h2", {}, title), h("p", {}, text));
  }

  withDay(message, previous) {
    const day = new Date(message.timestamp).toDateString();
    const isNew = !previous || new Date(previous.timestamp).toDateString() !== day;
    const name = new Date(message.timestamp).toLocaleDateString("en", { year: "numeric", month: "long", day: "numeric" });
    return isNew ? [h("li", { class: "day", role: "separator" }, h("span", {}, name)), this.item(message, null)] : [this.item(message, previous)];
  }

  item(message, previous) {
    const grouped = previous && !message.message_reference && !message.interaction && previous.author.id === message.author.id && !previous.failed &&
      !((message.flags ^ previous.flags) & EPHEMERAL) && new Date(message.timestamp) - new Date(previous.timestamp) < GROUP_MS;
    const mine = message.mentions.some((user) => user.id === this.store.me.id);
    const classes = ["message", grouped && "grouped", mine && "mentions-me", message.flags & EPHEMERAL && "ephemeral"].filter(Boolean).join(" ");
    return h("li", { class: classes, dataset: { id: message.id, author: message.author.username } },
      grouped ? null : this.above(message),
      h("div", { class: "gutter" }, grouped ? h("time", { class: "side-time" }, clock(message.timestamp)) : avatar(message.author)),
      h("div", { class: "content" }, grouped ? null : this.head(message), this.body(message)),
      message.failed || message.flags & LOADING ? null : this.toolbar(message));
  }

  // The line over a message: what it replies to, or who used which command.
  above(message) {
    const used = message.interaction;
    if (used) return h("div", { class: "above" }, avatar(used.user, 16), h("b", {}, this.store.name(used.user.id)), " used ", h("span", { class: "mention" }, `/${used.name}`));
    if (!message.message_reference) return null;
    const target = message.referenced_message;
    if (!target) return h("div", { class: "above" }, h("i", {}, "Original message was deleted"));
    const text = plain(target.content, this.actions.context(target)) || (target.embeds.length ? "an embed" : "an attachment");
    return h("button", { class: "above", onclick: () => this.show(target.id) }, avatar(target.author, 16), h("b", {}, this.store.name(target.author.id)), badge(target.author), h("span", { class: "quoted" }, text));
  }

  head(message) {
    const name = h("strong", { class: "name" }, this.store.name(message.author.id));
    name.style.color = this.store.colour(message.author.id) ?? "";
    return h("div", { class: "head" }, name, badge(message.author), h("time", { datetime: message.timestamp, title: new Date(message.timestamp).toLocaleString() }, when(message.timestamp)));
  }

  body(message) {
    if (message.failed) return h("div", { class: "text failed" }, message.content, h("div", { class: "only-you" }, this.onlyYou(message)));
    if (message.flags & LOADING) return h("div", { class: "text thinking" }, dots(), `${this.store.name(message.author.id)} is thinking…`);
    const context = this.actions.context(message);
    const draw = (component) => row(message, component, this.actions);
    const inPictures = new Set(message.embeds.flatMap((data) => [data.image?.url, data.thumbnail?.url]));
    const edited = message.edited_timestamp ? h("span", { class: "edited", title: new Date(message.edited_timestamp).toLocaleString() }, "(edited)") : null;
    return [
      message.content ? h("div", { class: isJumbo(message.content) ? "text jumbo" : "text" }, markdown(message.content, context), edited) : edited,
      message.embeds.map((data) => embed(data, context)),
      message.attachments.filter((file) => !inPictures.has(file.url)).map(attachment),
      message.components.map((component) => layout(component, context, draw)),
      this.reactions(message),
      message.flags & EPHEMERAL ? h("div", { class: "only-you" }, this.onlyYou(message)) : null,
    ];
  }

  onlyYou(message) {
    return [icon("eye", 14), "Only you can see this · ", h("button", { class: "linklike", onclick: () => this.actions.dismiss(message) }, "Dismiss message")];
  }

  reactions(message) {
    if (!message.reactions?.length) return null;
    return h("div", { class: "reactions" }, message.reactions.map(({ emoji, count, me }) =>
      h("button", { class: me ? "reaction me" : "reaction", "aria-pressed": String(me), title: `${emoji.name} · ${count}`, onclick: () => this.react(message, emoji.name, !me) }, h("span", { class: "emoji" }, emoji.name), h("b", {}, String(count)))),
      button("Add a reaction", "smile", (event) => pickEmoji(event.currentTarget, (name) => this.react(message, name, true)), { class: "reaction add" }));
  }

  toolbar(message) {
    const tools = [];
    if (!(message.flags & EPHEMERAL)) {
      tools.push(button("Add a reaction", "smile", (event) => pickEmoji(event.currentTarget, (name) => this.react(message, name, true))));
      if (this.store.maySend(this.store.channel(message.channel_id))) tools.push(button("Reply", "reply", () => this.actions.reply(message)));
      if (this.store.commands.some((command) => command.type === 3)) tools.push(button("Apps", "apps", (event) => this.actions.messageMenu(event.currentTarget, message)));
    }
    if (message.author.id === this.store.me.id && !(message.flags & EPHEMERAL)) tools.push(button("Edit", "pencil", () => this.edit(message)));
    if (this.store.mayDelete(message)) tools.push(button("Delete", "trash", () => this.attempt(this.actions.remove(message)), { class: "dangerous" }));
    return tools.length ? h("div", { class: "toolbar" }, tools) : null;
  }

  react(message, emoji, on) {
    return this.attempt(this.actions.react(message, emoji, on));
  }

  attempt(promise) {
    return promise.catch((error) => toast(error.message));
  }

  edit({ channel_id: channelId, id }) {
    const message = this.store.get(channelId, id);
    const item = this.list.querySelector(`[data-id="${message.id}"]`);
    const area = h("textarea", { rows: "1", "aria-label": "Edit message", value: message.content });
    const done = () => this.refresh(message.id);
    const save = () => (area.value.trim() && area.value !== message.content ? this.attempt(this.actions.edit(message, area.value)).then(done) : done());
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") done();
      if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); save(); }
    });
    item.querySelector(".text")?.replaceWith(h("div", { class: "editing" }, area, h("small", {}, "Enter to save · Escape to cancel")));
    area.focus();
  }

  editLast() {
    const mine = this.store.list(this.store.current).filter((message) => message.author.id === this.store.me.id);
    if (mine.length) this.edit(mine.at(-1));
  }

  show(id) {
    const item = this.list.querySelector(`[data-id="${id}"]`);
    item?.scrollIntoView({ block: "center", behavior: "smooth" });
    item?.classList.add("flash");
    setTimeout(() => item?.classList.remove("flash"), 1500);
  }
}

// Turn one element into another, leaving alone what stays the same: a button under the mouse survives an edit above it.
function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.tagName !== fresh.tagName || !/^(message|content)\b/.test(old.className)) {
    old.replaceWith(fresh);
    return;
  }
  old.className = fresh.className;
  const [before, after] = [[...old.children], [...fresh.children]];
  after.forEach((child, index) => (before[index] ? patch(before[index], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
}

export function dots() {
  return h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
}

function clock(timestamp) {
  return new Date(timestamp).toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false });
}

function when(timestamp) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(timestamp).setHours(0, 0, 0, 0)) / 86_400_000);
  if (days === 0) return `Today at ${clock(timestamp)}`;
  return days === 1 ? `Yesterday at ${clock(timestamp)}` : `${new Date(timestamp).toLocaleDateString()} ${clock(timestamp)}`;
}
