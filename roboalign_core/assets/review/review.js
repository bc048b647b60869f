"use strict";

const PAUSE_AT_END = 600; // ms: a loop's jump from last to first frame must not look like a fault of the video

const element = (id) => document.getElementById(id);
const video = element("video");

let review; // scales, queue (judged pairs first), how many are judged
let index = 0; // place in the queue; past its end when all is judged
let scores = {}; // of the pair on show, by the scale's key
let saved = null; // what is saved about it
let focused = 0; // which scale the digits set
let busy = true; // while something is loaded or saved
let paused = false;
const drafts = new Map(); // scores that were typed but not saved, by the pair's name
const loaded = new Map(); // promises of pairs, by name: this one, the one before and the next

async function call(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start it again; nothing that was saved is lost.");
  }
  if (!reply.ok) {
    const found = await reply.json().catch(() => ({}));
    throw new Error(found.error || `The server answers ${reply.status}.`);
  }
  return reply;
}

function say(text, bad = false) {
  const box = element("message");
  box.hidden = !text;
  box.textContent = text;
  box.classList.toggle("bad", bad);
}

// --- pairs: the next one is loaded while this one is looked at --------------------------------------------------------

async function fetchPair(name) {
  const path = `/api/pairs/${name}`;
  const pair = await (await call(path)).json();
  try {
    const replies = await Promise.all([call(`${path}/video`), call(`${path}/first_frame`)]);
    const [clip, frame] = await Promise.all(replies.map((reply) => reply.blob()));
    return { ...pair, video: URL.createObjectURL(clip), first: URL.createObjectURL(frame) };
  } catch (error) {
    return { ...pair, error }; // what cannot be seen can still be marked with u
  }
}

function load(name) {
  if (!loaded.has(name)) {
    const pair = fetchPair(name);
    loaded.set(name, pair);
    pair.then((found) => found.error && loaded.delete(name), () => loaded.delete(name));
  }
  return loaded.get(name);
}

function forgetOthers() {
  const near = new Set(review.queue.slice(Math.max(0, index - 1), index + 2));
  for (const [name, pair] of loaded) {
    if (near.has(name)) continue;
    loaded.delete(name);
    pair.then((found) => [found.video, found.first].forEach((url) => url && URL.revokeObjectURL(url)), () => {});
  }
}

async function show(place) {
  busy = true;
  const name = review.queue[place];
  const pair = name && (await load(name)); // throws before anything changes, so that keys still mean the pair on show
  index = place;
  showProgress();
  element("work").hidden = !pair;
  element("end").hidden = Boolean(pair);
  video.pause();
  if (pair) {
    saved = pair.judgement;
    scores = { ...(drafts.get(name) || (saved && saved.scores) || {}) };
    showPair(pair);
    choose(0);
    if (place + 1 < review.queue.length) load(review.queue[place + 1]).catch(() => {});
  }
  forgetOthers();
  busy = false;
}

function showPair(pair) {
  const instruction = element("instruction");
  instruction.textContent = pair.instruction || "none";
  instruction.classList.toggle("none", !pair.instruction);
  video.src = pair.video || "";
  element("first").src = pair.first || "";
  document.body.classList.toggle("unsure", Boolean(saved && saved.cannot_judge) && !Object.keys(scores).length);
  if (pair.error) say(`${pair.error.message} (u: cannot judge)`, true);
  else if (saved && saved.cannot_judge) say("You could not judge this one.");
  play();
}

function showProgress() {
  const total = review.queue.length;
  element("rater").textContent = review.rater;
  element("progress").textContent =
    index < total ? `${index + 1} of ${total} · ${review.judged} judged` : `${review.judged} of ${total} judged`;
  element("bar").max = total;
  element("bar").value = review.judged;
}

// --- the video -------------------------------------------------------------------------------------------------------

function play() {
  paused = false;
  element("state").hidden = true;
  video.play().catch(() => {}); // another video has taken its place, or it cannot be played: then `error` says so
}

function togglePause() {
  if (paused) return play();
  paused = true;
  element("state").hidden = false;
  video.pause();
}

video.addEventListener("ended", () => {
  const ended = video.src;
  setTimeout(() => {
    if (paused || video.src !== ended) return;
    video.currentTime = 0;
    play();
  }, PAUSE_AT_END);
});
video.addEventListener("error", () => {
  if (video.getAttribute("src")) say("This video does not play here. (u: cannot judge)", true);
});

function showTime() {
  const share = video.duration ? video.currentTime / video.duration : 0;
  element("played").style.width = `${100 * share}%`;
  requestAnimationFrame(showTime);
}

// --- scales ----------------------------------------------------------------------------------------------------------

function make(tag, parent, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function makeScales() {
  review.scales.forEach((scale, number) => {
    const box = make("div", element("scales"), "scale");
    const title = make("h2", box, "", scale.title);
    title.id = `title-${number}`;
    make("span", title, "", scale.question);
    const steps = make("div", box, "steps");
    steps.setAttribute("role", "radiogroup");
    steps.setAttribute("aria-labelledby", title.id);
    scale.steps.forEach((meaning, value) => {
      const step = make("button", steps, "step");
      step.type = "button";
      step.tabIndex = -1; // keys are the page's own
      step.setAttribute("role", "radio");
      make("b", step, "", value);
      make("span", step, "", meaning);
      step.addEventListener("mousedown", (event) => event.preventDefault()); // or Space would click it again
      step.addEventListener("click", () => {
        if (busy) return;
        choose(number);
        set(value);
      });
    });
  });
}

function choose(number) {
  focused = Math.min(Math.max(number, 0), review.scales.length - 1);
  document.querySelectorAll(".scale").forEach((box, place) => {
    const value = scores[review.scales[place].key];
    box.classList.toggle("focused", place === focused);
    box.querySelectorAll(".step").forEach((step, at) => step.setAttribute("aria-checked", String(at === value)));
    if (place === focused) box.scrollIntoView({ block: "nearest" });
  });
}

function set(value) {
  const scale = review.scales[focused];
  if (value >= scale.steps.length) {
    say(`${scale.title} goes from 0 to ${scale.steps.length - 1}.`, true);
    return false;
  }
  say("");
  scores[scale.key] = value;
  drafts.set(review.queue[index], { ...scores });
  document.body.classList.remove("unsure");
  choose(focused);
  return true;
}

// --- saving ----------------------------------------------------------------------------------------------------------

function next() {
  const missing = review.scales.findIndex((scale) => !(scale.key in scores));
  if (missing >= 0) {
    if (saved && saved.cannot_judge && !Object.keys(scores).length) return show(index + 1);
    choose(missing);
    return say(`${review.scales[missing].title} has no score yet.`, true);
  }
  const same = saved && saved.scores && review.scales.every(({ key }) => saved.scores[key] === scores[key]);
  return same ? show(index + 1) : save({ scores });
}

async function save(judgement) {
  busy = true;
  const name = review.queue[index];
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(judgement) };
  const reply = await (await call(`/api/pairs/${name}/judgement`, options)).json();
  saved = JSON.parse(options.body);
  review.judged = reply.judged;
  drafts.delete(name);
  const pair = await loaded.get(name);
  if (pair) pair.judgement = saved;
  await show(index + 1);
}

// --- keys ------------------------------------------------------------------------------------------------------------

function digit(value) {
  if (set(value)) choose(focused + 1);
}

const keys = {
  Enter: next,
  u: () => save({ cannot_judge: true }),
  " ": togglePause,
  j: () => choose(focused + 1),
  k: () => choose(focused - 1),
};
keys.ArrowDown = keys.ArrowRight = keys.j;
keys.ArrowUp = keys.ArrowLeft = keys.k;

async function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = event.key.startsWith("Arrow") || event.key === "j" || event.key === "k";
  const action = /^[0-9]$/.test(event.key) ? () => digit(Number(event.key)) : keys[event.key];
  if (!action && event.key !== "b") return;
  event.preventDefault();
  if (busy || (event.repeat && !moves)) return; // a key that is held down must not run through the queue
  try {
    if (!/^[0-9]$/.test(event.key)) say("");
    if (event.key === "b") await (index > 0 ? show(index - 1) : say("This is the first one."));
    else if (index < review.queue.length) await action();
  } catch (error) {
    busy = false;
    say(error.message, true);
  }
}

async function begin() {
  review = await (await call("/api/review")).json();
  makeScales();
  await show(review.judged);
  if (review.notice) say(review.notice);
  document.addEventListener("keydown", press);
  requestAnimationFrame(showTime);
}

begin().catch((error) => say(`${error.message} Then reload this page.`, true));
