// Buttons and selects of a message. A press goes to the bot; until it answers the control waits.

import { h, icon, toast } from "/page/dom.js";
import { safeUrl } from "/page/embeds.js";

const STYLES = { 1: "primary", 2: "secondary", 3: "success", 4: "danger", 5: "link", 6: "primary" };

export function row(message, component, actions) {
  return h("div", { class: "controls" }, component.components.map((child) => (child.type === 2 ? pressable(message, child, actions) : select(message, child, actions))));
}

function emojiOf(component) {
  return component.emoji?.name ? h("span", { class: "emoji" }, component.emoji.name) : null;
}

function pressable(message, component, actions) {
  const style = STYLES[component.style] ?? "secondary";
  if (style === "link")
    return h("a", { class: "control link", href: safeUrl(component.url), target: "_blank", rel: "noopener noreferrer nofollow" }, emojiOf(component), component.label, icon("link", 14));
  const press = async () => {
    element.classList.add("waiting");
    element.disabled = true;
    await use(message, component, {}, actions);
    element.classList.remove("waiting");
    element.disabled = Boolean(component.disabled);
  };
  const element = h("button", { type: "button", class: `control ${style}`, disabled: component.disabled ?? false, onclick: press }, emojiOf(component), h("span", {}, component.label ?? ""));
  return element;
}

async function use(message, component, more, actions) {
  try {
    await actions.useComponent(message, component, more);
  } catch (error) {
    toast(error.message);
  }
}

// One choice is a menu; several are a list of boxes with a button.
function select(message, component, actions) {
  const options = choices(component, actions.store);
  if ((component.max_values ?? 1) > 1) return many(message, component, options, actions);
  const element = h("select", { class: "control select", disabled: component.disabled ?? false, "aria-label": component.placeholder ?? "Make a selection" },
    h("option", { value: "", disabled: true, hidden: true }, component.placeholder ?? "Make a selection"),
    options.map((option) => h("option", { value: option.value, title: option.description ?? "" }, label(option))));
  element.value = options.find((option) => option.default)?.value ?? "";
  element.addEventListener("change", () => use(message, component, { values: [element.value] }, actions));
  return element;
}

function label(option) {
  return `${option.emoji?.name ? `${option.emoji.name} ` : ""}${option.label}${option.description ? ` · ${option.description}` : ""}`;
}

function many(message, component, options, actions) {
  const boxes = options.map((option) => h("input", { type: "checkbox", value: option.value, checked: option.default ?? false }));
  const send = () => use(message, component, { values: boxes.filter((box) => box.checked).map((box) => box.value) }, actions);
  return h("fieldset", { class: "many", disabled: component.disabled ?? false }, h("legend", {}, component.placeholder ?? "Make a selection"),
    boxes.map((box, index) => h("label", {}, box, label(options[index]))), h("button", { type: "button", class: "control primary", onclick: send }, "Choose"));
}

// The options of a select, whatever it selects from.
export function choices(component, store) {
  const users = [...store.users.values()].map((user) => ({ value: user.id, label: `@${store.name(user.id)}` }));
  const roles = [...store.roles.values()].map((role) => ({ value: role.id, label: role.name.startsWith("@") ? role.name : `@${role.name}` }));
  const channels = [...store.channels.values()].filter((channel) => channel.type === 0).map((channel) => ({ value: channel.id, label: `#${channel.name}` }));
  const offered = { 3: component.options, 5: users, 6: roles, 7: [...users, ...roles], 8: channels };
  const preset = new Set((component.default_values ?? []).map((entry) => entry.id));
  return (offered[component.type] ?? component.options ?? []).map((option) => ({ ...option, default: option.default || preset.has(option.value) }));
}
