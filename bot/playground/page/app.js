// The page: who is at the keyboard, what the gateway says, and what happens when somebody does something.

import { Api } from "/page/api.js";
import { Composer } from "/page/composer.js";
import { h, toast } from "/page/dom.js";
import { popup, closePopup } from "/page/emoji.js";
import { Gateway } from "/page/gateway.js";
import { Conversation, dots } from "/page/messages.js";
import { openForm } from "/page/modal.js";
import { renderTopbar, Sidebar } from "/page/sidebar.js";
import { Store } from "/page/store.js";

const COMMAND = 2;
const COMPONENT = 3;
const AUTOCOMPLETE = 4;
const FORM = 5;

class App {
  constructor() {
    this.store = new Store();
    this.pending = new Map(); // nonce -> { resolve, reject, used }
    this.loading = new Set();
    this.sidebar = new Sidebar(this.store, this);
    this.conversation = new Conversation(this.store, this);
    this.composer = new Composer(this.store, this);
    this.store.addEventListener("select", () => renderTopbar(this.store, this));
    this.store.addEventListener("presence", () => this.renderNotice());
    this.store.addEventListener("typing", () => this.renderTyping());
    window.addEventListener("hashchange", () => this.open(location.hash.slice(1)));
    document.addEventListener("keydown", (event) => this.typeAnywhere(event));
  }

  async start() {
    const response = await fetch("/playground/session");
    if (!response.ok) throw new Error(`The playground does not let this page in (${response.status}).`);
    this.session = await response.json();
    await this.connect();
  }

  // The commands come first: who types one as soon as there is a place to type must find it.
  async connect() {
    const moderator = sessionStorage.getItem("identity") === "moderator";
    const token = moderator ? this.session.moderator_token : this.session.user_token;
    this.gateway?.close();
    this.pending.clear();
    this.api = new Api(token);
    await this.loadCommands();
    this.gateway = new Gateway(token, { onevent: (name, payload) => this.take(name, payload), onstate: (state) => this.connection(state) });
  }

  switchIdentity() {
    const next = sessionStorage.getItem("identity") === "moderator" ? "member" : "moderator";
    sessionStorage.setItem("identity", next);
    this.connect();
  }

  // A playground that was started again has new tokens.
  connection(state) {
    this.lost = state !== "live";
    this.renderNotice();
    if (state === "expired") setTimeout(() => this.start().catch(() => this.connection("expired")), 500);
  }

  take(name, payload) {
    const { store } = this;
    switch (name) {
      case "READY": this.ready(payload); break;
      case "MESSAGE_CREATE": store.addMessage(payload); break;
      case "MESSAGE_UPDATE": store.updateMessage(payload); break;
      case "MESSAGE_DELETE": store.removeMessage(payload.channel_id, payload.id); break;
      case "MESSAGE_REACTION_ADD": store.react(payload, true); break;
      case "MESSAGE_REACTION_REMOVE": store.react(payload, false); break;
      case "MESSAGE_REACTION_REMOVE_ALL": store.clearReactions(payload); break;
      case "TYPING_START": store.setTyping(payload); break;
      case "PRESENCE_UPDATE": store.setStatus(payload.user.id, payload.status); break;
      case "CHANNEL_CREATE": store.openDirect(payload); break;
      case "GUILD_APPLICATION_COMMAND_INDEX_UPDATE": this.loadCommands(); break;
      case "INTERACTION_SUCCESS": this.settle(payload.nonce, ({ resolve, choices }) => resolve(choices)); break;
      case "INTERACTION_FAILURE": this.settle(payload.nonce, ({ reject }) => reject(new Error("The application did not respond"))); break;
      case "INTERACTION_MODAL_CREATE": this.openForm(payload); break;
      case "APPLICATION_COMMAND_AUTOCOMPLETE_RESPONSE": if (this.pending.has(payload.nonce)) this.pending.get(payload.nonce).choices = payload.choices; break;
      default: break;
    }
  }

  ready(payload) {
    const { store } = this;
    store.ready(payload);
    document.body.classList.add("live"); // what is hidden cannot take the focus
    const wanted = [location.hash.slice(1), store.current, this.session.channel_id].find((id) => store.channel(id));
    store.current = null;
    this.open(wanted);
    this.loadCommands();
    this.renderNotice();
  }

  async loadCommands() {
    try {
      this.store.commands = await this.api.commands(this.session.guild_id);
      this.store.tell("commands");
    } catch (error) {
      toast(error.message);
    }
  }

  renderNotice() {
    const notice = document.getElementById("notice");
    const bot = this.store.users.get(this.store.applicationId);
    const away = bot && (this.store.status.get(bot.id) ?? "offline") === "offline";
    const text = this.lost ? "The playground is not reachable. Trying again …" : away ? `${bot.username} is not connected. It answers as soon as it is back.` : "";
    notice.hidden = !text;
    notice.textContent = text;
  }

  renderTyping() {
    const names = this.store.whoTypes().map((id) => this.store.name(id));
    const line = document.getElementById("typing");
    if (!names.length) line.replaceChildren();
    else line.replaceChildren(dots(), h("b", {}, names.join(" and ")), names.length === 1 ? " is typing…" : " are typing…");
  }

  // going places

  open(channelId) {
    const { store } = this;
    if (!store.me || !store.channel(channelId) || channelId === store.current) return;
    store.select(channelId);
    history.replaceState(null, "", `#${channelId}`);
  }

  openGuild() {
    const first = [...this.store.channels.values()].find((channel) => channel.type === 0);
    if (!this.store.channels.has(this.store.current)) this.open(first.id);
  }

  async openDirect(userId) {
    const channel = await this.api.openDirect(userId);
    this.store.openDirect(channel);
    this.open(channel.id);
  }

  toggleMembers() {
    document.body.classList.toggle("no-members");
    renderTopbar(this.store, this);
  }

  typeAnywhere(event) {
    const free = document.activeElement === document.body || document.activeElement?.id === "scroller";
    if (free && event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey) this.composer.focus();
  }

  // messages

  async loadHistory(channelId) {
    try {
      this.store.addHistory(channelId, await this.api.history(channelId));
    } catch (error) {
      toast(error.message);
    }
  }

  async loadOlder(channelId) {
    const oldest = this.store.list(channelId)[0];
    if (!oldest || this.store.complete.has(channelId) || this.loading.has(channelId)) return;
    this.loading.add(channelId);
    try {
      this.store.addHistory(channelId, await this.api.history(channelId, oldest.id));
    } catch (error) {
      toast(error.message);
    }
    this.loading.delete(channelId);
  }

  context(message) {
    const { store } = this;
    return {
      store,
      userName: (id) => store.name(id),
      isMe: (id) => id === store.me.id,
      roleName: (id) => store.roles.get(id)?.name ?? "unknown role",
      channelName: (id) => store.channels.get(id)?.name ?? "unknown",
      openChannel: (id) => this.open(id),
      everyone: Boolean(message?.mention_everyone),
    };
  }

  send(text, options) { return this.api.send(this.store.current, text, options); }
  edit(message, text) { return this.api.edit(message, text); }
  remove(message) { return this.api.remove(message); }
  react(message, emoji, on) { return this.api.react(message, emoji, on); }
  reply(message) { this.composer.reply(message); }
  editLast() { this.conversation.editLast(); }
  typing() { this.api.typing(this.store.current).catch(() => {}); }

  dismiss(message) {
    this.store.removeMessage(message.channel_id, message.id);
    if (!message.failed) this.api.remove(message).catch((error) => toast(error.message));
  }

  // interactions

  interact(type, data, more = {}) {
    const nonce = this.api.nextNonce();
    const answered = new Promise((resolve, reject) => this.pending.set(nonce, { resolve, reject }));
    answered.catch(() => {});
    const channel = this.store.channel(more.channelId ?? this.store.current);
    return this.api.interact(type, channel, this.store.applicationId, data, { nonce, ...more }).then(() => answered, (error) => {
      this.pending.delete(nonce);
      throw error;
    });
  }

  settle(nonce, how) {
    const waiting = this.pending.get(nonce);
    this.pending.delete(nonce);
    if (waiting) how(waiting);
  }

  async runCommand(name, data, files) {
    try {
      await this.interact(COMMAND, data, { files });
    } catch (error) {
      this.showFailure(name, error.message);
    }
  }

  // What Discord's client shows in place of an answer; it exists only on this page.
  showFailure(name, text) {
    const { store } = this;
    const last = store.list(store.current).at(-1)?.id ?? "0";
    const bot = store.users.get(store.applicationId);
    const message = { id: String(BigInt(last) + 1n), channel_id: store.current, author: bot, content: text, timestamp: new Date().toISOString(), flags: 64, failed: true };
    store.addMessage({ ...message, embeds: [], attachments: [], components: [], mentions: [], interaction: { name, user: store.me } });
  }

  autocomplete(data) {
    return this.interact(AUTOCOMPLETE, data).then((choices) => choices ?? []);
  }

  useComponent(message, component, more) {
    const data = { component_type: component.type, custom_id: component.custom_id, ...more };
    return this.interact(COMPONENT, data, { message_id: message.id, message_flags: message.flags, channelId: message.channel_id });
  }

  openForm(form) {
    const submit = (data, files) => this.interact(FORM, data, { files, channelId: form.channel_id });
    openForm(form, { store: this.store, context: this.context(), submit, onclose: () => this.composer.refocus() });
  }

  messageMenu(anchor, message) {
    const use = (command) => {
      closePopup();
      const data = { id: command.id, name: command.name, type: command.type, target_id: message.id };
      this.runCommand(command.name, data);
    };
    const commands = this.store.commands.filter((command) => command.type === 3);
    popup(anchor, h("div", { class: "menu", role: "menu" }, commands.map((command) => h("button", { role: "menuitem", onclick: () => use(command) }, command.name))));
  }
}

new App().start().catch((error) => toast(error.message));
