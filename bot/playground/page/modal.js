// Forms the bot opens. They stay open until the bot has taken what was entered, so nothing typed is lost.

import { h } from "/page/dom.js";
import { choices } from "/page/components.js";
import { markdown } from "/page/markdown.js";

export function openForm(form, { store, context, submit, onclose }) {
  const fields = [];
  const problem = h("p", { class: "problem", role: "alert" });
  const send = h("button", { type: "submit", class: "control primary" }, "Submit");
  const cancel = h("button", { type: "button", class: "control plain", onclick: () => dialog.close() }, "Cancel");
  const body = form.components.map((component) => part(component, fields, store, context));
  const inside = h("form", { method: "dialog", novalidate: true },
    h("header", {}, h("img", { src: "/page/icon.svg", alt: "" }), h("h2", {}, form.title)), body, problem, h("footer", {}, cancel, send));
  const dialog = h("dialog", { class: "modal", "aria-label": form.title }, inside);
  inside.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = fields.map((field) => field.problem()).find(Boolean) ?? "";
    if (problem.textContent) return;
    send.disabled = true;
    try {
      const files = fields.flatMap((field) => field.files?.() ?? []);
      await submit({ id: form.id, custom_id: form.custom_id, components: number(fields) }, files);
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
    }
    send.disabled = false;
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    onclose();
  });
  document.body.append(dialog);
  dialog.showModal();
}

// Files are named by their place in the upload.
function number(fields) {
  let file = 0;
  return fields.map((field) => ({ type: 1, components: [field.entry(() => String(file++))] }));
}

function part(component, fields, store, context) {
  if (component.type === 1) return component.components.map((inner) => labelled(inner, inner.label, null, fields, store));
  if (component.type === 18) return labelled(component.component, component.label, component.description, fields, store);
  if (component.type === 10) return h("div", { class: "text" }, markdown(component.content, context));
  return null;
}

function labelled(component, label, description, fields, store) {
  const field = makeField(component, label, store);
  fields.push(field);
  const star = component.required ?? true ? h("i", { title: "required" }, " *") : null;
  return h("div", { class: "form-field" }, h("label", {}, h("span", { class: "label" }, label, star), description ? h("small", {}, description) : null, field.element));
}

function makeField(component, label, store) {
  const base = { type: component.type, custom_id: component.custom_id };
  if (component.type === 4) return textField(component, label, base);
  if (component.type === 19) return fileField(component, label, base);
  if (component.type === 23) {
    const element = h("input", { type: "checkbox", checked: component.default ?? false });
    return { element, problem: () => null, entry: () => ({ ...base, value: element.checked }) };
  }
  return choiceField(component, label, base, choices(component, store));
}

function textField(component, label, base) {
  const attributes = { placeholder: component.placeholder ?? "", maxlength: String(component.max_length ?? 4000), value: component.value ?? "" };
  const element = component.style === 2 ? h("textarea", { rows: "5", ...attributes }) : h("input", { type: "text", ...attributes });
  const problem = () => {
    if (!element.value.trim()) return component.required ?? true ? `${label} is needed.` : null;
    return element.value.length < (component.min_length ?? 0) ? `${label} needs at least ${component.min_length} characters.` : null;
  };
  return { element, problem, entry: () => ({ ...base, value: element.value }) };
}

function fileField(component, label, base) {
  const element = h("input", { type: "file", multiple: (component.max_values ?? 1) > 1 });
  const problem = () => ((component.required ?? true) && !element.files.length ? `${label} is needed.` : null);
  return { element, problem, files: () => [...element.files], entry: (next) => ({ ...base, values: [...element.files].map(next) }) };
}

// One choice is a menu or radio buttons, several are boxes.
function choiceField(component, label, base, options) {
  const several = component.type === 22 || (component.max_values ?? 1) > 1;
  const required = component.required ?? true;
  const missing = () => `Choose ${label}.`;
  if (!several && component.type !== 21) {
    const element = h("select", { class: "select" }, h("option", { value: "" }, component.placeholder ?? "Make a selection"), options.map((option) => h("option", { value: option.value }, option.label)));
    element.value = options.find((option) => option.default)?.value ?? "";
    return { element, problem: () => (required && !element.value ? missing() : null), entry: () => ({ ...base, values: element.value ? [element.value] : [] }) };
  }
  const kind = several ? "checkbox" : "radio";
  const boxes = options.map((option) => h("input", { type: kind, name: component.custom_id, value: option.value, checked: option.default ?? false }));
  const element = h("div", { class: "boxes" }, boxes.map((box, index) => h("label", {}, box, options[index].label)));
  const picked = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const problem = () => (required && !picked().length ? missing() : null);
  return { element, problem, entry: () => (several ? { ...base, values: picked() } : { ...base, value: picked()[0] ?? null }) };
}
