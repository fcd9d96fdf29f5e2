// Discord's client routes, as the person who is at the keyboard.

export class Refused extends Error {
  constructor(status, body) {
    super(explain(body) ?? `The playground answered ${status}.`);
    this.status = status;
    this.code = body?.code;
    this.errors = body?.errors;
  }
}

// The innermost message of Discord's nested errors, else the plain one.
function explain(body) {
  let at = body?.errors;
  while (at && !at._errors) at = Object.values(at)[0];
  return at?._errors?.[0]?.message ?? body?.message;
}

export class Api {
  constructor(token) {
    this.token = token;
    this.nonce = 0;
  }

  nextNonce() {
    this.nonce += 1;
    return `${Date.now()}${this.nonce}`;
  }

  async call(method, path, body, files = []) {
    const headers = { Authorization: this.token };
    let content;
    if (files.length) {
      content = new FormData();
      content.append("payload_json", JSON.stringify(body));
      files.forEach((file, index) => content.append(`files[${index}]`, file, file.name));
    } else if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      content = JSON.stringify(body);
    }
    const response = await fetch(`/api/v10${path}`, { method, headers, body: content });
    if (response.status === 204) return null;
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw new Refused(response.status, answer);
    return answer;
  }

  history(channelId, before) {
    return this.call("GET", `/channels/${channelId}/messages?limit=50${before ? `&before=${before}` : ""}`);
  }

  send(channelId, content, { replyTo, files } = {}) {
    const body = { content, nonce: this.nextNonce() };
    if (replyTo) body.message_reference = { message_id: replyTo, channel_id: channelId };
    return this.call("POST", `/channels/${channelId}/messages`, body, files);
  }

  edit(message, content) {
    return this.call("PATCH", `/channels/${message.channel_id}/messages/${message.id}`, { content });
  }

  remove(message) {
    return this.call("DELETE", `/channels/${message.channel_id}/messages/${message.id}`);
  }

  react(message, emoji, on) {
    const path = `/channels/${message.channel_id}/messages/${message.id}/reactions/${encodeURIComponent(emoji)}/@me`;
    return this.call(on ? "PUT" : "DELETE", path);
  }

  typing(channelId) {
    return this.call("POST", `/channels/${channelId}/typing`);
  }

  openDirect(userId) {
    return this.call("POST", "/users/@me/channels", { recipient_id: userId });
  }

  async commands(guildId) {
    return (await this.call("GET", `/guilds/${guildId}/application-command-index`)).application_commands;
  }

  interact(type, channel, applicationId, data, { nonce, files, ...more }) {
    const body = { type, application_id: applicationId, channel_id: channel.id, guild_id: channel.guild_id, data, nonce, ...more };
    return this.call("POST", "/interactions", body, files);
  }
}
