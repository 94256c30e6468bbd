"use strict";
// Texts from the server and file names go through textContent only: a class may be called "<b>".

const $ = (selector, within = document) => within.querySelector(selector);
const SHOWN_CLASSES = 5;
const SAID_CLASSES = 3;
let facts = { heat_map: "", max_bytes: Infinity, rule: {} };

function say(text, isProblem = false) {
  $("#status").textContent = text;
  $("#status").classList.toggle("problem", isProblem);
}

async function post(path, field, file) {
  const form = new FormData();
  form.append(field, file, file.name || "image");
  try {
    return await fetch(path, { method: "POST", body: form });
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
}

async function problemOf(response) {
  try {
    const body = await response.json();
    return Array.isArray(body) ? body[0].error : body.error;
  } catch {
    return `the server answered ${response.status}`;
  }
}

function addCard(file) {
  const card = $("#card").content.cloneNode(true).firstElementChild;
  $("h2", card).textContent = file.name || "image";
  const original = $(".original img", card);
  const url = URL.createObjectURL(file);
  original.onload = original.onerror = () => URL.revokeObjectURL(url);
  original.addEventListener("error", () => { $(".original", card).hidden = true; });  // for example a TIFF
  original.src = url;
  $("#cards").prepend(card);
  return card;
}

function fail(card, text) {
  $(".problem", card).textContent = text;
  $(".problem", card).hidden = false;
  $(".images", card).hidden = true;
}

function percent(probability) {
  return `${(probability < 1 ? Math.min(100 * probability, 99.9) : 100).toFixed(1)}%`;
}

// A name in a sentence: marks that change the direction of writing end with it.
function isolated(name) {
  return /[\u202a-\u202e\u2066-\u2069]/.test(name) ? `\u2068${name}\u2069` : name;
}

// What a person would say of an image that is not simply answered; empty for one that is.
function doubt({ verdict, set, top }) {
  const said = ({ label, probability }) => `${isolated(label)} (${percent(probability)})`;
  if (verdict === "unknown") {
    return `I do not know this: it looks unlike anything I was trained on. I would have said ${said(top[0])}.`;
  }
  const several = (set ?? []).length > 1;
  const answered = facts.rule.max_error !== null || !several;  // a promise that is kept needs no remark
  if (verdict !== "unsure" && answered) return "";
  const members = several ? set : top.slice(0, 2).map((one) => one.label);
  const named = top.filter((one) => members.includes(one.label)).slice(0, SAID_CLASSES).map(said);
  const others = members.length - named.length;
  const last = others ? (others === 1 ? "another class" : `one of ${others} other classes`) : named.pop();
  return `I am not sure: ${named.join(", ")} or ${last}.`;
}

function addRow(card, file, { label, probability }) {
  const row = $("#row").content.cloneNode(true).firstElementChild;
  $(".label", row).textContent = label;
  $(".share", row).textContent = percent(probability);
  $("meter", row).value = probability;
  $("meter", row).textContent = $(".share", row).textContent;
  $("button", row).title = `evidence for ${label}`;
  $("button", row).addEventListener("click", () => showHeat(card, file, label));
  $("ol", card).append(row);
}

// A class may contain lone surrogates, on which encodeURIComponent throws: their three bytes are escaped, as by the server.
function escaped(label) {
  const bytesOf = (code) => [0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)];
  const escapedUnit = (code) => bytesOf(code).map((byte) => `%${byte.toString(16)}`).join("");
  return Array.from(label, (one) => /\p{Surrogate}/u.test(one) ? escapedUnit(one.charCodeAt(0)) : encodeURIComponent(one)).join("");
}

async function showHeat(card, file, label) {
  card.wanted = label;
  for (const button of card.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String($(".label", button).textContent === label));
  }
  const image = $(".heat img", card), waiting = $(".waiting", card), caption = $(".heat figcaption", card);
  const caveat = $(".heat .caveat", card);
  image.hidden = caveat.hidden = true;
  waiting.hidden = false;
  waiting.textContent = "heat map …";
  caption.textContent = "";
  try {
    const response = await post(`explain?class=${escaped(label)}`, "file", file);
    const made = response.ok ? await response.blob() : null;
    const problem = response.ok ? null : await problemOf(response);
    if (card.wanted !== label) return;  // another class was chosen meanwhile
    if (problem) throw new Error(problem);
    const url = URL.createObjectURL(made);
    image.onload = () => URL.revokeObjectURL(url);
    image.src = url;
    image.alt = `heat map: evidence for ${label}`;
    image.hidden = false;
    waiting.hidden = true;
    caveat.textContent = response.headers.get("X-Caveat") ?? "";
    caveat.hidden = !caveat.textContent;
    caption.textContent = `evidence for ${label} (${facts.heat_map}), on the part that the network sees`;
  } catch (error) {
    if (card.wanted === label) waiting.textContent = `no heat map: ${error.message}`;
  }
}

// Returns whether the image was classified.
async function classify(file) {
  const card = addCard(file);
  if (file.size > facts.max_bytes) {
    fail(card, `larger than the ${Math.floor(facts.max_bytes / 2 ** 20)} MB that this server accepts`);
    return false;
  }
  try {
    const response = await post(`predict?top=${SHOWN_CLASSES}`, "files", file);
    if (!response.ok) throw new Error(await problemOf(response));
    const [row] = await response.json();
    for (const one of row.top) addRow(card, file, one);
    const remark = $(".verdict", card);
    remark.textContent = doubt(row);
    remark.hidden = !remark.textContent;
    remark.classList.toggle("unknown", row.verdict === "unknown");
    await showHeat(card, file, row.top[0].label);
    return true;
  } catch (error) {
    fail(card, error.message);
    return false;
  }
}

async function classifyAll(list) {
  const files = Array.from(list);
  if (!files.length) return say("that was not a file", true);
  let classified = 0;
  for (const [number, file] of files.entries()) {
    say(files.length > 1 ? `image ${number + 1} of ${files.length}` : "");
    if (await classify(file)) classified += 1;
  }
  const failed = files.length - classified;
  const summary = `${classified} ${classified === 1 ? "image" : "images"} classified${failed ? `, ${failed} failed` : ""}`;
  say(files.length > 1 ? summary : "");
}

function listen() {
  const drop = $("#drop"), input = $("#files");
  input.addEventListener("change", async () => {
    const chosen = Array.from(input.files);
    input.value = "";  // the same file may be chosen again
    if (chosen.length) await classifyAll(chosen);
  });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    classifyAll(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) classifyAll(event.clipboardData.files); });
}

async function introduce() {
  try {
    facts = await (await fetch("health")).json();
  } catch {
    return say("the server does not answer; is it still running?", true);
  }
  document.title = `${facts.model} – cnn-tl`;
  $("#model").textContent = facts.model;
  const { max_error, unknown } = facts.rule, share = (one) => `${Number((100 * one).toFixed(4))}%`;
  const rules = [
    unknown === null ? "" : `Images that look unlike the training images are called unknown, and so are about ${share(unknown)} of the others.`,
    max_error === null ? "" : `The model answers only where at most ${share(max_error)} of its answers are wrong, with 95% confidence.`,
  ].filter(Boolean);
  if (rules.length) $("#rule").textContent = rules.join(" ");
  const shown = facts.classes.slice(0, 8).map(isolated).join(", ") + (facts.classes.length > 8 ? ", …" : "");
  $("#facts").textContent = `${facts.classes.length} classes: ${shown} · cnn-tl ${facts.version}`;
}

listen();
introduce();
