"use strict";
// The page reads without this script; with it, tables sort, the list of images filters, and paths are copied.
// Names go through textContent only: a class may be called "<b>".

(() => {
  const PAGE = 100;
  const $ = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // --- copy buttons ---

  async function copy(button) {
    const text = $("[data-copy]", button.parentElement).textContent;
    let copied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = element("textarea");
      field.value = text;
      button.after(field);
      field.select();
      copied = document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  // --- tables that sort ---

  function valueOf(row, column, isText) {
    const cell = row.cells[column];
    if (isText) return cell.textContent;
    const number = parseFloat(cell.dataset.value ?? cell.textContent.replaceAll(",", ""));
    return Number.isNaN(number) ? -1 : number;
  }

  function sort(table, column, head) {
    const isText = head.dataset.sort === "text";
    const up = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : isText;
    const keyed = all("tbody tr", table).map((row) => [valueOf(row, column, isText), row]);
    keyed.sort(([a], [b]) => (isText ? a.localeCompare(b) : a - b) * (up ? 1 : -1));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
    for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }

  function makeSortable(table) {
    all("thead th", table).forEach((head, column) => {
      if (head.dataset.sort === undefined) return;
      const button = element("button", head.textContent, "sort");
      button.type = "button";
      button.addEventListener("click", () => sort(table, column, head));
      head.replaceChildren(button);
    });
  }

  // --- the list of images ---

  const ORDERS = {
    sure: (a, b) => b[3] - a[3],
    unsure: (a, b) => a[3] - b[3],
    label: (a, b) => (a[4] ?? 2) - (b[4] ?? 2),
    path: (a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0),
  };

  function startList(data) {
    const fields = Object.fromEntries(["text", "right", "label", "answer", "order"].map((id) => [id, $(`#f-${id}`)]));
    let start = 0;
    let found = data.rows;

    for (const select of [fields.label, fields.answer]) {
      data.classes.forEach((name, index) => {
        const option = element("option", name);
        option.value = index;
        select.append(option);
      });
    }

    function isWanted(row) {
      const right = row[1] === row[2];
      return (!fields.right.value || (fields.right.value === "right") === right)
        && (!fields.label.value || row[1] === Number(fields.label.value))
        && (!fields.answer.value || row[2] === Number(fields.answer.value));
    }

    // only 1 is 100.0%, as everywhere on the page
    const percent = (share) => `${(share < 1 ? Math.min(99.9, Math.round(1000 * share) / 10) : 100).toFixed(1)}%`;

    function drawRow([file, label, answer, probability, ofLabel]) {
      const row = element("tr", undefined, label === answer ? "" : "wrong");
      const path = element("td");
      const code = element("code");
      code.append(element("bdi", file));
      path.append(code);
      const [given, answered] = [label, answer].map((index) => {
        const cell = element("td");
        cell.append(element("bdi", data.classes[index]));
        return cell;
      });
      const share = element("td", percent(probability), "number");
      if (label !== answer && ofLabel !== null) given.append(" ", element("span", percent(ofLabel), "soft"));
      row.append(path, given, answered, share);
      return row;
    }

    function draw() {
      const end = Math.min(start + PAGE, found.length);
      $("#rows").replaceChildren(...found.slice(start, end).map(drawRow));
      const count = (n) => n.toLocaleString("en");
      $("#found").textContent = found.length
        ? `${count(start + 1)} to ${count(end)} of ${count(found.length)} ${found.length === 1 ? "image" : "images"}`
        : "No image matches.";
      $("#earlier").disabled = start === 0;
      $("#later").disabled = end === found.length;
    }

    function refresh() {
      const text = fields.text.value.toLowerCase();
      found = data.rows.filter((row) => isWanted(row) && (!text || row[0].toLowerCase().includes(text)));
      const order = ORDERS[fields.order.value];
      if (order) found.sort(order);
      start = 0;
      draw();
    }

    function turn(by) {
      start += by;
      draw();
      $("#found").scrollIntoView({ block: "nearest" });
    }

    for (const field of Object.values(fields)) field.addEventListener(field.tagName === "SELECT" ? "change" : "input", refresh);
    $("#earlier").addEventListener("click", () => turn(-PAGE));
    $("#later").addEventListener("click", () => turn(PAGE));
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-label]");
      if (!link) return;
      fields.text.value = fields.right.value = "";
      fields.label.value = link.dataset.label;
      fields.answer.value = link.dataset.answer;
      refresh();
    });
    $("#browse").hidden = false;
    draw();
  }

  // --- the contact sheet: images that do not match are hidden ---

  function startSheet(sheet) {
    const [text, answer, verdict, from, to] = ["text", "answer", "verdict", "from", "to"].map((id) => $(`#s-${id}`));
    const names = Object.fromEntries([...answer.options].map((option) => [option.value, option.textContent]));
    const entries = [...sheet.children, ...all("#more tr")].map((node) => ({
      node,
      path: $("code", node).textContent.toLowerCase(),
      answer: $(".name", node)?.textContent,
      percent: parseFloat($(".share", node)?.textContent),
    }));

    function isWanted(one) {
      if (!one.path.includes(text.value.toLowerCase())) return false;
      if (verdict?.value && one.node.dataset.verdict !== verdict.value) return false;
      if (answer.value && one.answer !== (answer.value === "error" ? undefined : names[answer.value])) return false;
      return !(from.value && !(one.percent >= Number(from.value))) && !(to.value && !(one.percent <= Number(to.value)));
    }

    function refresh() {
      let found = 0;
      for (const one of entries) {
        one.node.hidden = !isWanted(one);
        found += !one.node.hidden;
      }
      const count = (n) => n.toLocaleString("en");
      $("#s-found").textContent = `${count(found)} of ${count(entries.length)} ${entries.length === 1 ? "image" : "images"}`;
    }

    for (const kind of ["input", "change"]) $("#sheet-filters").addEventListener(kind, refresh);
    $("#sheet-filters").hidden = false;
    refresh();
  }

  // --- links into <details>, which not every browser opens by itself ---

  function openTarget() {
    const target = document.getElementById(location.hash.slice(1));  // ids are ASCII
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
    if (target.tabIndex === -1) target.focus({ preventScroll: true });
  }

  // --- printing shows what is folded ---

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });

  document.documentElement.classList.add("js");
  all("table.sortable").forEach(makeSortable);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copy(button);
    const link = event.target.closest("a[href^='#']");
    if (link && link.hash === location.hash) openTarget();  // again: the hash stays the same
  });
  addEventListener("hashchange", openTarget);
  const sheet = $("#sheet");
  if (sheet) startSheet(sheet);
  const list = $("#list");
  if (list) startList(JSON.parse(list.textContent));
  openTarget();
})();
