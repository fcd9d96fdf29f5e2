// What the page knows, filled by the gateway. Views ask it and listen to it; nobody else keeps state.

const MANAGE_MESSAGES = 1n << 13n;
const MANAGE_GUILD = 1n << 5n;
const ADMINISTRATOR = 1n << 3n;
const SEND_MESSAGES = 1n << 11n;

export class Store extends EventTarget {
  constructor() {
    super();
    this.users = new Map();
    this.members = new Map();
    this.roles = new Map();
    this.channels = new Map();
    this.directs = new Map();
    this.messages = new Map(); // channel id -> Map(message id -> message), in order
    this.complete = new Set(); // channels whose first message is known
    this.status = new Map();
    this.typing = new Map(); // channel id -> Map(user id -> time it ends)
    this.unread = new Map(); // channel id -> mentions, 0 for merely unread
    this.commands = [];
    this.current = null;
  }

  tell(what, detail) {
    this.dispatchEvent(new CustomEvent(what, { detail }));
  }

  ready(payload) {
    const [guild] = payload.guilds;
    this.me = payload.user;
    this.guild = guild;
    this.applicationId = payload.application.id;
    for (const user of payload.users) this.users.set(user.id, user);
    for (const member of guild.members) this.members.set(member.user.id, member);
    for (const role of guild.roles) this.roles.set(role.id, role);
    this.channels = new Map(guild.channels.map((channel) => [channel.id, { ...channel, guild_id: guild.id }]));
    this.directs = new Map(payload.private_channels.map((channel) => [channel.id, channel]));
    for (const presence of guild.presences) this.status.set(presence.user.id, presence.status);
    this.messages.clear();
    this.complete.clear();
    this.tell("ready");
  }

  channel(id) {
    return this.channels.get(id) ?? this.directs.get(id);
  }

  recipient(channel) {
    return channel.recipients?.[0];
  }

  isBot(userId) {
    return Boolean(this.users.get(userId)?.bot);
  }

  name(userId) {
    const user = this.users.get(userId);
    return user ? (user.global_name ?? user.username) : "Somebody";
  }

  // The colour of the highest role that has one.
  colour(userId) {
    const roles = (this.members.get(userId)?.roles ?? []).map((id) => this.roles.get(id)).filter((role) => role?.color);
    roles.sort((one, other) => other.position - one.position);
    return roles.length ? `#${roles[0].color.toString(16).padStart(6, "0")}` : null;
  }

  permissions(userId, channel) {
    if (!channel?.guild_id) return SEND_MESSAGES;
    const roleIds = [this.guild.id, ...(this.members.get(userId)?.roles ?? [])];
    let bits = 0n;
    for (const id of roleIds) bits |= BigInt(this.roles.get(id)?.permissions ?? 0);
    if (bits & ADMINISTRATOR) return -1n;
    const overwrites = channel.permission_overwrites ?? [];
    for (const group of [[this.guild.id], roleIds.slice(1), [userId]]) {
      const found = overwrites.filter((overwrite) => group.includes(overwrite.id));
      for (const overwrite of found) bits &= ~BigInt(overwrite.deny);
      for (const overwrite of found) bits |= BigInt(overwrite.allow);
    }
    return bits;
  }

  maySend(channel) {
    return Boolean(this.permissions(this.me.id, channel) & SEND_MESSAGES);
  }

  mayDelete(message) {
    const channel = this.channel(message.channel_id);
    return message.author.id === this.me.id || Boolean(channel.guild_id && this.permissions(this.me.id, channel) & MANAGE_MESSAGES);
  }

  mayManage() {
    return Boolean(this.permissions(this.me.id, [...this.channels.values()][0]) & MANAGE_GUILD);
  }

  list(channelId) {
    return [...(this.messages.get(channelId)?.values() ?? [])];
  }

  get(channelId, messageId) {
    return this.messages.get(channelId)?.get(messageId);
  }

  // History arrives newest first; what the gateway brought meanwhile is newer and stays.
  addHistory(channelId, batch) {
    const known = this.messages.get(channelId) ?? new Map();
    const merged = new Map([...batch].reverse().map((message) => [message.id, message]));
    for (const [id, message] of known) merged.set(id, message);
    this.messages.set(channelId, new Map([...merged].sort(([one], [other]) => (BigInt(one) < BigInt(other) ? -1 : 1))));
    if (batch.length < 50) this.complete.add(channelId);
    this.tell("history", channelId);
  }

  addMessage(message) {
    const known = this.messages.get(message.channel_id);
    this.typing.get(message.channel_id)?.delete(message.author.id);
    known?.set(message.id, message);
    if (message.channel_id !== this.current && message.author.id !== this.me.id) {
      const before = this.unread.get(message.channel_id) ?? 0;
      const mine = message.mentions.some((user) => user.id === this.me.id) || !this.channels.has(message.channel_id);
      this.unread.set(message.channel_id, before + (mine ? 1 : 0));
      this.tell("unread");
    }
    if (known) this.tell("message", message);
    this.tell("typing");
  }

  updateMessage(message) {
    const known = this.messages.get(message.channel_id);
    if (!known?.has(message.id)) return;
    known.set(message.id, { reactions: known.get(message.id).reactions, ...message });
    this.tell("update", known.get(message.id));
  }

  removeMessage(channelId, id) {
    if (this.messages.get(channelId)?.delete(id)) this.tell("remove", { channelId, id });
  }

  react({ channel_id: channelId, message_id: id, user_id: userId, emoji }, on) {
    const message = this.get(channelId, id);
    if (!message) return;
    const reactions = (message.reactions ?? []).map((reaction) => ({ ...reaction }));
    let reaction = reactions.find((other) => other.emoji.name === emoji.name);
    if (!reaction) reactions.push((reaction = { emoji, count: 0, me: false }));
    reaction.count += on ? 1 : -1;
    if (userId === this.me.id) reaction.me = on;
    message.reactions = reactions.filter((other) => other.count > 0);
    this.tell("update", message);
  }

  clearReactions({ channel_id: channelId, message_id: id }) {
    const message = this.get(channelId, id);
    if (!message) return;
    message.reactions = [];
    this.tell("update", message);
  }

  setTyping({ channel_id: channelId, user_id: userId }) {
    if (userId === this.me.id) return;
    if (!this.typing.has(channelId)) this.typing.set(channelId, new Map());
    this.typing.get(channelId).set(userId, Date.now() + 10_000);
    this.tell("typing");
    setTimeout(() => this.tell("typing"), 10_050);
  }

  whoTypes() {
    const now = Date.now();
    return [...(this.typing.get(this.current) ?? [])].filter(([, ends]) => ends > now).map(([userId]) => userId);
  }

  setStatus(userId, status) {
    this.status.set(userId, status);
    this.tell("presence");
  }

  openDirect(channel) {
    this.directs.set(channel.id, channel);
    this.tell("unread");
  }

  select(channelId) {
    this.current = channelId;
    if (!this.messages.has(channelId)) this.messages.set(channelId, new Map());
    this.unread.delete(channelId);
    this.tell("select", channelId);
  }
}
