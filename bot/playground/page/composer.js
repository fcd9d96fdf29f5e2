// Where people write: text, files, replies, mentions, and slash commands.

import { button, h, icon, toast } from "/page/dom.js";
import { avatar } from "/page/sidebar.js";
import { CommandForm, entries } from "/page/slash.js";
import { Suggestions } from "/page/suggest.js";

const MAX_LENGTH = 2000;
const MAX_FILE_BYTES = 10 * 1024 * 1024;

export class Composer {
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.drafts = new Map();
    this.files = [];
    this.replyTo = null;
    this.form = null;
    this.suggestions = new Suggestions();
    this.build();
    store.addEventListener("select", () => this.select());
    store.addEventListener("commands", () => this.suggest());
  }

  build() {
    this.area = h("textarea", { rows: "1", id: "message", spellcheck: "true", "aria-label": "Message" });
    this.area.addEventListener("input", () => this.changed());
    this.area.addEventListener("keydown", (event) => this.key(event));
    this.area.addEventListener("blur", () => this.suggestions.hide());
    this.area.addEventListener("paste", (event) => this.addFiles(event.clipboardData.files));
    this.chooser = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files to attach" });
    this.chooser.addEventListener("change", () => {
      this.addFiles(this.chooser.files);
      this.chooser.value = "";
    });
    this.counter = h("span", { class: "counter", hidden: true });
    this.attach = button("Attach files", "plus", () => this.chooser.click(), { class: "attach" });
    this.sendButton = button("Send", "send", () => (this.form ? this.form.run() : this.send()), { class: "send" });
    this.above = h("div", { class: "above-input" });
    this.slot = h("div", { class: "slot" }, this.area);
    const main = document.getElementById("main");
    main.addEventListener("dragover", (event) => event.preventDefault());
    main.addEventListener("drop", (event) => {
      event.preventDefault();
      this.addFiles(event.dataTransfer.files);
    });
    this.box = h("div", { class: "box" }, this.above, h("div", { class: "line" }, this.attach, this.slot, this.counter, this.sendButton), this.chooser);
    document.getElementById("composer").replaceChildren(this.suggestions.element, this.box);
  }

  select() {
    if (this.channelId) this.drafts.set(this.channelId, this.area.value);
    this.leaveForm("");
    this.channelId = this.store.current;
    const channel = this.store.channel(this.channelId);
    const may = this.store.maySend(channel);
    const name = channel.guild_id ? `#${channel.name}` : `@${this.store.name(this.store.recipient(channel).id)}`;
    this.area.placeholder = may ? `Message ${name}, or / for commands` : "You may not write in this channel";
    this.area.disabled = !may;
    this.area.value = this.drafts.get(this.channelId) ?? "";
    this.files = [];
    this.reply(null);
    this.changed();
    this.suggestions.hide();
    if (may) this.focus();
  }

  focus() {
    (this.form ?? this.area).focus();
  }

  // After a form closes Chromium gives the focus back without a caret, and typing would go nowhere.
  refocus() {
    document.activeElement?.blur();
    this.focus();
  }

  reply(message) {
    this.replyTo = message;
    this.renderAbove();
    if (message) this.focus();
  }

  addFiles(files) {
    for (const file of files) {
      if (file.size > MAX_FILE_BYTES) toast(`${file.name} is larger than 10 MB.`);
      else if (this.files.length >= 10) toast("A message can carry ten files.");
      else this.files.push(file);
    }
    this.renderAbove();
  }

  renderAbove() {
    const parts = [];
    if (this.replyTo)
      parts.push(h("div", { class: "replying" }, "Replying to ", h("b", {}, this.store.name(this.replyTo.author.id)), button("Cancel the reply", "close", () => this.reply(null))));
    if (this.files.length)
      parts.push(h("div", { class: "files" }, this.files.map((file) => h("span", { class: "file-chip" }, icon("file", 16), file.name, button(`Remove ${file.name}`, "close", () => {
        this.files = this.files.filter((other) => other !== file);
        this.renderAbove();
      })))));
    this.above.replaceChildren(...parts);
  }

  changed() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, 320)}px`;
    const left = MAX_LENGTH - this.area.value.length;
    this.counter.hidden = left > 200;
    this.counter.textContent = String(left);
    this.counter.classList.toggle("over", left < 0);
    this.suggest();
    if (this.area.value && !this.area.value.startsWith("/") && Date.now() - (this.typedAt ?? 0) > 8000) {
      this.typedAt = Date.now();
      this.actions.typing();
    }
  }

  suggest() {
    if (this.form || document.activeElement !== this.area) return;
    const text = this.area.value;
    const slash = /^\/([-\w ]*)$/.exec(text);
    const at = /(?:^|\s)@(\w*)$/.exec(text.slice(0, this.area.selectionStart));
    if (slash) this.suggestCommands(slash[1].toLowerCase());
    else if (at) this.suggestPeople(at[1].toLowerCase());
    else this.suggestions.hide();
  }

  suggestCommands(typed) {
    const all = entries(this.store.commands);
    const bot = this.store.users.get(this.store.applicationId);
    const starts = all.filter(({ name }) => name.startsWith(typed.trimEnd()));
    const contains = typed ? all.filter((entry) => !starts.includes(entry) && entry.name.includes(typed.trim())) : [];
    const items = [...starts, ...contains].map((entry) => ({
      title: `/${entry.name}`,
      detail: entry.description,
      side: entry.options.map(({ name, required }) => (required ? name : `${name}?`)).join("  "),
      icon: avatar(bot, 28),
      value: entry,
    }));
    const heading = this.store.commands.length ? `Commands of ${bot.username}` : "No commands yet: the bot is not connected";
    this.suggestions.show(heading, items, ({ value }) => this.enterForm(value));
  }

  suggestPeople(typed) {
    const people = [...this.store.users.values()].filter((user) => this.store.name(user.id).toLowerCase().startsWith(typed));
    this.suggestions.show("Members", people.map((user) => ({ title: this.store.name(user.id), detail: user.username, icon: avatar(user, 24), value: user })), ({ value }) => {
      const before = this.area.value.slice(0, this.area.selectionStart).replace(/@\w*$/, `@${this.store.name(value.id)} `);
      this.area.value = before + this.area.value.slice(this.area.selectionStart);
      this.area.setSelectionRange(before.length, before.length);
      this.changed();
    });
  }

  enterForm(entry) {
    this.form = new CommandForm(entry, {
      store: this.store,
      suggestions: this.suggestions,
      actions: this.actions,
      onleave: (text) => this.leaveForm(text),
      onrun: (chosen, data, files) => this.runCommand(chosen, data, files),
    });
    this.area.value = "";
    this.slot.replaceChildren(this.form.element);
    this.form.focus();
  }

  leaveForm(text) {
    this.suggestions.hide();
    if (!this.form) return;
    this.form = null;
    this.slot.replaceChildren(this.area);
    this.area.value = text;
    this.area.focus();
    this.changed();
  }

  runCommand(entry, data, files) {
    this.leaveForm("");
    this.actions.runCommand(entry.name, data, files);
  }

  key(event) {
    if (this.suggestions.key(event)) return;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    } else if (event.key === "Escape") this.reply(null);
    else if (event.key === "ArrowUp" && !this.area.value) {
      event.preventDefault();
      this.actions.editLast();
    } else if (event.key === " " && /^\/[-\w ]+$/.test(this.area.value)) {
      const entry = entries(this.store.commands).find(({ name }) => `/${name}` === this.area.value);
      if (entry) {
        event.preventDefault();
        this.enterForm(entry);
      }
    }
  }

  async send() {
    const text = this.withMentions(this.area.value);
    const { files, replyTo } = this;
    if (!text.trim() && !files.length) return;
    if (text.length > MAX_LENGTH) {
      toast(`A message has at most ${MAX_LENGTH} characters; this one has ${text.length}.`);
      return;
    }
    const typed = this.area.value;
    this.area.value = "";
    this.files = [];
    this.reply(null);
    this.changed();
    try {
      await this.actions.send(text, { files, replyTo: replyTo?.id });
    } catch (error) {
      toast(error.message);
      this.area.value ||= typed;
      this.files = files;
      this.renderAbove();
      this.changed();
    }
  }

  // "@Robin" is what people write; "<@id>" is what Discord calls it.
  withMentions(text) {
    let result = text;
    for (const user of this.store.users.values())
      result = result.replace(new RegExp(`(^|\\s)@${this.store.name(user.id)}(?!\\w)`, "g"), `$1<@${user.id}>`);
    return result;
  }
}
