"use strict";
// One page, three screens: the example, a comparison at a position, the thank-you. The server knows the answers; after
// a reload the page asks it where this participant stands.

const element = (id) => document.getElementById(id);
const SLOTS = ["subject", "style", "option1", "option2"];
const ALT = {
  subject: "Reference image of the subject", style: "Reference image of the style",
  option1: "Option 1", option2: "Option 2",
};

let study = null;
let position = -1; // -1: the example; study.total: the thank-you
let ready = false; // whether a choice may be taken: images are seen and nothing is being sent
let showing = 0; // counts screens, so that images of one left already are ignored
let clock = { seen: 0, since: null }; // milliseconds that this screen's images have been visible
let retryAction = null;

async function request(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server can't be reached. Check your connection; nothing is lost.");
  }
  const data = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(data.error || "The server refused this.");
  return data;
}

function complain(message, action) {
  element("notice-text").textContent = message;
  element("notice").hidden = false;
  retryAction = action;
}

function settle() {
  element("notice").hidden = true;
  retryAction = null;
}

function show(...visible) {
  for (const id of ["bar", "intro", "task", "images", "privacy", "thanks", "start-bar", "choices"]) {
    element(id).hidden = !visible.includes(id);
  }
}

function loadImage(id, alt) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.alt = alt;
    image.draggable = false;
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("An image could not be loaded. Check your connection."));
    image.src = `images/${id}`;
  });
}

async function showImages(entry) {
  const ids = [entry.subject, entry.style, ...entry.options];
  for (const slot of SLOTS) {
    element(slot).replaceChildren();
    element(slot).disabled = true;
  }
  const screen = showing;
  // All four appear together: nobody decides on the one that came first.
  const images = await Promise.all(ids.map((id, place) => loadImage(id, ALT[SLOTS[place]])));
  if (screen !== showing) return false;
  images.forEach((image, place) => {
    element(SLOTS[place]).replaceChildren(image);
    element(SLOTS[place]).disabled = false;
  });
  return true;
}

function begin(heading) {
  showing += 1;
  ready = false;
  settle();
  window.scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

async function showExample() {
  position = -1;
  const better = study.example.better;
  show("intro", "images", "privacy", "start-bar");
  for (const place of [1, 2]) element(`figure${place}`).classList.toggle("better", place === better);
  element("explanation-text").textContent = study.example.explanation;
  element("start").textContent = study.tasks ? "Go on" : `Start (${study.total} comparisons)`;
  begin(element("intro").querySelector("h1"));
  try {
    await showImages(study.example);
  } catch (error) {
    complain(error.message, showExample);
  }
}

async function showTask(at) {
  position = at;
  const task = study.tasks[at];
  const answered = study.tasks.filter((each) => each.choice).length;
  show("bar", "task", "images", "choices");
  for (const place of [1, 2]) element(`figure${place}`).classList.remove("better");
  element("question").textContent = study.question;
  element("progress-text").textContent = `${at + 1} of ${study.total}`;
  element("progress").max = study.total;
  element("progress").value = answered;
  element("forward").hidden = !task.choice;
  markChoice(task.choice);
  setChoices(false);
  begin(element("question"));
  try {
    if (!(await showImages(task))) return;
  } catch (error) {
    complain(error.message, () => showTask(at));
    return;
  }
  clock = { seen: 0, since: document.hidden ? null : performance.now() };
  ready = true;
  setChoices(true);
  const next = study.tasks[at + 1];
  if (next) for (const id of [next.subject, next.style, ...next.options]) new Image().src = `images/${id}`;
}

function showThanks() {
  position = study.total;
  show("thanks");
  element("again-line").hidden = !study.shared_device;
  begin(element("thanks").querySelector("h1"));
}

function go(at) {
  if (at < 0) showExample();
  else if (at >= study.total) finish();
  else showTask(at);
}

function finish() {
  const open = study.tasks.findIndex((task) => !task.choice);
  if (open === -1) showThanks();
  else showTask(open);
}

function markChoice(choice) {
  for (const button of element("choices").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
  }
}

function setChoices(enabled) {
  for (const button of element("choices").querySelectorAll("button")) button.disabled = !enabled;
}

async function choose(choice) {
  if (!ready || position < 0 || position >= study.total) return;
  ready = false;
  setChoices(false);
  settle();
  const at = position;
  const screen = showing;
  const visible = clock.seen + (clock.since === null ? 0 : performance.now() - clock.since);
  markChoice(choice);
  try {
    await request("api/answers", { position: at, choice, seconds: visible / 1000 });
  } catch (error) {
    if (screen !== showing) return;
    ready = true;
    setChoices(true);
    markChoice(study.tasks[at].choice);
    complain(error.message, () => choose(choice));
    return;
  }
  study.tasks[at].choice = choice;
  if (screen === showing) go(at + 1);
}

async function start() {
  if (study.tasks) {
    finish();
    return;
  }
  element("start").disabled = true;
  settle();
  try {
    study = await request("api/participants", {});
    showTask(0);
  } catch (error) {
    complain(error.message, start);
  } finally {
    element("start").disabled = false;
  }
}

function zoom(button) {
  const image = button.querySelector("img");
  if (!image) return;
  element("close").replaceChildren(image.cloneNode());
  element("zoom").showModal();
}

async function open() {
  settle();
  try {
    study = await request("api/state");
  } catch (error) {
    complain(error.message, open);
    return;
  }
  if (study.tasks && study.tasks.some((task) => task.choice)) finish();
  else showExample();
}

for (const button of element("choices").querySelectorAll("button")) {
  button.addEventListener("click", () => choose(button.dataset.choice));
}
for (const slot of SLOTS) element(slot).addEventListener("click", (event) => zoom(event.currentTarget));
element("close").addEventListener("click", () => element("zoom").close());
element("start").addEventListener("click", start);
element("back").addEventListener("click", () => go(position - 1));
element("forward").addEventListener("click", () => go(position + 1));
element("correct").addEventListener("click", () => go(study.total - 1));
element("again").addEventListener("click", () => {
  study.tasks = null;
  showExample();
});
element("retry").addEventListener("click", () => retryAction && retryAction());

document.addEventListener("visibilitychange", () => {
  if (document.hidden && clock.since !== null) {
    clock.seen += performance.now() - clock.since;
    clock.since = null;
  } else if (!document.hidden && clock.since === null) {
    clock.since = performance.now();
  }
});
document.addEventListener("keydown", (event) => {
  // A held key repeats: it would answer the next comparison unseen.
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || element("zoom").open) return;
  const choice = { 1: "option1", 2: "similar", 3: "option2" }[event.key];
  if (choice && !element("choices").hidden) choose(choice);
});

open();
