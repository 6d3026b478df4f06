"use strict";

const GROUPS = {
  work: ["segmenting", "written", "delivering"],
  wait: ["received", "waiting"],
  done: ["delivered", "confirmed"],
  attention: ["refused", "failed"],
};
const TILES = { work: "at work", wait: "waiting", done: "delivered", attention: "need attention" };
const AGAIN = ["refused", "failed", "waiting", "delivered", "confirmed"];
const token = document.querySelector("meta[name=token]").content;
let filter = "all";
let last = null;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function total(counts, states) {
  return states.reduce((sum, state) => sum + counts[state], 0);
}

function shown(job) {
  if (filter === "all") return true;
  if (filter === "work") return [...GROUPS.work, ...GROUPS.wait].includes(job.state);
  return GROUPS[filter].includes(job.state);
}

function progress(target, now) {
  if (target.state === "confirmed") return ", confirmed";
  if (target.state === "delivered" && target.commitment) return ", not confirmed yet";
  if (target.state !== "due" || !target.tries) return "";
  return `, try ${target.tries + 1} ${target.next_try > now ? `in ${span(target.next_try - now)}` : "now"}`;
}

function row(job, now) {
  const made = element("tr");
  made.append(element("td", job.id, "number"));
  const state = element("td");
  state.append(element("span", job.state, `state ${job.state}`));
  if (job.state === "segmenting") {
    const bar = element("div", undefined, "bar");
    const done = element("i");
    done.style.width = `${Math.round(100 * job.progress)}%`;
    bar.append(done);
    state.append(bar);
  }
  made.append(state);
  const what = element("td", job.rule || "no rule");
  if (job.pack) what.append(element("small", job.pack));
  if (job.reason) what.append(element("small", job.reason));
  made.append(what);
  const targets = element("td");
  for (const target of job.targets) {
    const later = target.state === "due" && target.tries ? "later" : target.state;
    targets.append(element("span", target.target + progress(target, now), `target ${later}`));
  }
  made.append(targets);
  const received = element("td", `${span(now - job.received)} ago`, "time");
  received.title = new Date(job.received * 1000).toLocaleString();
  made.append(received);
  made.append(element("td", job.written && job.started ? span(job.written - job.started) : "", "number"));
  const again = element("td");
  if (AGAIN.includes(job.state)) {
    const button = element("button", "Run again");
    button.setAttribute("aria-label", `Run job ${job.id} again`);
    button.addEventListener("click", () => runAgain(job.id, button));
    again.append(button);
  }
  made.append(again);
  return made;
}

function draw() {
  const { counts, jobs, now, suspension, targets } = last;
  const health = document.getElementById("health");
  health.textContent = suspension ? "Suspended" : total(counts, GROUPS.work) ? "Working" : "Ready";
  health.className = `pill ${suspension ? "bad" : "good"}`;
  const banner = document.getElementById("banner");
  banner.hidden = !suspension;
  if (suspension) {
    banner.replaceChildren(element("strong", "No job is begun until this is mended"), element("span", suspension.reason));
  }
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  document.getElementById("summary").textContent = `${all} jobs · updated ${new Date(now * 1000).toLocaleTimeString()}`;
  document.getElementById("tiles").replaceChildren(...Object.entries(TILES).map(([group, name]) => {
    const count = total(counts, GROUPS[group]);
    const tile = element("div", undefined, `tile ${group} ${count ? "some" : ""}`);
    tile.append(element("b", count), element("span", name));
    return tile;
  }));
  document.getElementById("targets").replaceChildren(...targets.map((target) => {
    const line = element("span");
    line.append(element("b", target.name), ` ${target.due} to deliver, ${target.delivered} delivered${target.failed ? `, ${target.failed} failed` : ""}`);
    return line;
  }));
  const rows = jobs.filter(shown).map((job) => row(job, now));
  document.getElementById("jobs").replaceChildren(...rows);
  document.getElementById("nothing").hidden = rows.length > 0;
}

async function runAgain(id, button) {
  button.disabled = true;
  const answer = await fetch(`/retry/${id}`, { method: "POST", headers: { "X-Token": token } });
  if (!answer.ok) alert(await answer.text());
  await refresh();
}

async function refresh() {
  try {
    const answer = await fetch("/status.json");
    last = await answer.json();
    draw();
  } catch {
    const health = document.getElementById("health");
    health.textContent = "No answer";
    health.className = "pill bad";
  }
}

for (const button of document.querySelectorAll("#filters button")) {
  button.addEventListener("click", () => {
    filter = button.dataset.filter;
    for (const other of document.querySelectorAll("#filters button")) other.setAttribute("aria-pressed", other === button);
    if (last) draw();
  });
}
refresh();
setInterval(refresh, 2000);
