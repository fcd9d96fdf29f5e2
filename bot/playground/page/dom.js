// Builds elements. Text is always a text node: nothing people or models write is ever parsed as HTML.

export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PATHS = {
  hash: "M5 9h14M4 15h14M10 4 8 20M16 4l-2 16",
  megaphone: "M3 11v3a1 1 0 0 0 1 1h3l9 5V5L7 10H4a1 1 0 0 0-1 1zM20 10v5M8 15v4",
  lock: "M6 11h12v9H6zM9 11V7a3 3 0 0 1 6 0v4",
  at: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM16 8v5a3 3 0 0 0 6 0v-1a10 10 0 1 0-4 8",
  people: "M9 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM2 21v-1a6 6 0 0 1 6-6h2a6 6 0 0 1 6 6v1M16 3.5a4 4 0 0 1 0 7M18 14.5a6 6 0 0 1 4 5.5V21",
  plus: "M12 5v14M5 12h14",
  smile: "M12 22a10 10 0 1 0 0-20 10 10 0 0 0 0 20zM8 14s1.5 2.5 4 2.5 4-2.5 4-2.5M9 9h.01M15 9h.01",
  reply: "M9 16l-6-5 6-5v3c6 0 10 3 11 9-2-3-5-4-11-4z",
  pencil: "M4 20h4L20 8l-4-4L4 16zM13.5 6.5l4 4",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 14h10l1-14M10 11v6M14 11v6",
  apps: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM17 14v6M14 17h6",
  close: "M6 6l12 12M18 6L6 18",
  swap: "M7 4 3 8l4 4M3 8h14M17 12l4 4-4 4M21 16H7",
  chevron: "M6 9l6 6 6-6",
  file: "M6 2h8l5 5v15H6zM14 2v6h5",
  download: "M12 3v12M7 11l5 5 5-5M4 21h16",
  eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7-10-7-10-7zM12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
  chat: "M4 4h16v12H9l-5 5z",
  link: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
  crown: "M3 8l4 4 5-7 5 7 4-4-2 11H5z",
  send: "M3 3l18 9-18 9 3-9zM6 12h9",
};

export function icon(name, size = 20) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true" }))
    svg.setAttribute(key, value);
  svg.classList.add("icon");
  svg.append(path);
  return svg;
}

export function button(label, iconName, onclick, extra = {}) {
  return h("button", { type: "button", title: label, "aria-label": label, onclick, ...extra }, icon(iconName));
}

export function toast(text) {
  const note = h("div", { class: "toast" }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 6000);
}
