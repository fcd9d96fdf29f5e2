// Embeds, attachments and Discord's layout components: the parts of a message that are not its text.

import { h, icon } from "/page/dom.js";
import { inline, markdown } from "/page/markdown.js";

// Files live on the playground; pictures from elsewhere are named but never fetched.
export function localPath(url) {
  try {
    const parsed = new URL(url, location.href);
    return /^\/(attachments|avatars|page)\//.test(parsed.pathname) && /^(127\.0\.0\.1|localhost|\[::1\])$/.test(parsed.hostname) ? parsed.pathname : null;
  } catch {
    return null;
  }
}

function picture(media, name, limit) {
  const path = localPath(media.url);
  if (!path) return h("a", { class: "elsewhere", href: safeUrl(media.url), target: "_blank", rel: "noopener noreferrer nofollow" }, icon("link", 14), media.url);
  const image = h("img", { src: path, alt: name, loading: "lazy", class: "picture" });
  if (media.width) {
    const scale = Math.min(1, limit / media.width, 360 / media.height);
    image.width = Math.round(media.width * scale);
    image.height = Math.round(media.height * scale);
  }
  return h("a", { href: path, target: "_blank", rel: "noopener", class: "picture-link" }, image);
}

export function safeUrl(url) {
  return /^https?:\/\//i.test(url ?? "") ? url : "#";
}

export function embed(data, context) {
  const box = h("article", { class: "embed" });
  box.style.setProperty("--bar", data.color ? `#${data.color.toString(16).padStart(6, "0")}` : "var(--line-strong)");
  const body = h("div", { class: "embed-body" });
  if (data.author) body.append(h("div", { class: "embed-author" }, small(data.author.icon_url), linked(data.author.name, data.author.url)));
  if (data.title) body.append(h("div", { class: "embed-title" }, data.url ? linked(data.title, data.url) : inline(data.title, context)));
  if (data.description) body.append(h("div", { class: "embed-text" }, markdown(data.description, context)));
  if (data.fields?.length) body.append(fields(data.fields, context));
  if (data.image) body.append(h("div", { class: "embed-image" }, picture(data.image, data.image.description ?? data.title ?? "picture", 400)));
  if (data.footer || data.timestamp) body.append(footer(data));
  box.append(body);
  if (data.thumbnail) box.append(h("div", { class: "embed-thumbnail" }, picture(data.thumbnail, "thumbnail", 80)));
  return box;
}

function small(url) {
  const path = url && localPath(url);
  return path ? h("img", { src: path, alt: "", width: "24", height: "24" }) : null;
}

function linked(text, url) {
  return url ? h("a", { href: safeUrl(url), target: "_blank", rel: "noopener noreferrer nofollow" }, text) : h("span", {}, text);
}

function fields(all, context) {
  return h("div", { class: "embed-fields" }, all.map((field) =>
    h("div", { class: field.inline ? "field inline" : "field" }, h("div", { class: "field-name" }, inline(field.name, context)), h("div", { class: "field-value" }, markdown(field.value, context)))));
}

function footer(data) {
  const parts = [data.footer?.text, data.timestamp && new Date(data.timestamp).toLocaleString()].filter(Boolean);
  return h("footer", { class: "embed-footer" }, small(data.footer?.icon_url), parts.join(" · "));
}

export function attachment(file) {
  const path = localPath(file.url) ?? "#";
  if (file.content_type?.startsWith("image/") && file.content_type !== "image/svg+xml") {
    const shown = picture(file, file.description ?? file.filename, 520);
    return /^SPOILER_/.test(file.filename) ? covered(shown) : shown;
  }
  return h("div", { class: "file" }, icon("file", 30),
    h("div", { class: "file-name" }, h("a", { href: path, download: file.filename }, file.filename), h("span", {}, size(file.size))),
    h("a", { href: path, download: file.filename, title: "Download", "aria-label": `Download ${file.filename}` }, icon("download", 20)));
}

function covered(shown) {
  const cover = h("div", { class: "covered" }, shown, h("button", { type: "button", onclick: () => cover.classList.add("shown") }, "Spoiler"));
  return cover;
}

function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  return bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KB` : `${(bytes / 1048576).toFixed(1)} MB`;
}

// Components V2: text, sections, galleries and containers. `interactive` draws rows of buttons and selects.
export function layout(component, context, interactive) {
  const inner = () => (component.components ?? []).map((child) => layout(child, context, interactive));
  switch (component.type) {
    case 1: return interactive(component);
    case 9: return h("div", { class: "section" }, h("div", {}, inner()), component.accessory.type === 2 ? interactive({ components: [component.accessory] }) : layout(component.accessory, context, interactive));
    case 10: return h("div", { class: "text" }, markdown(component.content, context));
    case 11: return picture(component.media, component.description ?? "thumbnail", 80);
    case 12: return h("div", { class: "gallery" }, component.items.map((item) => picture(item.media, item.description ?? "picture", 400)));
    case 13: return linked(component.file.url.split("/").at(-1), component.file.url);
    case 14: return component.divider === false ? h("div", { class: "gap" }) : h("hr", { class: "divider" });
    case 17: {
      const box = h("div", { class: "container" }, inner());
      if (component.accent_color) box.style.borderLeftColor = `#${component.accent_color.toString(16).padStart(6, "0")}`;
      return box;
    }
    default: return h("div");
  }
}
