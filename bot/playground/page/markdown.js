// Discord's markdown, into nodes. A small recursive reader: each rule finds itself in the text, the first match wins.

import { h } from "/page/dom.js";

const INLINE = [
  [/\\([^\sA-Za-z0-9])/, (m) => m[1]],
  [/``(.+?)``|`([^`]+?)`/s, (m) => h("code", {}, (m[1] ?? m[2]).trim())],
  [/\|\|(.+?)\|\|/s, (m, c) => spoiler(inline(m[1], c))],
  [/\*\*\*(.+?)\*\*\*/s, (m, c) => h("strong", {}, h("em", {}, inline(m[1], c)))],
  [/\*\*(.+?)\*\*(?!\*)/s, (m, c) => h("strong", {}, inline(m[1], c))],
  [/__(.+?)__(?!_)/s, (m, c) => h("u", {}, inline(m[1], c))],
  [/~~(.+?)~~/s, (m, c) => h("s", {}, inline(m[1], c))],
  [/\*(?!\s)(.+?)(?<![\s*])\*(?!\*)/s, (m, c) => h("em", {}, inline(m[1], c))],
  [/\b_(.+?)_\b/s, (m, c) => h("em", {}, inline(m[1], c))],
  [/\[([^\]\n]+)\]\(<?(https?:\/\/[^\s)>]+)>?\)/, (m, c) => link(m[2], inline(m[1], c))],
  [/<(https?:\/\/[^\s>]+)>/, (m) => link(m[1], m[1])],
  [/https?:\/\/[^\s<]*[^\s<.,:;"'\])]/, (m) => link(m[0], m[0])],
  [/<@!?(\d{15,20})>/, (m, c) => mention(`@${c.userName(m[1])}`, c.isMe(m[1]))],
  [/<@&(\d{15,20})>/, (m, c) => mention(`@${c.roleName(m[1])}`)],
  [/<#(\d{15,20})>/, (m, c) => channelMention(m[1], c)],
  [/<t:(-?\d{1,13})(?::([tTdDfFR]))?>/, (m) => time(Number(m[1]), m[2])],
  [/<\/([-\w ]+):\d+>/, (m) => h("span", { class: "mention" }, `/${m[1]}`)],
  [/@(?:everyone|here)\b/, (m, c) => (c.everyone ? mention(m[0], true) : m[0])],
];

export function inline(text, context) {
  let best = null;
  for (const [pattern, make] of INLINE) {
    const match = pattern.exec(text);
    if (match && (!best || match.index < best.match.index)) best = { match, make };
  }
  if (!best) return [text];
  const { match, make } = best;
  const after = text.slice(match.index + match[0].length);
  return [text.slice(0, match.index), make(match, context), ...inline(after, context)];
}

// Blocks: fenced code, quotes, headings, lists, small print; everything between is inline with its line breaks.
export function markdown(text, context) {
  const nodes = [];
  const fence = /```(?:([\w+-]*)\n)?(.*?)```/s;
  let rest = text;
  for (let match = fence.exec(rest); match; match = fence.exec(rest)) {
    nodes.push(...lines(rest.slice(0, match.index).replace(/\n$/, ""), context));
    nodes.push(h("pre", {}, h("code", { dataset: { language: match[1] ?? "" } }, match[2].replace(/\n$/, ""))));
    rest = rest.slice(match.index + match[0].length).replace(/^\n/, "");
  }
  nodes.push(...lines(rest, context));
  return nodes;
}

function lines(text, context) {
  const nodes = [];
  let plain = [];
  const flush = () => {
    if (plain.length) nodes.push(...inline(plain.join("\n"), context));
    plain = [];
  };
  const all = text === "" ? [] : text.split("\n");
  for (let at = 0; at < all.length; at += 1) {
    const block = blockAt(all, at, context);
    if (!block) {
      plain.push(all[at]);
      continue;
    }
    flush();
    nodes.push(block.node);
    at = block.last;
  }
  flush();
  return nodes;
}

function blockAt(all, at, context) {
  if (all[at].startsWith(">>> ")) {
    const quoted = [all[at].slice(4), ...all.slice(at + 1)].join("\n");
    return { node: h("blockquote", {}, lines(quoted, context)), last: all.length };
  }
  if (all[at].startsWith("> ")) return run(all, at, /^> (.*)$/, (texts) => h("blockquote", {}, lines(texts.join("\n"), context)));
  const heading = /^(#{1,3}) (.+)$/.exec(all[at]);
  if (heading) return { node: h(`h${heading[1].length + 2}`, {}, inline(heading[2], context)), last: at };
  if (/^\s*[-*] \S/.test(all[at])) return run(all, at, /^\s*[-*] (.+)$/, (texts) => list("ul", texts, context));
  if (/^\s*\d{1,4}\. \S/.test(all[at])) return run(all, at, /^\s*\d+\. (.+)$/, (texts) => list("ol", texts, context));
  if (all[at].startsWith("-# ")) return { node: h("small", {}, inline(all[at].slice(3), context)), last: at };
  return null;
}

function run(all, at, pattern, make) {
  const texts = [];
  let last = at;
  for (; last < all.length && pattern.test(all[last]); last += 1) texts.push(pattern.exec(all[last])[1]);
  return { node: make(texts), last: last - 1 };
}

function list(tag, texts, context) {
  return h(tag, {}, texts.map((text) => h("li", {}, inline(text, context))));
}

function spoiler(children) {
  const shown = () => element.classList.add("shown");
  const element = h("span", { class: "spoiler", role: "button", tabindex: "0", title: "Show spoiler", onclick: shown }, h("span", {}, children));
  element.addEventListener("keydown", (event) => event.key === "Enter" && shown());
  return element;
}

function link(url, children) {
  return h("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}

function mention(text, me = false) {
  return h("span", { class: me ? "mention me" : "mention" }, text);
}

function channelMention(id, context) {
  const name = context.channelName(id);
  return h("button", { class: "mention", onclick: () => context.openChannel(id) }, `#${name}`);
}

// Discord's styles of a time; without one it is "f".
const TIMES = {
  t: { timeStyle: "short" }, T: { timeStyle: "medium" }, d: { dateStyle: "short" }, D: { dateStyle: "long" },
  f: { dateStyle: "long", timeStyle: "short" }, F: { dateStyle: "full", timeStyle: "short" },
};

function time(seconds, style) {
  const moment = new Date(seconds * 1000);
  const shown = style === "R" ? relative(seconds - Date.now() / 1000) : moment.toLocaleString([], TIMES[style ?? "f"]);
  return h("time", { datetime: moment.toISOString(), title: moment.toLocaleString() }, shown);
}

function relative(seconds) {
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units.at(-1);
  return format.format(Math.round(seconds / size), unit);
}

// One line of what a text reads as, for where it is only quoted; what is hidden there stays as it was typed.
export function plain(text, context) {
  return text.split("\n").map((line) => (line.includes("||") ? line : h("div", {}, lines(line, context)).textContent)).join(" ");
}

// Up to 27 emoji and nothing else are shown large.
export function isJumbo(text) {
  return /^(?:\p{Extended_Pictographic}[\u{1F3FB}-\u{1F3FF}\uFE0F\u200D]*\s*){1,27}$/u.test(text);
}
