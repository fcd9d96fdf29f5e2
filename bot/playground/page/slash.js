// A slash command being filled in: its name, then one field per option. Tab moves on, Enter runs, Escape leaves.

import { h } from "/page/dom.js";
import { choices } from "/page/components.js";

const SUBCOMMAND = 1;
const GROUP = 2;
const INTEGER = 4;
const BOOLEAN = 5;
const NUMBER = 10;
const FILE = 11;
const SELECT_FOR = { 6: 5, 7: 8, 8: 6, 9: 7 }; // option type to the select that offers the same things

// "/jokes search" and its like, each as one entry to choose.
export function entries(commands) {
  const found = [];
  const walk = (command, options, path, description) => {
    const inner = options.filter((option) => option.type === SUBCOMMAND || option.type === GROUP);
    if (!inner.length) found.push({ command, path, name: path.map(({ name }) => name).join(" "), description, options });
    for (const option of inner) walk(command, option.options ?? [], [...path, option], option.description);
  };
  for (const command of commands.filter(({ type }) => type === 1)) walk(command, command.options ?? [], [command], command.description);
  return found.sort((one, other) => one.name.localeCompare(other.name));
}

export class CommandForm {
  constructor(entry, { store, suggestions, actions, onleave, onrun }) {
    Object.assign(this, { entry, store, suggestions, actions, onleave, onrun });
    this.fields = entry.options.map((option) => ({ option, value: null, settled: false }));
    for (const field of this.fields) this.build(field);
    this.status = h("span", { class: "hint" }, this.fields.length ? "" : "Press Enter to run it");
    this.element = h("div", { class: "command-form", onkeydown: (event) => this.key(event), tabindex: "-1" },
      h("span", { class: "command-name" }, `/${entry.name}`), this.fields.map(({ chip }) => chip), this.status);
  }

  build(field) {
    const { option } = field;
    const attributes = { placeholder: option.required ? option.description : "optional", "aria-label": `${option.name}: ${option.description}`, title: option.description, autocomplete: "off", spellcheck: "false" };
    field.input = h("input", option.type === FILE ? { ...attributes, type: "file" } : { ...attributes, type: "text" });
    field.input.addEventListener("focus", () => this.offer(field));
    field.input.addEventListener("blur", () => this.suggestions.hide());
    field.input.addEventListener("input", () => {
      field.settled = false;
      field.value = null;
      this.fit(field);
      this.offer(field);
    });
    field.chip = h("label", { class: option.required ? "chip required" : "chip", dataset: { option: option.name } }, h("span", {}, option.name), field.input);
    this.fit(field);
  }

  fit({ input }) {
    input.style.width = `${Math.max(7, Math.min(46, (input.value || input.placeholder).length + 1))}ch`;
  }

  focus() {
    (this.fields.find(({ option }) => option.required)?.input ?? this.fields[0]?.input ?? this.element).focus();
  }

  // What fits the field: fixed choices, yes and no, people and places, or what the bot suggests.
  async offer(field) {
    const { option, input } = field;
    if (field.settled) return;
    const typed = input.value.toLowerCase();
    if (option.autocomplete) {
      await this.ask(field);
      return;
    }
    const offered = offers(option, this.store).filter(({ title }) => title.toLowerCase().includes(typed));
    this.suggestions.show(`${option.name}: ${option.description}`, offered.slice(0, 25), (item) => this.settle(field, item));
  }

  async ask(field) {
    clearTimeout(this.timer);
    await new Promise((resolve) => (this.timer = setTimeout(resolve, field.input.value ? 120 : 0)));
    const asked = field.input.value;
    try {
      const offered = await this.actions.autocomplete(this.data(field));
      if (field.input.value !== asked || document.activeElement !== field.input) return;
      const items = offered.map(({ name, value }) => ({ title: name, value }));
      this.suggestions.show(`${field.option.name}: ${field.option.description}`, items, (item) => this.settle(field, item));
    } catch (error) {
      this.status.textContent = error.message;
    }
  }

  settle(field, item) {
    field.value = item.value;
    field.settled = true;
    field.input.value = item.title;
    this.fit(field);
    const next = this.fields[this.fields.indexOf(field) + 1];
    if (next?.option.required) next.input.focus();
    else field.input.focus();
  }

  key(event) {
    if (this.suggestions.key(event)) return;
    const field = this.fields.find(({ input }) => input === event.target);
    if (event.key === "Enter") {
      event.preventDefault();
      this.run();
    } else if (event.key === "Escape" || (event.key === "Backspace" && (!field || (field === this.fields[0] && !field.input.value)))) {
      event.preventDefault();
      this.onleave(event.key === "Escape" ? "" : `/${this.entry.name}`);
    }
  }

  run() {
    try {
      for (const field of this.fields) check(field);
    } catch ({ field, message }) {
      this.status.textContent = message;
      field.chip.classList.add("wrong");
      field.input.focus();
      return;
    }
    const files = this.fields.filter(({ option, input }) => option.type === FILE && input.files.length).map(({ input }) => input.files[0]);
    this.onrun(this.entry, this.data(null), files);
  }

  // The options as Discord's client sends them, inside their subcommand; `focused` is the one being typed.
  data(focused) {
    let file = 0;
    let options = this.fields.filter((field) => field === focused || filled(field)).map((field) => {
      const value = field.option.type === FILE ? String(file++) : valueOf(field);
      return { type: field.option.type, name: field.option.name, value, ...(field === focused && { focused: true, value: field.input.value }) };
    });
    for (const part of this.entry.path.slice(1).reverse()) options = [{ type: part.type, name: part.name, options }];
    const { id, name, version } = this.entry.command;
    return { id, name, version, type: 1, options };
  }
}

function offers(option, store) {
  if (option.choices?.length) return option.choices.map(({ name, value }) => ({ title: name, value }));
  if (option.type === BOOLEAN) return [{ title: "True", value: true }, { title: "False", value: false }];
  if (SELECT_FOR[option.type]) return choices({ type: SELECT_FOR[option.type] }, store).map(({ label, value }) => ({ title: label, value }));
  return [];
}

function filled({ option, input, settled }) {
  return option.type === FILE ? input.files.length > 0 : settled || input.value !== "";
}

function valueOf({ option, input, value, settled }) {
  if (settled) return value;
  const text = input.value.trim();
  if (option.type === INTEGER || option.type === NUMBER) return Number(text);
  if (option.type === BOOLEAN) return /^(true|yes|1)$/i.test(text);
  const known = option.choices?.find((choice) => choice.name.toLowerCase() === text.toLowerCase());
  return known ? known.value : input.value;
}

function check(field) {
  const { option, input } = field;
  const wrong = (message) => {
    throw { field, message };
  };
  field.chip.classList.remove("wrong");
  if (!filled(field)) return option.required ? wrong(`${option.name} is needed`) : undefined;
  const value = valueOf(field);
  if (option.type === INTEGER && !Number.isInteger(value)) wrong(`${option.name} must be a whole number`);
  if (option.type === NUMBER && !Number.isFinite(value)) wrong(`${option.name} must be a number`);
  if (option.min_value !== undefined && value < option.min_value) wrong(`${option.name} must be at least ${option.min_value}`);
  if (option.max_value !== undefined && value > option.max_value) wrong(`${option.name} must be at most ${option.max_value}`);
  if (option.max_length && input.value.length > option.max_length) wrong(`${option.name} may have ${option.max_length} characters`);
  if (SELECT_FOR[option.type] && !field.settled) wrong(`Choose ${option.name} from the list`);
  return undefined;
}
