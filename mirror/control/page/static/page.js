// Says so when the mirror no longer answers; the events begin again by themselves.
"use strict";
const lost = document.getElementById("lost");
document.body.addEventListener("htmx:sseError", () => { lost.hidden = false; });
document.body.addEventListener("htmx:sseOpen", () => { lost.hidden = true; });

// What an operator has the mirror do; the API says what has come of it.
async function act(path, sent, method = "POST") {
  const said = document.getElementById("acted");
  said.textContent = "…";
  const request = { method };
  if (sent !== undefined) {
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(sent);
  }
  try {
    const answer = await fetch(path, request);
    said.textContent = answer.ok ? said.dataset.done : (await answer.json()).detail;
  } catch {
    said.textContent = said.dataset.lost;
  }
}
function ofImage(path, image) {
  act(path, path.endsWith("/warm") ? { images: [image] } : { image });
}
document.body.addEventListener("click", (event) => {
  const button = event.target.closest("button[type=button][data-act]");
  if (!button) { return; }
  const { act: path, image, upstream, endpoint, level } = button.dataset;
  if (image) { ofImage(path, image); }
  else if (endpoint) { act(path, { upstream, endpoint }); }
  else if (level) { act(path, { level: document.getElementById(level).value }, "PUT"); }
  else { act(path); }
});
document.body.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-acts]")) { return; }
  event.preventDefault();
  ofImage(event.submitter.dataset.act, event.target.elements.image.value.trim());
});

// What every endpoint says of an image. Registries have written it: it is text, and nothing else.
async function compare(image) {
  const part = document.getElementById("compared");
  const [note, rows] = [part.querySelector(".note"), part.querySelector("tbody")];
  const row = (cells) => {
    const line = rows.insertRow();
    cells.forEach((text) => { line.insertCell().textContent = text ?? "–"; });
  };
  part.hidden = false;
  note.textContent = part.dataset.waiting;
  rows.replaceChildren();
  try {
    const answer = await fetch("/api/v1/image/compare", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ image }),
    });
    const found = await answer.json();
    note.textContent = answer.ok ? found.name : found.detail;
    if (!answer.ok) { return; }
    const verdicts = JSON.parse(part.dataset.verdicts);
    row([part.dataset.here, null, found.digest?.slice(0, 19), found.created, null, null]);
    for (const one of found.endpoints) {
      row([
        one.url, verdicts[one.verdict], one.digest?.slice(0, 19), one.created,
        `${one.layers} / ${one.of_layers}`, one.trouble,
      ]);
    }
  } catch {
    note.textContent = document.getElementById("acted").dataset.lost;
  }
}
document.body.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-compare]");
  if (button) { compare(button.dataset.compare); }
});
