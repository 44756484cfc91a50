// The page: every picture and number comes from the server beside it; nothing else is asked.

const $ = (id) => document.getElementById(id);
const MOST = 64; // observations of a tray, as the server bounds them
const state = { tray: [], a: null, b: null, start: 0, own: [], about: null };

async function ask(path, body) {
  const options = body === undefined ? {} : body instanceof Blob
    ? { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } }
    : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await fetch(path, options);
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.message || "The page's server did not understand. Reload the page.");
  return told;
}

// What is said of one kind of request stays until the next of that kind, or a click: another's success does not wipe it.
let saidOf = "";
function say(text, kind, good = false) {
  saidOf = kind;
  $("message").textContent = text;
  $("message").classList.toggle("good", good);
}

// Runs the latest request of a kind only: a slider that moves on does not queue up what nobody will see.
const running = new Map();
async function latest(kind, work) {
  if (running.has(kind)) { running.set(kind, work); return; }
  running.set(kind, null);
  try { await work(); if (saidOf === kind) say("", kind); } catch (error) { say(error.message, kind); }
  const next = running.get(kind);
  running.delete(kind);
  if (next) await latest(kind, next);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function thumb(row, label, act) {
  const image = element("img", { src: `api/picture/${row}`, alt: "", draggable: "false" });
  const button = element("button", { class: "thumb", draggable: "true", "aria-label": label, "data-row": row, onclick: act }, image);
  button.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", String(row)));
  return button;
}

function show(place, told, label, caption = "") {
  place.replaceChildren(...told.pictures.map((uri, number) => {
    const text = told.pictures.length > 1 ? `${label}, ${number + 1}` : label;
    return element("figure", {},
      element("img", { src: uri, alt: told.words[number] ? `${text}: ${told.words[number]}` : text }),
      element("figcaption", {}, ...(caption ? [caption, element("br")] : []),
        element("a", { href: uri, download: `${label.replaceAll(" ", "-")}-${number + 1}${state.about.suffix}` }, "Save"), " ",
        element("button", { "aria-label": `Python lines of: ${text}`, onclick: () => lines(told.python) }, "Python")));
  }));
}

function lines(python) {
  $("code").textContent = python;
  $("save-lines").href = `data:text/x-python;charset=utf-8,${encodeURIComponent(python)}`;
  $("lines").showModal();
}

function choose(row, aim) {
  if (aim === "tray") { if (!state.tray.includes(row)) { state.tray.push(row); tray(); } return; }
  state[aim] = row;
  const slot = $(aim);
  slot.classList.remove("empty");
  slot.replaceChildren(element("img", { src: `api/picture/${row}`, alt: `Observation ${row}` }));
  pressed();
  between();
  if (aim === "a") walk();
}

function aim() { return document.querySelector("input[name=aim]:checked").value; }

function pressed() {
  for (const button of $("members").children) {
    const row = Number(button.dataset.row);
    button.setAttribute("aria-pressed", String(state.tray.includes(row) || state.a === row || state.b === row));
  }
}

async function members() {
  await latest("members", async () => {
    const own = $("group").value === OWN;
    const group = own ? "your own" : $("group").value;
    const rows = own ? state.own.slice(state.start, state.start + 12)
      : await ask(`api/pick?group=${encodeURIComponent(group)}&start=${state.start}`);
    if (!rows.length && state.start) { state.start = 0; return members(); }
    $("members").replaceChildren(...rows.map((row) => thumb(row, `Observation ${row} of ${group}`, () => choose(row, aim()))));
    pressed();
  });
}

function tray() {
  $("tray").replaceChildren(...state.tray.map((row) => thumb(row, `Take observation ${row} out of the tray`, () => {
    const place = state.tray.indexOf(row);
    state.tray.splice(place, 1);
    tray();
    ($("tray").children[Math.min(place, state.tray.length - 1)] ?? $("group")).focus();
  })));
  pressed();
  $("groups").replaceChildren();
  $("expected").replaceChildren();
  return latest("posterior", async () => {
    const found = await ask("api/posterior", { rows: state.tray });
    const named = Object.entries(found.levels);
    const count = found.count === 1 ? "1 observation" : `${found.count} observations`;
    $("evidence").textContent = `${count}: variance ` + named.map(([name, p]) => `of ${name} ${p.variance.toFixed(3)}`).join(", ") + " (before any: 1)";
    $("posterior").replaceChildren(...named.flatMap(([name, p]) => [
      element("p", {}, `${name}: mean and two standard deviations of each dimension; shaded, before any observation`), chart(name, p)]));
  });
}

function chart(name, posterior) {
  const ns = "http://www.w3.org/2000/svg";
  const add = (parent, tag, attributes) => {
    const made = document.createElementNS(ns, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  };
  const wide = 20 * posterior.mean.length;
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", `0 0 ${wide} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Posterior of ${name}: ` + posterior.mean.map((m, d) => `dimension ${d} ${m.toFixed(2)} ± ${posterior.sd[d].toFixed(2)}`).join(", "));
  const up = (v) => 50 - 15 * Math.max(-3.2, Math.min(3.2, v));
  add(svg, "rect", { x: 0, width: wide, y: up(2), height: up(-2) - up(2), fill: "currentColor", "fill-opacity": .08 });
  add(svg, "line", { x1: 0, x2: wide, y1: 50, y2: 50, stroke: "currentColor", "stroke-opacity": .4, "vector-effect": "non-scaling-stroke" });
  posterior.mean.forEach((mean, d) => {
    const [low, high] = [up(mean - 2 * posterior.sd[d]), up(mean + 2 * posterior.sd[d])];
    add(svg, "rect", { x: 20 * d + 6, width: 8, y: high, height: Math.max(1, low - high), fill: "var(--bar)", "fill-opacity": .45 });
    add(svg, "rect", { x: 20 * d + 4, width: 12, y: up(mean) - 1, height: 2, fill: "currentColor" });
  });
  return svg;
}

function moved() { const value = $("moves").value; return value === "" ? null : value.split(","); }
function both() { return state.a !== null && state.b !== null; }

function between() {
  if (!both()) return;
  return latest("between", async () => {
    const told = await ask("api/between", { a: state.a, b: state.b, share: Number($("share").value), levels: moved() });
    show($("between"), told, "between A and B");
  });
}

function walk() {
  $("at").textContent = Number($("value").value).toFixed(1);
  if (state.a === null) return;
  return latest("walk", async () => {
    const step = { row: state.a, level: $("level").value, dimension: Number($("dimension").value), value: Number($("value").value) };
    show($("walked"), await ask("api/walk", step), "walk from A");
  });
}

function dimensions() {
  const level = state.about.levels.find((one) => one.name === $("level").value);
  $("dimension").replaceChildren(...Array.from({ length: level.dim }, (_, d) => element("option", { value: d }, String(d))));
}

// The name of no group of the data: a label is never blank.
const OWN = "";

async function take(files) {
  const told = [];
  let good = true;
  for (const file of [...files].slice(0, 20)) {
    try {
      const { rows, missing } = await ask("api/upload", file);
      told.push(`${file.name}: ${rows.length === 1 ? "1 observation" : `${rows.length} observations`}`
        + (missing ? `, ${missing} of their values unknown to the model or missing` : "") + chosen(rows));
    } catch (error) { good = false; told.push(`${file.name}: ${error.message}`); }
  }
  if (files.length > 20) { good = false; told.push("Expected at most 20 files at once; the others were left out."); }
  say(told.join(" "), "upload", good);
}

// The groups to choose from; of many, those that were asked for.
function list(groups) {
  const own = state.own.length ? [$("group").options[0]] : [];
  $("group").replaceChildren(...own, ...groups.map(({ name, members }) => element("option", { value: name }, `${name} (${members})`)));
  $("group").selectedIndex = own.length;
}

function find() {
  return latest("find", async () => {
    const groups = await ask(`api/groups?part=${encodeURIComponent($("find").value)}`);
    if (!groups.length) throw new Error("No group has that in its name.");
    list(groups);
    state.start = 0;
    await members();
  });
}

// Where observations of one file go, in words.
function chosen(rows) {
  if (!state.own.length) $("group").prepend(element("option", { value: OWN }));
  state.start = state.own.length;
  state.own.push(...rows);
  $("group").options[0].textContent = `your own (${state.own.length})`;
  $("group").value = OWN;
  members();
  if (aim() !== "tray") {
    choose(rows[0], aim());
    return rows.length > 1 ? `, the first is ${aim().toUpperCase()}; choose others above.` : ".";
  }
  const fit = rows.slice(0, MOST - state.tray.length);
  state.tray.push(...fit);
  tray();
  return fit.length < rows.length ? `, ${fit.length} of them in the tray, which holds ${MOST}.` : ", in the tray.";
}

function listen() {
  document.addEventListener("click", () => say("", ""), { capture: true });
  $("find").addEventListener("input", find);
  $("group").addEventListener("change", () => { state.start = 0; members(); });
  $("more").addEventListener("click", () => { state.start += 12; members(); });
  $("clear").addEventListener("click", () => { state.tray = []; tray(); });
  $("expect").addEventListener("click", () => latest("expected", async () =>
    show($("expected"), await ask("api/expected", { rows: state.tray, seed: Number($("seed").value) }), "new of this group")));
  $("identify").addEventListener("click", () => latest("identify", async () => {
    if (!state.tray.length) throw new Error("Put observations into the tray first.");
    const found = await ask("api/identify", { rows: state.tray });
    $("groups").replaceChildren(...found.map(({ group, probability }) => element("li", {},
      element("meter", { min: 0, max: 1, value: probability, "aria-hidden": "true" }),
      ` ${group ?? "none of these"}: ${(100 * probability).toFixed(1)} %`)));
  }));
  $("swap").addEventListener("click", () => latest("swap", async () => {
    if (!both()) throw new Error("Choose A and B first.");
    const there = await ask("api/swap", { a: state.a, b: state.b });
    const back = await ask("api/swap", { a: state.b, b: state.a });
    show($("swapped"), there, "what A is in the manner of B", "A as B");
    const half = element("div", { class: "made" });
    show(half, back, "what B is in the manner of A", "B as A");
    $("swapped").append(...half.children);
  }));
  $("share").addEventListener("input", between);
  $("moves").addEventListener("change", between);
  $("value").addEventListener("input", walk);
  $("level").addEventListener("change", () => { dimensions(); walk(); });
  $("dimension").addEventListener("change", walk);
  $("generate").addEventListener("click", () => latest("generate", async () => {
    const keep = $("keep").value;
    if (keep && state.a === null) throw new Error("Choose A first: its code is what is kept.");
    show($("generated"), await ask("api/generate", { seed: Number($("seed").value), row: keep ? state.a : null, keep: keep || null }), "generated");
  }));
  $("upload").addEventListener("change", () => take($("upload").files).then(() => { $("upload").value = ""; }));
  $("copy").addEventListener("click", () => navigator.clipboard.writeText($("code").textContent));
  for (const place of document.querySelectorAll(".drop")) {
    place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      const row = event.dataTransfer.getData("text/plain");
      if (/^\d+$/.test(row)) choose(Number(row), place.dataset.aim);
    });
  }
}

async function begin() {
  const about = state.about = await ask("api/about");
  document.body.dataset.kind = about.kind;
  $("data").textContent = about.data;
  $("summary").textContent = `${about.observations.toLocaleString("en")} observations of ${about.total.toLocaleString("en")} groups${about.by ? ` by ${about.by}` : ""}; codes: `
    + about.levels.map((level) => `${level.name} (${level.dim}, ${level.shared ? "shared" : "its own"})`).join(", ");
  list(about.groups);
  $("finding").hidden = about.total === about.groups.length;
  $("level").replaceChildren(...about.levels.map(({ name }) => element("option", { value: name }, name)));
  $("keep").replaceChildren(element("option", { value: "" }, "nothing"),
    ...about.levels.map(({ name }) => element("option", { value: name }, `${name} of A`)));
  $("moves").replaceChildren(element("option", { value: "" }, "everything"),
    ...about.levels.map(({ name }) => element("option", { value: name }, name)));
  $("uploading").hidden = !about.uploads;
  if (about.uploads) {
    $("upload-what").textContent = about.uploads.what;
    $("upload").accept = about.uploads.accept;
    $("upload-note").textContent = `${about.uploads.note} They stay in this machine's memory and are gone when the page's server ends.`;
  }
  $("identify").hidden = !about.identifies;
  const shared = about.levels.some((level) => level.shared);
  $("tray-section").hidden = !shared;
  $("swap").hidden = !shared;
  dimensions();
  listen();
  await Promise.all([members(), tray()]);
  document.body.dataset.ready = "yes";
}

begin().catch((error) => say(error.message, "begin"));
