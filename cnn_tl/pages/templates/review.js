"use strict";
// Shows one suspect at a time. A decision is sent, and the next suspect shown once the server has it on the disk; keys
// that are pressed meanwhile wait. Names go through textContent only.

(() => {
  const $ = (id) => document.getElementById(id);
  const { classes, first } = JSON.parse($("data").textContent);
  const OPTIONS = 60;  // classes listed at once
  const base = location.pathname;
  const loaded = new Map();  // images of the next suspects
  let now = null;  // the suspect that is shown
  let marked = new Set();
  let isBusy = false;
  let isOver = false;  // the server has gone
  const waiting = [];  // what was asked for while a decision was on its way

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  const named = (label) => (label === null ? "unknown class" : classes[label]);
  const count = (number) => number.toLocaleString("en");

  // --- the server ---

  async function ask(path, body) {
    const options = body === undefined ? {} : {
      method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
    };
    let answer;
    try {
      answer = await fetch(base + path, options);
    } catch {
      isOver = true;
      throw new Error("The server does not answer any more. Every decision that was shown as made is kept: run cnn-tl review again, and open the address that it prints.");
    }
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    return found;
  }

  async function perform(path, body) {
    if (isOver) return;
    try {
      show(await ask(path, body));
    } catch (error) {
      $("problem").textContent = error.message;
      $("problem").hidden = false;
    }
  }

  // One thing at a time, in order: a key or click that comes while another one is at work waits.
  async function act(task) {
    waiting.push(task);
    if (isBusy) return;
    isBusy = true;
    while (waiting.length) await waiting.shift()();
    isBusy = false;
  }

  const decide = (choice, label) =>
    perform("decisions", { suspect: now.number, choice, label: label ?? null, marked: [...marked] });

  const commands = {
    keep: () => decide("keep"),
    exclude: () => decide("exclude"),
    relabel: () => (now.suggested === null ? openChooser() : decide("relabel", now.suggested)),
    choose: () => openChooser(),
    undo: () => perform("undo", {}),
    previous: () => move(-1),
    next: () => move(1),
    help: () => { if (!$("keys").open) $("keys").showModal(); },
  };

  const KEYS = {
    k: "keep", " ": "keep", r: "relabel", c: "choose", "/": "choose", x: "exclude", u: "undo",
    ArrowLeft: "previous", ArrowRight: "next", "?": "help",
  };

  function move(by) {
    const number = now.number + by;
    if (number < 0 || number >= now.progress.total) return undefined;
    return perform(`suspects/${number}`);
  }

  // --- what is shown ---

  function picture(index, size, alt) {
    const key = `${size}/${index}`;
    const found = loaded.get(key) ?? new Image();
    if (!found.src) {
      found.decoding = "async";
      found.addEventListener("error", () => found.replaceWith(element("p", "cannot be shown", "unseen")), { once: true });
      found.src = `${base}images/${key}`;
    }
    found.alt = alt;
    return found;
  }

  function path(text) {
    const line = element("p", undefined, "path");
    const code = element("code");
    code.append(element("bdi", text));
    line.append(code);
    return line;
  }

  function copyFigure(one, place) {
    const figure = element("figure", undefined, "shot");
    const caption = element("figcaption");
    const facts = element("p", undefined, "facts-line");
    facts.append(element("span", "labelled", "soft"), element("bdi", named(one.label), one.doubtful ? "label doubtful" : "label"));
    if (one.split) facts.append(element("span", one.split, "soft"));
    caption.append(facts, path(one.path));
    if (one.outcome && now.is_group) caption.append(element("p", one.outcome, "soft"));
    if (now.is_group) {
      const box = element("input");
      box.type = "checkbox";
      box.checked = marked.has(place);
      box.addEventListener("change", () => mark(place, box.checked));
      const label = element("label", undefined, "mark");
      label.append(box, element("span", "exclude"));
      if (place < 9) label.append(element("kbd", String(place + 1)));
      caption.prepend(label);
      figure.classList.toggle("out", marked.has(place));
    }
    figure.append(picture(one.index, "large", one.path), caption);
    return figure;
  }

  function mark(place, wanted) {
    if (wanted) marked.add(place);
    else marked.delete(place);
    const figure = $("stage").children[place];
    if (figure) {
      figure.classList.toggle("out", wanted);
      figure.querySelector("input").checked = wanted;
    }
    drawActions();
  }

  function drawActions() {
    const [keep, relabel, exclude] = ["keep", "relabel", "exclude"].map((id) => $(id).firstElementChild);
    const out = marked.size;
    keep.textContent = now.is_group ? (now.count === 2 ? "Keep both" : `Keep all ${count(now.count)}`) : "Keep";
    exclude.textContent = now.is_group ? `Exclude ${count(out)} marked` : "Exclude";
    $("exclude").disabled = now.is_group && !out;
    const rest = now.is_group && out ? ", exclude marked" : "";
    relabel.replaceChildren("Relabel to ", now.suggested === null ? "…" : element("bdi", named(now.suggested)), rest);
    $("relabel").hidden = now.suggested === null;
    $("choose").firstElementChild.textContent = now.suggested === null ? "Relabel …" : "Another class …";
  }

  function drawProgress({ decided, total, kinds, undoable, command }) {
    $("bar").max = Math.max(1, total);
    $("bar").value = decided;
    $("progress").textContent = `${count(decided)} of ${count(total)} decided`;
    $("kinds").replaceChildren(...kinds.map((one) => {
      const button = element("button", undefined, "tab");
      button.type = "button";
      button.append(element("span", one.title), element("span", `${count(one.count - one.open)}/${count(one.count)}`, "soft number"));
      if (one.kind === now.kind) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => { act(() => perform(`suspects/${one.next}`)); leave(); });
      return button;
    }));
    $("undo").disabled = !undoable;
    for (const place of document.querySelectorAll(".train")) place.textContent = command;
    $("done").hidden = decided < total;
  }

  function show(found) {
    now = found;
    marked = new Set(found.marked);
    $("problem").hidden = true;
    $("suspect").hidden = false;
    drawProgress(found.progress);
    $("kind").textContent = (found.progress.kinds.find((one) => one.kind === found.kind) ?? {}).title ?? found.kind;
    $("place").textContent = `${count(found.number + 1)} of ${count(found.progress.total)}`;
    $("why").replaceChildren(...found.why.map((text) => element("p", text)));
    $("change").hidden = found.is_group || found.suggested === null || !found.images[0].doubtful;
    $("given").textContent = named(found.images[0].label);
    $("suggested").textContent = found.suggested === null ? "" : named(found.suggested);
    $("outcome").hidden = found.outcome === null;
    $("outcome").textContent = found.outcome ?? "";
    $("stage").className = found.is_group ? "stage group" : "stage";
    $("stage").replaceChildren(...found.images.map(copyFigure));
    if (found.hidden) $("stage").append(element("p", `and ${count(found.hidden)} more like these, which are decided with them`, "soft"));
    $("beside").replaceChildren(...found.beside.map(({ title, images }) => {
      const part = element("section");
      const row = element("ul", undefined, "strip");
      for (const one of images) {
        const item = element("li");
        item.title = one.path;
        item.append(picture(one.index, "small", one.path));
        row.append(item);
      }
      part.append(element("h3", title), row);
      return part;
    }));
    $("previous").disabled = found.number === 0;
    $("next").disabled = found.number + 1 >= found.progress.total;
    if (found.said !== undefined) $("said").textContent = found.said;
    drawActions();
    loadAhead(found);
  }

  function loadAhead(found) {
    const wanted = new Set([...found.ahead, ...found.images.map((one) => one.index)].map((index) => `large/${index}`));
    for (const key of loaded.keys()) if (!wanted.has(key)) loaded.delete(key);
    for (const index of found.ahead) {
      if (!loaded.has(`large/${index}`)) loaded.set(`large/${index}`, picture(index, "large", ""));
    }
  }

  // --- choosing a class ---

  const CHOOSING = ["Enter", "Escape", "ArrowDown", "ArrowUp"];
  let options = [];
  let chosen = 0;
  const recent = [];

  function openChooser() {
    $("wanted").value = "";
    search();
    $("chooser").showModal();
    $("wanted").focus();
  }

  function search() {
    const text = $("wanted").value.trim().toLowerCase();
    const all = classes.map((name, label) => ({ name: name.toLowerCase(), label }));
    const starting = all.filter(({ name }) => name.startsWith(text));
    const holding = all.filter(({ name }) => name.includes(text) && !name.startsWith(text));
    let found = [...starting, ...holding].map(({ label }) => label);
    if (!text) found = [...new Set([...recent, ...found])];
    options = found.slice(0, OPTIONS);
    chosen = 0;
    $("many").textContent = found.length > OPTIONS ? `and ${count(found.length - OPTIONS)} more; type on` : found.length ? "" : "no such class";
    drawOptions();
  }

  function drawOptions() {
    $("found").replaceChildren(...options.map((label, place) => {
      const item = element("li");
      item.append(element("bdi", named(label)));
      item.id = `option-${place}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(place === chosen));
      item.addEventListener("click", () => act(() => pick(label)));
      return item;
    }));
    $("wanted").setAttribute("aria-activedescendant", options.length ? `option-${chosen}` : "");
    $("found").children[chosen]?.scrollIntoView({ block: "nearest" });
  }

  function pick(label) {
    if (label === undefined) return undefined;
    const place = recent.indexOf(label);
    if (place >= 0) recent.splice(place, 1);
    recent.unshift(label);
    recent.length = Math.min(recent.length, 5);
    $("chooser").close();
    leave();
    return decide("relabel", label);
  }

  function inChooser(key) {
    if (key === "Enter") return pick(options[chosen]);
    if (key === "Escape") $("chooser").close();
    else if (key === "ArrowDown" || key === "ArrowUp") {
      const by = key === "ArrowDown" ? 1 : -1;
      if (options.length) chosen = (chosen + by + options.length) % options.length;
      drawOptions();
    } else return false;
    return undefined;
  }

  $("wanted").addEventListener("input", search);

  // --- keys and buttons ---

  // a button that keeps the focus would take the next blank as a click
  const leave = () => { if (document.activeElement instanceof HTMLElement) document.activeElement.blur(); };

  function onKey(key) {
    if ($("chooser").open) {  // typed while a decision was on its way
      if (key.length === 1) {
        $("wanted").value += key;
        return search();
      }
      return inChooser(key);
    }
    if (/^[1-9]$/.test(key)) {
      const place = Number(key) - 1;
      return now?.is_group && place < now.images.length ? mark(place, !marked.has(place)) : undefined;
    }
    const id = KEYS[key] ?? KEYS[key.toLowerCase()];
    return id && (now || id === "help") && !$(id).disabled ? commands[id]() : undefined;
  }

  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if ($("keys").open) return;
    if ($("chooser").open && !isBusy) {
      if (CHOOSING.includes(key)) {
        event.preventDefault();
        act(() => inChooser(key));
      }
      return;
    }
    const isTyped = isBusy && (key.length === 1 || CHOOSING.includes(key));  // perhaps into the chooser, once it is open
    const isOurs = isTyped || KEYS[key] || KEYS[key.toLowerCase()] || /^[1-9]$/.test(key);
    if (!isOurs || ((key === " " || key === "Enter") && target.closest("button, input, a, pre"))) return;
    event.preventDefault();
    if (event.repeat && !key.startsWith("Arrow")) return;  // a key that is held decides once
    act(() => onKey(key));
  });

  for (const id of Object.keys(commands)) {
    $(id).addEventListener("click", () => {
      leave();
      act(commands[id]);
    });
  }

  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  act(() => perform(`suspects/${first}`));
})();
