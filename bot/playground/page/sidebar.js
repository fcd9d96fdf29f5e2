// The rail, the channel list, the person at the keyboard, and the members.

import { button, h, icon } from "/page/dom.js";

export function avatar(user, size = 40) {
  return h("img", { class: "avatar", src: `/avatars/${user.id}/${user.avatar}.png`, alt: "", width: String(size), height: String(size) });
}

export function badge(user) {
  return user.bot ? h("span", { class: "badge" }, "BOT") : null;
}

function withStatus(user, status, size = 32) {
  return h("span", { class: "with-status" }, avatar(user, size), h("i", { class: `status ${status ?? "offline"}`, title: status ?? "offline" }));
}

export class Sidebar {
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.home = false;
    this.closed = new Set();
    for (const what of ["ready", "select", "unread"]) store.addEventListener(what, () => this.render());
    store.addEventListener("presence", () => this.render());
  }

  render() {
    if (!this.store.me) return;
    this.home = Boolean(this.store.current) && !this.store.channels.has(this.store.current);
    this.renderRail();
    this.renderChannels();
    this.renderMe();
    this.renderMembers();
  }

  renderRail() {
    const { store } = this;
    const waiting = [...store.directs.keys()].reduce((sum, id) => sum + (store.unread.get(id) ?? 0), 0);
    const unread = [...store.unread.keys()].some((id) => store.channels.has(id));
    document.getElementById("rail").replaceChildren(
      h("button", { class: this.home ? "server home active" : "server home", title: "Direct messages", "aria-label": "Direct messages", onclick: () => this.actions.openDirect(store.applicationId) },
        icon("chat", 24), waiting ? h("b", { class: "count" }, String(waiting)) : null),
      h("hr"),
      h("button", { class: `server ${this.home ? "" : "active"} ${unread ? "unread" : ""}`, title: store.guild.name, "aria-label": store.guild.name, onclick: () => this.actions.openGuild() },
        h("img", { src: "/page/icon.svg", alt: "" })),
    );
  }

  renderChannels() {
    const { store } = this;
    document.getElementById("guild-name").replaceChildren(h("strong", {}, this.home ? "Direct messages" : store.guild.name));
    const list = this.home ? this.directList() : this.channelList();
    document.getElementById("channels").replaceChildren(...list);
  }

  channelList() {
    const all = [...this.store.channels.values()].sort((one, other) => one.position - other.position);
    return all.filter((channel) => channel.type === 4).flatMap((category) => {
      const inside = all.filter((channel) => channel.parent_id === category.id && channel.type === 0);
      if (!inside.length) return [];
      const closed = this.closed.has(category.id);
      const toggle = () => {
        if (closed) this.closed.delete(category.id);
        else this.closed.add(category.id);
        this.render();
      };
      const shown = inside.filter((channel) => !closed || channel.id === this.store.current);
      const head = h("button", { class: "category", "aria-expanded": String(!closed), onclick: toggle }, icon("chevron", 12), category.name);
      return [head, ...shown.map((channel) => this.channelRow(channel))];
    });
  }

  channelRow(channel) {
    const { store } = this;
    const waiting = store.unread.get(channel.id);
    const state = channel.id === store.current ? "active" : waiting === undefined ? "" : "unread";
    return h("button", { class: `row ${state}`, dataset: { channel: channel.id }, "aria-current": channel.id === store.current ? "page" : null, onclick: () => this.actions.open(channel.id) },
      icon(channelIcon(store, channel), 18), h("span", { class: "label" }, channel.name), waiting ? h("b", { class: "count" }, String(waiting)) : null);
  }

  directList() {
    const { store } = this;
    return [...store.users.values()].filter((user) => user.id !== store.me.id).map((user) => {
      const channel = [...store.directs.values()].find((direct) => store.recipient(direct)?.id === user.id);
      const waiting = channel && store.unread.get(channel.id);
      const state = channel && channel.id === store.current ? "active" : waiting ? "unread" : "";
      return h("button", { class: `row person ${state}`, onclick: () => this.actions.openDirect(user.id) },
        withStatus(user, store.status.get(user.id)), h("span", { class: "label" }, store.name(user.id)), badge(user), waiting ? h("b", { class: "count" }, String(waiting)) : null);
    });
  }

  renderMe() {
    const { store, actions } = this;
    const role = store.mayManage() ? "Moderator" : "Member";
    const other = [...store.users.values()].find((user) => !user.bot && user.id !== store.me.id);
    const become = `Become ${store.name(other.id)}, the ${store.mayManage() ? "member" : "moderator"}`;
    document.getElementById("me").replaceChildren(
      withStatus(store.me, "online"),
      h("div", { class: "who" }, h("strong", {}, store.name(store.me.id)), h("span", {}, role)),
      h("button", { id: "switch", type: "button", title: become, "aria-label": become, onclick: () => actions.switchIdentity() }, icon("swap", 16), avatar(other, 24)),
    );
  }

  renderMembers() {
    const { store } = this;
    const panel = document.getElementById("members");
    panel.hidden = this.home;
    if (this.home) return;
    const hoisted = [...store.roles.values()].filter((role) => role.hoist).sort((one, other) => other.position - one.position);
    const groups = hoisted.map((role) => [role.name, (member) => member.roles.includes(role.id)]);
    groups.push(["Online", () => true]);
    const left = new Set(store.members.values());
    const channel = store.channel(store.current);
    const sections = [];
    const section = (title, found) => {
      for (const member of found) left.delete(member);
      if (found.length) sections.push(h("h3", {}, `${title} — ${found.length}`), ...found.map((member) => this.memberRow(member)));
    };
    for (const member of [...left]) if (channel && !(store.permissions(member.user.id, channel) & (1n << 10n))) left.delete(member);
    const online = (member) => (store.status.get(member.user.id) ?? "offline") !== "offline";
    for (const [title, belongs] of groups) section(title, [...left].filter((member) => online(member) && belongs(member)));
    section("Offline", [...left]);
    panel.replaceChildren(...sections);
  }

  memberRow({ user }) {
    const { store } = this;
    const status = store.status.get(user.id);
    const row = h("button", { class: `row person ${status === "offline" ? "away" : ""}`, title: user.id === store.me.id ? "You" : `Message ${store.name(user.id)}`, onclick: () => user.id !== store.me.id && this.actions.openDirect(user.id) },
      withStatus(user, status), h("span", { class: "label" }, store.name(user.id)), badge(user));
    row.querySelector(".label").style.color = store.colour(user.id) ?? "";
    return row;
  }
}

export function channelIcon(store, channel) {
  const everyone = (channel.permission_overwrites ?? []).find((overwrite) => overwrite.id === store.guild.id);
  const denied = BigInt(everyone?.deny ?? 0);
  if (denied & (1n << 10n)) return "lock";
  return denied & (1n << 11n) ? "megaphone" : "hash";
}

export function renderTopbar(store, actions) {
  const channel = store.channel(store.current);
  const direct = !channel.guild_id;
  const name = direct ? store.name(store.recipient(channel).id) : channel.name;
  const pressed = String(!document.body.classList.contains("no-members"));
  document.getElementById("topbar").replaceChildren(
    icon(direct ? "at" : channelIcon(store, channel), 22),
    h("h1", {}, name),
    channel.topic ? h("span", { class: "topic" }, channel.topic) : h("span", { class: "topic" }),
    direct ? "" : button("Show or hide members", "people", () => actions.toggleMembers(), { "aria-pressed": pressed }),
  );
  document.title = `${direct ? "@" : "#"}${name} · Punchline playground`;
}
